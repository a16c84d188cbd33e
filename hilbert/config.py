"""What can be chosen about one fit: the model, its losses, its training.

These are the sections `model`, `loss` and `train` of a study file, field by field, with their units and
defaults. All are frozen pydantic models: an unknown key or a value out of range is an error at construction,
and a configuration is written to and read from JSON without loss.

Sizes have upper bounds, far above anything that a cohort could train: a slip of the pen, or a damaged `config.json`, is
told before memory is taken.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hilbert.errors import shown

TaskKind = Literal["binary", "multiclass", "regression"]

Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Dims = Annotated[int, Field(ge=1, le=1_000_000)]

MOST_PARAMETERS = 2 * 10**9
"""Parameters of a model, at most: 8 GB of weights."""


class Section(BaseModel):
    """A part of a configuration: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class ModelConfig(Section):
    """The architecture: section `model` of a study file."""

    width: Annotated[int, Field(ge=1, le=16_384)] = 64
    """Width d of every hidden vector and of the three document embeddings. A multiple of `heads`, and even."""
    heads: Annotated[int, Field(ge=1, le=1024)] = 4
    """Heads of the cross-modal attention."""
    layers: Annotated[int, Field(ge=0, le=256)] = 1
    """Cross-modal blocks in each direction. 0 leaves the modalities apart until they are pooled together."""
    feed_forward: Annotated[int, Field(ge=1, le=256)] = 2
    """Hidden width of a block's feed-forward layer, in multiples of `width`."""
    position: Weight = 0.1
    """Amplitude of the position signal on the normalised segments; 0 makes a document a set of segments."""
    hops: Annotated[int, Field(ge=1, le=1024)] = 1
    """Attention hops r of every self-attentive pooling."""
    modality_source: Literal["self", "cross"] = "self"
    """Where the audio and text embeddings are pooled from: before (`self`) or after (`cross`) the blocks."""
    experts: Annotated[int, Field(ge=1, le=4096)] = 4
    """Experts E of the classifier, shared by the tasks. 1 is a plain multilayer perceptron."""
    expert_width: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Hidden and output width of an expert."""
    top_k: Count = 0
    """Experts that each gate keeps for a document; 0 keeps all (a soft mixture)."""
    gate_noise: Weight = 0.0
    """Standard deviation of the Gaussian noise on the gates' logits while training."""
    dropout: Fraction = 0.3
    """Probability of dropping a hidden unit while training."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"model.width must be a multiple of model.heads: {self.width} is not one of {self.heads}")
        if self.width % 2:
            raise ValueError(f"model.width must be even, for the position signal: it is {self.width}")
        if self.top_k > self.experts:
            raise ValueError(f"model.top_k must be at most model.experts: {self.top_k} > {self.experts}")
        _check_size(self.parameters())
        return self

    def parameters(self, *, dims: Iterable[int] = (), outputs: Iterable[int] = ()) -> int:
        """How many parameters the model has.

        Args:
            dims: features of a segment, of each modality.
            outputs: of each task.
        """
        d, experts, width = self.width, self.experts, self.expert_width
        block = 4 * d * d + 10 * d + (2 * d + 1) * self.feed_forward * d
        pool = d * d + d + self.hops * d + (self.hops * d * d if self.hops > 1 else 0)
        gate = (3 * d + 1) * experts if experts > 1 else 0
        modalities = sum(size * d + 3 * d for size in dims)
        heads = sum(gate + (width + 1) * size for size in outputs)
        return modalities + 2 * (self.layers * block + 2 * d) + 3 * pool + experts * width * (3 * d + width + 2) + heads


def _check_size(parameters: int) -> None:
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"the model would have {parameters:,} parameters, and may have {MOST_PARAMETERS:,} at most")


class LossConfig(Section):
    """Which losses are minimised, and how much each weighs: section `loss` of a study file.

    A weight of 0 removes the term and its cost.
    """

    contrastive: Weight = 0.1
    """Weight of the reciprocal dual contrastive loss."""
    cka: Weight = 0.1
    """Weight of the CKA regularizer."""
    mi: Weight = 0.1
    """Weight of the information-balance regularizer."""
    moe: Weight = 0.01
    """Weight of the gates' load balance. Without effect where there is one expert."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 0.2
    """Temperature tau of the contrastive softmax: its value, or where it starts when it is learned."""
    learned_temperature: bool = False
    """Learn the temperature with the model, kept within [0.01, 100]."""
    cka_estimator: Literal["debiased", "plain"] = "debiased"
    """Estimator of HSIC within CKA: unbiased (small batches), or the biased one of Kornblith et al. 2019."""
    mi_estimator: Literal["infonce", "gaussian"] = "infonce"
    """Estimator of the mutual information: the InfoNCE lower bound, or a shrinkage Gaussian estimate."""
    class_weighting: Literal["none", "inverse", "effective-number", "logit-adjusted"] = "inverse"
    """How unevenly distributed classes are balanced in the task losses."""
    tasks: dict[str, Weight] = Field(default_factory=dict)
    """Weight of each task's loss; 1 for a task that is not named."""


class TrainConfig(Section):
    """How a fit runs: section `train` of a study file."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 60
    """Passes over the training documents, at most."""
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 32
    """Documents in a batch."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: Weight = 0.05
    """Decoupled weight decay of AdamW, on matrices only."""
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    """Course of the learning rate over all steps of all epochs."""
    clip_norm: Weight = 1.0
    """Largest norm of the gradient; a longer one is scaled down. 0 does not clip."""
    segment_dropout: Fraction = 0.3
    """Probability of leaving a segment out of a document while training, anew each time. One segment always stays."""
    monitor: Literal["loss", "auc"] = "loss"
    """What chooses the best epoch on inner validation: the task losses (lower is better) or the mean AUC (higher)."""
    patience: Annotated[int, Field(ge=0, le=1_000_000)] = 8
    """Epochs without a better inner validation before training stops; 0 trains all epochs and keeps the last."""
    refit: bool = False
    """Train anew on train and inner validation together, for as many epochs as inner validation chose: twice the time,
    for small cohorts. With `patience: 0` nothing is chosen, and both parts train from the start."""
    clip_features: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """Standardised features are clipped here, in standard deviations of the training part."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the model's forward pass; losses are in float32 always."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`."""


class TaskConfig(Section):
    """One label column, and what its values mean."""

    kind: TaskKind
    """Kind of the task."""
    classes: tuple[str, ...] = Field(default=(), strict=False)
    """Names of the classes in the order of the logits; empty for regression."""
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Mean of a regression target over the training part: the model predicts standardised values."""
    deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Standard deviation of a regression target over the training part."""

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        count = len(self.classes)
        fits, needed = {
            "binary": (count == 2, "two classes"),
            "multiclass": (count >= 2, "two classes or more"),
            "regression": (count == 0, "no classes"),
        }[self.kind]
        if not fits or len(set(self.classes)) < count or "" in self.classes:
            raise ValueError(
                f"a {self.kind} task has {needed}, each with a name of its own, not {shown(list(self.classes))}"
            )
        return self

    @property
    def outputs(self) -> int:
        """Width of the task's head: classes, 1 for regression."""
        return len(self.classes) if self.kind != "regression" else 1


class HilbertConfig(Section):
    """All that defines an untrained model: what `config.json` holds beside the weights."""

    model: ModelConfig = ModelConfig()
    """The architecture."""
    audio_dim: Dims
    """Dimensions D_a of an audio segment's features."""
    text_dim: Dims
    """Dimensions D_t of a text segment's features."""
    tasks: dict[str, TaskConfig]
    """The tasks, in the order of the heads."""
    clip_features: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """Standardised features are clipped here, in standard deviations."""

    @model_validator(mode="after")
    def _not_too_large(self) -> Self:
        outputs = [spec.outputs for spec in self.tasks.values()]
        _check_size(self.model.parameters(dims=(self.audio_dim, self.text_dim), outputs=outputs))
        return self


class FitConfig(Section):
    """One configuration: all that `hilbert.training.fit` is told besides the data and the fold."""

    tasks: dict[str, str | dict[str, Any]]
    """Label column to its kind (`binary`), or to `{kind: ..., classes: [...]}`."""
    model: ModelConfig = ModelConfig()
    """The architecture."""
    loss: LossConfig = LossConfig()
    """The losses."""
    train: TrainConfig = TrainConfig()
    """The training."""
    seed: Seed = 0
    """Seed of initial weights, order of documents, and dropout; the fold's number is mixed in."""

    @model_validator(mode="after")
    def _weights_of_known_tasks(self) -> Self:
        unknown = sorted(set(self.loss.tasks) - set(self.tasks))
        if unknown:
            known = shown(", ".join(self.tasks)).strip("'")
            raise ValueError(f"loss.tasks names {shown(unknown[0])}, which is not among the tasks ({known})")
        if not any(self.loss.tasks.get(task, 1.0) for task in self.tasks):
            raise ValueError("tasks must name at least one task whose weight in loss.tasks is not 0")
        return self

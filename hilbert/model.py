"""HILBERT: audio and text segments of a document to its embeddings and predictions.

    project -> H_a, H_t -> cross-modal blocks -> Z_a, Z_t
    a = pool(H_a)   t = pool(H_t)   j = pool([Z_a ; Z_t])   logits, gates = experts([a ; t ; j])

Shapes: N documents; tokens_a and tokens_t, all their segments in each modality; D_a, D_t feature dimensions;
d = width; r = pooling hops; E = experts; C = outputs of a task.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hilbert.attention import CrossModalEncoder, position_signal
from hilbert.batches import Batch
from hilbert.config import HilbertConfig
from hilbert.errors import InputError, shown
from hilbert.experts import MixtureOfExperts
from hilbert.files import digest, write_bytes, write_text
from hilbert.pooling import SelfAttentivePooling
from hilbert.ragged import Ragged
from hilbert.reading import check_safetensors, content_of, explained, first_fault, parse_json

FORMAT = "hilbert-model"
VERSION = 1


@dataclass(frozen=True)
class HilbertOutput:
    """What the model says of a batch.

    Attributes:
        audio: audio embeddings a [N, d]; zero where a document has no audio.
        text: text embeddings t [N, d]; zero where a document has no text.
        joint: joint cross-attentive embeddings j [N, d].
        logits: for each task [N, C]; for regression [N, 1], standardised.
        gates: for each task the experts' weights [N, E], zero for experts that a top-k gate leaves out.
        gate_logits: for each task the gate's logits [N, E] before that choice; empty with one expert.
        attention: pooling weights of every segment, packed [tokens, r]: `audio` and `text` (of a and t), and
            `joint_audio` and `joint_text` (of j; the two sum to 1 over a document).
    """

    audio: Tensor
    text: Tensor
    joint: Tensor
    logits: dict[str, Tensor]
    gates: dict[str, Tensor]
    gate_logits: dict[str, Tensor]
    attention: dict[str, Ragged]


class Standardise(nn.Module):
    """(x - mean) / deviation, clipped. The moments come from the training part and travel with the weights."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dims: int, *, clip: float) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("deviation", torch.ones(dims))

    def fit(self, mean: np.ndarray[Any, Any], deviation: np.ndarray[Any, Any]) -> None:
        """Sets the moments, both [D]."""
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(deviation))

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, D] -> [tokens, D]."""
        return (x - self.mean).div_(self.deviation).clamp_(-self.clip, self.clip)  # one copy of the batch, not three


class ModalityEncoder(nn.Module):
    """One modality's features to hidden segments H: standardise, project, normalise, add positions."""

    def __init__(self, dims: int, width: int, *, position: float, dropout: float, clip: float) -> None:
        super().__init__()
        self.position = position
        self.standardise = Standardise(dims, clip=clip)
        self.project = nn.Linear(dims, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Ragged) -> Ragged:
        """[tokens, D] -> [tokens, d]."""
        hidden = self.norm(self.project(self.standardise(features.values)))
        signal = position_signal(features.positions, hidden.shape[1]).to(hidden.dtype)
        return features.with_values(self.dropout(hidden + self.position * signal))


class Hilbert(nn.Module):
    """The whole model. `hilbert.training.fit` trains it; `from_pretrained` loads a trained one."""

    def __init__(self, config: HilbertConfig) -> None:
        super().__init__()
        self.config = config
        model = config.model
        width, dropout = model.width, model.dropout
        self.audio_encoder = self._modality(config.audio_dim)
        self.text_encoder = self._modality(config.text_dim)
        self.audio_from_text = self._cross_modal()
        self.text_from_audio = self._cross_modal()
        self.audio_pool = SelfAttentivePooling(width, hops=model.hops)
        self.text_pool = SelfAttentivePooling(width, hops=model.hops)
        self.joint_pool = SelfAttentivePooling(width, hops=model.hops)
        self.classifier = MixtureOfExperts(
            3 * width,
            {task: spec.outputs for task, spec in config.tasks.items()},
            experts=model.experts,
            width=model.expert_width,
            top_k=model.top_k,
            gate_noise=model.gate_noise,
            dropout=dropout,
        )

    def forward(self, batch: Batch) -> HilbertOutput:
        """Embeds and classifies the documents of `batch`; its labels are not looked at."""
        hidden_a, hidden_t = self.audio_encoder(batch.audio), self.text_encoder(batch.text)
        crossed_a = self.audio_from_text(hidden_a, hidden_t)
        crossed_t = self.text_from_audio(hidden_t, hidden_a)
        cross = self.config.model.modality_source == "cross"
        audio, (weights_a,) = self.audio_pool(crossed_a if cross else hidden_a)
        text, (weights_t,) = self.text_pool(crossed_t if cross else hidden_t)
        joint, (weights_ja, weights_jt) = self.joint_pool(crossed_a, crossed_t)
        logits, gates, gate_logits = self.classifier(torch.cat([audio, text, joint], dim=1))
        attention = {"audio": weights_a, "text": weights_t, "joint_audio": weights_ja, "joint_text": weights_jt}
        return HilbertOutput(audio, text, joint, logits, gates, gate_logits, attention)

    def _modality(self, dims: int) -> ModalityEncoder:
        model, clip = self.config.model, self.config.clip_features
        return ModalityEncoder(dims, model.width, position=model.position, dropout=model.dropout, clip=clip)

    def _cross_modal(self) -> CrossModalEncoder:
        model = self.config.model
        return CrossModalEncoder(
            model.width,
            layers=model.layers,
            heads=model.heads,
            feed_forward=model.feed_forward,
            dropout=model.dropout,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `config.json` and `model.safetensors` into `folder`, each beside its place and then renamed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        content = save(weights, metadata={"format": "pt"})
        write_bytes(folder / "model.safetensors", content)
        written = hashlib.sha256(content).hexdigest()
        description = {"format": FORMAT, "version": VERSION, "weights": written, **self.config.model_dump(mode="json")}
        write_text(folder / "config.json", json.dumps(description, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Hilbert":
        """Loads what `save_pretrained` wrote, in evaluation mode, on the CPU.

        Raises:
            InputError: a file is missing, damaged, changed since it was written, or from another version.
        """
        folder = Path(folder)
        config, written = _read_config(folder / "config.json")
        with torch.random.fork_rng([]):  # the initial weights are overwritten: drawing them is nobody's business
            with torch.device("meta"):  # shapes alone: what the file doesn't hold takes no memory
                expected = cls(config).state_dict()
            weights = _read_weights(folder / "model.safetensors", expected, written)
            model = cls(config)
        model.load_state_dict(weights)
        return model.eval()


def _read_config(path: Path) -> tuple[HilbertConfig, str]:
    """The model's configuration, and the SHA-256 of its weights."""
    with explained(path, InputError, "copy the model folder again"):
        content = parse_json(content_of(path))
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f'{path}: not the config.json of a HILBERT model: it lacks "format": "{FORMAT}"')
    if (version := content.pop("version", None)) != VERSION:
        raise InputError(f"{path}: version {shown(version)} of the model format; this hilbert reads version {VERSION}")
    weights = content.pop("weights", None)
    try:
        return HilbertConfig.model_validate(content), str(weights)
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}; copy the model folder again") from None


def _read_weights(path: Path, expected: Mapping[str, Tensor], written: str) -> dict[str, Tensor]:
    """The weights of a file whose SHA-256 was `written`."""
    with explained(path, InputError, "copy the model folder again"):
        check_safetensors(path)
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); copy the model folder again") from None
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"{path}: does not fit config.json beside it: {name} is {found.get(name, 'missing')},"
            f" expected {wanted.get(name, 'nothing of that name')}"
        )
    if digest(path) != written:
        raise InputError(f"{path}: changed since config.json beside it was written; copy the model folder again")
    _check_numbers(path, weights)
    return weights


def _check_numbers(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuses weights of which no prediction can be made."""
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise InputError(
                f"{path}: {name} holds values that are not finite numbers, so that every prediction would be NaN; train"
                " the model again"
            )
        if name.endswith("standardise.deviation") and not bool((value > 0).all()):
            raise InputError(f"{path}: {name} holds deviations of 0 or below, which nothing can be divided by")

"""Small cohorts in memory: ragged features with a planted signal, missing modalities, missing labels of all kinds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from hilbert.batches import Batch
from hilbert.config import FitConfig, HilbertConfig, LossConfig, ModelConfig, TaskConfig, TrainConfig
from hilbert.folds import Fold
from hilbert.model import Hilbert
from hilbert.ragged import Ragged

AUDIO_DIM, TEXT_DIM = 7, 4
TASKS = {"affect": "binary", "spectrum": "multiclass", "score": "regression"}
SPECS = {
    "affect": TaskConfig(kind="binary", classes=("low", "high")),
    "spectrum": TaskConfig(kind="multiclass", classes=("a", "b", "c")),
    "score": TaskConfig(kind="regression", mean=2.0, deviation=3.0),
}


@dataclass(frozen=True)
class Segments:
    """One modality, shaped like `hilbert.features.Ragged`."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, documents: Sequence[np.ndarray]) -> "Segments":
        offsets = np.cumsum([0, *(len(document) for document in documents)]).astype(np.int64)
        return cls(np.concatenate(documents), offsets)

    def __getitem__(self, document: int) -> np.ndarray:
        return self.values[self.offsets[document] : self.offsets[document + 1]]

    def split(self) -> list[np.ndarray]:
        return [self[document] for document in range(len(self.offsets) - 1)]


@dataclass(frozen=True)
class Store:
    """Shaped like `hilbert.features.FeatureStore`."""

    audio: Segments | None
    text: Segments | None
    documents: pd.DataFrame

    def with_features(self, documents: Sequence[int], change) -> "Store":
        """The same cohort, the features x of `documents` replaced by change(x)."""
        chosen = set(map(int, documents))
        changed = {
            name: Segments.of(
                [change(x).astype(x.dtype) if i in chosen else x for i, x in enumerate(getattr(self, name).split())]
            )
            for name in ("audio", "text")
        }
        return replace(self, **changed)

    def with_labels(self, documents: Sequence[int], task: str, values: object) -> "Store":
        """The same cohort, the labels of `documents` replaced by a value, or by one value each."""
        table = self.documents.copy()
        column = list(table[task])
        cells = values if isinstance(values, list) else [values] * len(documents)
        for document, cell in zip(documents, cells, strict=True):
            column[document] = cell
        table[task] = pd.Series(column, dtype=object)
        return replace(self, documents=table)


def make_store(
    n: int = 48,
    *,
    audio_dim: int = AUDIO_DIM,
    text_dim: int = TEXT_DIM,
    longest: int = 5,
    missing: float = 0.0,
    unlabelled: float = 0.0,
    signal: float = 2.0,
    seed: int = 0,
    dtype: type = np.float32,
) -> Store:
    """`n` documents of 1 to `longest` segments; audio shows the latent z0, text z1, and labels depend on both.

    Args:
        missing: share of documents without audio; as many, others, are without text.
        unlabelled: share of labels that are missing, in each task by itself.
        signal: how far the latents move the features, in standard deviations of their noise.
    """
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 2))
    lacks = rng.permutation(n)
    gone = round(missing * n)
    without = {"audio": set(lacks[:gone]), "text": set(lacks[gone : 2 * gone])}
    parts = {}
    for column, (name, dim) in enumerate({"audio": audio_dim, "text": text_dim}.items()):
        direction = signal * rng.standard_normal(dim)
        lengths = [0 if i in without[name] else rng.integers(1, longest + 1) for i in range(n)]
        noise = [rng.standard_normal((length, dim)) for length in lengths]
        parts[name] = Segments.of([(x + z[i, column] * direction).astype(dtype) for i, x in enumerate(noise)])
    labels = {
        "affect": np.where(z[:, 0] > 0, "high", "low"),
        "spectrum": np.array(["a", "b", "c"])[np.digitize(z[:, 1], [-0.5, 0.5])],
        "score": np.array([str(value) for value in 40 + 10 * z[:, 0] + 5 * z[:, 1]]),
    }
    table = {"document_id": [f"d{i:03}" for i in range(n)], "group_id": [f"g{i // 2}" for i in range(n)]}
    for task, values in labels.items():
        table[task] = [None if rng.random() < unlabelled else str(value) for value in values]
    return Store(parts["audio"], parts["text"], pd.DataFrame(table, dtype=object))


def make_fold(n: int = 48, *, inner: int = 10, held_out: int = 12, index: int = 0) -> Fold:
    """Held-out documents first, then inner validation, then train."""
    return Fold(np.arange(held_out + inner, n), np.arange(held_out, held_out + inner), np.arange(held_out), index=index)


def model_config(**changes: object) -> HilbertConfig:
    """A small model for `SPECS`; `changes` to its `ModelConfig`."""
    model = {"width": 8, "heads": 2, "expert_width": 6, "dropout": 0.0} | changes
    return HilbertConfig(model=ModelConfig(**model), audio_dim=AUDIO_DIM, text_dim=TEXT_DIM, tasks=SPECS)


def make_model(*, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: object) -> Hilbert:
    """An untrained model in evaluation mode."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Hilbert(model_config(**changes)).to(dtype).eval()


def fit_config(
    *, tasks: dict | None = None, model: dict | None = None, loss: dict | None = None, seed: int = 0, **train: object
) -> FitConfig:
    """A configuration that trains in a fraction of a second."""
    return FitConfig(
        tasks=tasks or {"affect": "binary"},
        model=ModelConfig(
            **({"width": 8, "heads": 2, "expert_width": 8, "experts": 2, "dropout": 0.1} | (model or {}))
        ),
        loss=LossConfig(**(loss or {})),
        train=TrainConfig(**({"epochs": 3, "batch_size": 16, "device": "cpu"} | train)),
        seed=seed,
    )


def random_batch(
    audio: Sequence[int] = (3, 1, 4, 2, 5),
    text: Sequence[int] = (2, 6, 1, 3, 2),
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """Documents with so many segments in each modality, and labels for `SPECS`."""
    rng = np.random.default_rng(seed)

    def packed(lengths: Sequence[int], dim: int) -> Ragged:
        values = torch.from_numpy(rng.standard_normal((sum(lengths), dim))).to(dtype)
        return Ragged.from_lengths(values, torch.tensor(lengths))

    n = len(audio)
    labels = {"affect": rng.integers(0, 2, n), "spectrum": rng.integers(0, 3, n), "score": rng.normal(2, 3, n)}
    batch = packed(audio, AUDIO_DIM), packed(text, TEXT_DIM)
    return Batch(*batch, {task: torch.from_numpy(values.astype(np.float64)) for task, values in labels.items()})


def split(sequence: Ragged) -> list[torch.Tensor]:
    """The documents of a packed batch, one tensor [S_i, D] each."""
    return list(torch.split(sequence.values, sequence.lengths.tolist()))


def select(batch: Batch, documents: Sequence[int], *, longest: int | None = None) -> Batch:
    """Some documents of a batch, in this order, padded to `longest` at least."""

    def packed(sequence: Ragged) -> Ragged:
        values = split(sequence)
        lengths = torch.tensor([len(values[i]) for i in documents])
        return Ragged.from_lengths(torch.cat([values[i] for i in documents]), lengths, longest=longest)

    labels = {task: values[list(documents)] for task, values in batch.labels.items()}
    return Batch(packed(batch.audio), packed(batch.text), labels)

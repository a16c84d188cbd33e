"""From a feature store to batches: gather the segments of some documents, packed, with their labels.

Shapes: N documents, tokens = all their segments, D = dimensions of a modality's features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from hilbert.errors import StoreError
from hilbert.ragged import Ragged

IntArray = np.ndarray[Any, np.dtype[np.int64]]
FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]


class RaggedArray(Protocol):
    """All segments of a cohort in one modality: what a feature store holds."""

    @property
    def values(self) -> FloatArray:
        """[total segments, D]."""

    @property
    def offsets(self) -> IntArray:
        """[documents + 1]: document i has the segments offsets[i] ... offsets[i + 1] - 1."""


class Features(Protocol):
    """Both modalities of a cohort: a feature store, or anything shaped like one."""

    @property
    def audio(self) -> RaggedArray | None:
        """Audio segments."""

    @property
    def text(self) -> RaggedArray | None:
        """Text segments."""


def modality(features: Features, name: Literal["audio", "text"]) -> RaggedArray:
    """One modality of a store.

    Raises:
        StoreError: the store has none.
    """
    found = features.audio if name == "audio" else features.text
    if found is None:
        raise StoreError(f"the feature store holds no {name} features, and HILBERT needs both; extract with --{name}")
    return found


@dataclass(frozen=True)
class Batch:
    """Some documents.

    Attributes:
        audio: packed audio features [tokens_a, D_a].
        text: packed text features [tokens_t, D_t].
        labels: for each task [N]; class index or number, NaN where the label is missing.
    """

    audio: Ragged
    text: Ragged
    labels: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.audio.lengths)

    def to(self, device: torch.device | str) -> "Batch":
        """Moves to a device."""
        labels = {task: values.to(device) for task, values in self.labels.items()}
        return Batch(self.audio.to(device), self.text.to(device), labels)


def segment_rows(offsets: IntArray, documents: IntArray) -> tuple[IntArray, IntArray]:
    """Rows of the segments of `documents` in order, and how many each document has."""
    starts, lengths = offsets[documents], np.diff(offsets)[documents]
    before = np.cumsum(lengths) - lengths
    rows = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return rows, lengths


def thin(lengths: IntArray, drop: float, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Chooses the segments that stay, [tokens]: each with probability 1 - `drop`, at least one a document."""
    draws = rng.random(int(lengths.sum()))
    occupied = lengths[lengths > 0]
    starts = np.cumsum(occupied) - occupied
    lowest = np.minimum.reduceat(draws, starts) if len(starts) else draws
    return np.asarray((draws < 1 - drop) | (draws == np.repeat(lowest, occupied)))


def gather(
    source: RaggedArray, documents: IntArray, *, segment_dropout: float = 0.0, rng: np.random.Generator | None = None
) -> Ragged:
    """Packs the segments of `documents` as float32 [tokens, D], read from the (memory-mapped) `source`.

    Args:
        segment_dropout: probability of leaving a segment out.
        rng: draws the segments that are left out; needed where `segment_dropout` is not 0.
    """
    rows, lengths = segment_rows(source.offsets, documents)
    if segment_dropout and rng is not None:
        stay = thin(lengths, segment_dropout, rng)
        owner = np.repeat(np.arange(len(lengths)), lengths)[stay]
        rows, lengths = rows[stay], np.bincount(owner, minlength=len(lengths))
    values = torch.from_numpy(np.ascontiguousarray(source.values[rows], dtype=np.float32))
    return Ragged.from_lengths(values, torch.from_numpy(lengths))


def make_batch(
    features: Features,
    labels: Mapping[str, FloatArray],
    documents: Sequence[int] | IntArray,
    *,
    segment_dropout: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Batch:
    """The batch of `documents` (indices into the store), on the CPU.

    Args:
        features: a feature store.
        labels: for each task [all documents], NaN where missing.
        documents: which documents, in this order.
        segment_dropout: probability of leaving a segment out.
        rng: draws the segments that are left out.
    """
    chosen = np.asarray(documents, dtype=np.int64)
    audio = gather(modality(features, "audio"), chosen, segment_dropout=segment_dropout, rng=rng)
    text = gather(modality(features, "text"), chosen, segment_dropout=segment_dropout, rng=rng)
    found = {task: torch.from_numpy(np.asarray(values, dtype=np.float64)[chosen]) for task, values in labels.items()}
    return Batch(audio, text, found)


def moments(
    source: RaggedArray, documents: IntArray, *, chunk: int = 256, block: int = 1 << 18
) -> tuple[FloatArray, FloatArray]:
    """Mean [D] and standard deviation [D] of the features over the segments of `documents`, in float64.

    A dimension that does not vary gets the deviation 1; without any segment the mean is 0 and the deviation 1.

    Args:
        source: features.
        documents: which documents.
        chunk: documents that are summed up by themselves; last digits depend on it.
        block: numbers in memory at once, about, so that a large store never is; nothing else depends on it.
    """
    dims = source.values.shape[1]
    at_once = max(1, block // max(1, dims))
    count, total, square, shift = 0, np.zeros(dims), np.zeros(dims), np.zeros(dims)
    for start in range(0, len(documents), chunk):
        rows, _ = segment_rows(source.offsets, documents[start : start + chunk])
        if not count and len(rows):
            # near the data, so that squares don't cancel; other documents have no say in it
            shift = source.values[rows[0]].astype(np.float64)
        sums = np.zeros((2, 0, dims))
        for first in range(0, len(rows), at_once):
            part = source.values[rows[first : first + at_once]].astype(np.float64) - shift
            # summed up row after row: the same to the last bit, wherever a block ends
            sums = np.concatenate([sums, [part, part**2]], axis=1).sum(axis=1, keepdims=True)
        count, total, square = count + len(rows), total + sums[0].sum(0), square + sums[1].sum(0)
    if not count:
        return np.zeros(dims), np.ones(dims)
    mean = total / count
    deviation = np.sqrt(np.maximum(square / count - mean**2, 0))
    varies = deviation > np.maximum(1e-6 * np.abs(mean + shift), np.finfo(np.float32).tiny)
    return mean + shift, np.where(varies, deviation, 1.0)

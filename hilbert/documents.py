"""Features in memory, shaped like a feature store: what a served model and the classifier are given.

A document is a pair (audio, text) of its segments' features: audio [S_a, D_a], text [S_t, D_t], either of them None
where the document lacks that modality.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilbert.cells import tidy
from hilbert.errors import InputError, shown
from hilbert.plausible import LARGEST, implausible

__all__ = ["Documents", "Segments"]

Matrix = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Segments:
    """One modality of N documents; `segments[i]` is document i's [S_i, D].

    Attributes:
        values: [total, D], document after document.
        offsets: [N + 1]: document i has the rows offsets[i]:offsets[i + 1].
    """

    values: Matrix
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> Matrix:
        document = range(len(self))[document]
        return self.values[self.offsets[document] : self.offsets[document + 1]]


@dataclass(frozen=True, eq=False)
class Documents:
    """N documents in memory: `hilbert.batches.Features`, and with labels `hilbert.training.LabelledFeatures`.

    Make it with `Documents.of`, which checks and copies; for a cohort on disk use `hilbert.features.FeatureStore`.

    Attributes:
        audio: audio features; without rows where no document has any.
        text: text features, likewise.
        documents: [N rows] `document_id`, and the label columns.
    """

    audio: Segments
    text: Segments
    documents: pd.DataFrame

    def __len__(self) -> int:
        return len(self.documents)

    @classmethod
    def of(
        cls,
        pairs: Sequence[Any] | NDArray[Any],
        *,
        names: Sequence[str] | None = None,
        audio_dim: int | None = None,
        text_dim: int | None = None,
        labels: pd.DataFrame | None = None,
    ) -> Self:
        """Check and pack documents.

        Args:
            pairs: N pairs (audio [S_a, D_a] or None, text [S_t, D_t] or None) of anything that numpy takes for numbers.
                An array without rows counts as None.
            names: N document ids, used in messages too; "0", "1", ... by default.
            audio_dim: D_a that a trained model needs; that of the first document with audio by default.
            text_dim: D_t, likewise.
            labels: [N rows] label columns as in documents.csv; the index is not looked at.

        Raises:
            InputError: with the document's name: what is not a pair of such arrays, dimensions that differ, a value
                that is not finite in float32, a document with neither modality; names or labels that don't fit.
        """
        given = list(pairs)
        ids = _names(names, len(given))
        split = [_pair(pair, name) for pair, name in zip(given, ids, strict=True)]
        parts = {}
        for place, (modality, dim) in enumerate({"audio": audio_dim, "text": text_dim}.items()):
            parts[modality] = _pack(modality, [pair[place] for pair in split], ids, dim)
        bare = (np.diff(parts["audio"].offsets) + np.diff(parts["text"].offsets)) == 0
        if bare.any():
            raise InputError(
                f"document {shown(ids[int(bare.argmax())])}: has neither audio nor text features; leave it out"
            )
        return cls(parts["audio"], parts["text"], _table(ids, labels))


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    if not count:
        raise InputError("there must be one document at least: no pair (audio, text) is given")
    if names is None:
        return [str(number) for number in range(count)]
    ids = [str(name) for name in names]
    if len(ids) != count:
        raise InputError(f"{len(ids)} names for {count} documents; give one for each")
    tidied = [tidy(name) for name in ids]
    if len(set(tidied)) < count:
        repeated = next(name for number, name in enumerate(ids) if tidied[number] in tidied[:number])
        raise InputError(f"document {shown(repeated)}: named twice; every document needs a name of its own")
    return ids


def _table(ids: list[str], labels: pd.DataFrame | None) -> pd.DataFrame:
    table = pd.DataFrame({"document_id": pd.Series(ids, dtype=object)})
    if labels is None:
        return table
    if len(labels) != len(ids):
        raise InputError(f"{len(labels)} rows of labels for {len(ids)} documents; give one for each")
    if "document_id" in labels.columns:
        raise InputError("labels: must not hold document_id; give the documents' ids as names")
    return pd.concat([table, labels.reset_index(drop=True)], axis=1)


def _pair(pair: Any, name: str) -> tuple[Any, Any]:
    row = isinstance(pair, np.ndarray) and pair.dtype == object and pair.ndim == 1
    if not (row or isinstance(pair, tuple | list)) or len(pair) != 2:
        told = f"{pair.dtype} {list(pair.shape)}" if isinstance(pair, np.ndarray) else type(pair).__name__
        size = f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
        raise InputError(
            f"document {name!r}: must be a pair (audio [S_a, D_a] or None, text [S_t, D_t] or None), not {told}{size}"
        )
    return pair[0], pair[1]


def _pack(modality: str, given: Sequence[Any], names: Sequence[str], dim: int | None) -> Segments:
    """One modality of all documents, checked."""
    arrays = [_matrix(value, f"{modality} of document {shown(name)}") for value, name in zip(given, names, strict=True)]
    source = "the model"
    for array, name in zip(arrays, names, strict=True):
        if array is None:
            continue
        if dim is None:
            dim, source = array.shape[1], f"document {shown(name)}"
        if array.shape[1] != dim:
            told = f"{array.shape[1]} features a segment where {source} has {dim}; all need the same"
            raise InputError(f"{modality} of document {shown(name)}: {told}")
    if dim is None:
        raise InputError(f"no document has {modality} features, and HILBERT needs both modalities in some of them")
    present = [np.zeros((0, dim), np.float32) if array is None else array for array in arrays]
    offsets = np.cumsum([0, *(len(array) for array in present)], dtype=np.int64)
    return Segments(np.concatenate(present), offsets)


def _matrix(value: Any, what: str) -> Matrix | None:
    """`value` as finite float32 [S, D]; None where there is no segment."""
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        raise InputError(
            f"{what}: not an array of numbers [segments, features]; its rows must be equally long"
        ) from None
    if array.ndim and not len(array):
        return None
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiu":
        raise InputError(f"{what}: must be numbers [segments, features], not {array.dtype} {list(array.shape)}")
    with np.errstate(over="ignore"):
        matrix = array.astype(np.float32)
    if found := implausible(matrix):
        row, column = found
        raise InputError(
            f"{what}: segment {row}, feature {column} is {array[row, column]}; all must be finite float32 numbers below"
            f" {LARGEST:g} in magnitude"
        )
    return matrix

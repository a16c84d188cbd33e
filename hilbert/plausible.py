"""Whether features can be learned from: finite numbers, none larger than what an encoder gives.

One value that isn't finite makes every prediction NaN that it reaches; one of 1e30 leaves float32 when it is squared,
and makes the deviation of its feature so large that all other people are alike in it. Both come from uninitialised
memory, a wrong byte order or a division by zero, never from a voice.

Shapes: total = segments of all documents, D = features, N = documents.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hilbert.errors import InputError

LARGEST = 1e18
"""Magnitude that no feature has: sums of a few of its squares are still float32 numbers."""
BLOCK = 1 << 22
"""Numbers in memory at once."""

Values = NDArray[np.floating[Any]]


def is_plausible(block: Values) -> bool:
    """Whether all numbers are finite, and below `LARGEST` in magnitude."""
    return not block.size or float(np.abs(block).max()) < LARGEST  # NaN is not


def implausible(values: Values) -> tuple[int, int] | None:
    """The first (row, column) of `values` [total, D], memory-mapped or not, that isn't plausible."""
    rows = max(1, BLOCK // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        block = np.asarray(values[start : start + rows])
        if not is_plausible(block):
            row, column = np.argwhere(~(np.abs(block.astype(np.float64)) < LARGEST))[0]
            return start + int(row), int(column)
    return None


class Segments(Protocol):
    """One modality of N documents: a feature store's, or one in memory."""

    @property
    def values(self) -> Values:
        """[total, D], document after document."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """[N + 1], where each document's rows begin."""


def check_plausible(
    modality: str,
    part: Segments,
    *,
    names: Sequence[str] | None = None,
    where: str = "",
    error: type[InputError] = InputError,
) -> None:
    """Refuse features that nothing can be learned from.

    Args:
        modality: what they are of, for the message.
        part: the features. Their `segments` [total], if they have that, are the segments' numbers; else these count
            from 0 within each document.
        names: of the documents; their numbers by default.
        where: what the message begins with.
        error: class of the error.

    Raises:
        InputError: naming document, segment and feature.
    """
    found = implausible(part.values)
    if found is None:
        return
    row, column = found
    document = int(np.searchsorted(part.offsets, row, side="right")) - 1
    name = repr(names[document]) if names is not None else f"number {document}"
    numbers = getattr(part, "segments", None)
    segment = row - part.offsets[document] if numbers is None else numbers[row]
    raise error(
        f"{where}{modality} of document {name}, segment {segment}: feature {column} is {part.values[row, column]};"
        f" features must be finite numbers below {LARGEST:g} in magnitude: mend or leave out this segment"
    )

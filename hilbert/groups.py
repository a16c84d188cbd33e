"""Groups: documents that belong together, and are split or resampled together (a family, a site)."""

import numbers
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilbert.cells import ALIKE, is_no_group, same_number, tidy, told_counts, twins
from hilbert.errors import InputError


@dataclass(frozen=True)
class Groups:
    """A column of groups as it is understood.

    Attributes:
        names: [N] the group of each document; None where it has none.
        missing: codes that stand for no group, as NA, and how often each stands there.
        merged: other spellings of a group's number, as 1.0 for 1, and how often each stands there.
    """

    names: list[str | None]
    missing: dict[str, int]
    merged: dict[str, int]


def read_groups(cells: Sequence[object]) -> Groups:
    """Understands a column of groups: blanks and codes as no group, 1 and 1.0 as one group."""
    texts = [_text(cell) for cell in cells]
    counts = Counter(text for text in texts if text)
    missing = {text: count for text, count in counts.items() if is_no_group(text)}
    found = [text for text in counts if text not in missing]
    same = same_number(found)
    names = [None if not text or text in missing else same.get(text, text) for text in texts]
    return Groups(names, missing, {text: counts[text] for text in same})


def group_codes(groups: Sequence[object] | None, documents: int) -> NDArray[np.int64]:
    """Number the groups of N = ``documents`` documents 0, 1, ... in order of appearance.

    A document whose group is missing (None, NaN, an empty string, or a code for it such as "NA") is a group of its own;
    1, 1.0 and "1" are one group.

    Raises:
        InputError: ``groups`` does not have one entry per document.
    """
    if groups is None:
        return np.arange(documents)
    if len(groups) != documents:
        raise InputError(f"there must be one group per document: {len(groups)} groups for {documents} documents")
    number: dict[object, int] = {}
    plain = all(type(group) is int for group in groups)
    names: Sequence[object] = groups if plain else read_groups(groups).names
    keys = [row if name is None else name for row, name in enumerate(names)]
    return np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)


def twin_groups(cells: Sequence[object] | None) -> str | None:
    """What to say of groups that may be one, see `hilbert.cells.twins`; None where there are none."""
    counts = Counter(name for name in read_groups(() if cells is None else cells).names if name is not None)
    doubtful = twins(counts)
    if not doubtful:
        return None
    told = "; ".join(told_counts({text: counts[text] for text in texts}) for texts in doubtful[:5])
    return (
        f"{told}: groups that {ALIKE}; if they are one, it would stand on both "
        "sides of a split: spell it in one way. If not, give them names that differ in more"
    )


def _text(cell: object) -> str | None:
    """A group's name; a whole number as such, however it is held."""
    if isinstance(cell, str):
        return tidy(cell)
    if cell is None or cell is pd.NA or cell is pd.NaT or cell != cell:
        return None
    if isinstance(cell, numbers.Real) and not isinstance(cell, numbers.Integral) and float(cell).is_integer():
        return str(int(float(cell)))
    return str(cell).strip()

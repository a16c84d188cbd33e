"""Groups: documents that belong together, and are split or resampled together (a family, a site)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilbert.errors import InputError


def group_codes(groups: Sequence[object] | None, documents: int) -> NDArray[np.int64]:
    """Number the groups of N = ``documents`` documents 0, 1, ... in order of appearance.

    A document whose group is missing (None, NaN or an empty string) is a group of its own.

    Raises:
        InputError: ``groups`` does not have one entry per document.
    """
    if groups is None:
        return np.arange(documents)
    if len(groups) != documents:
        raise InputError(f"there must be one group per document: {len(groups)} groups for {documents} documents")
    number: dict[tuple[bool, object], int] = {}
    keys = ((True, row) if _is_missing(group) else (False, group) for row, group in enumerate(groups))
    return np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)


def _is_missing(group: object) -> bool:
    return group is None or group == "" or group is pd.NA or group != group

"""What labels and scores must look like, checked; see the package's docstring."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["binary", "multiclass", "regression"]
Array = NDArray[np.float64]

FEWEST_DEFINED = 0.5
"""The share of resamples that must have a defined AUC for an interval."""


def labelled(y: ArrayLike, scores: ArrayLike, kind: Kind) -> tuple[Array, Array]:
    """Labels and scores of the labelled documents, checked: scores [n], or [n, C] for multiclass."""
    labels, values = np.asarray(y, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    n = labels.shape
    fits = {
        "binary": values.shape in (n, (*n, 2)),
        "multiclass": values.ndim == 2 and values.shape[:1] == n and values.shape[1] >= 2,
        "regression": values.shape in (n, (*n, 1)),
    }
    if kind not in fits:
        raise ValueError(f"kind must be one of {', '.join(fits)}, not {kind!r}")
    if len(n) != 1 or not fits[kind]:
        raise ValueError(f"{kind} scores of shape {list(values.shape)} don't fit labels of shape {list(n)}")
    known = ~np.isnan(labels)
    labels, values = labels[known], values[known]
    if kind != "multiclass" and values.ndim == 2:
        values = values[:, -1]
    if np.isnan(values).any():
        raise ValueError("labelled documents have NaN scores")
    classes = 2 if kind == "binary" else values.shape[-1]
    if kind != "regression" and not np.isin(labels, np.arange(classes)).all():
        raise ValueError(
            f"{kind} labels must be class numbers 0 to {classes - 1}, not {np.unique(labels)[:10].tolist()}"
        )
    return labels, values


def labelled_columns(y: ArrayLike, scores: ArrayLike, kind: Kind) -> tuple[Array, Array]:
    """As `labelled`, for classification alone, with one column per class: [n], [n, C]."""
    if kind == "regression":
        raise ValueError("this metric is for binary and multiclass tasks, not for regression")
    known, values = labelled(y, scores, kind)
    return known, values if kind == "multiclass" else np.column_stack([1 - values, values])

"""The area under the ROC curve and its kin: the share of pairs in the right order, of a sample or of many resamples.

Notation as in the package's docstring: N documents, C classes, B resamples.
"""

import numpy as np
from numpy.typing import ArrayLike

from hilbert.metrics.shapes import Array, Kind, labelled

_BLOCK = 512  # rows of a pairwise comparison held in memory at once


def auc(y: ArrayLike, scores: ArrayLike, kind: Kind) -> float | None:
    """The share of pairs of documents that the scores put in the right order, ties counting half.

    Binary: the area under the ROC curve (Hanley and McNeil 1982). Multiclass: the mean over the C classes of each class
    against the rest. Regression: the concordance index (Harrell et al. 1982) over the pairs whose labels differ, which
    for a label of two values is the area under the ROC curve.

    Args:
        y: [N].
        scores: any monotone scale; see the module's docstring for shapes.
        kind: of the task.

    Returns:
        In [0, 1], 0.5 for chance; None where the labels don't hold every class (regression: two different values).

    Raises:
        ValueError: shapes that don't fit, a label that is no class, NaN among the scores of labelled documents.
    """
    known, values = labelled(y, scores, kind)
    value = weighted_auc(known, values, kind, np.ones((1, len(known))))[0]
    return None if np.isnan(value) else float(value)


def weighted_auc(y: Array, scores: Array, kind: Kind, weights: Array) -> Array:
    """The AUC of each resample, NaN where undefined, [B]; weights [B, N], whole numbers: how often it holds each."""
    if kind != "multiclass":
        return _concordance(y, scores, weights)
    one_vs_rest = [_concordance((y == c).astype(np.float64), column, weights) for c, column in enumerate(scores.T)]
    mean: Array = np.mean(one_vs_rest, axis=0)
    return mean


def _concordance(y: Array, score: Array, weights: Array) -> Array:
    """Harrell's concordance index of weighted samples, [B]; NaN where no two labels differ.

    sum_ij w_i w_j [y_i > y_j] ( [s_i > s_j] + [s_i = s_j] / 2 )  /  sum_ij w_i w_j [y_i > y_j]
    """
    if not len(y):
        return np.full(len(weights), np.nan)
    above, below = np.flatnonzero(y > y.min()), np.flatnonzero(y < y.max())
    two_values = len(above) + len(below) == len(y)
    counts = weights[:, below].astype(np.float32)  # sums of whole and half numbers below 2^23 are exact in it
    concordant, comparable = np.zeros((2, len(weights)))
    for start in range(0, len(above), _BLOCK):
        rows = above[start : start + _BLOCK]
        credit = (score[rows, None] > score[below]).astype(np.float32)
        credit += np.float32(0.5) * (score[rows, None] == score[below])
        if two_values:
            comparable += weights[:, rows].sum(1) * weights[:, below].sum(1)
        else:
            ordered = (y[rows, None] > y[below]).astype(np.float32)
            credit *= ordered
            comparable += ((counts @ ordered.T) * weights[:, rows]).sum(1)
        concordant += ((counts @ credit.T) * weights[:, rows]).sum(1)
    undefined = comparable == 0
    value: Array = np.where(undefined, np.nan, concordant / np.where(undefined, 1, comparable))
    return value

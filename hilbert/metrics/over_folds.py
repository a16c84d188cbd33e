"""One number from the folds of a cross-validation: their mean, or the AUC of all their predictions together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hilbert.metrics.ranking import auc
from hilbert.metrics.shapes import Array, Kind


class MeanAndError(NamedTuple):
    """Mean over the folds that counted, its standard error, and how many they were."""

    mean: float | None
    standard_error: float | None
    folds: int


def mean_and_se(values: Sequence[float | None]) -> MeanAndError:
    """Mean over folds and its naive standard error, sd / sqrt(n), over the n folds whose value is defined.

    The standard error takes folds for independent. They are not, their training sets overlap, and the true one is
    larger: use it to see the scatter, not to test a difference.

    Returns:
        Mean (None when n = 0), standard error (None when n < 2), n.

    Raises:
        ValueError: a value is NaN; an undefined value must be None.
    """
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if np.isnan(defined).any():
        raise ValueError("an undefined value must be None, not NaN")
    n = len(defined)
    return MeanAndError(
        float(defined.mean()) if n else None, float(defined.std(ddof=1) / np.sqrt(n)) if n > 1 else None, n
    )


def pooled_auc(
    labels: Sequence[Array], scores: Sequence[Array], kind: Kind, *, repeats: Sequence[int] | None = None
) -> float | None:
    """`auc` of the held-out predictions of all folds together.

    It is defined where single folds are too small, but compares scores of different models with each other: where their
    scales differ it is lower than the mean over folds (Forman and Scholz 2010). Report both.

    With repeated cross-validation it is the mean over repeats of each repeat's pooled AUC. A document's predictions are
    not averaged over repeats: that would score an ensemble of models, which nobody is going to use.

    Args:
        labels: of each fold's held-out documents, [n].
        scores: of the same documents, [n] or [n, C].
        kind: of the task.
        repeats: which repeat each fold belongs to; one repeat if left out.

    Returns:
        None where it is undefined in any repeat.

    Raises:
        ValueError: no folds, or as `auc`.
    """
    counted = len(labels) if repeats is None else len(repeats)
    if not len(labels) == len(scores) == counted > 0:
        raise ValueError(f"{len(labels)} labels, {len(scores)} scores and {counted} repeats: one a fold, at least one")
    values = []
    for members in folds_by_repeat(len(labels), repeats):
        y = np.concatenate([labels[fold] for fold in members])
        predicted = np.concatenate([scores[fold] for fold in members])
        values.append(auc(y, predicted, kind))
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None


def folds_by_repeat(folds: int, repeats: Sequence[int] | None) -> list[list[int]]:
    """The folds of each repeat."""
    of = np.zeros(folds, dtype=np.int64) if repeats is None else np.asarray(repeats)
    return [np.flatnonzero(of == repeat).tolist() for repeat in np.unique(of)]

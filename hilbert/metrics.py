"""How good predictions are, as pure functions of labels and scores.

Notation: N documents, C classes, B bootstrap resamples. ``y`` is [N]: 0 or 1, a class number, or a real number, NaN
where the label is missing; documents without a label are ignored. ``scores`` are, by kind of task,

    binary       [N], higher for class 1, or [N, 2], of which column 1 is used
    multiclass   [N, C]
    regression   [N] or [N, 1]

A metric that these labels leave undefined is None: never 0, 0.5 or NaN. A score that is NaN is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score

from hilbert.groups import group_codes

Kind = Literal["binary", "multiclass", "regression"]
Array = NDArray[np.float64]

_BLOCK = 512  # rows of a pairwise comparison held in memory at once
_FEWEST_DEFINED = 0.5  # the share of resamples that must have a defined AUC for an interval


class MeanAndError(NamedTuple):
    """Mean over the folds that counted, its standard error, and how many they were."""

    mean: float | None
    standard_error: float | None
    folds: int


# ---- area under the curve --------------------------------------------------------------------------------------------


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
    known, values = _labelled(y, scores, kind)
    value = _weighted_auc(known, values, kind, np.ones((1, len(known))))[0]
    return None if np.isnan(value) else float(value)


def bootstrap_interval(
    y: ArrayLike,
    scores: ArrayLike,
    kind: Kind,
    *,
    groups: Sequence[object] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of `auc` that resamples groups, not documents.

    Efron (1979), with the cluster bootstrap of Davison and Hinkley (1997, section 3.8): members of one group are not
    independent, and an interval that takes them for it is too narrow. Resamples in which the AUC is undefined are left
    out. The interval is about new people, given these predictions: it does not hold the variance of training.

    Args:
        y: [N].
        scores: as in `auc`.
        kind: of the task.
        groups: N group ids, or None; a document without a group is a group of its own.
        confidence: between 0 and 1.
        resamples: 1 or more.
        seed: >= 0.

    Returns:
        (low, high), or None where the AUC is undefined in the sample or in more than half of the resamples.

    Raises:
        ValueError: as `auc`, or an argument is out of its range.
    """
    codes = group_codes(groups, len(np.asarray(y)))
    return _interval([(y, scores, codes)], kind, confidence=confidence, resamples=resamples, seed=seed)


def pooled_interval(
    labels: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    kind: Kind,
    *,
    documents: Sequence[Sequence[str]],
    groups: Mapping[str, object] | None = None,
    repeats: Sequence[int] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of `pooled_auc`, as `bootstrap_interval`: groups are resampled.

    A resample holds a document equally often in all repeats, so that repeats don't pass for more people. The order of
    folds and documents has no influence.

    Args:
        labels: of each fold's held-out documents, [n].
        scores: of the same documents, [n] or [n, C].
        kind: of the task.
        documents: ids of the same documents.
        groups: document id to group; a document without a group is a group of its own.
        repeats: which repeat each fold belongs to; one repeat if left out.
        confidence: between 0 and 1.
        resamples: 1 or more.
        seed: >= 0.

    Returns:
        (low, high), or None where the AUC is undefined in the sample or in more than half of the resamples.

    Raises:
        ValueError: as `bootstrap_interval`.
    """
    ids = sorted({name for fold in documents for name in fold})
    known = groups or {}
    code = dict(zip(ids, group_codes([known.get(name) for name in ids], len(ids)).tolist(), strict=True))
    parts = [
        (
            np.concatenate([np.asarray(labels[fold], dtype=np.float64) for fold in members]),
            np.concatenate([np.asarray(scores[fold], dtype=np.float64) for fold in members]),
            np.array([code[name] for fold in members for name in documents[fold]], dtype=np.int64),
        )
        for members in _folds_by_repeat(len(labels), repeats)
    ]
    return _interval(parts, kind, confidence=confidence, resamples=resamples, seed=seed)


def _folds_by_repeat(folds: int, repeats: Sequence[int] | None) -> list[list[int]]:
    """The folds of each repeat."""
    of = np.zeros(folds, dtype=np.int64) if repeats is None else np.asarray(repeats)
    return [np.flatnonzero(of == repeat).tolist() for repeat in np.unique(of)]


def _interval(
    parts: Sequence[tuple[ArrayLike, ArrayLike, NDArray[np.int64]]],
    kind: Kind,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float] | None:
    """Interval of the mean AUC over parts: labels, scores and group codes of each, groups shared between parts."""
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence must be in (0, 1) and resamples >= 1, not {confidence} and {resamples}")
    labelled = [~np.isnan(np.asarray(y, dtype=np.float64)) for y, _, _ in parts]
    known = [
        (*_labelled(y, scores, kind), codes[mask]) for (y, scores, codes), mask in zip(parts, labelled, strict=True)
    ]
    everyone = np.unique(np.concatenate([codes for _, _, codes in known]))
    if not len(everyone) or any(auc(y, scores, kind) is None for y, scores, _ in known):
        return None
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = generator.multinomial(len(everyone), np.full(len(everyone), 1 / len(everyone)), size=resamples)
    weights = draws.astype(np.float64)
    values = np.mean(
        [_weighted_auc(y, scores, kind, weights[:, everyone.searchsorted(codes)]) for y, scores, codes in known], axis=0
    )
    values = values[~np.isnan(values)]
    if len(values) < _FEWEST_DEFINED * resamples:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _weighted_auc(y: Array, scores: Array, kind: Kind, weights: Array) -> Array:
    """The AUC of each resample, NaN where undefined: weights [B, N] say how often it holds each document; [B]."""
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
    weights_below = weights[:, below]
    concordant, comparable = np.zeros((2, len(weights)))
    for start in range(0, len(above), _BLOCK):
        rows = above[start : start + _BLOCK]
        ordered = (y[rows, None] > y[below]).astype(np.float64)
        credit = ordered * ((score[rows, None] > score[below]) + 0.5 * (score[rows, None] == score[below]))
        concordant += ((weights_below @ credit.T) * weights[:, rows]).sum(1)
        comparable += ((weights_below @ ordered.T) * weights[:, rows]).sum(1)
    undefined = comparable == 0
    value: Array = np.where(undefined, np.nan, concordant / np.where(undefined, 1, comparable))
    return value


# ---- over folds ------------------------------------------------------------------------------------------------------


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
    for members in _folds_by_repeat(len(labels), repeats):
        y = np.concatenate([labels[fold] for fold in members])
        predicted = np.concatenate([scores[fold] for fold in members])
        values.append(auc(y, predicted, kind))
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None


# ---- other metrics of classification ---------------------------------------------------------------------------------


def average_precision(y: ArrayLike, scores: ArrayLike, kind: Kind) -> float | None:
    """Area under the precision-recall curve as a sum of steps; multiclass: the mean of each class against the rest.

    Arguments and errors as in `auc`. Chance is the share of the class. None where the labels don't hold every class.
    """
    known, columns = _labelled_columns(y, scores, kind)
    if not _holds_every_class(known, columns):
        return None
    classes = range(1, 2) if kind == "binary" else range(columns.shape[1])
    return float(np.mean([average_precision_score(known == c, columns[:, c]) for c in classes]))


def balanced_accuracy(y: ArrayLike, probabilities: ArrayLike, kind: Kind) -> float | None:
    """Mean over the classes of the share of their documents that the most probable class gets right.

    Arguments and errors as in `auc`, with probabilities for scores; [N] is the probability of class 1, predicted where
    it is above 1/2. Chance is 1/C. None where the labels don't hold every class.
    """
    known, columns = _labelled_columns(y, probabilities, kind)
    if not _holds_every_class(known, columns):
        return None
    right = columns.argmax(1) == known
    return float(np.mean([right[known == c].mean() for c in range(columns.shape[1])]))


def brier(y: ArrayLike, probabilities: ArrayLike, kind: Kind) -> float | None:
    """Mean squared error of the probabilities (Brier 1950); lower is better.

    Binary: of class 1's, in [0, 1]. Multiclass: summed over the classes, in [0, 2]. Arguments and errors as in `auc`,
    with probabilities for scores. None where no document is labelled.
    """
    known, columns = _labelled_columns(y, probabilities, kind)
    if not len(known):
        return None
    errors = (columns - np.eye(columns.shape[1])[known.astype(int)]) ** 2
    return float(errors[:, 1].mean() if kind == "binary" else errors.sum(1).mean())


def expected_calibration_error(y: ArrayLike, probabilities: ArrayLike, kind: Kind, *, bins: int = 10) -> float | None:
    """Mean distance of confidence and frequency over equal-width bins, weighted by their documents.

    Binary: confidence is class 1's probability, frequency class 1's share. Multiclass: the probability of the most
    probable class, and how often it is right (Guo et al. 2017, equation 3). Biased upwards for small N. Arguments and
    errors as in `auc`, with probabilities for scores. In [0, 1]; None where no document is labelled.
    """
    known, columns = _labelled_columns(y, probabilities, kind)
    if not len(known):
        return None
    confidence = columns[:, 1] if kind == "binary" else columns.max(1)
    happened = known == (1 if kind == "binary" else columns.argmax(1))
    number = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(number, weights=confidence - happened, minlength=bins)
    return float(np.abs(gaps).sum() / len(known))


# ---- shapes ----------------------------------------------------------------------------------------------------------


def _labelled(y: ArrayLike, scores: ArrayLike, kind: Kind) -> tuple[Array, Array]:
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
    labelled = ~np.isnan(labels)
    labels, values = labels[labelled], values[labelled]
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


def _labelled_columns(y: ArrayLike, scores: ArrayLike, kind: Kind) -> tuple[Array, Array]:
    """As `_labelled`, for classification alone, with one column per class: [n], [n, C]."""
    if kind == "regression":
        raise ValueError("this metric is for binary and multiclass tasks, not for regression")
    known, values = _labelled(y, scores, kind)
    return known, values if kind == "multiclass" else np.column_stack([1 - values, values])


def _holds_every_class(y: Array, columns: Array) -> bool:
    return bool(len(np.unique(y)) == columns.shape[1])

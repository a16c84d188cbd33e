"""How good classes and probabilities are, beside their order."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from hilbert.metrics.shapes import Array, Kind, labelled_columns


def average_precision(y: ArrayLike, scores: ArrayLike, kind: Kind) -> float | None:
    """Area under the precision-recall curve as a sum of steps; multiclass: the mean of each class against the rest.

    Arguments and errors as in `auc`. Chance is the share of the class. None where the labels don't hold every class.
    """
    known, columns = labelled_columns(y, scores, kind)
    if not _holds_every_class(known, columns):
        return None
    classes = range(1, 2) if kind == "binary" else range(columns.shape[1])
    return float(np.mean([average_precision_score(known == c, columns[:, c]) for c in classes]))


def balanced_accuracy(y: ArrayLike, probabilities: ArrayLike, kind: Kind) -> float | None:
    """Mean over the classes of the share of their documents that the most probable class gets right.

    Arguments and errors as in `auc`, with probabilities for scores; [N] is the probability of class 1, predicted where
    it is above 1/2. Chance is 1/C. None where the labels don't hold every class.
    """
    known, columns = labelled_columns(y, probabilities, kind)
    if not _holds_every_class(known, columns):
        return None
    right = columns.argmax(1) == known
    return float(np.mean([right[known == c].mean() for c in range(columns.shape[1])]))


def brier(y: ArrayLike, probabilities: ArrayLike, kind: Kind) -> float | None:
    """Mean squared error of the probabilities (Brier 1950); lower is better.

    Binary: of class 1's, in [0, 1]. Multiclass: summed over the classes, in [0, 2]. Arguments and errors as in `auc`,
    with probabilities for scores. None where no document is labelled.
    """
    known, columns = labelled_columns(y, probabilities, kind)
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
    known, columns = labelled_columns(y, probabilities, kind)
    if not len(known):
        return None
    confidence, happened = certainty(known, columns, kind)
    number = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(number, weights=confidence - happened, minlength=bins)
    return float(np.abs(gaps).sum() / len(known))


def certainty(y: ArrayLike, probabilities: ArrayLike, kind: Kind) -> tuple[Array, NDArray[np.bool_]]:
    """What calibration compares, of the n labelled documents: a probability [n], and whether it came true [n].

    Binary: class 1's probability, and whether the document is of class 1. Multiclass: that of the most probable class,
    and whether it is the document's. Arguments and errors as in `auc`, with probabilities for scores.
    """
    known, columns = labelled_columns(y, probabilities, kind)
    if kind == "binary":
        return columns[:, 1], known == 1
    return columns.max(1), known == columns.argmax(1)


def confusion_counts(y: Array, scores: Array) -> NDArray[np.int64]:
    """Labelled documents of each class (row) by the class with the highest score (column), [C, C].

    Args:
        y: class numbers [N], NaN where the label is missing.
        scores: [N, C], of a binary task too.
    """
    known, size = ~np.isnan(y), scores.shape[1]
    pairs = y[known].astype(np.int64) * size + scores[known].argmax(1)
    counts: NDArray[np.int64] = np.bincount(pairs, minlength=size * size).reshape(size, size)
    return counts


def wilson_interval(happened: int, n: int) -> tuple[float, float]:
    """95 % interval of a frequency, `happened` of n >= 1 (Wilson 1927)."""
    low, high = binomtest(happened, n).proportion_ci(method="wilson")
    return float(low), float(high)


def _holds_every_class(y: Array, columns: Array) -> bool:
    return bool(len(np.unique(y)) == columns.shape[1])

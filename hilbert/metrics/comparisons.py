"""Whether one configuration is better than another, or only luckier.

Two configurations are compared on the same folds (`corrected_resampled_ttest`, `wilcoxon`) or on the same documents
(`delong`); who makes several comparisons adjusts their p-values (`holm`). The configurations must have been named
before their results were seen: the winner of a search is judged by `hilbert.metrics.bbc_cv`, and against a champion by
`hilbert.metrics.promotion`.

Notation: F folds, N documents, m of class 1 and n of class 0. p-values are two-sided.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hilbert.metrics.shapes import Array, labelled

_RESOLUTION = 1e-9  # differences closer than this differ by rounding only: they are tied
_CONFIDENCE = 0.95


class PairedTest(NamedTuple):
    """A t-test of paired differences: their mean, its test, and its 95 % interval."""

    difference: float
    t: float
    degrees_of_freedom: int
    p: float
    interval: tuple[float, float]


class DeLong(NamedTuple):
    """Two AUCs of the same documents, a - b with its standard error, test and 95 % interval, within -1 and 1."""

    auc_a: float
    auc_b: float
    difference: float
    standard_error: float
    p: float
    interval: tuple[float, float]


def corrected_resampled_ttest(
    differences: Sequence[float | None], *, test_fraction: float | None = None, repeats: int = 1
) -> PairedTest | None:
    """Tests whether two configurations' scores differ, from their differences fold by fold.

    For comparing configurations over cross-validation, plain or repeated. The training sets of folds overlap, so their
    scores are correlated, and the plain t-test finds differences that aren't there. Here the variance of the mean is

        (1/F + n_test / n_train) s^2        s^2: the sample variance of the F differences

    with F - 1 degrees of freedom: Nadeau and Bengio (2003), "corrected resampled t-test"; for k-fold
    cross-validation repeated r times Bouckaert and Frank (2004), with F = k r. It treats every pair of
    folds as correlated by n_test / (n_test + n_train), which is a heuristic and not a bound.

    Args:
        differences: [F], score of the first less score of the second, None where it is undefined; such folds are left
            out.
        test_fraction: the share of documents that a fold holds out, n_test / (n_test + n_train); that of k-fold
            cross-validation, repeats / F, if left out.
        repeats: of the cross-validation.

    Returns:
        None with fewer than two differences, or where all are the same but not 0: nothing tells their scatter. All 0
        gives t = 0 and p = 1.

    Raises:
        ValueError: a difference is NaN or infinite, the fraction isn't in (0, 1), or F is no multiple of the repeats.
    """
    if repeats < 1 or len(differences) % repeats:
        raise ValueError(f"{len(differences)} folds are not {repeats} whole repeats")
    d = _defined(differences)
    if len(d) < 2:
        return None
    fraction = repeats / len(differences) if test_fraction is None else test_fraction
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, but is {fraction}")
    freedom, mean = len(d) - 1, float(d.mean())
    if np.ptp(d) < _RESOLUTION:
        return PairedTest(0.0, 0.0, freedom, 1.0, (0.0, 0.0)) if abs(mean) < _RESOLUTION else None
    error = float(np.sqrt((1 / len(d) + fraction / (1 - fraction)) * d.var(ddof=1)))
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean / error), freedom))
    return PairedTest(mean, mean / error, freedom, p, (mean - reach, mean + reach))


def wilcoxon(differences: Sequence[float | None]) -> float | None:
    """p-value of the signed-rank test that paired differences lie around 0 (Wilcoxon 1945).

    A second opinion beside `corrected_resampled_ttest`, for few folds with an outlier among them. It takes folds for
    independent, which they are not: its p-value is too small where training sets overlap.

    Zeros are ranked, and half of their ranks counts for each side. Exact for up to 13 differences, and for up to 50
    without ties and zeros; else by the normal approximation.

    Args:
        differences: as in `corrected_resampled_ttest`. Those closer than 1e-9 are tied.

    Returns:
        1 where all differences are 0; None with fewer than two.

    Raises:
        ValueError: a difference is NaN or infinite.
    """
    d = np.round(_defined(differences) / _RESOLUTION)
    if len(d) < 2:
        return None
    return float(stats.wilcoxon(d, zero_method="zsplit").pvalue) if d.any() else 1.0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for being several, by the step-down method of Holm (1979).

    The chance of one or more false findings among those below alpha is at most alpha, however they depend. The i-th
    smallest of M, counted from 0, becomes the largest of min(1, (M - j) p_j) over j <= i.

    Args:
        p_values: in any order; None where there was no test, which stays None and isn't counted.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    made = [number for number, p in enumerate(p_values) if p is not None]
    p = np.array([p_values[number] for number in made], dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values must lie between 0 and 1: {p.tolist()}")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.minimum(1, (len(p) - np.arange(len(p))) * p[order]))
    adjusted: list[float | None] = [None] * len(p_values)
    for position, value in zip(order, steps, strict=True):
        adjusted[made[position]] = float(value)
    return adjusted


def delong(y: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> DeLong | None:
    """Tests whether two binary AUCs of the same documents differ.

    For two sets of predictions that are compared as they are. It holds the chance of the documents drawn, not that of
    training; documents count as independent, so give it one prediction a document and no groups of relatives, else the
    standard error is too small.

    DeLong, DeLong and Clarke-Pearson (1988), with the structural components

        V10_i = (R_i - R1_i) / n        i of class 1        R:  midrank among all documents
        V01_j = 1 - (R_j - R0_j) / m    j of class 0        R1, R0: midrank within the class

    from midranks by Sun and Xu (2014). The variance of the difference is var(V10a - V10b) / m + var(V01a - V01b) / n.

    Args:
        y: [N], 0 or 1, NaN where the label is missing.
        scores_a: [N], or [N, 2], of which column 1 is used.
        scores_b: the same of the other.

    Returns:
        None with fewer than two documents of a class, or where the AUCs differ without any scatter. Predictions that
        order all pairs of the two classes alike give p = 1.

    Raises:
        ValueError: as `hilbert.metrics.auc`.
    """
    known, a = labelled(y, scores_a, "binary")
    _, b = labelled(y, scores_b, "binary")
    m = int(known.sum())
    n = len(known) - m
    if min(m, n) < 2:
        return None
    (a10, a01), (b10, b01) = _structural_components(known, a), _structural_components(known, b)
    auc_a, auc_b = float(a10.mean()), float(b10.mean())
    difference = auc_a - auc_b
    error = float(np.sqrt((a10 - b10).var(ddof=1) / m + (a01 - b01).var(ddof=1) / n))
    if error < _RESOLUTION:
        same = abs(difference) < _RESOLUTION
        return DeLong(auc_a, auc_b, 0.0, 0.0, 1.0, (0.0, 0.0)) if same else None
    reach = float(stats.norm.ppf((1 + _CONFIDENCE) / 2)) * error
    p = float(2 * stats.norm.sf(abs(difference) / error))
    interval = (max(difference - reach, -1.0), min(difference + reach, 1.0))
    return DeLong(auc_a, auc_b, difference, error, p, interval)


def _structural_components(y: Array, score: Array) -> tuple[Array, Array]:
    """V10 [m] and V01 [n] of one classifier; the mean of either is its AUC."""
    positive, negative = score[y == 1], score[y == 0]
    everyone = stats.rankdata(score)
    v10: Array = (everyone[y == 1] - stats.rankdata(positive)) / len(negative)
    v01: Array = 1 - (everyone[y == 0] - stats.rankdata(negative)) / len(positive)
    return v10, v01


def _defined(differences: Sequence[float | None]) -> Array:
    d = np.array([value for value in differences if value is not None], dtype=np.float64)
    if not np.isfinite(d).all():
        raise ValueError("an undefined difference must be None, not NaN, and none is infinite")
    return d

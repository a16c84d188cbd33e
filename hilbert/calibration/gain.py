"""How much calibration helps on new documents, by cross-fitting, and which method; see the package for the shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilbert.calibration.calibrator import METHODS, Calibrator, Method, fit_calibrator
from hilbert.errors import InputError
from hilbert.groups import group_codes
from hilbert.metrics import Array, brier, expected_calibration_error

LEAST = 1e-15
"""A probability below counts as this much in the log loss."""


@dataclass(frozen=True)
class Quality:
    """How good probabilities are, each the mean over the repeats of each repeat's; lower is better.

    Attributes:
        log_loss: mean of -log p(label), in nats; p below `LEAST` counts as that.
        brier: see `hilbert.metrics.brier`.
        calibration_error: see `hilbert.metrics.expected_calibration_error`.
    """

    log_loss: float
    brier: float
    calibration_error: float


@dataclass(frozen=True)
class Gain:
    """What calibration by one method does to the predictions of new documents."""

    method: Method
    before: Quality
    after: Quality


@dataclass(frozen=True)
class Choice:
    """A method, why it, and what was found for each method that was tried."""

    method: Method
    reason: str
    gains: Mapping[Method, Gain]


def fit_on_repeats(labels: ArrayLike, scores: ArrayLike, *, method: Method) -> Calibrator:
    """`fit_calibrator` on all held-out predictions of a repeated cross-validation; every document weighs 1.

    Args:
        labels: [N].
        scores: [R, N, C] probabilities, NaN where there is no prediction.
        method: how.
    """
    return _fit_on(*_checked(labels, scores), method=method)


def calibration_gain(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    fold_of: ArrayLike,
    groups: Sequence[object] | None = None,
    method: Method,
) -> Gain:
    """What calibration would do to new documents, by cross-fitting.

    The predictions of each fold are calibrated by a calibrator that is fitted on all other documents' predictions of
    all repeats. No document, and none of its group, has a say in its own calibration in any repeat.

    Args:
        labels: [N].
        scores: [R, N, C] probabilities of one configuration, NaN where it has no prediction.
        fold_of: [R, N] the fold in which a document is held out.
        groups: [N] as in `hilbert.folds.make_folds`; without, each document is a group of its own.
        method: "none" compares the predictions with themselves.

    Raises:
        InputError: shapes that don't fit, or no labelled document has a prediction.
    """
    y, p = _checked(labels, scores)
    calibrated = _cross_fitted(y, p, np.asarray(fold_of), group_codes(groups, len(y)), method)
    return Gain(method, _quality(y, p), _quality(y, calibrated))


def best_method(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    fold_of: ArrayLike,
    groups: Sequence[object] | None = None,
    methods: Sequence[Method] = METHODS,
) -> Choice:
    """The one of `methods` with the lowest cross-fitted log loss, where that can be told.

    From the simplest on, a method replaces the one before only if its log loss is lower by more than the standard error
    of the difference, paired by group: a small cohort would choose by luck, and isotonic curves cost order. Other
    arguments and errors as in `calibration_gain`.
    """
    y, p = _checked(labels, scores)
    codes = group_codes(groups, len(y))
    tried = [method for method in METHODS if method in methods]
    calibrated = {method: _cross_fitted(y, p, np.asarray(fold_of), codes, method) for method in tried}
    before = _quality(y, p)
    gains = {method: Gain(method, before, _quality(y, found)) for method, found in calibrated.items()}
    losses = {method: _document_losses(y, found) for method, found in calibrated.items()}
    chosen = tried[0]
    for method in tried[1:]:
        difference, error = _paired(losses[chosen] - losses[method], codes)
        chosen = method if difference > error else chosen
    told = ", ".join(f"{method} {gain.after.log_loss:.3f}" for method, gain in gains.items())
    return Choice(chosen, f"{chosen}: cross-fitted log loss {told}", gains)


def cross_fitted(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    fold_of: ArrayLike,
    groups: Sequence[object] | None = None,
    method: Method,
) -> Array:
    """The probabilities that `calibration_gain` judges, [R, N, C]: calibrated without a say of their own document.

    Arguments and errors as there; NaN where there is no prediction.
    """
    y, p = _checked(labels, scores)
    return _cross_fitted(y, p, np.asarray(fold_of), group_codes(groups, len(y)), method)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or p.ndim != 3 or p.shape[1] != len(y) or p.shape[2] < 2:
        told = f"labels {list(y.shape)}, scores {list(p.shape)}"
        raise InputError(f"labels [N], scores [repeats, N, classes] of two classes or more; not {told}")
    return y, p


def _fit_on(y: Array, p: Array, *, method: Method) -> Calibrator:
    """`fit_calibrator` on labels [n] and probabilities [R, n, C]."""
    predicted = ~np.isnan(p).any(2)
    weights = predicted / np.maximum(predicted.sum(0), 1)
    return fit_calibrator(np.tile(y, len(p)), p.reshape(-1, p.shape[2]), method=method, weights=weights.ravel())


def _cross_fitted(y: Array, p: Array, fold_of: NDArray[np.int64], groups: NDArray[np.int64], method: Method) -> Array:
    """Probabilities [R, N, C], those of each fold calibrated by the predictions of documents of other groups."""
    if fold_of.shape != p.shape[:2]:
        raise InputError(f"fold_of must be [repeats, N] {list(p.shape[:2])}, not {list(fold_of.shape)}")
    calibrated = np.full_like(p, np.nan)
    for repeat, folds in enumerate(fold_of):
        for fold in np.unique(folds):
            own = folds == fold
            others = ~np.isin(groups, groups[own])
            calibrator = _fit_on(y[others], p[:, others], method=method)
            calibrated[repeat, own] = calibrator(p[repeat, own])
    return calibrated


def _losses(y: Array, p: Array) -> Array:
    """-log p(label) of every prediction, [R, N]; NaN without label or prediction."""
    known = np.where(np.isnan(y), 0, y).astype(np.int64)
    right = np.take_along_axis(p, np.broadcast_to(known[None, :, None], (*p.shape[:2], 1)), axis=2)[..., 0]
    return np.where(np.isnan(y), np.nan, -np.log(np.maximum(right, LEAST)))


def _document_losses(y: Array, p: Array) -> Array:
    """Mean over the repeats [N], NaN without label or prediction."""
    losses = _losses(y, p)
    known = ~np.isnan(losses)
    total = np.where(known, losses, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _paired(differences: Array, groups: NDArray[np.int64]) -> tuple[float, float]:
    """Mean of the documents' differences, and its standard error where documents of one group go together."""
    known = ~np.isnan(differences)
    found = differences[known]
    of_group = np.bincount(groups[known], weights=found - found.mean())
    return float(found.mean()), float(np.sqrt((of_group**2).sum()) / len(found))


def _quality(y: Array, p: Array) -> Quality:
    """Means over the repeats that have a labelled prediction."""
    kind: Literal["binary", "multiclass"] = "binary" if p.shape[2] == 2 else "multiclass"
    found = []
    for losses, repeat in zip(_losses(y, p), p, strict=True):
        known = ~np.isnan(losses)
        if known.any():
            told, given = y[known], repeat[known]
            found.append(
                (losses[known].mean(), brier(told, given, kind), expected_calibration_error(told, given, kind))
            )
    if not found:
        raise InputError("no labelled document has a prediction: there is nothing to calibrate")
    return Quality(*(float(value) for value in np.mean(np.array(found, dtype=np.float64), axis=0)))

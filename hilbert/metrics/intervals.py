"""How sure an AUC is: bootstrap intervals that resample people, not predictions."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilbert.groups import group_codes
from hilbert.metrics.over_folds import folds_by_repeat
from hilbert.metrics.ranking import auc, weighted_auc
from hilbert.metrics.shapes import FEWEST_DEFINED, Kind, labelled


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
        for members in folds_by_repeat(len(labels), repeats)
    ]
    return _interval(parts, kind, confidence=confidence, resamples=resamples, seed=seed)


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
    masks = [~np.isnan(np.asarray(y, dtype=np.float64)) for y, _, _ in parts]
    known = [(*labelled(y, scores, kind), codes[mask]) for (y, scores, codes), mask in zip(parts, masks, strict=True)]
    everyone = np.unique(np.concatenate([codes for _, _, codes in known]))
    if not len(everyone) or any(auc(y, scores, kind) is None for y, scores, _ in known):
        return None
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = generator.multinomial(len(everyone), np.full(len(everyone), 1 / len(everyone)), size=resamples)
    weights = draws.astype(np.float64)
    values = np.mean(
        [weighted_auc(y, scores, kind, weights[:, everyone.searchsorted(codes)]) for y, scores, codes in known], axis=0
    )
    values = values[~np.isnan(values)]
    if len(values) < FEWEST_DEFINED * resamples:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)

"""Whether the winner of a search should replace the champion.

Notation: M configurations, R repeats of cross-validation, N documents, C classes, B resamples.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from hilbert.groups import group_codes
from hilbert.metrics.choice import Scored, Table, choose, draw, estimate, score_chosen, table_of
from hilbert.metrics.shapes import Array, Kind

_RESOLUTION = 1e-9  # a scatter below this is rounding


class Promotion(NamedTuple):
    """The winner of a search beside the champion.

    Attributes:
        candidate: number of the configuration that is compared.
        observed: its objective less the champion's, too good by the luck of the choice.
        corrected: the difference without that luck.
        interval: of the corrected difference, at the level 1 - alpha, within -1 and 1.
        p: that the corrected difference is 0; two-sided.
        better: whether the candidate should be promoted: the interval lies above 0.
        resamples: how many these numbers stand on.
    """

    candidate: int
    observed: float
    corrected: float
    interval: tuple[float, float]
    p: float
    better: bool
    resamples: int


def promotion(
    labels: Mapping[str, ArrayLike],
    scores: Mapping[str, ArrayLike],
    champion: Mapping[str, ArrayLike],
    kinds: Mapping[str, Kind],
    *,
    candidate: int | None = None,
    task: str | None = None,
    counted: Mapping[str, ArrayLike] | None = None,
    groups: Sequence[object] | None = None,
    alpha: float = 0.05,
    resamples: int = 500,
    seed: int = 0,
) -> Promotion | None:
    """Decides whether the best of M configurations is better than the champion, evaluated on the same folds.

    For releasing a model only if it is better than the one in use. A paired test of winner and champion is no such
    decision: the winner was chosen for its luck on these very documents. Here the choice is repeated as in
    `hilbert.metrics.bbc_cv`: in each of B resamples of groups the best configuration is chosen inside, and its
    objective less the champion's is taken outside. The mean of these differences and its standard error, as there,
    give the interval: Tsamardinos, Greasidou and Borboudakis (2018) on differences.

    Why not the corrected resampled t-test over folds with its p-value multiplied by M (Bonferroni): in
    `benchmarks/selection.py`, 100 configurations on 25 folds of 125 documents, it promotes no winner that is .06
    better, and this rule half of them; of winners that aren't better both promote less than 3 %. The t-test as it is
    promotes up to 9 % of these.

    Args:
        labels: of each task, [N], NaN where missing.
        scores: of each task, [M, R, N] or [M, R, N, C], as in `bbc_cv`: all configurations of the search, those that
            were given up too; NaN where a configuration has no prediction.
        champion: of each task, [R, N] or [R, N, C], held-out predictions of the champion's configuration, trained on
            the same folds.
        kinds: of each task.
        candidate: number of the configuration that may be promoted; the best on all documents, among the complete
            ones, if left out. Another is taken to be worse than the best by as much as it looks.
        task: what the winner was chosen by; the mean over all tasks if left out.
        counted: of a task, [R, N], which predictions count, as in `bbc_cv`.
        groups: N group ids, or None; a document without a group is a group of its own.
        alpha: between 0 and 1.
        resamples: 2 or more.
        seed: >= 0.

    Returns:
        None where the objective is undefined in the cohort or in more than half of the resamples, where no
        configuration is complete, or where winner and champion differ without any scatter. If no resample's choice
        differs from the champion, p is 1.

    Raises:
        ValueError: as `bbc_cv`, or a prediction of the champion or the candidate is missing.
    """
    if not 0 < alpha < 1 or resamples < 2:
        raise ValueError(f"alpha must be in (0, 1) and resamples >= 2, not {alpha} and {resamples}")
    table = table_of(labels, _with_champion(scores, champion), kinds, task, counted)
    number, overall = _overall(table, candidate)
    if number is None:
        return None
    codes = group_codes(groups, table.documents)
    inside = draw(codes, table.labelled, resamples, seed)
    found = estimate(_differences(table, inside, seed), len(np.unique(codes[table.labelled])))
    if found is None or found.error < _RESOLUTION < abs(found.mean):
        return None
    corrected = max(found.mean - float(np.nanmax(overall[:-1]) - overall[number]), -1.0)
    error = max(found.error, _RESOLUTION)
    reach = float(norm.ppf(1 - alpha / 2)) * error
    return Promotion(
        candidate=number,
        observed=float(overall[number] - overall[-1]),
        corrected=corrected,
        interval=(max(corrected - reach, -1.0), min(corrected + reach, 1.0)),
        p=float(2 * norm.sf(abs(corrected) / error)),
        better=corrected > reach,
        resamples=found.resamples,
    )


def _overall(table: Table, candidate: int | None) -> tuple[int | None, Array]:
    """The candidate, None where there is none; and the objective of all, [M + 1], NaN without all predictions."""
    *others, champion = table.complete.tolist()
    if not champion:
        raise ValueError("the champion must have a prediction for every labelled document")
    if candidate is not None and not (0 <= candidate < len(others) and others[candidate]):
        raise ValueError(f"the candidate, {candidate}, must be one that has all predictions")
    everyone = np.ones((1, table.documents))
    overall = np.array([table.worth(one, everyone)[0] if whole else np.nan for one, whole in enumerate(table.complete)])
    if np.isnan(overall[-1]) or np.isnan(overall[:-1]).all():
        return None, overall
    return int(np.nanargmax(overall[:-1])) if candidate is None else candidate, overall


def _with_champion(scores: Mapping[str, ArrayLike], champion: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """Scores with the champion as their last configuration."""
    if scores.keys() != champion.keys():
        raise ValueError(f"the champion's scores must be of the same tasks: {list(scores)}, {list(champion)}")
    both: dict[str, ArrayLike] = {}
    for name, own in scores.items():
        one, many = np.asarray(champion[name], dtype=np.float64), np.asarray(own, dtype=np.float64)
        if one.shape != many.shape[1:]:
            raise ValueError(f"{name}: the champion's scores must be {list(many.shape[1:])}, not {list(one.shape)}")
        both[name] = np.concatenate([many, one[None]])
    return both


def _differences(table: Table, inside: Array, seed: int) -> Scored:
    """Objective of what each resample chose, less the champion's, outside of the resample and on all documents."""
    champion = len(table.complete) - 1
    scored = score_chosen(table, choose(table, np.arange(champion), inside, seed), inside)
    own = [table.worth(champion, weights) for weights in ((inside == 0).astype(float), np.ones((1, table.documents)))]
    chosen = (table.objective({name: one[part] for name, one in scored.items()}) for part in (0, 1))
    return Scored(*(one - champions for one, champions in zip(chosen, own, strict=True)))

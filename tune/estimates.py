"""What the search is told of a configuration before all its folds are in: pure functions of the race's table.

A plain mean over the folds that ran would carry their luck: who was given up after easy folds would look better than
who ran them all. Told as `pruned`, Optuna would rank it behind all complete ones, however bad, and pruned ones among
themselves mostly by the luck of their last fold. Not told at all, TPE takes it for a bad one: and under racing the
promising run longest. So at every proposal each configuration that has scores is told as what its objective is
estimated to be, from all that is known then.

An estimate of an AUC is one: it lies within 0 and 1. What the additive model puts outside is moved to the nearer end,
which changes nothing else: who is behind the incumbent stays behind, and a complete trial's mean is never outside. On a
logit scale an AUC of 1, which small folds have, would be infinite, and the model no longer exact.

Notation: T trials, F folds.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

import numpy as np

from tune.racing import RESOLUTION, Standing, Table, incumbent, paired_differences

REFERENCES = 5
"""Known trials that an estimate is made by, where folds score together."""


def estimates(table: Table, known: Mapping[int, float], *, of: Collection[int] | None = None) -> dict[int, float]:
    """What the objective is thought to be of every trial that has scores and isn't known, within 0 and 1.

    As `unbounded`, whose arguments it takes, moved to the nearer end where that lies outside.
    """
    return {trial: bounded(value) for trial, value in unbounded(table, known, of=of).items()}


def bounded(value: float) -> float:
    """An estimate of an AUC as one."""
    return min(max(value, 0.0), 1.0)


def unbounded(table: Table, known: Mapping[int, float], *, of: Collection[int] | None = None) -> dict[int, float]:
    """What the additive model says of the objective of every trial that has scores and isn't known.

    Their means, corrected for the folds that they ran, moved to the scale of the objective, which needn't be a mean
    over folds. The move is the mean over the known trials of objective - mean over folds. Where folds score together,
    as for the AUC of pooled predictions, they are compared so with the best known trials over the same folds.

    Args:
        table: all trials that have a fold in.
        known: objective of the trials that are through.
        of: these trials alone; all, if left out.
    """
    wanted = table if of is None else [trial for trial in of if trial in table]
    unknown = [trial for trial in wanted if trial not in known and table[trial].scores]
    if not unknown:
        return {}
    best_known = sorted(known.keys() & table.keys(), key=lambda trial: (-known[trial], trial))
    compared = {trial: _against_the_best(table[trial], table, known, best_known) for trial in unknown}
    found = {trial: value for trial, value in compared.items() if value is not None}
    if len(found) == len(unknown):
        return found
    moves = [known[trial] - mean for trial, s in table.items() if trial in known and (mean := s.mean) is not None]
    move = math.fsum(moves) / len(moves) if moves else 0.0
    effects, best = fold_effects(table), incumbent(table)
    leader = None if best is None else table[best]
    return {trial: move + _corrected_mean(table[trial], leader, effects) for trial in unknown} | found


def _against_the_best(
    standing: Standing, table: Table, known: Mapping[int, float], best_known: Sequence[int]
) -> float | None:
    """Estimate where folds score together: how a trial compares, over its folds, with the best known trials over these.

    Mean over them of objective + difference. None where folds don't score together, or where that is undefined.
    """
    if standing.together is None:
        return None
    folds = (*standing.scores, *standing.undefined)
    mine = standing.over(folds)
    best = islice((trial for trial in best_known if table[trial].has(folds)), REFERENCES)
    theirs = {trial: table[trial].over(folds) for trial in best if table[trial].together}
    values = [known[trial] + mine - value for trial, value in theirs.items() if value is not None and mine is not None]
    return math.fsum(values) / len(values) if values else None


def _corrected_mean(standing: Standing, leader: Standing | None, effects: Mapping[int, float]) -> float:
    """A trial's mean over all folds, estimated from the folds that it ran, with their effects taken out.

    Exact where scores are trial + fold, and the plain mean for a complete trial. Least squares alone can, rarely, put a
    trial above the incumbent although it is behind on their shared folds: where the incumbent was luckier there than
    others. Then the estimate is the incumbent's mean plus the mean paired difference, so that who is behind the
    incumbent is always told to be.
    """
    mean = standing.mean
    assert mean is not None, "only trials with scores are estimated"
    if standing.complete:
        return mean
    luck = math.fsum(effects[fold] for fold in standing.scores) / len(standing.scores)
    estimate = mean - luck + math.fsum(effects.values()) / len(effects)
    top = None if leader is None else leader.mean
    if leader is None or top is None or estimate < top:
        return estimate
    differences = paired_differences(standing.scores, leader.scores)
    return top + float(differences.mean()) * RESOLUTION if differences.sum() < 0 else estimate


def fold_effects(table: Table) -> dict[int, float]:
    """Effect of every fold on the score, up to a constant, by least squares in score = trial + fold over all scores.

    Solves the normal equations with the trials eliminated, [F, F]: with mask M [T, F], n_t folds of trial t and its
    scores Y less their mean, (diag(sum_t M_t) - sum_t M_t M_t' / n_t) effects = sum_t Y_t. The solution of smallest
    norm is taken, so that folds that no trial connects have equal effects in the mean.
    """
    rows = [standing.scores for standing in table.values() if standing.scores]
    folds = sorted({fold for scores in rows for fold in scores})
    Y = np.array([[scores.get(fold, np.nan) for fold in folds] for scores in rows], dtype=np.float64)
    M = np.isfinite(Y).astype(np.float64)
    Y = np.where(M, Y - np.nanmean(Y, axis=1, keepdims=True), 0.0)
    normal = np.diag(M.sum(0)) - (M / M.sum(1, keepdims=True)).T @ M
    effects = np.linalg.lstsq(normal, Y.sum(0), rcond=RESOLUTION)[0]
    return dict(zip(folds, effects.tolist(), strict=True))

"""How good the winner of a search really is: bootstrap bias-corrected cross-validation (BBC-CV).

Tsamardinos, Greasidou and Borboudakis (2018), with an interval that holds what it promises, and extended to
configurations that were given up. `hilbert.metrics.choice` repeats the choice.

Notation: M configurations, R repeats of cross-validation, N documents, C classes, B resamples.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from hilbert.groups import group_codes
from hilbert.metrics.choice import Estimate, Scored, choose, draw, estimate, score_chosen, table_of
from hilbert.metrics.shapes import Kind


class CorrectedAuc(NamedTuple):
    """AUC of the winner's pooled predictions, what is left of it without the luck of the choice, and its interval."""

    winner: float
    corrected: float
    interval: tuple[float, float]


class BiasCorrected(NamedTuple):
    """What the best of the configurations is worth.

    Attributes:
        winner: number of the configuration that is best on all documents, among the complete ones.
        objective: of what the winner was chosen by.
        tasks: of each task; None where its AUC is undefined in the cohort or in too many resamples.
        resamples: how many the objective's numbers stand on.
    """

    winner: int
    objective: CorrectedAuc
    tasks: Mapping[str, CorrectedAuc | None]
    resamples: int


def bbc_cv(
    labels: Mapping[str, ArrayLike],
    scores: Mapping[str, ArrayLike],
    kinds: Mapping[str, Kind],
    *,
    task: str | None = None,
    counted: Mapping[str, ArrayLike] | None = None,
    groups: Sequence[object] | None = None,
    confidence: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> BiasCorrected | None:
    """Estimates the AUC of the winner of M configurations on new documents, from their held-out predictions.

    For every number that is published of a configuration which was chosen for that number. The objective is the AUC of
    pooled predictions, over repeats as in `hilbert.metrics.pooled_auc`, as a mean over the tasks or of one task.

    For each of B resamples of groups, with all repeats of their documents: the configuration with the best objective
    in the resample is scored on the documents outside it. The estimate is the mean of these scores. Where
    configurations differ it leans to the careful side, by up to -0.012 in `benchmarks/selection.py`: a resample holds
    63 % of the documents, hence chooses worse. Where all are equal its bias there is 0.000 to +0.003.

    The interval is mean ± z error, within [0, 1]. The paper takes percentiles of the scores instead; but a resample
    leaves out only f = 37 % of the groups, whose AUC scatters more than that of all: such a 95 % interval covers 99 to
    100 %. The error is therefore that of the delete-d jackknife (Wu 1986; Shao and Wu 1989),

        sqrt(f / (1 - f)) sd_b( AUC_outside(b) - AUC_all(b) )         both of the configuration that resample b chose

    which for one configuration is the bootstrap's standard error. Taking AUC_all off leaves the scatter of documents
    and takes out that of the choice, most of which the mean over resamples averages out. It covers 94 to 97 % in
    `benchmarks/selection.py`, where the errors of configurations have as much in common as on real folds (share .85).
    Where they err more independently it is too wide if all are equally good (99 % at a share of .3), since the mean
    over many winners is then surer than any of them, and a little too narrow if they differ (92 %). It speaks of new
    people, given these predictions: it does not hold the variance of training.

    Configurations without all predictions, such as those that racing gave up, can't be left out: the others are then
    already the survivors of a choice that saw all documents, and look too good. Nor can they be scored on the documents
    that they have: the fewer, the more luck. So each is completed by the predictions of complete configurations drawn
    at random, a fifth of the resamples each: at random, since the luck of the one that is best in the resample would
    let them win too often, by documents on which they were bad enough to be given up. Before that their scores are put
    on its scale: the k-th smallest of a repeat (and class) becomes the k-th smallest of the other's on the same
    documents. Where they have no prediction at all there is nothing to choose.

    Args:
        labels: of each task, [N], NaN where missing.
        scores: of each task, [M, R, N] or [M, R, N, C], see the package's docstring; NaN where a configuration has no
            prediction. Without a label none is needed.
        kinds: of each task.
        task: what the winner was chosen by; the mean over all tasks if left out.
        counted: of a task, [R, N], which predictions count: not those of models that were trained without one of the
            classes, see `hilbert.folds.defined_folds`. All, where left out.
        groups: N group ids, or None; a document without a group is a group of its own.
        confidence: between 0 and 1.
        resamples: 2 or more.
        seed: >= 0.

    Returns:
        None where the objective is undefined in the cohort or in more than half of the resamples, or where no
        configuration is complete. A resample is left out where it is undefined inside or outside.

    Raises:
        ValueError: shapes that don't fit each other, a label that is no class, or an argument out of its range.
    """
    if not 0 < confidence < 1 or resamples < 2:
        raise ValueError(f"confidence must be in (0, 1) and resamples >= 2, not {confidence} and {resamples}")
    table = table_of(labels, scores, kinds, task, counted)
    complete = np.flatnonzero(table.complete)
    everyone = np.ones((1, table.documents))
    overall = np.array([table.worth(one, everyone)[0] for one in complete.tolist()])
    if not len(complete) or np.isnan(overall).any():
        return None
    winner = int(complete[overall.argmax()])

    codes = group_codes(groups, table.documents)
    inside = draw(codes, table.labelled, resamples, seed)
    scored = score_chosen(table, choose(table, np.arange(len(table.complete)), inside, seed), inside)
    drawn, z = len(np.unique(codes[table.labelled])), float(norm.ppf((1 + confidence) / 2))
    tasks = {
        name: _corrected(float(table.auc(name, winner, everyone, winner)[0]), estimate(one, drawn), z)
        for name, one in scored.items()
    }
    means = Scored(*(table.objective({name: one[part] for name, one in scored.items()}) for part in (0, 1)))
    found = estimate(means, drawn)
    objective = _corrected(float(overall.max()), found, z)
    return None if found is None or objective is None else BiasCorrected(winner, objective, tasks, found.resamples)


def _corrected(winner: float, found: Estimate | None, z: float) -> CorrectedAuc | None:
    if found is None or np.isnan(winner):
        return None
    low, high = np.clip([found.mean - z * found.error, found.mean + z * found.error], 0, 1)
    return CorrectedAuc(winner, found.mean, (float(low), float(high)))

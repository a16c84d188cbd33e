"""Whether the numbers of a search's winner are honest, on simulated studies whose truth is known.

    python benchmarks/selection.py [--repetitions 500] [--processes 2] [--share 0.85]

A study is 100 configurations on the same documents and 25 folds; the objective is the AUC of the pooled held-out
predictions. Scores are binormal: label * distance + noise, and the noise has the variance 1, of which a share is common
to all configurations, document by document. 0.85 is near what the demo's recorded fold table shows (0.88, see
`racing.py`); with less the configurations err more independently of each other, and luck weighs more. True AUCs are
all .5, all .7, or normal around .7 with a deviation of .03. With racing, the best third by the AUC of the predictions
that all have so far goes on after 3 folds and again after 8: eleven of 100 have all predictions, and the winner is the
best of them. Prints one Markdown table:

    winner                 AUC of the winner less its true AUC: mean over the repetitions
    BBC-CV                 the same of `hilbert.metrics.bbc_cv`'s estimate
    covers                 how often the 95 % interval of `bbc_cv` holds the winner's true AUC, in %; its standard error
                           with 500 repetitions is 1
    bootstrap covers       the same of the winner's bootstrap interval, which doesn't know of the choice
    promoted wrongly       how often the winner is promoted over a champion that is truly as good as the best of the
                           100, in %, on the same documents and folds, with noise of its own
    gap                    how much better the winner truly is than a champion of true AUC .7, where AUCs differ
    promoted rightly       how often it is promoted over this one, in %, of the studies where it truly is better
    rule / t / t x 100     by `hilbert.metrics.promotion`, the rule of `hilbert release --require-better`; by the
                           corrected resampled t-test over folds, as if the winner had been named beforehand; by the
                           same with its p-value times 100
"""

import argparse
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from threadpoolctl import threadpool_limits

from hilbert.metrics import bbc_cv, bootstrap_interval, corrected_resampled_ttest, promotion
from tune.racing import SuccessiveHalving

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Votes = tuple[float, float, float]
"""Whether the winner is promoted: by `promotion`, by the t-test, by the t-test times the number of configurations."""

FOLDS = 25
TYPICAL, SPREAD = 0.7, 0.03
TRUTHS = ("all .5", "all .7", ".7 ± .03")
DOCUMENTS = (125, 500)
ALPHA = 0.05
NO_VOTES = (np.nan, np.nan, np.nan)


class Cell(NamedTuple):
    """What the studies of one line of the table have in common."""

    truth: str
    documents: int
    raced: bool
    configurations: int = 100
    share: float = 0.85
    resamples: int = 200


class Study(NamedTuple):
    """Labels [N], the fold that holds a document out [N], scores [M, N] and true AUCs [M].

    The last two of the M are champions: as good as the best of the others, and typical.
    """

    labels: Floats
    fold: Ints
    scores: Floats
    truth: Floats


class Outcome(NamedTuple):
    """One study's line: errors of the estimates, whether the intervals hold the truth, and who was promoted."""

    winner: float
    corrected: float
    covers: float
    naive_covers: float
    gap: float
    wrongly: Votes
    rightly: Votes


def simulate(cell: Cell, seed: Sequence[int]) -> Study:
    """Draws a study."""
    rng = np.random.default_rng(seed)
    truth = np.full(cell.configurations, 0.5 if cell.truth == "all .5" else TYPICAL)
    if cell.truth == ".7 ± .03":
        truth = np.clip(rng.normal(TYPICAL, SPREAD, cell.configurations), 0.5, 0.95)
    truth = np.append(truth, [truth.max(), min(TYPICAL, truth.max())])
    labels = rng.permutation(np.arange(cell.documents) % 2).astype(np.float64)
    fold = np.empty(cell.documents, dtype=np.int64)
    fold[np.lexsort((rng.random(cell.documents), labels))] = np.arange(cell.documents) % FOLDS  # stratified
    common, own = rng.normal(size=cell.documents), rng.normal(size=(len(truth), cell.documents))
    noise = cell.share**0.5 * common + (1 - cell.share) ** 0.5 * own
    return Study(labels, fold, 2**0.5 * norm.ppf(truth)[:, None] * labels + noise, truth)


def aucs(labels: Floats, scores: Floats) -> Floats:
    """AUC of each row of scores [M, n], by the rank sum."""
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    values: Floats = (rankdata(scores, axis=1)[:, positive].sum(1) - m * (m + 1) / 2) / (m * n)
    return values


def race(study: Study, scores: Floats, rule: SuccessiveHalving) -> Floats:
    """Scores [M, N], NaN where a configuration had been given up."""
    raced, alive = scores.copy(), np.arange(len(scores))
    for rung in rule.rungs:
        seen = study.fold < rung
        order = np.argsort(-aucs(study.labels[seen], scores[alive][:, seen]), kind="stable")
        keep = max(1, len(alive) // rule.eta)
        raced[np.ix_(alive[order[keep:]], ~seen)] = np.nan
        alive = alive[order[:keep]]
    return raced


def votes(study: Study, candidates: Floats, winner: int, champion: int, cell: Cell, seed: int) -> Votes:
    """Who promotes the winner over the champion."""
    found = promotion(
        {"task": study.labels},
        {"task": candidates[:, None]},
        {"task": study.scores[None, champion]},
        {"task": "binary"},
        alpha=ALPHA,
        resamples=cell.resamples,
        seed=seed,
    )
    folds = [study.fold == fold for fold in range(FOLDS)]
    pairs = np.array([aucs(study.labels[held], study.scores[[winner, champion]][:, held]) for held in folds])
    test = corrected_resampled_ttest((pairs[:, 0] - pairs[:, 1]).tolist())
    assert found is not None
    assert test is not None
    ahead = test.difference > 0
    return found.better, ahead and test.p < ALPHA, ahead and test.p * cell.configurations < ALPHA


def measure(cell: Cell, seed: int, repetition: int) -> Outcome:
    """One study."""
    study = simulate(cell, [seed, repetition, TRUTHS.index(cell.truth), cell.documents])
    scores = study.scores[: cell.configurations]
    candidates = race(study, scores, SuccessiveHalving()) if cell.raced else scores
    found = bbc_cv(
        {"task": study.labels},
        {"task": candidates[:, None]},
        {"task": "binary"},
        resamples=cell.resamples,
        seed=repetition,
    )
    assert found is not None
    naive = bootstrap_interval(study.labels, scores[found.winner], "binary", resamples=500, seed=repetition)
    assert naive is not None
    truth, equal_to_best, typical = study.truth[[found.winner, -2, -1]]
    assert truth <= equal_to_best
    judge = partial(votes, study, candidates, found.winner, cell=cell, seed=repetition)
    (low, high), (naive_low, naive_high) = found.objective.interval, naive
    return Outcome(
        found.objective.winner - truth,
        found.objective.corrected - truth,
        low <= truth <= high,
        naive_low <= truth <= naive_high,
        truth - typical,
        judge(champion=cell.configurations),
        judge(champion=cell.configurations + 1) if truth > typical else NO_VOTES,
    )


def cells(arguments: argparse.Namespace) -> Iterable[Cell]:
    """The lines of the table."""
    for truth, documents, raced in product(TRUTHS, DOCUMENTS, (False, True)):
        yield Cell(truth, documents, raced, arguments.configurations, arguments.share, arguments.resamples)


def line(cell: Cell, outcomes: Sequence[Outcome]) -> str:
    """A line of the table."""
    winner, corrected, covers, naive = np.mean([one[:4] for one in outcomes], axis=0)
    wrongly = " / ".join(f"{100 * share:.1f}" for share in np.mean([one.wrongly for one in outcomes], axis=0))
    better = [one for one in outcomes if one.gap > 0]
    gap, rightly = "", ""
    if better:
        gap = f"{np.mean([one.gap for one in better]):.3f}"
        rightly = " / ".join(f"{100 * share:.1f}" for share in np.mean([one.rightly for one in better], axis=0))
    return (
        f"| {cell.truth} | {cell.documents} | {'yes' if cell.raced else 'no'} | {winner:+.3f} | {corrected:+.3f} |"
        f" {100 * covers:.1f} | {100 * naive:.1f} | {wrongly} | {gap} | {rightly} |"
    )


HEADER = """\
| true AUCs | documents | racing | winner | BBC-CV | covers | bootstrap covers | promoted wrongly: rule / t / t x 100 |\
 gap | promoted rightly: rule / t / t x 100 |
|---|---|---|---|---|---|---|---|---|---|"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--configurations", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.85, help="of the noise, common to all configurations")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print(HEADER, flush=True)
    with ProcessPoolExecutor(given.processes, get_context("spawn"), threadpool_limits, (1,)) as pool:
        for cell in cells(given):
            job, repetitions = partial(measure, cell, given.seed), range(given.repetitions)
            outcomes = pool.map(job, repetitions, chunksize=10) if given.processes > 1 else map(job, repetitions)
            print(line(cell, list(outcomes)), flush=True)


if __name__ == "__main__":
    main()

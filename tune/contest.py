"""Who is better than whom: the winner of a study against all others, and two configurations side by side.

Differences are paired by fold, on the folds that both have run, and tested with `corrected_resampled_ttest` (Nadeau and
Bengio 2003). Where racing gave a configuration up these are few folds, and the test says little.

Notation: F folds; a difference is the first configuration's AUC less the second's, None where either is undefined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hilbert.metrics import DeLong, PairedTest, corrected_resampled_ttest, delong, holm, wilcoxon
from tune.evidence import Evidence
from tune.selection import is_whole, mean_if_whole, objective_metric, rank

LEVEL = 0.05
ABSENT = "-"
"""Of a value that a configuration doesn't have."""
Differences = Sequence[float | None]


class Rival(NamedTuple):
    """A configuration against the winner.

    Attributes:
        trial: its number.
        folds: how many differences there are.
        difference: their mean, the winner's less its own; None where there are none.
        p: of the corrected resampled t-test; None where there are too few differences for it.
        wilcoxon: p of the signed-rank test.
        holm: `p` adjusted for all the comparisons.
    """

    trial: int
    folds: int
    difference: float | None
    p: float | None
    wilcoxon: float | None
    holm: float | None

    @property
    def distinguishable(self) -> bool:
        """Whether it differs from the winner at `LEVEL`, after Holm's adjustment."""
        return self.holm is not None and self.holm < LEVEL


@dataclass(frozen=True)
class Contest:
    """The winner against all others.

    It was picked by the numbers that are tested here, which flatters it: the p-values are too small.

    Attributes:
        winner: number of the best complete configuration.
        rivals: the others that have predictions and no failed fold, by number; trials that repeat one aren't others.
        left_out: numbers of the configurations that are not compared: a fold failed, or there are no predictions.
    """

    winner: int
    rivals: Sequence[Rival]
    left_out: Sequence[int]

    @property
    def tested(self) -> int:
        """How many comparisons Holm adjusts for."""
        return sum(rival.holm is not None for rival in self.rivals)

    @property
    def alike(self) -> list[int]:
        """Who can't be told from the winner."""
        return [rival.trial for rival in self.rivals if rival.holm is not None and not rival.distinguishable]

    @property
    def worse(self) -> list[int]:
        """Who can."""
        return [rival.trial for rival in self.rivals if rival.distinguishable]

    @property
    def untested(self) -> list[int]:
        """Who has too few folds in common with the winner."""
        return [rival.trial for rival in self.rivals if rival.holm is None]


def best_trial(evidence: Evidence) -> int | None:
    """The first of the ranking; None where nothing is ranked."""
    objective = evidence.study.objective
    ranked = rank(evidence.study.trials, objective)
    complete = ranked.loc[is_whole(ranked) & ranked[objective_metric(objective)].notna(), "trial"]
    return int(complete.iloc[0]) if len(complete) else None


def contest(evidence: Evidence) -> Contest | None:
    """Tests the winner against all others, by the objective's fold scores.

    Returns:
        None where no configuration is ranked, or the winner's predictions are missing.
    """
    winner = best_trial(evidence)
    if winner is None or winner not in evidence.trials:
        return None
    failed = set(failed_trials(evidence))
    others = [trial for trial in evidence.trials if trial not in failed | {winner} and evidence.first(trial) == trial]
    mine = evidence.fold_scores(winner)
    tests = [_tested(evidence, differences(mine, evidence.fold_scores(trial))) for trial in others]
    adjusted = holm([None if found.test is None else found.test.p for found in tests])
    rivals = [
        Rival(trial, found.folds, found.mean, found.test.p if found.test else None, found.wilcoxon, corrected)
        for trial, found, corrected in zip(others, tests, adjusted, strict=True)
    ]
    everyone = [trial for trial in evidence.study.trials["trial"].tolist() if evidence.first(trial) == trial]
    return Contest(winner, rivals, sorted(set(everyone) - {winner, *others}))


def failed_trials(evidence: Evidence) -> list[int]:
    """Numbers of the configurations in which a fold failed."""
    trials = evidence.study.trials
    return [int(number) for number in trials.loc[trials["failed_folds"].ne(""), "trial"]]


# ---- two configurations ----------------------------------------------------------------------------------------------


class Tested(NamedTuple):
    """Paired differences by fold, [F], how many are defined, their mean, and their tests."""

    differences: Differences
    folds: int
    mean: float | None
    test: PairedTest | None
    wilcoxon: float | None


class Compared(NamedTuple):
    """Two configurations by one measure.

    Attributes:
        a: the first one's AUC on each fold, [F].
        b: the second one's.
        tested: their differences.
        pooled: AUC of the predictions on the folds that both ran together, of the first and of the second.
        delong: of these; None unless the task is binary, and every document is predicted once and alone in its group.
    """

    a: Differences
    b: Differences
    tested: Tested
    pooled: tuple[float | None, float | None]
    delong: DeLong | None = None


@dataclass(frozen=True)
class Pair:
    """Two configurations side by side.

    Attributes:
        a: number of the first.
        b: number of the second.
        parameters: dotted names in which they differ, and both values; `ABSENT` where one doesn't have it.
        objective: by what the study maximises; of several tasks the pooled AUC is the mean over them.
        tasks: by each task.
        common: numbers of the folds that both ran.
    """

    a: int
    b: int
    parameters: Mapping[str, tuple[Any, Any]]
    objective: Compared
    tasks: Mapping[str, Compared]
    common: Sequence[int]


def pair(evidence: Evidence, a: int, b: int) -> Pair:
    """Compares two configurations; `pair(evidence, b, a)` mirrors it.

    Its p-values hold for configurations that were named before their results were seen.

    Raises:
        InputError: one has no predictions.
    """
    common = [fold for fold in range(evidence.folds) if _ran(evidence, a, fold) and _ran(evidence, b, fold)]
    aucs_a, aucs_b = evidence.fold_aucs(a), evidence.fold_aucs(b)
    pooled_a, pooled_b = evidence.pooled_aucs(a, common), evidence.pooled_aucs(b, common)
    tasks = {}
    for task in evidence.tasks:
        tested = _tested(evidence, differences(aucs_a[task], aucs_b[task]))
        pooled, compared = (pooled_a[task], pooled_b[task]), _delong(evidence, a, b, task, common)
        tasks[task] = Compared(aucs_a[task], aucs_b[task], tested, pooled, compared)
    return Pair(a, b, _different(evidence, a, b), _objective(evidence, a, b, tasks), tasks, common)


def differences(a: Differences, b: Differences) -> list[float | None]:
    """The first less the second, fold by fold; None where either is."""
    return [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]


def _objective(evidence: Evidence, a: int, b: int, tasks: Mapping[str, Compared]) -> Compared:
    if evidence.study.objective in tasks:
        return tasks[evidence.study.objective]
    scores_a, scores_b = evidence.fold_scores(a), evidence.fold_scores(b)
    first, second = ([found.pooled[side] for found in tasks.values()] for side in (0, 1))
    tested, pooled = _tested(evidence, differences(scores_a, scores_b)), (mean_if_whole(first), mean_if_whole(second))
    return Compared(scores_a, scores_b, tested, pooled)


def _tested(evidence: Evidence, found: list[float | None]) -> Tested:
    defined = [value for value in found if value is not None]
    test = corrected_resampled_ttest(found, test_fraction=1 / evidence.n_splits, repeats=evidence.repeats)
    return Tested(found, len(defined), float(np.mean(defined)) if defined else None, _of_aucs(test), wilcoxon(found))


def _of_aucs(test: PairedTest | None) -> PairedTest | None:
    """A test whose interval is one of differences of AUCs, which lie within -1 and 1; few folds give wider ones."""
    if test is None:
        return None
    low, high = test.interval
    return test._replace(interval=(max(low, -1.0), min(high, 1.0)))


def _held_out(evidence: Evidence, fold: int) -> tuple[int, NDArray[np.int64]]:
    """Repeat and rows of a fold."""
    repeat = fold // evidence.n_splits
    return repeat, np.flatnonzero(evidence.fold_of[repeat] == fold)


def _ran(evidence: Evidence, trial: int, fold: int) -> bool:
    repeat, rows = _held_out(evidence, fold)
    return not any(np.isnan(scores[evidence.row(trial), repeat, rows]).any() for scores in evidence.scores.values())


def _delong(evidence: Evidence, a: int, b: int, task: str, folds: Sequence[int]) -> DeLong | None:
    alone = len(set(evidence.groups)) == len(evidence.groups)
    if evidence.tasks[task].kind != "binary" or evidence.repeats > 1 or not alone or not folds:
        return None
    rows = np.flatnonzero(np.isin(evidence.fold_of[0], folds))
    first, second = (evidence.scores[task][evidence.row(trial), 0, rows] for trial in (a, b))
    return delong(evidence.counted_labels(task)[0, rows], first, second)


# ---- what they differ in ---------------------------------------------------------------------------------------------


def _different(evidence: Evidence, a: int, b: int) -> dict[str, tuple[Any, Any]]:
    first, second = flat(evidence.configurations[a]), flat(evidence.configurations[b])
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: (first.get(name, ABSENT), second.get(name, ABSENT)) for name in names}
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def flat(configuration: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration's values by dotted names, as in `model.experts`."""
    found: dict[str, Any] = {}
    for name, value in configuration.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found

"""What racing saves and what it costs, on simulated fold tables or on a recorded one.

    python benchmarks/racing.py [--repetitions 400] [--workers 16] [--speculation 3] [--narrowing] [--table FILE.csv]

Simulated: 100 configurations on 25 folds, quality sd 0.03, fold noise sd 0.06, of whose variance a share is common to
all configurations. Recorded: a file of `fold_table.py`; its trials and the order of its folds are shuffled in every
repetition, and configurations are compared by the AUC of their pooled predictions, as the sweep does it where that is
the objective. Jobs of random length run on parallel workers and are handed out and judged by the code of the sweep.
Prints one table:

    share    of the fold noise variance, common to all configurations
    jobs     fold jobs saved in %, of all configurations on all folds; a job that was out when its configuration was
             given up counts as run
    time     time saved in %, of the same workers running everything
    regret   objective of the best configuration under full evaluation, less that of the best that racing let run on all
             folds: mean over the repetitions, and its standard error; the objective is the mean over folds, of a
             recorded study its own
    missed   how often that isn't the best one, in %
"""

import argparse
import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilbert.metrics import Kind, pooled_auc
from tune.racing import NoRacing, Rule, Scores, Standing, SuccessiveHalving, Wilcoxon, fold_order, next_trial

Floats = NDArray[np.float64]
Row = tuple[float, float, float, bool]
Together = Callable[[int, Sequence[int]], float | None]
"""Objective of a trial over some of its folds."""

TRIALS, FOLDS = 100, 25
QUALITY_SD, NOISE_SD = 0.03, 0.06
SHARES = (0.3, 0.6, 0.85)
FEW = 5
RULES: dict[str, Rule] = {
    "wilcoxon 0.05": Wilcoxon(0.05),
    "wilcoxon 0.1": Wilcoxon(0.1),
    "wilcoxon 0.2": Wilcoxon(0.2),
    "successive-halving": SuccessiveHalving(),
    "halving 3-8, eta 2": SuccessiveHalving(eta=2),
    "halving 5-12, eta 3": SuccessiveHalving((5, 12)),
}


class Result(NamedTuple):
    """One race: fold jobs run, when the last one ended, and the configurations that ran on all folds."""

    jobs: int
    time: float
    complete: list[int]


class FoldTable(NamedTuple):
    """Scores [T, F], NaN where undefined; objective [T]; and where it isn't their mean, that of some folds together."""

    scores: Floats
    objective: Floats
    together: Together | None = None


class Race:
    """Runs one rule on one fold table: an event loop over parallel workers."""

    def __init__(self, table: FoldTable, rule: Rule, *, workers: int, speculation: int, seed: int) -> None:
        self.scores, self.rule, self.speculation = table.scores.tolist(), rule, speculation
        self.trials, self.folds = table.scores.shape
        self.together = table.together
        self.order = fold_order(self.folds, seed=seed)
        self.lengths = np.random.default_rng(seed).lognormal(0.0, 0.5, table.scores.size).tolist()
        self.table: dict[int, Standing] = {}
        self.given = [0] * self.trials
        self.open: dict[int, tuple[int, int]] = {}
        self.opened = self.jobs = 0
        self.out: list[tuple[float, int, int]] = []
        self.workers = workers

    def run(self) -> Result:
        """Races until nothing is out."""
        now = 0.0
        while self._hand_out(now):
            now, trial, fold = heapq.heappop(self.out)
            self._take(trial, fold)
        return Result(self.jobs, now, [trial for trial, standing in self.table.items() if standing.complete])

    def _hand_out(self, now: float) -> bool:
        """Gives every idle worker a job, as long as there are any; False if nothing is out."""
        while len(self.out) < self.workers:
            more = self.opened < self.trials
            trial = next_trial(self.open, speculation=self.speculation if more else None, rule=self.rule)
            if trial is None:
                if not more:
                    break
                trial, self.opened = self.opened, self.opened + 1
                self.table[trial] = self._standing(trial, {}, ())
            heapq.heappush(self.out, (now + self.lengths[self.jobs], trial, self.order[self.given[trial]]))
            self.jobs += 1
            self.given[trial] += 1
            self._note(trial)
        return bool(self.out)

    def _take(self, trial: int, fold: int) -> None:
        """Enters a score and asks the rule about its trial."""
        old, score = self.table[trial], self.scores[trial][fold]
        scores, undefined = old.scores, tuple(old.undefined)
        if score == score:
            scores = {**scores, fold: score}
        else:
            undefined = (*undefined, fold)
        self.table[trial] = self._standing(trial, scores, undefined, abandoned=old.abandoned)
        if not old.abandoned and self.rule.judge(self.table, self.order)(trial):
            self.table[trial] = self._standing(trial, scores, undefined, abandoned=True)
        self._note(trial)

    def _standing(self, trial: int, scores: Scores, undefined: Sequence[int], *, abandoned: bool = False) -> Standing:
        complete = len(scores) + len(undefined) == self.folds
        together = None if self.together is None else partial(self.together, trial)
        return Standing(scores, complete, abandoned, undefined, together)

    def _note(self, trial: int) -> None:
        """Keeps the trial among the open ones while it has folds to hand out."""
        standing = self.table[trial]
        done = len(standing.scores) + len(standing.undefined)
        if standing.abandoned or self.given[trial] == self.folds:
            self.open.pop(trial, None)
        else:
            self.open[trial] = (self.given[trial] - done, done)


def few_folds(table: FoldTable, order: Sequence[int]) -> int:
    """The configuration that wins when all run on the first five folds only."""
    if table.together is None:
        return int(np.nanmean(table.scores[:, order[:FEW]], axis=1).argmax())
    values = [table.together(trial, order[:FEW]) for trial in range(len(table.scores))]
    return int(np.argmax([-1.0 if value is None else value for value in values]))


def simulate(share: float, *, repetition: int, seed: int, narrowing: bool = False) -> Floats:
    """A fold table: quality + noise of the fold + noise of its own, [T, F].

    With `narrowing` later configurations are better and more alike, as a search proposes them: from the 15th to the
    75th the mean quality rises by 0.05 and its deviation falls by 60 %.
    """
    rng = np.random.default_rng([seed, repetition, round(100 * share)])
    progress = np.clip((np.arange(TRIALS) - 15) / 60, 0, 1)[:, None] * narrowing
    quality = 0.05 * progress + QUALITY_SD * (1 - 0.6 * progress) * rng.standard_normal((TRIALS, 1))
    common, own = rng.standard_normal((1, FOLDS)), rng.standard_normal((TRIALS, FOLDS))
    return np.asarray(0.7 + quality + NOISE_SD * (share**0.5 * common + (1 - share) ** 0.5 * own))


class Recorded:
    """The held-out predictions of a study, from a file of `fold_table.py`."""

    def __init__(self, path: Path) -> None:
        table = pd.read_parquet(path)
        folds = table.drop_duplicates(["trial", "fold"])
        self.scores = folds.pivot(index="trial", columns="fold", values="score").to_numpy(np.float64)
        self.objective = table.groupby("trial")["objective"].first().to_numpy(np.float64)
        self.repeat = dict(zip(folds["fold"], folds["repeat"], strict=True))
        self.tasks = [name.removeprefix("label:") for name in table.columns if name.startswith("label:")]
        trials = {trial: number for number, trial in enumerate(sorted(table["trial"].unique()))}
        self.parts = {(trials[trial], fold): part for (trial, fold), part in table.groupby(["trial", "fold"])}
        self.known: dict[tuple[int, ...], float | None] = {}

    def together(self, trial: int, folds: Sequence[int]) -> float | None:
        """Mean over the tasks of the AUC of the predictions of these folds together, of the tasks defined there."""
        key = (trial, *sorted(folds))
        if key not in self.known:
            parts = [self.parts[trial, fold] for fold in folds]
            values = [self._pooled(task, parts, [self.repeat[fold] for fold in folds]) for task in self.tasks]
            defined = [value for value in values if value is not None]
            self.known[key] = float(np.mean(defined)) if defined else None
        return self.known[key]

    def _pooled(self, task: str, parts: Sequence[pd.DataFrame], repeats: Sequence[int]) -> float | None:
        columns = [name for name in parts[0].columns if name.startswith(f"score:{task}:")]
        kind: Kind = "multiclass" if len(columns) > 1 else "binary"
        scores = [part[columns].to_numpy(np.float64) for part in parts]
        if kind == "binary":
            scores = [column[:, 0] for column in scores]
        labels = [part[f"label:{task}"].to_numpy(np.float64) for part in parts]
        return pooled_auc(labels, scores, kind, repeats=repeats)


def shared_share(scores: Floats) -> float:
    """Share of the fold noise variance that is common to all configurations: two-way analysis of variance."""
    centred = scores - np.nanmean(scores, axis=1, keepdims=True)
    effects = np.nanmean(centred, axis=0)
    trials, folds = scores.shape
    own = np.nansum((centred - effects) ** 2) / ((trials - 1) * (folds - 1))
    common = max(float(effects.var(ddof=1) - own / trials), 0.0)
    return float(common / (common + own))


def scenarios(arguments: argparse.Namespace) -> Iterator[tuple[float, Callable[[int], FoldTable]]]:
    """Share of the common noise, and the fold table of a repetition."""
    if arguments.table:
        study = Recorded(arguments.table)
        yield shared_share(study.scores), partial(_shuffled, study, arguments.seed)
        return
    for share in SHARES:
        yield share, partial(_simulated, share, arguments)


def _shuffled(study: Recorded, seed: int, repetition: int) -> FoldTable:
    order = np.random.default_rng([seed, repetition]).permutation(len(study.scores))
    return FoldTable(
        study.scores[order], study.objective[order], lambda trial, folds: study.together(int(order[trial]), folds)
    )


def _simulated(share: float, arguments: argparse.Namespace, repetition: int) -> FoldTable:
    scores = simulate(share, repetition=repetition, seed=arguments.seed, narrowing=arguments.narrowing)
    return FoldTable(scores, scores.mean(axis=1))


def repeat(table: FoldTable, arguments: argparse.Namespace, repetition: int) -> Iterator[tuple[str, Row]]:
    """One repetition: every rule on the same table, workers and lengths of jobs."""
    seed, objective = arguments.seed + repetition, table.objective
    race = partial(Race, workers=arguments.workers, speculation=arguments.speculation, seed=seed)
    everything = race(table, NoRacing()).run()
    few = race(FoldTable(table.scores[:, :FEW], objective), NoRacing()).run()
    few = few._replace(complete=[few_folds(table, fold_order(table.scores.shape[1], seed=seed))])
    results = {"none": everything, **{name: race(table, rule).run() for name, rule in RULES.items()}}
    for name, result in {**results, f"{FEW} folds for all": few}.items():
        regret = float(objective.max() - objective[result.complete].max())
        yield name, (1 - result.jobs / everything.jobs, 1 - result.time / everything.time, regret, regret > 0)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--speculation", type=int, default=3, help="most folds of one configuration out at once")
    parser.add_argument("--narrowing", action="store_true", help="later configurations are better and more alike")
    parser.add_argument("--table", type=Path, help="a file of fold_table.py")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{'share':5}  {'rule':20} {'jobs':>5} {'time':>5}  {'regret':8} {'± se':8} {'missed':>6}")
    for share, table in scenarios(arguments):
        rows: dict[str, list[Row]] = {}
        for repetition in range(arguments.repetitions):
            for name, row in repeat(table(repetition), arguments, repetition):
                rows.setdefault(name, []).append(row)
        for name, found in rows.items():
            jobs, time, regret, missed = np.mean(found, axis=0)
            error = np.std([row[2] for row in found]) / len(found) ** 0.5
            print(f"{share:5.2f}  {name:20} {100 * jobs:5.1f} {100 * time:5.1f}  ", end="")
            print(f"{regret:.6f} {error:.6f} {100 * missed:6.1f}", flush=True)


if __name__ == "__main__":
    main()

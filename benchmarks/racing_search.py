"""Whether racing misleads the search: what TPE ends with when most configurations are given up early.

    python benchmarks/racing_search.py [--repetitions 50] [--trials 60] [--workers 16]

Simulated studies: five searched parameters, a quality with one top, sd 0.03 over random configurations; 25 folds whose
noise has sd 0.06, of whose variance 60 % are common to all configurations. Proposals, hand-out, racing and what is told
of a configuration are the code of the sweep; only training is replaced by a draw. The same quality and noise of folds
for every line of a repetition. Prints one table:

    told     what the search knows of a configuration whose folds aren't all in: at every proposal an estimate, as the
             sweep does it; the estimate when it is given up, and nothing of those that run; or `pruned` with the scores
             so far when it is given up, as Optuna's own pruners do
    jobs     fold jobs saved in %, of full evaluation
    quality  true quality of the configuration with the best mean over all folds, less that of full evaluation: mean
             over the repetitions, and its standard error. 0: the search ends as well as with full evaluation
    late     mean true quality of the last third of the proposals, less that of full evaluation: where TPE looks
"""

import argparse
import heapq
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tune.estimates import estimates
from tune.job import FoldJob, JobRecord
from tune.ledger import Ledger, Listener, Racing, Trial
from tune.racing import RULES, NoRacing, Rule, Scores, fold_order
from tune.search import Proposal, Search
from tune.selection import fold_score
from tune.space import Study
from tune.study_file import parse_study
from tune.sweep import SPECULATION

FOLDS, QUALITY_SD, NOISE_SD, SHARE = 25, 0.03, 0.06, 0.6
TASK = "task"
STUDY = {
    "study": "simulated",
    "features": "none",
    "tasks": {TASK: "binary"},
    "search": {
        "loss.contrastive": {"low": 0.01, "high": 2.0, "log": True},
        "loss.cka": {"low": 0.0, "high": 1.0},
        "loss.temperature": {"low": 0.02, "high": 1.0, "log": True},
        "train.learning_rate": {"low": 1e-4, "high": 5e-3, "log": True},
        "model.experts": {"choices": [1, 2, 4, 8]},
    },
}
LINES: dict[str, tuple[str, str, bool]] = {
    "none": ("none", "always", False),
    "successive-halving": ("successive-halving", "always", False),
    "successive-halving, at end": ("successive-halving", "end", False),
    "successive-halving, pruned": ("successive-halving", "pruned", False),
    "wilcoxon": ("wilcoxon", "always", False),
    "successive-halving, same jobs": ("successive-halving", "always", True),
}
"""Rule, what is told, and whether to go on to as many fold jobs as full evaluation runs."""


class Result(NamedTuple):
    """One search: fold jobs run, true quality of its best, mean true quality of its last third."""

    jobs: int
    quality: float
    late: float


class Landscape:
    """True quality of a configuration, and its score on a fold."""

    def __init__(self, study: Study, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.study, self.seed = study, seed
        self.top, self.weights = rng.uniform(0.1, 0.9, 4), rng.dirichlet(np.ones(4))
        self.experts = dict(zip((1, 2, 4, 8), rng.normal(0, 0.1, 4).tolist(), strict=True))
        self.folds = rng.standard_normal(FOLDS)
        places, kinds = rng.random((4000, 4)), rng.choice([1, 2, 4, 8], 4000)
        shapes = np.array([self._shape(place, int(e)) for place, e in zip(places, kinds, strict=True)])
        self.mean, self.deviation = shapes.mean(), shapes.std()

    def quality(self, proposal: Proposal) -> float:
        """Its expected score."""
        place = [_place(self.study, name, proposal) for name in self.study.search if name != "model.experts"]
        shape = self._shape(np.array(place), int(proposal.parameters["model.experts"]))
        return float(0.7 + QUALITY_SD * (shape - self.mean) / self.deviation)

    def score(self, proposal: Proposal, fold: int) -> float:
        """Quality + noise of the fold + noise of its own; the same however often it is asked."""
        own = np.random.default_rng([self.seed, int(proposal.configuration, 16), fold]).standard_normal()
        noise = SHARE**0.5 * self.folds[fold] + (1 - SHARE) ** 0.5 * own
        return self.quality(proposal) + NOISE_SD * float(noise)

    def _shape(self, place: np.ndarray, experts: int) -> float:
        return float(-(self.weights * (place - self.top) ** 2).sum() + self.experts[experts] * self.weights.max())


def _place(study: Study, name: str, proposal: Proposal) -> float:
    """Where in its range a searched value lies, 0 to 1."""
    parameter, value = study.search[name], float(proposal.parameters[name])
    scale: Callable[[float], float] = math.log if parameter.log else float  # type: ignore[union-attr]
    low, high = scale(float(parameter.low)), scale(float(parameter.high))  # type: ignore[union-attr]
    return (scale(value) - low) / (high - low)


class Simulation:
    """One search, with the sweep's own books, on workers of an event loop."""

    def __init__(self, landscape: Landscape, rule: Rule, told: str, journal: Path, *, workers: int, jobs: int) -> None:
        self.landscape, self.told, self.workers, self.jobs = landscape, told, workers, jobs
        self.search = Search(landscape.study, journal)
        self.order = fold_order(FOLDS, seed=landscape.seed)
        self.means: dict[int, float] = {}
        speculation = None if isinstance(rule, NoRacing) else SPECULATION
        self.ledger = Ledger(
            propose=self._propose,
            plan=self._jobs,
            lookup=lambda _: None,
            listener=Listener(lambda *_: None, self._close),
            racing=Racing(rule, lambda record: fold_score(record, TASK), self.order, speculation),
        )

    def run(self) -> Result:
        """Searches until nothing is left to do, or `jobs` fold jobs have run."""
        lengths = np.random.default_rng(self.landscape.seed)
        out: list[tuple[float, int, FoldJob]] = []
        now, jobs = 0.0, 0
        while True:
            while len(out) < self.workers and jobs < self.jobs and (job := self.ledger.next()) is not None:
                heapq.heappush(out, (now + lengths.lognormal(0, 0.5), jobs, job))
                jobs += 1
            if not out:
                break
            now, _, job = heapq.heappop(out)
            score = self.landscape.score(self.search.proposals[job.trial], job.fold)
            self.ledger.take(job, JobRecord(job.identity, job.fold, 0, 0, auc={TASK: score}))
        quality = [self.landscape.quality(proposal) for proposal in self.search.proposals]
        best = max(self.means, key=self.means.__getitem__)
        return Result(jobs, quality[best], float(np.mean(quality[-len(quality) // 3 :])))

    def _propose(self) -> Proposal | None:
        if len(self.search.proposals) >= self.landscape.study.trials:
            return None
        known = estimates(self.ledger.standings, self.means) if self.told == "always" else {}
        return self.search.ask(known)

    def _jobs(self, proposal: Proposal) -> list[FoldJob]:
        number = proposal.number
        return [FoldJob(number, fold, proposal.config, proposal.store, f"{number}-{fold}") for fold in self.order]

    def _close(self, trial: Trial) -> None:
        number = trial.proposal.number
        if not trial.abandoned:
            self.means[number] = self.ledger.standings[number].mean or 0.0
            self.search.tell(number, self.means[number])
        elif self.told == "pruned":
            self._prune(number, self.ledger.standings[number].scores)
        else:
            self.search.tell(number, estimates(self.ledger.standings, self.means)[number])

    def _prune(self, number: int, scores: Scores) -> None:
        """As a pruner of Optuna's would: the running mean after every fold, and the state `pruned`."""
        from optuna.trial import Trial as OptunaTrial
        from optuna.trial import TrialState

        study = self.search.optuna
        trial = OptunaTrial(study, study.get_trials(deepcopy=False)[number]._trial_id)
        for step in range(len(scores)):
            trial.report(math.fsum(list(scores.values())[: step + 1]) / (step + 1), step)
        study.tell(number, state=TrialState.PRUNED)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found: dict[str, list[Result]] = {name: [] for name in LINES}
    for repetition in range(arguments.repetitions):
        seed = arguments.seed + repetition
        for name, (rule, told, same_jobs) in LINES.items():
            trials = 20 * arguments.trials if same_jobs else arguments.trials
            study = parse_study(STUDY | {"trials": trials, "seed": seed}, source="study")
            with tempfile.TemporaryDirectory(prefix="hilbert-") as folder:
                journal, jobs = Path(folder) / "journal", arguments.trials * FOLDS
                landscape = Landscape(study, seed)
                simulation = Simulation(landscape, RULES[rule], told, journal, workers=arguments.workers, jobs=jobs)
                found[name].append(simulation.run())
    full = np.array(found["none"])
    print(f"{'racing, told':30} {'jobs':>5}  {'quality':>8} {'± se':8} {'late':>8} {'± se':8}")
    for name, results in found.items():
        values = np.array(results)
        saved = 100 * (1 - values[:, 0].mean() / (arguments.trials * FOLDS))
        difference = values[:, 1:] - full[:, 1:]
        (quality, late), (error, late_error) = difference.mean(0), difference.std(0) / len(results) ** 0.5
        print(f"{name:30} {saved:5.1f}  {quality:+.5f} {error:.6f} {late:+.5f} {late_error:.6f}")
    print(f"\nfull evaluation: quality {full[:, 1].mean():.4f}, late {full[:, 2].mean():.4f}; random mean 0.7000")


if __name__ == "__main__":
    main()

"""The books of a sweep: which fold jobs are to do, out, and in, and which configurations are given up.

Pure bookkeeping, without Ray, Optuna or a clock: who proposes configurations, and who hears of what, are callables.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tune.job import FoldJob, JobRecord
from tune.racing import NoRacing, Rule, Standing, next_trial
from tune.search import Proposal


@dataclass
class Trial:
    """One configuration and what its folds have given so far.

    Attributes:
        proposal: the configuration.
        folds: how many folds there are.
        pending: fold jobs not handed out, in order.
        running: fold jobs that are out, by identity.
        records: what came back, by fold; failed jobs too.
        abandoned: whether racing has given it up.
    """

    proposal: Proposal
    folds: int
    pending: deque[FoldJob]
    running: dict[str, FoldJob] = field(default_factory=dict)
    records: dict[int, JobRecord] = field(default_factory=dict)
    abandoned: bool = False

    @property
    def whole(self) -> bool:
        """Whether every fold has come back."""
        return len(self.records) == self.folds

    @property
    def closed(self) -> bool:
        """Whether nothing more will come back."""
        return self.whole or (self.abandoned and not self.running)

    @property
    def failed_folds(self) -> list[int]:
        """Folds whose job failed."""
        return sorted(fold for fold, record in self.records.items() if record.error)


@dataclass(frozen=True)
class Racing:
    """When a configuration is given up.

    Attributes:
        rule: decides, from all configurations' scores on the folds that are in.
        score: a fold job's score, None where it is undefined; higher is better.
        order: the order in which folds are handed out.
        speculation: folds of a configuration that may be out at once while others can be opened.
        together: the score of several fold jobs of a configuration taken together, where it isn't their mean.
    """

    rule: Rule = field(default_factory=NoRacing)
    score: Callable[[JobRecord], float | None] = lambda _: None
    order: Sequence[int] = ()
    speculation: int | None = None
    together: Callable[[Sequence[JobRecord]], float | None] | None = None


@dataclass(frozen=True)
class Listener:
    """Who hears of what.

    Attributes:
        on_record: every record that counts, known ones included, as it is taken in.
        on_close: every trial of which nothing more will come back: whole, or abandoned.
        on_abandon: every trial that racing gives up, while its running jobs are still out.
    """

    on_record: Callable[[Trial, JobRecord], None]
    on_close: Callable[[Trial], None]
    on_abandon: Callable[[Trial], None] = lambda _: None


class Ledger:
    """Hands out fold jobs, takes in their records.

    Args:
        propose: gives the next proposal, or None when there shall be no more.
        plan: the fold jobs of a proposal, in the order in which they are to run.
        lookup: the record of a fold job that is done already, else None; such a job isn't handed out.
        listener: who hears of what.
        racing: when a configuration is given up; never, if left out.
        retries: how often a job that failed is handed out again.
        may_hand_out: asked before every job; once it says no, nothing more is handed out.
    """

    def __init__(
        self,
        *,
        propose: Callable[[], Proposal | None],
        plan: Callable[[Proposal], list[FoldJob]],
        lookup: Callable[[FoldJob], JobRecord | None],
        listener: Listener,
        racing: Racing | None = None,
        retries: int = 0,
        may_hand_out: Callable[[], bool] = lambda: True,
    ) -> None:
        self.propose, self.plan, self.lookup, self.listener = propose, plan, lookup, listener
        self.racing, self.retries, self.may_hand_out = racing or Racing(), retries, may_hand_out
        self.trials: dict[int, Trial] = {}
        self.standings: dict[int, Standing] = {}
        self._together: dict[tuple[int, ...], float | None] = {}  # trial and folds -> their score together
        self.attempts: dict[str, int] = {}
        self.exhausted = False  # nothing more will be proposed
        self.stopped = False  # nothing more will be handed out

    def open(self, proposals: Iterable[Proposal], *, abandoned: Callable[[Proposal], bool] = lambda _: False) -> None:
        """Takes up proposals of an earlier process, with what is known of them."""
        for proposal in proposals:
            self._open(proposal, abandoned=abandoned(proposal))

    def next(self) -> FoldJob | None:
        """The next fold job; None when there is none now: see `finished`."""
        self.stopped = self.stopped or not self.may_hand_out()
        while not self.stopped:
            ready = {number: trial for number, trial in self.trials.items() if trial.pending}
            number = self._choose(ready)
            if number is not None:
                return self._hand_out(ready[number])
            proposal = None if self.exhausted else self.propose()
            if proposal is None:
                self.exhausted = True
                if not any(trial.pending for trial in self.trials.values()):
                    return None
            else:
                self._open(proposal, abandoned=False)
        return None

    def take(self, job: FoldJob, record: JobRecord) -> None:
        """Takes in the record of a job that was handed out; one that failed may go out again."""
        trial = self.trials[job.trial]
        del trial.running[job.identity]
        self.attempts[job.identity] = self.attempts.get(job.identity, 0) + 1
        if record.error and not trial.abandoned and self.attempts[job.identity] <= self.retries:
            trial.pending.appendleft(job)
        elif not record.stopped:
            self._enter(trial, record)
            self._race()
        self._close_what_is_done()

    def put_back(self, job: FoldJob) -> bool:
        """Takes back a job that was handed out and has no record, by no fault of its own: no attempt is counted.

        Returns:
            Whether it goes out again: not if its configuration was given up meanwhile.
        """
        trial = self.trials[job.trial]
        del trial.running[job.identity]
        if not trial.abandoned:
            trial.pending.appendleft(job)
        self._close_what_is_done()
        return not trial.abandoned

    @property
    def out(self) -> int:
        """How many fold jobs are out."""
        return sum(len(trial.running) for trial in self.trials.values())

    @property
    def left(self) -> int:
        """How many fold jobs of the configurations that are open are out or wait."""
        return sum(len(trial.running) + len(trial.pending) for trial in self.trials.values())

    @property
    def finished(self) -> bool:
        """Whether nothing is out, and nothing will be handed out any more."""
        return not self.out and (self.stopped or (self.exhausted and not self.trials))

    @property
    def complete(self) -> bool:
        """Whether everything that was to be tried has been."""
        return self.exhausted and not self.trials

    def _choose(self, ready: dict[int, Trial]) -> int | None:
        """The trial that the next job is taken from; None: a new one."""
        places = {number: (len(trial.running), len(trial.records)) for number, trial in ready.items()}
        speculation = None if self.exhausted else self.racing.speculation
        return next_trial(places, speculation=speculation, rule=self.racing.rule)

    def _hand_out(self, trial: Trial) -> FoldJob:
        job = trial.pending.popleft()
        trial.running[job.identity] = job
        return job

    def _open(self, proposal: Proposal, *, abandoned: bool) -> None:
        jobs = [(job, self.lookup(job)) for job in self.plan(proposal)]
        pending = () if abandoned else (job for job, record in jobs if record is None)
        trial = Trial(proposal, len(jobs), deque(pending), abandoned=abandoned)
        self.trials[proposal.number] = trial
        for _, record in jobs:
            if record is not None:
                self._enter(trial, record)
        self._close_what_is_done()  # first: a trial that is whole must not be given up by the first of its records
        self._race()
        self._close_what_is_done()

    def _enter(self, trial: Trial, record: JobRecord) -> None:
        trial.records[record.fold] = record
        self.listener.on_record(trial, record)
        self.standings[trial.proposal.number] = self._standing(trial)

    def _standing(self, trial: Trial) -> Standing:
        """A trial as the race sees it. One with a failed fold is never complete, hence never the incumbent."""
        scores = {fold: self.racing.score(found) for fold, found in trial.records.items() if not found.error}
        return Standing(
            {fold: score for fold, score in scores.items() if score is not None},
            complete=trial.whole and not trial.failed_folds,
            abandoned=trial.abandoned,
            undefined=tuple(fold for fold, score in scores.items() if score is None),
            together=None if self.racing.together is None else partial(self._score_together, trial),
        )

    def _score_together(self, trial: Trial, folds: Sequence[int]) -> float | None:
        """The score of some of a trial's folds taken together; computed once."""
        assert self.racing.together is not None, "asked only where scores are taken together"
        key = (trial.proposal.number, *sorted(folds))
        if key not in self._together:
            self._together[key] = self.racing.together([trial.records[fold] for fold in folds])
        return self._together[key]

    def _race(self) -> None:
        """Gives up the configurations that can't be hoped for any more."""
        hopeless = self.racing.rule.judge(self.standings, self.racing.order)
        for number, trial in self.trials.items():
            if trial.abandoned or trial.whole or number not in self.standings:
                continue
            if hopeless(number):
                trial.abandoned = True
                trial.pending.clear()
                self.standings[number] = self._standing(trial)
                self.listener.on_abandon(trial)
                hopeless = self.racing.rule.judge(self.standings, self.racing.order)

    def _close_what_is_done(self) -> None:
        for number in [number for number, trial in self.trials.items() if trial.closed]:
            trial = self.trials.pop(number)
            self.listener.on_close(trial)
            # racing may still ask for its predictions, of thousands of fold jobs
            trial.records = {fold: record.without_curves() for fold, record in trial.records.items()}

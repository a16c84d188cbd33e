"""The books of a sweep: which fold jobs are to do, out, and in.

Pure bookkeeping, without Ray, Optuna or a clock: who proposes configurations, and who hears of a finished one, are
callables. Few workers finish a configuration before the next one starts; many work on several at once.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tune.job import FoldJob, JobRecord
from tune.search import Proposal


@dataclass
class Trial:
    """One configuration and what its folds have given so far.

    Attributes:
        proposal: the configuration.
        folds: how many folds there are.
        pending: fold jobs not handed out, in order.
        running: identities of the fold jobs that are out.
        records: what came back, by fold; failed jobs too.
    """

    proposal: Proposal
    folds: int
    pending: deque[FoldJob]
    running: set[str] = field(default_factory=set)
    records: dict[int, JobRecord] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every fold has come back."""
        return len(self.records) == self.folds

    @property
    def failed_folds(self) -> list[int]:
        """Folds whose job failed."""
        return sorted(fold for fold, record in self.records.items() if record.error)


class Ledger:
    """Hands out fold jobs, takes in their records.

    Args:
        propose: gives the next proposal, or None when there shall be no more.
        plan: the fold jobs of a proposal, in the order in which they are to run.
        lookup: the record of a fold job that is done already, else None; such a job isn't handed out.
        on_record: hears of every record, known ones included, as it is taken in.
        on_complete: hears of every trial whose last fold has come in.
    """

    def __init__(
        self,
        *,
        propose: Callable[[], Proposal | None],
        plan: Callable[[Proposal], list[FoldJob]],
        lookup: Callable[[FoldJob], JobRecord | None],
        on_record: Callable[[Trial, JobRecord], None],
        on_complete: Callable[[Trial], None],
    ) -> None:
        self.propose, self.plan, self.lookup = propose, plan, lookup
        self.on_record, self.on_complete = on_record, on_complete
        self.trials: dict[int, Trial] = {}
        self.exhausted = False

    def open(self, proposals: Iterable[Proposal]) -> None:
        """Takes up proposals of an earlier process, with what is known of them."""
        for proposal in proposals:
            self._open(proposal)

    def next(self) -> FoldJob | None:
        """The next fold job; None when there is none now: see `finished`."""
        while True:
            for trial in self.trials.values():
                if trial.pending:
                    job = trial.pending.popleft()
                    trial.running.add(job.identity)
                    return job
            proposal = None if self.exhausted else self.propose()
            if proposal is None:
                self.exhausted = True
                return None
            self._open(proposal)

    def take(self, job: FoldJob, record: JobRecord) -> None:
        """Takes in the record of a job that was handed out."""
        trial = self.trials[job.trial]
        trial.running.discard(job.identity)
        self._enter(trial, record)

    @property
    def finished(self) -> bool:
        """Whether there is nothing to hand out and nothing out."""
        return self.exhausted and all(trial.complete for trial in self.trials.values())

    def _open(self, proposal: Proposal) -> None:
        jobs = [(job, self.lookup(job)) for job in self.plan(proposal)]
        trial = Trial(proposal, len(jobs), deque(job for job, record in jobs if record is None))
        self.trials[proposal.number] = trial
        for _, record in jobs:
            if record is not None:
                self._enter(trial, record)

    def _enter(self, trial: Trial, record: JobRecord) -> None:
        trial.records[record.fold] = record
        self.on_record(trial, record)
        if trial.complete:
            self.on_complete(trial)
            del self.trials[trial.proposal.number]

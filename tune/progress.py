"""What a person sees of a running sweep: a live table on a terminal, else a line a configuration, or a minute.

Everything goes to stderr.
"""

import math
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from tune.formats import duration, with_error
from tune.search import Proposal
from tune.selection import Summary, objective_metric

BEST = 8
"""Configurations in the live table."""
SAY_EVERY = 60.0
"""Seconds without a line, where there is no terminal, after which a fold job is worth one."""


class SweepProgress:
    """Counts fold jobs and configurations, and shows the best so far.

    Args:
        jobs: fold jobs of the whole sweep, those of earlier runs included.
        budget: fold jobs after which no further one starts, if there is a limit.
        folds: fold jobs of one configuration.
        trials: configurations of the whole sweep.
        objective: name of what is maximised.
        workers: tells how many fold jobs run at once.
        console: where to write.
        hours: the budget of this run, if there is one.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        jobs: int,
        folds: int,
        trials: int,
        objective: str,
        workers: Callable[[], int],
        console: Console,
        budget: int | None = None,
        hours: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.planned, self.folds, self.trials, self.objective, self.workers = jobs, folds, trials, objective, workers
        self.budget = budget
        self.console, self.hours, self.clock = console, hours, clock
        self.best: list[tuple[Proposal, Summary]] = []
        self.done = self.fresh = self.failed = self.complete = self.abandoned = 0
        self.started, self.said = clock(), -math.inf
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        self.task: TaskID = self.bar.add_task("fold jobs", total=self.jobs, left="")
        self.live = Live(console=console, refresh_per_second=2, get_renderable=self._render)

    def __enter__(self) -> "SweepProgress":
        self.started = self.clock()
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since the sweep, or this run of it, began."""
        return self.clock() - self.started

    @property
    def jobs(self) -> int:
        """Fold jobs that there will have been in the end, as far as one knows."""
        return max(self.done, min(self.planned, self.planned if self.budget is None else self.budget))

    def job(self, *, failed: bool, fresh: bool) -> None:
        """Counts a fold job, once however many configurations share it; `fresh` if it ran just now."""
        self.done, self.fresh, self.failed = self.done + 1, self.fresh + fresh, self.failed + failed
        self.bar.update(self.task, total=self.jobs, completed=self.done, left=self.time_left())
        if fresh and self.clock() - self.said >= SAY_EVERY:
            self._say(f"{self.done}/{self.jobs} fold jobs, {self.workers()} at once, {self.time_left()}")

    def spare(self, jobs: int) -> None:
        """Takes fold jobs off the total: of an abandoned configuration, of a repeated one, or of none to come."""
        self.planned -= jobs
        self.bar.update(self.task, total=self.jobs)

    def end_with(self, trials: int) -> None:
        """Says that there won't be more configurations than these."""
        self.spare((self.trials - trials) * self.folds)
        self.trials = trials

    def trial(self, proposal: Proposal, summary: Summary) -> None:
        """Takes in a configuration of which nothing more will come."""
        self.complete, self.abandoned = self.complete + 1, self.abandoned + summary.abandoned
        if summary.objective is not None and not summary.abandoned:
            self.best.append((proposal, summary))
            self.best.sort(key=lambda pair: -_objective(pair[1]))
        self._say(self._line(proposal, summary))

    def time_left(self) -> str:
        """What the pace of the fold jobs that ran just now, and of racing so far, promises."""
        if not self.fresh:
            return ""
        pace = self.elapsed / self.fresh
        spent = self.done / self.complete if self.complete else self.folds
        open_jobs = max(self.jobs - self.done, 0)
        expected = min(open_jobs, (self.trials - self.complete) * spent)
        if self.hours is None or expected * pace <= 3600 * self.hours - self.elapsed:
            return f"{duration(expected * pace)} left"
        rest = max(3600 * self.hours - self.elapsed, 0)
        return f"{duration(rest)} left, enough for about {rest / pace / spent:.0f} more configurations"

    def _say(self, line: str) -> None:
        if not self.console.is_terminal:
            self.said = self.clock()
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _line(self, proposal: Proposal, summary: Summary) -> str:
        result = _result(summary, self.objective)
        if summary.failed:
            result = f"failed on {len(summary.failed)} folds"
        elif summary.abandoned:
            result = f"given up after {summary.metrics['cv/folds_done']:.0f} folds, estimated at {result}"
        best = f"; best so far t{self.best[0][0].number:03d}" if self.best else ""
        counts = f"{self.complete}/{self.trials} trials, {self.done}/{self.jobs} fold jobs"
        return (
            f"t{proposal.number:03d}  {self.objective} {result}  [{counts}{best}, {self.time_left() or 'done before'}]"
        )

    def _render(self) -> RenderableType:
        title = f"{self.complete} of {self.trials} configurations, {self.workers()} fold jobs at once"
        if not self.best:
            return Group(title, self.bar)
        table = Table(title=title, expand=False)
        for column in ("trial", self.objective, "pooled AUC by task", "parameters"):
            table.add_column(column, overflow="fold")
        for proposal, summary in self.best[:BEST]:
            pooled = "  ".join(
                f"{name.removesuffix('/auc_pooled')} {value:.3f}"
                for name, value in summary.metrics.items()
                if name.endswith("/auc_pooled") and not name.startswith("cv/")
            )
            values = "  ".join(f"{name} {_short(value)}" for name, value in proposal.parameters.items())
            table.add_row(f"t{proposal.number:03d}", _result(summary, self.objective), pooled, values)
        counts = ((self.abandoned, "configurations given up"), (self.failed, "fold jobs failed"))
        notes = ", ".join(f"{count} {what}" for count, what in counts if count)
        return Group(table, self.bar, notes)


def _result(summary: Summary, objective: str) -> str:
    """The objective, with the standard error over folds where it is a mean over folds."""
    error = objective_metric(objective).replace("/auc_mean", "/auc_se")
    return with_error(summary.objective, summary.metrics.get(error) if error.endswith("/auc_se") else None)


def _objective(summary: Summary) -> float:
    assert summary.objective is not None
    return summary.objective


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""What a person sees of a running sweep: a live table on a terminal, a line for each configuration elsewhere.

Everything goes to stderr.
"""

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


class SweepProgress:
    """Counts fold jobs and configurations, and shows the best so far.

    Args:
        jobs: fold jobs of the whole sweep, those of earlier runs included.
        trials: configurations of the whole sweep.
        objective: name of what is maximised.
        workers: fold jobs at once.
        console: where to write.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        jobs: int,
        trials: int,
        objective: str,
        workers: int,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs, self.trials, self.objective, self.workers = jobs, trials, objective, workers
        self.console, self.clock = console, clock
        self.best: list[tuple[Proposal, Summary]] = []
        self.done = self.fresh = self.failed = self.complete = 0
        self.started = clock()
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        self.task: TaskID = self.bar.add_task("fold jobs", total=jobs, left="")
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

    def skip(self, jobs: int, trials: int) -> None:
        """Counts what earlier runs completed."""
        self.done, self.complete = self.done + jobs, self.complete + trials
        self.bar.update(self.task, completed=self.done)

    def job(self, *, failed: bool, fresh: bool) -> None:
        """Counts a fold job; `fresh` if it ran just now."""
        self.done, self.fresh, self.failed = self.done + 1, self.fresh + fresh, self.failed + failed
        self.bar.update(self.task, completed=self.done, left=self.time_left())

    def trial(self, proposal: Proposal, summary: Summary) -> None:
        """Takes in a configuration whose folds are all in."""
        self.complete += 1
        if summary.objective is not None:
            self.best.append((proposal, summary))
            self.best.sort(key=lambda pair: -_objective(pair[1]))
        if not self.console.is_terminal:
            self.console.print(self._line(proposal, summary), markup=False, highlight=False, soft_wrap=True)

    def time_left(self) -> str:
        """What the pace of the fold jobs that ran just now promises."""
        if not self.fresh:
            return ""
        return f"{duration((self.clock() - self.started) / self.fresh * (self.jobs - self.done))} left"

    def _line(self, proposal: Proposal, summary: Summary) -> str:
        result = _result(summary, self.objective)
        if summary.failed:
            result = f"failed on {len(summary.failed)} folds"
        best = f"; best so far t{self.best[0][0].number:03d}" if self.best else ""
        counts = f"{self.complete}/{self.trials} trials, {self.done}/{self.jobs} fold jobs"
        return (
            f"t{proposal.number:03d}  {self.objective} {result}  [{counts}{best}, {self.time_left() or 'done before'}]"
        )

    def _render(self) -> RenderableType:
        table = Table(title=f"{self.complete} of {self.trials} configurations, {self.workers} at once", expand=False)
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
        notes = f"{self.failed} fold jobs failed" if self.failed else ""
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

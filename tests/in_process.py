"""Whole sweeps in this process: everything is real but Ray, whose place a loop takes, and the pictures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tune.job
import tune.recorder
import tune.sweep
from tune.job import FoldJob, open_store, run_job
from tune.room import Room
from tune.study_file import load_study


def well(_job: FoldJob) -> None:
    """Nothing is wrong with any fold job."""


def uri() -> str:
    """The database in the working folder, by its whole path: MLflow remembers databases by their address."""
    return f"sqlite:///{Path.cwd()}/mlflow.db"


class InProcess:
    """Runs the ledger's fold jobs one after another; `fault` may break something, or name an error for a job."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.ran = monkeypatch, list[tuple[int, int]]()
        self.fault: Callable[[FoldJob], Exception | None] = well
        monkeypatch.setattr(tune.sweep.scheduling, "ray_cluster", self.cluster)
        monkeypatch.setattr(tune.sweep.scheduling, "run_ledger", self.run_ledger)
        monkeypatch.setattr(tune.sweep, "new_board", lambda _folder: None)
        monkeypatch.setattr(tune.recorder, "draw_trial", lambda _records, _tasks, folder: (folder / "a.png").touch())

    @contextmanager
    def cluster(self, resources: Any) -> Iterator[Room]:
        yield Room(resources, lambda: [{"CPU": 1.0}])

    def run_ledger(self, ledger: Any, data: Any, *_arguments: Any, **_named: Any) -> None:
        self.ran = []
        while (job := ledger.next()) is not None:
            self.ran.append((job.trial, job.fold))
            open_store.cache_clear()
            error = self.fault(job)
            with self.monkeypatch.context() as patch:
                if error is not None:
                    patch.setattr(tune.job, "fit", raising(error))
                ledger.take(job, run_job(job, data))
        open_store.cache_clear()

    def sweep(self, fault: Callable[[FoldJob], Exception | None] = well, *overrides: str) -> tune.sweep.Outcome:
        self.fault = fault
        return tune.sweep.run_sweep(load_study("study.yaml", ["resources.retries=0", *overrides]), uri=uri())


def raising(error: Exception) -> Callable[..., None]:
    def fit(*_arguments: Any, **_named: Any) -> None:
        raise error

    return fit

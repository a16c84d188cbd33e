"""The recorder: one thread of the driver that writes a study to MLflow.

Experiment = study, parent run = trial, child run = fold job. A fold job is written in one batch, when it is done.
Workers never talk to MLflow. What is recorded already, by an earlier process, is recognised by its tags and not written
again.

No transcript, no audio path and no document id is recorded, but for the ids in the prediction artifacts; these can be
replaced by keyed hashes.
"""

import itertools
import json
import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hilbert.config import TaskConfig
from hilbert.errors import InputError
from tune.job import JobRecord
from tune.plots import roc_plot
from tune.predictions import predictions
from tune.search import Proposal
from tune.selection import Summary
from tune.tracking import FOLD, SQLITE, TRIAL, first_line, search_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

RETRY_AFTER = (1.0, 5.0, 15.0, 30.0)
"""Seconds between attempts to write to MLflow when it does not answer."""
MOST_METRICS = 1000  # in one batch: MLflow's own limit


def _artifacts(client: "MlflowClient") -> str | None:
    """Beside a sqlite file; None, MLflow's own choice, for a server."""
    if not client.tracking_uri.startswith(SQLITE):
        return None
    folder = Path(client.tracking_uri.removeprefix(SQLITE)).parent / "mlartifacts"
    return folder.as_uri()


@dataclass(frozen=True)
class RecordedStudy:
    """What the recorder has to know of a study.

    Attributes:
        name: the study, hence the experiment.
        identity: hash of all that must not change while the study goes on: data, folds, tasks, search.
        tasks: the tasks with their classes.
        splits: hash of the folds.
        objective: what the search maximises.
        id_key: key of the hashes that replace document ids; None leaves the ids.
    """

    name: str
    identity: str
    tasks: Mapping[str, TaskConfig]
    splits: str
    objective: str
    id_key: bytes | None = None


class Recorder:
    """Writes trials and fold jobs to MLflow, in a thread of its own, in the order in which they are given.

    A failure to write doesn't stop the sweep. What could not be written is tried again, in order, until the recorder
    is closed; what is left then is in `errors`, and lies in the study's archive: the next run of the study, or
    `hilbert sync`, writes it.
    """

    def __init__(self, study: RecordedStudy, client: "MlflowClient") -> None:
        self.study, self.client = study, client
        self.errors: list[str] = []
        self.experiment = self._experiment()
        self._parents: dict[str, str] = {}  # run of each trial
        self._done: set[tuple[str, str]] = set()  # trial and fold of the fold jobs recorded
        self._taken_up: set[str] = set()  # trials whose run this process has made or continued
        self.finished: set[str] = set()  # trials recorded whole
        self._read()
        self._half_written: str | None = None  # a fold job's run that was begun and not ended
        self._complained = False
        self._closing = threading.Event()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def fold(self, proposal: Proposal, record: JobRecord) -> None:
        """Records a fold job, unless it is recorded already."""
        self._queue.put(lambda: self._write_fold(proposal, record))

    def trial(self, proposal: Proposal, records: Sequence[JobRecord], summary: Summary) -> None:
        """Records a trial whose folds are all in."""
        self._queue.put(lambda: self._write_trial(proposal, list(records), summary))

    def close(self) -> None:
        """Writes all that is waiting, and marks unfinished trials as stopped."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        if not self.errors:
            for key, run in self._parents.items():
                if key not in self.finished:
                    self._try(lambda run=run: self.client.set_terminated(run, "KILLED"))  # type: ignore[misc]

    # ---- in the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            if self.errors:  # closed while MLflow does not answer: what comes after is left too, in order
                self.errors.append(self.errors[0])
                continue
            waits = itertools.chain(RETRY_AFTER, itertools.repeat(RETRY_AFTER[-1]))
            while (error := self._try(task)) is not None:
                if self._closing.wait(next(waits)):
                    error = self._try(task)
                    break
            if error is not None:
                self.errors.append(error)

    def _try(self, task: Callable[[], None]) -> str | None:
        """Writes one thing; returns why it could not."""
        try:
            if self._half_written is not None:
                self.client.delete_run(self._half_written)
                self._half_written = None
            task()
        except Exception as error:
            if not self._complained:
                self._complained = True
                logger.warning(
                    "MLflow: %s; training goes on, and records are kept to be written later", first_line(error)
                )
            return first_line(error)
        self._complained = False
        return None

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.study.name)
        if found is None:
            tags = {
                "hilbert.study": self.study.identity,
                "hilbert.objective": self.study.objective,
                "hilbert.tasks": json.dumps(list(self.study.tasks)),
            }
            return str(
                self.client.create_experiment(self.study.name, artifact_location=_artifacts(self.client), tags=tags)
            )
        if found.lifecycle_stage != "active":
            raise InputError(
                f"study {self.study.name!r}: its MLflow experiment was deleted; restore it with"
                f" 'mlflow experiments restore -x {found.experiment_id}', or give the study another name"
            )
        if found.tags.get("hilbert.study") != self.study.identity:
            raise InputError(
                f"study {self.study.name!r}: MLflow at {self.client.tracking_uri} has an experiment of this name with"
                " other data, folds, tasks or search; give this study another name (study: ...), or name another place"
                " with --tracking-uri"
            )
        return str(found.experiment_id)

    def _read(self) -> None:
        """Finds what an earlier process recorded; what it left half written is deleted."""
        for run in search_runs(self.client, self.experiment, "tags.`hilbert.level` = 'trial'"):
            key = _key(run.data.tags)
            self._parents[key] = run.info.run_id
            if run.info.status in {"FINISHED", "FAILED"}:
                self.finished.add(key)
        names = {run_id: key for key, run_id in self._parents.items()}
        for run in search_runs(self.client, self.experiment, "tags.`hilbert.level` = 'fold'"):
            parent = names.get(run.data.tags.get("mlflow.parentRunId", ""))
            final = {"FINISHED", "FAILED"} if parent in self.finished else {"FINISHED"}  # a failed job may run again
            if run.info.status in final and parent:
                self._done.add((parent, run.data.tags["hilbert.fold"]))
            else:
                self.client.delete_run(run.info.run_id)

    def _parent(self, proposal: Proposal) -> str:
        """The trial's run, made or taken up again when this process first needs it."""
        key = proposal_key(proposal)
        if key not in self._parents:
            name = f"t{proposal.number:03d} {proposal.configuration[:8]}"
            run = self._create(name, time.time(), {"hilbert.level": TRIAL, **self._tags(proposal)})
            self._batch(run, [], {name: str(value) for name, value in proposal.parameters.items()})
            self._parents[key] = run
        elif key not in self.finished and key not in self._taken_up:
            self.client.update_run(self._parents[key], status="RUNNING")
        self._taken_up.add(key)
        return self._parents[key]

    def _write_fold(self, proposal: Proposal, record: JobRecord) -> None:
        parent, key = self._parent(proposal), (proposal_key(proposal), str(record.fold))
        if key in self._done:
            return
        tags = {
            "hilbert.level": FOLD,
            "hilbert.fold": str(record.fold),
            "hilbert.job": record.identity,
            "mlflow.parentRunId": parent,
            **self._tags(proposal),
        }
        run = self._half_written = self._create(f"t{proposal.number:03d} f{record.fold:02d}", record.started, tags)
        self._batch(run, _fold_metrics(record), {})
        with tempfile.TemporaryDirectory(prefix="hilbert-") as folder:
            if record.error:
                (Path(folder) / "error.txt").write_text(record.error, encoding="utf-8")
            else:
                predictions([record], self.study.tasks, id_key=self.study.id_key).to_parquet(
                    Path(folder) / "predictions.parquet", index=False
                )
            self.client.log_artifacts(run, folder)
        ended = int(1000 * (record.started + record.seconds))
        self.client.set_terminated(run, "FAILED" if record.error else "FINISHED", end_time=ended)
        self._half_written = None
        self._done.add(key)

    def _write_trial(self, proposal: Proposal, records: Sequence[JobRecord], summary: Summary) -> None:
        parent, key = self._parent(proposal), proposal_key(proposal)
        if key in self.finished:
            return
        for record in records:  # those that could not be written when they came in
            self._write_fold(proposal, record)
        metrics = [_metric(name, value, 0) for name, value in summary.metrics.items()]
        metrics += [_metric("fold/auc", value, fold) for fold, value in sorted(summary.folds.items())]
        self._batch(parent, metrics, {})
        done = [record for record in records if not record.error]
        with tempfile.TemporaryDirectory(prefix="hilbert-") as folder:
            self._trial_artifacts(Path(folder), proposal, done)
            self.client.log_artifacts(parent, folder)
        if summary.abandoned:
            self.client.set_tag(parent, "hilbert.abandoned", f"after {len(done)} folds")
        if summary.failed:
            self.client.set_tag(parent, "hilbert.failed_folds", ",".join(map(str, summary.failed)))
        self.client.set_terminated(parent, "FAILED" if summary.objective is None else "FINISHED")
        self.finished.add(key)

    def _trial_artifacts(self, folder: Path, proposal: Proposal, done: Sequence[JobRecord]) -> None:
        content = {"features": proposal.store, **proposal.config.model_dump(mode="json")}
        (folder / "configuration.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        if done:
            predictions(done, self.study.tasks, id_key=self.study.id_key).to_parquet(
                folder / "predictions.parquet", index=False
            )
            for task, spec in self.study.tasks.items():
                if spec.classes:
                    roc_plot(done, task, spec.classes, folder / f"roc_{task}.png")

    def _tags(self, proposal: Proposal) -> dict[str, str]:
        return {
            "hilbert.trial": str(proposal.number),
            "hilbert.config": proposal.configuration,
            "hilbert.splits": self.study.splits[:12],
            "hilbert.features": proposal.store,
        }

    def _create(self, name: str, started: float, tags: dict[str, str]) -> str:
        tags = {"mlflow.runName": name, "mlflow.source.name": "hilbert", "mlflow.source.type": "LOCAL", **tags}
        run = self.client.create_run(self.experiment, start_time=int(1000 * started), run_name=name, tags=tags)
        return str(run.info.run_id)

    def _batch(self, run: str, metrics: Sequence[Any], parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in parameters.items()]
        for start in range(0, max(len(metrics), 1), MOST_METRICS):
            part = metrics[start : start + MOST_METRICS]
            self.client.log_batch(run, metrics=part, params=params if start == 0 else [], synchronous=True)


def _metric(name: str, value: float, step: int, *, digits: int | None = 4) -> Any:
    from mlflow.entities import Metric

    return Metric(name, value if digits is None else round(value, digits), int(1000 * time.time()), step)


def _fold_metrics(record: JobRecord) -> list[Any]:
    """`<task>/auc`, and every epoch's measures as `epoch/<name>` with step = epoch."""
    found = [_metric(f"{task}/auc", value, 0) for task, value in record.auc.items() if value is not None]
    found.append(_metric("cost/seconds", record.seconds, 0))
    if not record.error:
        found.append(_metric("best_epoch", record.best_epoch, 0))
    for name, values in record.epochs.items():
        if name != "epoch":
            found += [
                _metric(f"epoch/{name}", value, epoch, digits=None)
                for epoch, value in enumerate(values, start=1)
                if value is not None
            ]
    return found


def proposal_key(proposal: Proposal) -> str:
    """Identity of a trial within its study."""
    return f"{proposal.number}:{proposal.configuration}"


def _key(tags: Mapping[str, str]) -> str:
    return f"{tags['hilbert.trial']}:{tags['hilbert.config']}"

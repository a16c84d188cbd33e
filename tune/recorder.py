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
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hilbert.config import TaskConfig
from hilbert.errors import HilbertError, InputError, shown
from hilbert.folds import Fold
from tune import runs
from tune.artifacts import check_location
from tune.entries import DIGITS, configuration_of, fold_entries, parameter_texts, proposal_key, trial_entries, trial_key
from tune.job import JobRecord
from tune.notes import pooled_intervals, rank_line, trial_body
from tune.plots import draw_trial
from tune.predictions import predictions
from tune.privacy import packaged
from tune.recorded import CHECKED
from tune.search import Proposal
from tune.selection import Summary
from tune.tracking import FOLD, NOTE, STUDY_FOLDER, TRIAL, first_line, search_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

RETRY_AFTER = (1.0, 5.0, 15.0, 30.0)
"""Seconds between attempts to write to MLflow when it does not answer."""
FORBIDDEN = 403
FAILED_FOLDS = "hilbert.failed_folds"


@dataclass(frozen=True)
class RecordedStudy:
    """What the recorder has to know of a study.

    Attributes:
        name: the study, hence the experiment.
        identity: hash of all that must not change while the study goes on: data, folds, tasks, search.
        tasks: the tasks with their classes.
        splits: hash of the folds.
        objective: what the search maximises.
        folds: all folds.
        groups: group of every document.
        logarithmic: parameters that are searched on a log scale.
        fingerprints: what is in each feature store.
        commit: of the code.
        note: description of the experiment, Markdown.
        write_files: puts the files of the study as a whole into a folder.
        id_key: key of the hashes that replace document ids; None leaves the ids.
        error: what is recorded of a traceback.
    """

    name: str
    identity: str
    tasks: Mapping[str, TaskConfig]
    splits: str
    objective: str
    folds: Sequence[Fold]
    groups: Mapping[str, str]
    logarithmic: Collection[str]
    fingerprints: Mapping[str, str]
    commit: str | None
    note: str
    write_files: Callable[[Path], None]
    id_key: bytes | None = None
    error: Callable[[str], str] = packaged


@dataclass
class Noted:
    """A trial that is recorded whole: its run, its note, its failed folds, and since it was last told, its summary."""

    run: str
    note: str
    number: int
    failed: str = ""
    summary: Summary | None = field(default=None)


class Recorder:
    """Writes trials and fold jobs to MLflow, in a thread of its own, in the order in which they are given.

    A failure to write doesn't stop the sweep. What could not be written is tried again, in order, until the recorder
    is closed; what is left then is in `errors`, and lies in the study's archive: the next run of the study, or
    `hilbert sync`, writes it.
    """

    def __init__(self, study: RecordedStudy, client: "MlflowClient") -> None:
        self.study, self.client = study, client
        self.errors: list[str] = []
        self._parents: dict[str, str] = {}  # run of each trial
        self._done: set[tuple[str, str]] = set()  # trial and fold of the fold jobs recorded
        self._failed: dict[tuple[str, str], tuple[str, int]] = {}  # of those that failed, the run and when it began
        self._marked: set[str] = set()  # trials whose run names failed folds
        self._taken_up: set[str] = set()  # trials whose run this process has made or continued
        self.finished: dict[str, Noted] = {}  # trials recorded whole
        self.experiment = self._begin_or_take_up()
        self._in_doubt = False  # whether a request failed, of which nobody knows what it did
        self._complained = False
        self._closing = threading.Event()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()
        self._queue.put(self._write_study)

    @property
    def waiting(self) -> int:
        """How many records are not written yet."""
        return self._queue.qsize()

    def fold(self, proposal: Proposal, record: JobRecord) -> None:
        """Records a fold job, unless it is recorded already."""
        told = self._told(record)
        self._queue.put(lambda: self._write_fold(proposal, told))

    def trial(self, proposal: Proposal, records: Sequence[JobRecord], summary: Summary, *, given_up: str = "") -> None:
        """Records a trial of which nothing more will come; `given_up` says why racing ended it."""
        told = [self._told(record) for record in records]
        self._queue.put(lambda: self._write_trial(proposal, told, summary, given_up))

    def _told(self, record: JobRecord) -> JobRecord:
        """A record as it may leave the study's folder."""
        return replace(record, error=self.study.error(record.error)) if record.error else record

    def close(self) -> None:
        """Writes all that is waiting, the ranks too, and marks unfinished trials as stopped."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        if not self.errors:
            self._try(self._write_ranks)
            for key, run in self._parents.items():
                if key not in self.finished:
                    self._try(partial(self.client.set_terminated, run, "KILLED"))

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
            if self._in_doubt:
                self._read()
                self._in_doubt = False
            task()
        except Exception as error:
            self._in_doubt = True
            if not self._complained:
                self._complained = True
                logger.warning(
                    "MLflow: %s; training goes on, and records are kept to be written later", first_line(error)
                )
            return first_line(error)
        self._complained = False
        return None

    def _begin_or_take_up(self) -> str:
        """The experiment, and what it holds by now.

        Raises:
            InputError: it is another study's, or somebody else's.
            HilbertError: MLflow doesn't answer.
        """
        try:
            self.experiment = self._experiment()
            check_location(self.client.tracking_uri, self.client.get_experiment(self.experiment).artifact_location)
            self.client.set_experiment_tag(self.experiment, NOTE, self.study.note)
            self._read()
        except HilbertError:
            raise
        except Exception as error:
            if getattr(error, "get_http_status_code", int)() == FORBIDDEN:
                raise InputError(
                    f"study {shown(self.study.name)}: MLflow at {self.client.tracking_uri} doesn't let you write to it,"
                    " since somebody else made it; let them grant you MANAGE, or give the study another name"
                ) from None
            raise HilbertError(f"MLflow at {self.client.tracking_uri}: {first_line(error)}") from None
        return self.experiment

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.study.name)
        if found is None:
            tags = {
                "hilbert.study": self.study.identity,
                "hilbert.objective": self.study.objective,
                "hilbert.tasks": json.dumps(list(self.study.tasks)),
            }
            return runs.create_experiment(self.client, self.study.name, tags)
        if found.lifecycle_stage != "active":
            raise InputError(
                f"study {shown(self.study.name)}: its MLflow experiment was deleted; restore it with"
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
        """Finds what is recorded; what was left half written, by an earlier process or a lost request, is deleted."""
        told = {key: found.summary for key, found in self.finished.items()}
        for known in (self._parents, self._done, self._failed, self._marked, self._taken_up, self.finished):
            known.clear()
        for run in search_runs(self.client, self.experiment, "tags.`hilbert.level` = 'trial'"):
            key = trial_key(run.data.tags)
            self._parents[key] = run.info.run_id
            if failed := run.data.tags.get(FAILED_FOLDS, ""):
                self._marked.add(key)
            if run.info.status in {"FINISHED", "FAILED"}:
                note = run.data.tags.get(NOTE, "")
                number = int(run.data.tags["hilbert.trial"])
                self.finished[key] = Noted(run.info.run_id, note, number, failed, told.get(key))
        names = {run_id: key for key, run_id in self._parents.items()}
        for run in search_runs(self.client, self.experiment, "tags.`hilbert.level` = 'fold'"):
            parent = names.get(run.data.tags.get("mlflow.parentRunId", ""))
            final = {"FINISHED", "FAILED"} if parent in self.finished else {"FINISHED"}  # a failed job may run again
            if run.info.status in final and parent:
                job = (parent, run.data.tags["hilbert.fold"])
                self._done.add(job)
                if run.info.status == "FAILED":
                    self._failed[job] = (run.info.run_id, run.info.start_time)
            else:
                self.client.delete_run(run.info.run_id)

    def _parent(self, proposal: Proposal, *, started: float) -> str:
        """The trial's run, made or taken up again when this process first needs it."""
        key = proposal_key(proposal)
        if key not in self._parents:
            name = f"t{proposal.number:03d} {proposal.configuration[:8]}"
            tags = {"hilbert.level": TRIAL, **self._tags(proposal)}
            self._parents[key] = runs.create_run(self.client, self.experiment, name, tags, started=started)
        if key not in self.finished and key not in self._taken_up:
            self._begin(self._parents[key], proposal)
        self._taken_up.add(key)
        return self._parents[key]

    def _begin(self, run: str, proposal: Proposal) -> None:
        """Writes what is known of a trial beforehand; said twice it is the same."""
        self.client.update_run(run, status="RUNNING")
        runs.log_batch(self.client, run, parameters=parameter_texts(proposal.parameters, self.study.logarithmic))
        fingerprint = self.study.fingerprints[proposal.store]
        profile = {"documents": len(self.study.groups), "splits": self.study.splits}
        runs.log_dataset(self.client, run, name=proposal.store, fingerprint=fingerprint, profile=profile)

    def _write_fold(self, proposal: Proposal, record: JobRecord) -> None:
        key = (proposal_key(proposal), str(record.fold))
        if key in self._failed and self._failed[key][1] != int(1000 * record.started):
            self._forget(key)
        parent = self._parent(proposal, started=record.started)
        if key in self._done:
            return
        tags = {
            "hilbert.level": FOLD,
            "hilbert.fold": str(record.fold),
            "hilbert.job": record.identity,
            "mlflow.parentRunId": parent,
            **self._tags(proposal),
        }
        name, ended = f"t{proposal.number:03d} f{record.fold:02d}", record.started + record.seconds
        run = runs.create_run(self.client, self.experiment, name, tags, started=record.started)
        runs.log_batch(self.client, run, fold_entries(record, self.study.tasks), at=ended)
        runs.log_files(self.client, run, lambda folder: self._write_fold_files(record, folder))
        self.client.set_terminated(run, "FAILED" if record.error else "FINISHED", end_time=int(1000 * ended))
        self._done.add(key)
        if record.error:
            self._failed[key] = (run, int(1000 * record.started))

    def _forget(self, key: tuple[str, str]) -> None:
        """Takes a failed fold job away that has run again."""
        self.client.delete_run(self._failed[key][0])
        del self._failed[key]
        self._done.discard(key)
        self._reopen(key[0])

    def _reopen(self, trial: str) -> None:
        """A trial that is recorded whole goes on, and is recorded anew at its end."""
        self.finished.pop(trial, None)
        self._taken_up.discard(trial)

    def _write_fold_files(self, record: JobRecord, folder: Path) -> None:
        if record.error:
            (folder / "error.txt").write_text(record.error, encoding="utf-8")
        else:
            self._predictions([record]).to_parquet(folder / "predictions.parquet", **CHECKED)

    def _write_trial(self, proposal: Proposal, records: Sequence[JobRecord], summary: Summary, given_up: str) -> None:
        started, key = min((record.started for record in records), default=time.time()), proposal_key(proposal)
        failed = ",".join(map(str, summary.failed))
        if key in self.finished and self.finished[key].failed != failed:  # its failed jobs have run again
            self._reopen(key)
        parent = self._parent(proposal, started=started)
        if key in self.finished:
            self.finished[key].summary = summary
            return
        for record in records:  # those that could not be written when they came in
            self._write_fold(proposal, record)
        done = [record for record in records if not record.error]
        tags = {}
        if summary.abandoned:
            tags["hilbert.abandoned"] = f"after {len(done)} folds{given_up and f': {given_up}'}"
        if failed or key in self._marked:
            tags[FAILED_FOLDS] = failed
            self._marked.add(key)
        noted = Noted(parent, "", proposal.number, failed, summary)
        ranks, of = self._ranks({**self.finished, key: noted})
        body = self._note_body(records, summary, tags.get("hilbert.abandoned", ""))
        noted.note = f"{rank_line(summary, self.study.objective, ranks.get(key), of)}\n\n{body}"
        ended = max((record.started + record.seconds for record in records), default=started)
        runs.log_batch(self.client, parent, trial_entries(summary), at=ended, tags={NOTE: noted.note, **tags})
        runs.log_files(self.client, parent, lambda folder: self._write_trial_files(proposal, done, folder))
        self.client.set_terminated(parent, "FAILED" if summary.objective is None else "FINISHED")
        self.finished[key] = noted

    def _note_body(self, records: Sequence[JobRecord], summary: Summary, given_up: str) -> str:
        study, done = self.study, [record for record in records if not record.error]
        kinds = {task: spec.kind for task, spec in study.tasks.items()}
        intervals = pooled_intervals(done, kinds, study.folds, study.groups)
        return trial_body(records, summary, intervals, folds=len(study.folds), given_up=given_up)

    def _write_trial_files(self, proposal: Proposal, done: Sequence[JobRecord], folder: Path) -> None:
        content = {"features": proposal.store, **proposal.config.model_dump(mode="json")}
        (folder / "configuration.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        if done:
            self._predictions(done).to_parquet(folder / "predictions.parquet", **CHECKED)
            (folder / "plots").mkdir()
            draw_trial(done, self.study.tasks, folder / "plots")

    def _predictions(self, records: Sequence[JobRecord]) -> pd.DataFrame:
        return predictions(records, self.study.tasks, id_key=self.study.id_key)

    def _write_study(self) -> None:
        """The files of the study as a whole."""
        runs.log_experiment_files(self.client, self.experiment, STUDY_FOLDER, self.study.write_files)

    def _ranks(self, trials: Mapping[str, Noted]) -> tuple[dict[str, int], int]:
        """Rank of each trial that has one, by the objective as recorded, then number; of how many configurations."""
        ranked = {
            key: (-round(found.summary.objective, DIGITS), found.number)
            for key, found in trials.items()
            if found.summary and found.summary.objective is not None and not found.summary.abandoned
        }
        best_first = dict.fromkeys(configuration_of(key) for key in sorted(ranked, key=ranked.__getitem__))
        places = {configuration: place for place, configuration in enumerate(best_first, start=1)}
        return {key: places[configuration_of(key)] for key in ranked}, len(places)

    def _write_ranks(self) -> None:
        """Brings the first line of every note up to date, and keeps what was added below it meanwhile."""
        ranks, of = self._ranks(self.finished)
        for key, found in self.finished.items():
            if found.summary is None:
                continue
            line = rank_line(found.summary, self.study.objective, ranks.get(key), of)
            if line != found.note.partition("\n")[0]:
                current = self.client.get_run(found.run).data.tags.get(NOTE, found.note)
                found.note = "\n".join([line, current.partition("\n")[2]])
                self.client.set_tag(found.run, NOTE, found.note)

    def _tags(self, proposal: Proposal) -> dict[str, str]:
        return {
            "hilbert.trial": str(proposal.number),
            "hilbert.config": proposal.configuration,
            "hilbert.splits": self.study.splits[:12],
            "hilbert.features": proposal.store,
            **({"hilbert.git": self.study.commit} if self.study.commit else {}),
        }

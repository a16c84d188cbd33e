"""A whole sweep: check everything, run fold jobs, tell the search, record, show.

`hilbert sweep study.yaml` and, on a cluster, `ray submit ray_cluster.yaml tune/sweep.py study.yaml` both end here.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hilbert.config import TaskConfig
from hilbert.errors import StoreError, StudyError
from hilbert.features import FeatureStore
from hilbert.folds import Fold, class_counts, make_folds, splits_hash
from hilbert.tasks import Labels, encode_labels
from tune import scheduling
from tune.archive import Archive
from tune.job import FoldJob, JobRecord, StudyData, job_identity
from tune.ledger import Ledger, Trial
from tune.progress import SweepProgress
from tune.search import Proposal, Search
from tune.selection import MEAN_AUC, summarise, undefined_tasks
from tune.space import Study
from tune.tracking import RecordedStudy, Recorder, connect, tracking_uri


@dataclass(frozen=True)
class Plan:
    """A study whose data has been looked at: all that is fixed before the first fold job.

    Attributes:
        study: the study file.
        data: stores and folds, as workers get them.
        labels: the tasks' labels.
    """

    study: Study
    data: StudyData
    labels: dict[str, Labels]

    def jobs(self, proposal: Proposal) -> list[FoldJob]:
        """The fold jobs of a proposal."""
        return [self.job(proposal, fold) for fold in range(len(self.data.folds))]

    def job(self, proposal: Proposal, fold: int) -> FoldJob:
        """One fold job of a proposal."""
        fingerprint = self.data.fingerprints[proposal.store]
        identity = job_identity(proposal.config, fold, fingerprint=fingerprint, splits=self.data.splits)
        return FoldJob(proposal.number, fold, proposal.config, proposal.store, identity)

    def task_configs(self) -> dict[str, TaskConfig]:
        """The tasks with their classes."""
        return {
            name: TaskConfig(kind=found.spec.kind, classes=found.spec.classes) for name, found in self.labels.items()
        }

    def description(self) -> dict[str, Any]:
        """What must stay the same for as long as the study goes on."""
        content = self.study.model_dump(mode="json")
        for name in ("trials", "resources", "storage", "tracking_uri", "features"):
            del content[name]
        return content | {"splits": self.data.splits[:12], "features": dict(self.data.fingerprints)}


def make_plan(study: Study) -> Plan:
    """Opens the stores, reads the labels, makes the folds.

    Raises:
        InputError: a store is damaged or lacks a modality, stores hold different documents, the labels don't fit the
            tasks, or a task that is maximised has no fold in which its AUC is defined.
    """
    stores = {name: _open(folder) for name, folder in study.stores.items()}
    first, *others = stores.values()
    for store in others:
        if not store.documents.equals(first.documents):
            raise StoreError(
                f"{store.folder}: holds other documents or labels than {first.folder}; extract both from one cohort"
            )
    labels = encode_labels(first.documents, study.tasks, source=str(first.folder / "documents.csv"))
    folds = make_folds(
        first.document_ids,
        labels,
        n_splits=study.folds.n_splits,
        repeats=study.folds.repeats,
        seed=study.folds.seed,
        groups=first.groups,
        inner_fraction=study.folds.inner_fraction,
    )
    _check_defined(study, labels, folds)
    data = StudyData(
        stores={name: str(store.folder) for name, store in stores.items()},
        fingerprints={name: store.fingerprint for name, store in stores.items()},
        folds=folds,
        splits=splits_hash(folds, first.document_ids),
    )
    return Plan(study, data, labels)


def _open(folder: str) -> FeatureStore:
    store = FeatureStore.open(folder)
    missing = [name for name in ("audio", "text") if getattr(store, name) is None]
    if missing:
        raise StoreError(
            f"{folder}: holds no {missing[0]} features, and HILBERT needs both; extract with --{missing[0]}"
        )
    return store


def _check_defined(study: Study, labels: dict[str, Labels], folds: Sequence[Fold]) -> None:
    kinds = {task: found.spec.kind for task, found in labels.items()}
    undefined = undefined_tasks(kinds, {task: found.values for task, found in labels.items()}, folds)
    wanted = [task for task in undefined if study.objective in {MEAN_AUC, task}]
    if wanted:
        raise StudyError(
            f"objective {study.objective}: no fold holds out every class of {wanted[0]!r}: its AUC is undefined"
            f" in all {len(folds)} folds; use larger ones (folds: {{n_splits: 5, repeats: 5}}) or objective: pooled_auc"
        )


def fold_report(plan: Plan) -> str:
    """How many held-out documents of each class every fold has, a line for each task and fold."""
    counts = class_counts(plan.data.folds, plan.labels)
    held_out = counts[counts["part"] == "held_out"]
    lines = []
    for task, labels in plan.labels.items():
        classes = labels.spec.classes
        table = held_out[held_out["task"] == task].pivot_table(index="fold", columns="class", values="documents")
        names = [classes[int(column)] if classes else column for column in table.columns]
        lines.append(f"{task}, held-out documents ({', '.join(names)}) by fold:")
        lines.append(
            "  "
            + "  ".join(
                f"{fold}: {'/'.join(f'{n:.0f}' for n in row)}"
                for fold, row in zip(table.index, table.to_numpy(), strict=True)
            )
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    Attributes:
        complete: whether all configurations have been tried; else it was interrupted.
        failed: trials with a failed fold.
        unrecorded: what MLflow refused.
        uri: where it is recorded.
    """

    complete: bool
    failed: Sequence[int]
    unrecorded: Sequence[str]
    uri: str


class Sweep:
    """Ties ledger, search, archive, recorder and progress together; the only place that knows them all."""

    def __init__(self, plan: Plan, archive: Archive, recorder: Recorder, console: Console) -> None:
        self.plan, self.archive, self.recorder, self.console = plan, archive, recorder, console
        self.search = Search(plan.study, archive.journal)
        self.kinds = {task: found.spec.kind for task, found in plan.labels.items()}
        self.failed: list[int] = []
        self.replaying = True
        self.ledger = Ledger(
            propose=self._propose,
            plan=plan.jobs,
            lookup=self._lookup,
            on_record=self._on_record,
            on_complete=self._on_complete,
        )

    def run(self) -> bool:
        """Runs what is left to do; returns whether that was everything."""
        study, folds = self.plan.study, len(self.plan.data.folds)
        self.console.print("starting Ray ...", style="dim")
        with scheduling.ray_cluster(study.resources):
            workers = scheduling.slots(study.resources)
            trials = max(study.trials, len(self.search.proposals()))
            self.progress = SweepProgress(
                jobs=trials * folds, trials=trials, objective=study.objective, workers=workers, console=self.console
            )
            with self.progress:
                self.ledger.open(self.search.proposals())
                self.replaying = False
                scheduling.run_ledger(self.ledger, self.plan.data, study.resources, workers)
        return self.ledger.finished

    def _propose(self) -> Proposal | None:
        return self.search.ask() if len(self.search.proposals()) < self.plan.study.trials else None

    def _lookup(self, job: FoldJob) -> JobRecord | None:
        return self.archive.load(job.identity, failed=self.search.told(job.trial))

    def _on_record(self, trial: Trial, record: JobRecord) -> None:
        if not self.replaying:
            self.archive.save(record)
        self.recorder.fold(trial.proposal, record)
        self.progress.job(failed=bool(record.error), fresh=not self.replaying)

    def _on_complete(self, trial: Trial) -> None:
        study, records = self.plan.study, list(trial.records.values())
        summary = summarise(records, self.kinds, self.plan.data.folds, study.objective)
        self.search.tell(trial.proposal.number, summary.objective)
        self.recorder.trial(trial.proposal, records, summary)
        self.progress.trial(trial.proposal, summary)
        if summary.failed:
            self.failed.append(trial.proposal.number)


def run_sweep(
    study: Study, *, uri: str | None = None, hash_ids: bool = False, console: Console | None = None
) -> Outcome:
    """Runs a study, or what an interrupted run of it left to do.

    Args:
        study: the study.
        uri: the tracking server or store, see `tune.tracking.tracking_uri`.
        hash_ids: replace document ids in the prediction artifacts by keyed hashes.
        console: where progress goes; stderr by default.

    Raises:
        InputError: the study doesn't fit its data, or has changed since it began.
    """
    console = console or Console(stderr=True)
    plan = make_plan(study)
    archive = Archive(Path(study.storage) / study.study)
    uri = tracking_uri(uri, study.tracking_uri)
    with archive.locked():
        archive.begin(plan.description())
        console.print(fold_report(plan), highlight=False, markup=False, soft_wrap=True)
        console.print(f"recording to {uri}", style="dim", highlight=False, soft_wrap=True)
        recorder = Recorder(_recorded(plan, archive, hash_ids), connect(uri))
        try:
            sweep = Sweep(plan, archive, recorder, console)
            complete = sweep.run()
        finally:
            recorder.close()
    return Outcome(complete, sweep.failed, recorder.errors, uri)


def _recorded(plan: Plan, archive: Archive, hash_ids: bool) -> RecordedStudy:
    key = archive.id_key() if hash_ids else None
    identity = hashlib.sha256(json.dumps(plan.description(), sort_keys=True).encode()).hexdigest()[:24]
    return RecordedStudy(
        plan.study.study, identity, plan.task_configs(), plan.data.splits, plan.study.objective, id_key=key
    )


if __name__ == "__main__":
    from tune.cli import main

    sys.exit(main(["sweep", *sys.argv[1:]]))

"""A study whose data has been looked at: stores, labels and folds, checked before anything runs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from hilbert.cells import ALIKE, told_counts, twins
from hilbert.config import TaskConfig
from hilbert.errors import StoreError, StudyError, shown
from hilbert.features import FeatureStore
from hilbert.folds import Defined, Fold, class_counts, defined_folds, make_folds, splits_hash
from hilbert.groups import read_groups, twin_groups
from hilbert.people import group_suspicion, twin_id_faults
from hilbert.store_files import DOCUMENTS
from hilbert.tasks import Labels, encode_labels
from tune.counting import check_defined, counting_lines
from tune.job import FoldJob, JobRecord, StudyData, job_identity
from tune.racing import fold_order
from tune.search import Proposal
from tune.space import Study
from tune.stores import full_location, open_verified

MAY_CHANGE = ("trials", "hours", "fold_jobs", "racing", "resources", "storage", "tracking_uri", "features")
"""Keys of the study file that may change while a study goes on; the features' contents may not."""


@dataclass(frozen=True)
class Plan:
    """A study whose data has been looked at: all that is fixed before the first fold job.

    Attributes:
        study: the study file.
        data: stores and folds, as workers get them.
        labels: the tasks' labels.
        documents: ids of all documents.
        groups: their groups; a document without one is a group of its own.
        notes: what is to be told of groups and columns before anything runs.
    """

    study: Study
    data: StudyData
    labels: dict[str, Labels]
    documents: Sequence[str]
    groups: Sequence[str]
    notes: Sequence[str] = ()

    @property
    def order(self) -> list[int]:
        """The order in which folds are handed out: the same for all configurations, so that pairs exist early."""
        return fold_order(len(self.data.folds), seed=self.study.folds.seed)

    def jobs(self, proposal: Proposal) -> list[FoldJob]:
        """The fold jobs of a proposal, in the order in which they run."""
        return [self.job(proposal, fold) for fold in self.order]

    def job(self, proposal: Proposal, fold: int) -> FoldJob:
        """One fold job of a proposal."""
        fingerprint = self.data.fingerprints[proposal.store]
        identity = job_identity(proposal.config, fold, fingerprint=fingerprint, splits=self.data.splits)
        return FoldJob(proposal.number, fold, proposal.config, proposal.store, identity)

    @cached_property
    def defined(self) -> dict[str, Defined]:
        """In which folds each task's numbers count."""
        return {
            task: defined_folds(found.values, len(found.spec.classes), self.data.folds)
            for task, found in self.labels.items()
        }

    def counted(self, record: JobRecord) -> JobRecord:
        """A fold job's record with the AUCs that count, whatever the version that wrote it says."""
        if record.error or record.stopped:
            return record
        auc = {task: value if self.defined[task].scored[record.fold] else None for task, value in record.auc.items()}
        untrained = [task for task, found in self.defined.items() if not found.trained[record.fold]]
        return replace(record, auc=auc, untrained=untrained)

    def misfit(self, job: FoldJob, record: JobRecord) -> str:
        """Why a record can't be that of a fold job of this study; empty where it can."""
        if record.fold != job.fold:
            return f"it is of fold {record.fold} instead of {job.fold}"
        if record.error:
            return ""
        rows = self.data.folds[job.fold].held_out
        if record.document_ids != [self.documents[row] for row in rows]:
            return "its held-out documents are others than those of the fold"
        for task, found in self.labels.items():
            labels = [None if value != value else value for value in found.values[rows].tolist()]
            widths = {*map(len, record.scores.get(task, [[]]))}
            if record.labels.get(task) != labels or widths != {found.spec.outputs} or task not in record.auc:
                return f"its labels or scores of {shown(task)} aren't those of the fold"
        return ""

    def task_configs(self) -> dict[str, TaskConfig]:
        """The tasks with their classes."""
        return {
            name: TaskConfig(kind=found.spec.kind, classes=found.spec.classes) for name, found in self.labels.items()
        }

    def description(self) -> dict[str, Any]:
        """What must stay the same for as long as the study goes on."""
        content = self.study.model_dump(mode="json")
        for name in MAY_CHANGE:
            del content[name]
        if not any(found.named for found in self.labels.values()):
            del content["missing_values"]  # it has no effect, and studies of earlier versions don't know it
        return content | {"splits": self.data.splits[:12], "features": dict(self.data.fingerprints)}


def make_plan(study: Study) -> Plan:
    """Opens the stores, downloading those that lie elsewhere; reads the labels, makes the folds.

    Raises:
        InputError: a store is damaged or lacks a modality, stores hold different documents, the labels don't fit the
            tasks, or a task that is maximised has no AUC that counts.
    """
    places = {name: full_location(location) for name, location in study.stores.items()}
    stores = {name: _open(location) for name, location in places.items()}
    (place, first), *others = zip(places.values(), stores.values(), strict=True)
    for other, store in others:
        if difference := _difference(store.documents, first.documents):
            raise StoreError(
                f"{other}: holds other documents or labels than {place}: {difference}; extract both from one cohort"
            )
    _check_distinct(stores)
    source = f"{place}/{DOCUMENTS}"
    _check_people(first, source)
    labels = encode_labels(first.documents, study.labels, source=source)
    folds = make_folds(
        first.document_ids,
        labels,
        n_splits=study.folds.n_splits,
        repeats=study.folds.repeats,
        seed=study.folds.seed,
        groups=first.groups,
        inner_fraction=study.folds.inner_fraction,
    )
    check_defined(study, labels, folds, first.groups)
    data = StudyData(
        stores=places,
        fingerprints={name: store.fingerprint for name, store in stores.items()},
        folds=folds,
        splits=_splits(folds, first.document_ids, labels),
        verified={path: one for store in stores.values() for path, one in store.known.items()},
    )
    return Plan(study, data, labels, first.document_ids, first.groups, tuple(_notes(first, labels)))


def _check_people(store: FeatureStore, source: str) -> None:
    """Refuses documents and groups that may be one: on both sides of a split, they would flatter every result."""
    faults = twin_id_faults(store.documents, source)
    cells = store.documents.get("group_id")
    if doubtful := None if cells is None else twin_groups(cells.tolist()):
        faults.append(f"{source}: group_id: {doubtful}")
    if faults:
        raise StoreError("\n  ".join([*faults[:20], "mend the cohort's documents.csv, and extract again"]))


def _splits(folds: Sequence[Fold], documents: Sequence[str], labels: Mapping[str, Labels]) -> str:
    """Hash of the folds; and of the labels, where they are not those that the cells as they are would give.

    The features' fingerprint covers the cells, but not what they are taken for.
    """
    found = splits_hash(folds, documents)
    read = {
        task: [None if value != value else value for value in one.values.tolist()]
        for task, one in labels.items()
        if not one.literal
    }
    return hashlib.sha256(json.dumps([found, read], sort_keys=True).encode()).hexdigest() if read else found


def _notes(store: FeatureStore, labels: Mapping[str, Labels]) -> list[str]:
    cells = store.documents.get("group_id")
    groups = None if cells is None else read_groups(cells.tolist())
    notes = [note for found in labels.values() for note in found.notes]
    if groups and groups.missing:
        notes.append(f"group_id: {told_counts(groups.missing)}: no group, each such document is one of its own")
    if groups and groups.merged:
        notes.append(f"group_id: {told_counts(groups.merged)}: the same groups as the plain numbers")
    if suspicion := None if groups is None else group_suspicion(groups.names):
        notes.append(suspicion)
    alike = [pair for pair in twins(map(str, store.documents.columns)) if set(pair) & set(labels)]
    return notes + [f"columns {' and '.join(map(shown, pair))} {ALIKE}" for pair in alike]


def _difference(here: pd.DataFrame, there: pd.DataFrame) -> str:
    """In what two tables of documents differ, the first of it; empty where they are the same."""
    names, others = list(here["document_id"]), list(there["document_id"])
    if alone := sorted(set(names) ^ set(others)):
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        return f"document {shown(alone[0])}{more} is only in {'the former' if alone[0] in set(names) else 'the latter'}"
    if names != others:
        row = next(row for row, (a, b) in enumerate(zip(names, others, strict=True)) if a != b)
        return f"the order differs: row {row + 1} is {shown(names[row])}, there {shown(others[row])}"
    if columns := sorted(set(here.columns) ^ set(there.columns)):
        return f"column {shown(columns[0])} is only in {'the former' if columns[0] in here.columns else 'the latter'}"
    for column in here.columns:
        mine, theirs = here[column], there[column]
        differs = (mine != theirs) & ~(mine.isna() & theirs.isna())
        if differs.any():
            row = int(differs.to_numpy().argmax())
            value, other = (shown(None if pd.isna(cell) else cell) for cell in (mine.iloc[row], theirs.iloc[row]))
            first = f"the first {shown(names[row])}: {value}, there {other}"
            return f"{int(differs.sum())} documents have another {column}, {first}"
    return ""


def _check_distinct(stores: Mapping[str, FeatureStore]) -> None:
    names: dict[str, str] = {}
    for name, store in stores.items():
        if (same := names.setdefault(store.fingerprint, name)) != name:
            raise StudyError(f"features: {shown(same)} and {shown(name)} hold the same features; name each store once")


def _open(location: str) -> FeatureStore:
    store = open_verified(location)
    missing = [name for name in ("audio", "text") if getattr(store, name) is None]
    if missing:
        raise StoreError(
            f"{location}: holds no {missing[0]} features, and HILBERT needs both; extract with --{missing[0]}"
        )
    return store


def label_report(plan: Plan) -> str:
    """What each task's labels are: classes with their counts or the range, missing ones by code, and what is odd."""
    lines = []
    for task, found in plan.labels.items():
        known = found.values[found.labelled]
        if found.spec.kind == "regression":
            what = f"{len(known)} labels from {known.min():g} to {known.max():g}"
        else:
            what = ", ".join(f"{_short(name)} {count}" for name, count in found.counts().items())
        codes = f" ({told_counts(found.missing)})" if found.missing else ""
        lines.append(f"{task} ({found.spec.kind}): {what}; missing {len(found.values) - len(known)}{codes}")
    return "\n".join([*lines, *(f"WARNING: {note}" for note in plan.notes)])


def _short(name: str) -> str:
    return shown(name)[1:-1]


def fold_report(plan: Plan) -> str:
    """How many held-out documents of each class every fold has, and in which folds each task's AUC counts."""
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
        lines += counting_lines(task, labels, plan.data.folds, plan.defined[task])
    return "\n".join(lines)

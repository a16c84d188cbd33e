"""The configuration that is to be released: which it is, what it is trained on, and what is known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hilbert.config import FitConfig
from hilbert.errors import HilbertError, InputError, StudyError, shown
from hilbert.folds import Fold
from hilbert.reading import Damaged, explained, first_fault
from hilbert.temporary import temporary_folder
from tune.archive import Archive
from tune.choice import Choice, by_hand, selected
from tune.contest import best_trial
from tune.evidence import Evidence, gather_evidence
from tune.job import JobRecord, open_store
from tune.plan import Plan, make_plan
from tune.privacy import ELSEWHERE
from tune.recorded import read_data
from tune.space import Study
from tune.study_file import load_study
from tune.tracking import FOLD, search_runs, study_files

Array = NDArray[np.float64]
Client = Any
"""An `mlflow.MlflowClient`; MLflow itself is not imported here."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A complete configuration of a study, with its data at hand.

    Attributes:
        evidence: the study's held-out predictions.
        plan: the study with its data.
        trial: number of the configuration.
        reason: why this one.
        run: its run in MLflow.
        config: the configuration.
        features: name of its feature store.
        best_epochs: of each fold.
    """

    evidence: Evidence
    plan: Plan
    trial: int
    reason: str
    run: str
    config: FitConfig
    features: str
    best_epochs: Sequence[int]

    @property
    def words(self) -> str:
        """What is released, in a sentence."""
        return f"t{self.trial:03d} of study {shown(self.evidence.study.name)}: {self.reason}"

    @property
    def folds(self) -> Sequence[Fold]:
        """All folds of the study."""
        return self.plan.data.folds

    @property
    def store(self) -> str:
        """Where its feature store lies: a folder, or a URL."""
        return self.plan.data.stores[self.features]

    @property
    def fingerprint(self) -> str:
        """What is in its feature store."""
        return self.plan.data.fingerprints[self.features]

    @property
    def epochs(self) -> int:
        """How long it is trained on all documents: the median of the folds' best epochs."""
        return max(1, round(float(np.median(self.best_epochs))))

    @property
    def scores(self) -> Mapping[str, Array]:
        """Its held-out predictions of each task, [R, N, C]."""
        row = self.evidence.row(self.trial)
        return {task: found[row] for task, found in self.evidence.scores.items()}

    def counted_scores(self, task: str) -> Array:
        """Those of a task that count, [R, N, C]; NaN where the fold's training part lacks a class."""
        counts = ~np.isnan(self.evidence.counted_labels(task)) | np.isnan(self.evidence.labels[task])
        return np.where(counts[..., None], self.scores[task], np.nan)

    @property
    def hashed(self) -> bool:
        """Whether the record of the study has hashes in the place of ids."""
        return set(self.evidence.documents).isdisjoint(self.plan.documents)

    def largest_difference(self, records: Sequence[JobRecord]) -> float:
        """How far the scores of fold jobs that were run again are from those recorded, at most."""
        worst = 0.0
        for record in records:
            fold = self.folds[record.fold]
            for task, scores in self.scores.items():
                again = np.array(record.scores[task], dtype=np.float64)
                worst = max(worst, float(np.abs(again - scores[fold.repeat, fold.held_out]).max(initial=0.0)))
        return worst

    def to_json(self) -> dict[str, Any]:
        """What a release says of where it comes from; no path, no document."""
        study, manifest = self.plan.study, open_store(self.store, self.fingerprint).manifest
        cohort = manifest["cohort"] or {}
        return {
            "study": study.study,
            "objective": study.objective,
            "trial": self.trial,
            "reason": self.reason,
            "run": self.run,
            "configuration": self.config.model_dump(mode="json"),
            "features": self.features,
            "fingerprint": self.fingerprint,
            "cohort": cohort.get("fingerprint"),
            **({"missing": cohort["missing"]} if cohort.get("missing") else {}),
            "splits": self.plan.data.splits,
            "folds": study.folds.model_dump(mode="json"),
            "documents": len(self.plan.documents),
            "groups": len(set(self.plan.groups)),
            "classes": {task: found.counts() for task, found in self.plan.labels.items()},
        }


def make_candidate(client: Client, study: str, trial: str | None, *, features: str | None = None) -> Candidate:
    """The chosen configuration of a study: `trial`, else the one that was selected, else the best.

    Args:
        client: of the tracking server or store.
        study: its name.
        trial: number or name of the configuration.
        features: where its feature store lies, if not where the study file says.

    Raises:
        InputError: there is no such study or trial, the trial isn't complete, or its data has changed or gone.
    """
    evidence = gather_evidence(client, study)
    choice = _choice(client, evidence, trial)
    number = choice.trial
    evidence.row(number)  # its predictions can be had
    content = evidence.configurations[number]
    config = _configuration(content, f"t{number:03d} of study {shown(study)}")
    plan = _plan(client, study, content["features"], features)
    run = str(evidence.study.trials.set_index("trial").loc[number, "run"])
    return Candidate(
        evidence, plan, number, choice.reasons, run, config, content["features"], _best_epochs(client, study, run)
    )


def _configuration(content: Mapping[str, Any], what: str) -> FitConfig:
    try:
        return FitConfig.model_validate({key: content[key] for key in FitConfig.model_fields})
    except ValidationError as error:
        raise InputError(f"{what}: its configuration.json in MLflow can't be used: {first_fault(error)}") from None


def _choice(client: Client, evidence: Evidence, trial: str | None) -> Choice:
    if trial is not None:
        return by_hand(evidence.study, trial).choice
    chosen = selected(client, evidence.study.name)
    if chosen is not None:
        return chosen
    best = best_trial(evidence)
    if best is None:
        raise InputError(
            f"study {shown(evidence.study.name)} has no complete configuration: there is nothing to release"
        )
    return Choice(best, "best", f"the best by {evidence.study.objective}, since nothing was chosen by 'hilbert select'")


def _plan(client: Client, name: str, store: str, folder: str | None) -> Plan:
    """The study with its data, which must be what the study was run on."""
    with temporary_folder() as beside:
        files = study_files(client, name, beside)
        if files is None:
            raise StudyError(f"study {shown(name)}: its artifacts lack the study file; 'hilbert sync {name}' writes it")
        study = _with_places(load_study(files / "study.yaml"), store, folder)
        with explained(
            f"study {shown(name)}: its data.json in MLflow", StudyError, f"'hilbert sync {name}' writes it anew"
        ):
            recorded = read_data(files / "data.json", whole=True)
            if store not in recorded["stores"]:
                raise Damaged(f"it has no feature store {shown(store)}")
    plan = make_plan(study)
    before = recorded["stores"][store]["fingerprint"]
    if plan.data.fingerprints[store] != before or plan.data.splits != recorded["folds"]["splits"]:
        raise StudyError(
            f"{plan.data.stores[store]}: its features, documents or labels have changed since the study {name!r} was"
            " run; --features names the place of the features that it was run on"
        )
    return plan


def _with_places(study: Study, store: str, folder: str | None) -> Study:
    """The study with the places of its features, which MLflow isn't told where ids are hashed."""
    hidden = [name for name, there in study.stores.items() if there.startswith(ELSEWHERE)]
    if hidden and hidden != [store if folder is not None else ""]:
        try:
            kept = Archive(Path(study.storage) / study.study).study_file()["features"]
        except HilbertError:
            raise StudyError(
                f"study {shown(study.study)}: where its features lie isn't recorded, since its ids are hashed, and"
                f" {Path(study.storage) / study.study} isn't here: run the command where the sweep was run, or name"
                " them with --features"
            ) from None
        study = study.model_copy(update={"features": kept})
    return study if folder is None else _with_features(study, store, folder)


def _with_features(study: Study, store: str, folder: str) -> Study:
    if isinstance(study.features, str):
        return study.model_copy(update={"features": folder})
    return study.model_copy(update={"features": {**study.features, store: folder}})


def _best_epochs(client: Client, study: str, run: str) -> list[int]:
    experiment = client.get_experiment_by_name(study).experiment_id
    found = search_runs(client, experiment, f"tags.`hilbert.level` = '{FOLD}' and tags.`mlflow.parentRunId` = '{run}'")
    epochs = [int(one.data.metrics["best_epoch"]) for one in found if "best_epoch" in one.data.metrics]
    if not epochs:
        raise StudyError(f"study {shown(study)}: MLflow lacks its fold jobs; 'hilbert sync {study}' writes them")
    return epochs

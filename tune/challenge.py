"""`--require-better`: whether a candidate is better than the present champion, on the same folds.

Where the champion's held-out predictions on these very folds are recorded, they are taken; else its configuration is
trained on the candidate's folds, on the feature store that has the champion's encoders. The decision is
`hilbert.metrics.promotion`, which allows for the candidate having been chosen among many on these very documents. The
corrected resampled t-test, which doesn't, is told beside it.

Shapes: R repeats, N documents, C outputs of a task, F folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError
from rich.console import Console

from hilbert.config import FitConfig
from hilbert.errors import HilbertError, InputError, StoreError, StudyError, shown
from hilbert.inference import check_encoders
from hilbert.metrics import Array, PairedTest, Promotion, corrected_resampled_ttest, promotion
from hilbert.reading import first_fault
from hilbert.release import Release
from hilbert.temporary import temporary_folder
from tune.bars import counted
from tune.candidate import Candidate
from tune.contest import differences
from tune.evidence import Evidence, gather_evidence
from tune.job import JobRecord, open_store
from tune.refit import Material, fit_folds
from tune.registry import Registered, fetch

Client = Any
"""An `mlflow.MlflowClient`; MLflow itself is not imported here."""
Predictions = Mapping[str, Array]
"""Held-out predictions of each task, [R, N, C]."""


@dataclass(frozen=True)
class Verdict:
    """A candidate against the champion.

    Attributes:
        candidate: number of its trial.
        champion: the registered version.
        promotion: the decision; None where nothing can be said.
        plain: the corrected resampled t-test over the folds, which doesn't allow for the choice.
        candidates: how many configurations the candidate was chosen among.
        again: whether the champion's configuration was trained again, on the candidate's folds.
    """

    candidate: int
    champion: Registered
    promotion: Promotion | None
    plain: PairedTest | None
    candidates: int
    again: bool

    @property
    def better(self) -> bool:
        """Whether the candidate is shown to be better."""
        return self.promotion is not None and self.promotion.better

    @property
    def words(self) -> str:
        """The numbers, in a sentence."""
        against = f"t{self.candidate:03d} against {self.champion.uri} on the same folds"
        found = self.promotion
        if found is None:
            return f"{against}: their AUCs can't be compared, too few documents are labelled"
        low, high = found.interval
        plain = "" if self.plain is None else f"; the plain corrected t-test over folds has p = {self.plain.p:.3g}"
        return (
            f"{against}: AUC {found.observed:+.4f}, and {found.corrected:+.4f} [{low:+.4f}, {high:+.4f}] without the"
            f" luck of being the best of {self.candidates} (p = {found.p:.3g}{plain}):"
            f" {'better' if self.better else 'not shown to be better'}"
        )

    def to_json(self) -> dict[str, Any]:
        """What a release says of it."""
        return {"champion": self.champion.uri, "verdict": self.words}


def challenge(client: Client, candidate: Candidate, present: Registered, console: Console) -> Verdict:
    """Compares a candidate with the champion on the candidate's folds.

    Args:
        client: of the tracking server or store.
        candidate: the candidate.
        present: the champion.
        console: where progress goes, if the champion's configuration must be trained.

    Raises:
        InputError: the champion predicts other tasks, or was trained on features that the study doesn't have.
    """
    with temporary_folder() as folder:
        release = Release.load(fetch(client, present.uri, folder))
    tasks = _tasks(candidate.evidence)
    absent = [task for task in tasks if task not in release.tasks]
    if absent:
        raise InputError(
            f"{present.uri} doesn't predict {absent[0]!r}, so that the two can't be compared; release under another"
            " --name, or without --require-better"
        )
    for task in tasks:
        if release.tasks[task].classes != candidate.evidence.tasks[task].classes:
            raise InputError(f"{present.uri} knows other classes of {shown(task)}; release under another --name")
    _check_made(release, present)
    recorded = _recorded(client, candidate.evidence, release.made)
    theirs = recorded or _trained(candidate, release, present, console)
    evidence, kept = candidate.evidence, candidate.evidence.choosable
    found = promotion(
        {task: evidence.labels[task] for task in tasks},
        {task: evidence.scores[task][kept] for task in tasks},
        {task: theirs[task] for task in tasks},
        {task: evidence.tasks[task].kind for task in tasks},
        candidate=kept.index(evidence.row(evidence.first(candidate.trial))),
        counted={task: found for task, found in evidence.counted.items() if task in tasks},
        groups=evidence.groups,
    )
    plain = corrected_resampled_ttest(
        _differences(evidence, candidate.scores, {task: theirs[task] for task in tasks}),
        test_fraction=1 / evidence.n_splits,
        repeats=evidence.repeats,
    )
    return Verdict(candidate.trial, present, found, plain, len(kept), again=recorded is None)


def _check_made(release: Release, present: Registered) -> None:
    """Whether a release says how it was made."""
    why = next((f"{key} is missing" for key in ("study", "trial", "run") if release.made.get(key) is None), "")
    try:
        FitConfig.model_validate(release.made.get("configuration"))
    except ValidationError as error:
        why = first_fault(error)
    if why:
        raise InputError(
            f"{present.uri}: its release.json doesn't say how it was made ({why}), so that the two can't be compared;"
            " release under another --name, or without --require-better"
        )


def _tasks(evidence: Evidence) -> list[str]:
    """The tasks that the objective speaks of."""
    objective = evidence.study.objective
    return [objective] if objective in evidence.tasks else list(evidence.tasks)


def _differences(evidence: Evidence, mine: Predictions, theirs: Predictions) -> list[float | None]:
    """By fold, the mean over the tasks that are defined there; None where none is."""
    first, second = evidence.aucs_by_fold(mine), evidence.aucs_by_fold(theirs)
    by_task = [differences(first[task], second[task]) for task in _tasks(evidence)]
    known = [[value for value in fold if value is not None] for fold in zip(*by_task, strict=True)]
    return [float(np.mean(values)) if values else None for values in known]


def _recorded(client: Client, evidence: Evidence, made: Mapping[str, Any]) -> Predictions | None:
    """The champion's predictions, if its study has the same documents, labels and folds, and is recorded here."""
    name, trial = made["study"], made["trial"]
    try:
        other = evidence if name == evidence.study.name else gather_evidence(client, name)
    except HilbertError:
        return None
    run = other.study.trials.set_index("trial")["run"].get(trial)
    same = (
        run == made["run"]
        and trial in other.trials
        and list(other.documents) == list(evidence.documents)
        and np.array_equal(other.fold_of, evidence.fold_of)
        and all(
            task in other.labels and np.array_equal(other.labels[task], evidence.labels[task], equal_nan=True)
            for task in _tasks(evidence)
        )
    )
    return {task: scores[other.row(trial)] for task, scores in other.scores.items()} if same else None


def _trained(candidate: Candidate, release: Release, present: Registered, console: Console) -> dict[str, Array]:
    """Predictions of the champion's configuration, trained on the candidate's folds."""
    config = FitConfig.model_validate(release.made["configuration"])
    data = candidate.plan.data
    for name, folder in data.stores.items():
        store = open_store(folder, data.fingerprints[name])
        try:
            check_encoders(release, store.encoders, where=folder)
        except StoreError:
            continue
        with counted(console, "folds of the champion's configuration", len(data.folds)) as report:
            records = fit_folds(Material(config, folder, data.fingerprints[name]), data.folds, report=report)
        return {task: _gathered(candidate, records, task) for task in release.tasks}
    raise StudyError(
        f"{present.uri} was trained on features of {_encoder_names(release)}, which the study doesn't have: the two"
        " can't be compared on the same folds; add that feature store to the study, or release without --require-better"
    )


def _gathered(candidate: Candidate, records: Sequence[JobRecord], task: str) -> Array:
    """The held-out predictions of all folds, [R, N, C]."""
    evidence, width = candidate.evidence, len(records[0].scores[task][0])
    gathered = np.full((evidence.repeats, len(evidence.documents), width), np.nan)
    for record in records:
        fold = candidate.folds[record.fold]
        gathered[fold.repeat, fold.held_out] = record.scores[task]
    return gathered


def _encoder_names(release: Release) -> str:
    return " and ".join(str(found.get("name")) for found in release.encoders.values())

"""`--require-better`: whether a candidate is better than the present champion, on the same folds.

Where the champion's held-out predictions on these very folds are recorded, they are taken; else its configuration is
trained on the candidate's folds, on the feature store that has the champion's encoders. The decision is
`hilbert.metrics.promotion`, which allows for the candidate having been chosen among many.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hilbert.config import FitConfig
from hilbert.errors import HilbertError, InputError, StoreError, StudyError
from hilbert.features import FeatureStore
from hilbert.inference import check_encoders
from hilbert.metrics import Promotion, promotion
from hilbert.release import Release
from tune.candidate import Candidate
from tune.evidence import Evidence, gather_evidence
from tune.refit import Material, fit_folds
from tune.registry import Registered, fetch

Client = Any
"""An `mlflow.MlflowClient`; MLflow itself is not imported here."""
Aucs = Mapping[str, Sequence[float | None]]
"""AUC of each task on each fold, [F]; None where undefined."""


@dataclass(frozen=True)
class Verdict:
    """A candidate against the champion.

    Attributes:
        candidate: number of its trial.
        champion: the registered version.
        promotion: the test.
        candidates: how many configurations the candidate was chosen among.
        again: whether the champion's configuration was trained again, on the candidate's folds.
    """

    candidate: int
    champion: Registered
    promotion: Promotion
    candidates: int
    again: bool

    @property
    def better(self) -> bool:
        """Whether the test supports that the candidate is better."""
        return self.promotion.better

    @property
    def words(self) -> str:
        """The numbers, in a sentence."""
        found = self.promotion
        against = f"t{self.candidate:03d} against {self.champion.uri} on the same folds"
        if found.test is None:
            return f"{against}: too few folds on which both have an AUC, nothing can be said"
        low, high = found.test.interval
        p, wilcoxon = (f"{value:.3g}" if value is not None else "none" for value in (found.p_adjusted, found.wilcoxon))
        return (
            f"{against}: AUC {found.test.difference:+.4f} [{low:+.4f}, {high:+.4f}] by the corrected resampled t-test,"
            f" p = {p} for the best of {self.candidates} (Wilcoxon {wilcoxon}):"
            f" {'better' if self.better else 'not shown to be better'}"
        )

    def to_json(self) -> dict[str, Any]:
        """What a release says of it."""
        return {"champion": self.champion.uri, "verdict": self.words}


def challenge(client: Client, candidate: Candidate, present: Registered, *, report: Callable[[int], None]) -> Verdict:
    """Compares a candidate with the champion on the candidate's folds.

    Args:
        client: of the tracking server or store.
        candidate: the candidate.
        present: the champion.
        report: called with the number of folds done, where the champion's configuration must be trained.

    Raises:
        InputError: the champion predicts other tasks, or was trained on features that the study doesn't have.
    """
    with tempfile.TemporaryDirectory(prefix="hilbert-") as folder:
        release = Release.load(fetch(client, present.uri, Path(folder)))
    tasks = _tasks(candidate.evidence)
    absent = [task for task in tasks if task not in release.tasks]
    if absent:
        raise InputError(
            f"{present.uri} doesn't predict {absent[0]!r}, so that the two can't be compared; release under another"
            " --name, or without --require-better"
        )
    recorded = _recorded(client, candidate.evidence, release.made)
    theirs = recorded or _trained(candidate, release, present, report)
    evidence = candidate.evidence
    mine = evidence.fold_aucs(candidate.trial)
    tried = len(evidence.study.trials)
    found = promotion(
        _differences(mine, theirs, tasks),
        candidates=tried,
        test_fraction=1 / evidence.n_splits,
        repeats=evidence.repeats,
    )
    return Verdict(candidate.trial, present, found, tried, again=recorded is None)


def _tasks(evidence: Evidence) -> list[str]:
    """The tasks that the objective speaks of."""
    objective = evidence.study.objective
    return [objective] if objective in evidence.tasks else list(evidence.tasks)


def _differences(mine: Aucs, theirs: Aucs, tasks: Sequence[str]) -> list[float | None]:
    """By fold, the mean over the tasks that both define there; None where there is none."""
    found: list[float | None] = []
    for fold in range(len(mine[tasks[0]])):
        pairs = [(mine[task][fold], theirs[task][fold]) for task in tasks]
        known = [a - b for a, b in pairs if a is not None and b is not None]
        found.append(float(np.mean(known)) if known else None)
    return found


def _recorded(client: Client, evidence: Evidence, made: Mapping[str, Any]) -> Aucs | None:
    """The champion's AUCs, if its study has the same documents, labels and folds, and is recorded here."""
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
    return other.fold_aucs(trial) if same else None


def _trained(
    candidate: Candidate, release: Release, present: Registered, report: Callable[[int], None]
) -> dict[str, list[float | None]]:
    """The AUCs of the champion's configuration, trained on the candidate's folds."""
    config = FitConfig.model_validate(release.made["configuration"])
    data = candidate.plan.data
    for name, folder in data.stores.items():
        store = FeatureStore.open(folder)
        try:
            check_encoders(release, store.encoders, where=folder)
        except StoreError:
            continue
        records = fit_folds(Material(config, folder, data.fingerprints[name]), data.folds, report=report)
        return {task: [record.auc[task] for record in records] for task in release.tasks}
    raise StudyError(
        f"{present.uri} was trained on features of {_encoder_names(release)}, which the study doesn't have: the two"
        " can't be compared on the same folds; add that feature store to the study, or release without --require-better"
    )


def _encoder_names(release: Release) -> str:
    return " and ".join(str(found.get("name")) for found in release.encoders.values())

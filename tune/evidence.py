"""All that a study has shown: every configuration's held-out predictions, read from MLflow alone.

What honest numbers are made of, such as the winner without the luck of its choice. Ids may be hashes.

Notation: M configurations, R repeats of cross-validation, F folds in all repeats, N documents, C classes (1 for a
regression). What a configuration hasn't run is NaN among scores, and None among values by fold.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilbert.config import TaskConfig
from hilbert.errors import InputError, shown
from hilbert.metrics import Array, BiasCorrected, auc, bbc_cv, pooled_auc
from hilbert.temporary import temporary_folder
from tune.design import Design, read_design
from tune.formats import in_runs
from tune.recorded import read_configuration, read_predictions
from tune.recount import counted_predictions, recounted
from tune.selection import is_whole, ran_on_every_fold
from tune.tracking import ReadStudy, first_line, read_study

Client = Any
"""An `mlflow.MlflowClient`; MLflow itself is not imported here."""
T = TypeVar("T")
Numbers = NDArray[np.int64]

CONFIGURATION, PREDICTIONS = "configuration.json", "predictions.parquet"
READERS = 8
"""Trials that are read at once from a server."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """All held-out predictions of a study.

    Attributes:
        study: its trials as MLflow has them.
        trials: numbers of the M configurations that have predictions, ascending; those that racing gave up and those
            with failed folds too.
        tasks: kind and classes.
        documents: N ids, as recorded.
        groups: N groups.
        repeats: R.
        folds: F.
        fold_of: [R, N], number of the fold in which a document is held out.
        labels: of each task [N], class number or value, NaN where missing.
        scores: of each task [M, R, N, C], NaN where a configuration has no prediction.
        configurations: of each trial: `features` (the store's name), `tasks`, `model`, `loss`, `train`, `seed`.
        missing: why the predictions of the other configurations can't be had, of those that should have some.
        counted: of each task [R, N], whether a prediction counts: not those of models that were trained without one of
            its classes, see `hilbert.folds.defined_folds`; a task that isn't there: all do.
    """

    study: ReadStudy
    trials: Sequence[int]
    tasks: Mapping[str, TaskConfig]
    documents: Sequence[str]
    groups: Sequence[str]
    repeats: int
    folds: int
    fold_of: Numbers
    labels: Mapping[str, Array]
    scores: Mapping[str, Array]
    configurations: Mapping[int, Mapping[str, Any]]
    missing: Mapping[int, str] = field(default_factory=dict)
    counted: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def counted_labels(self, task: str) -> Array:
        """Labels to score predictions by, [R, N]: NaN where one is missing, or the prediction doesn't count."""
        counts = self.counted.get(task, np.ones_like(self.fold_of, dtype=np.bool_))
        return np.where(counts, self.labels[task], np.nan)

    def row(self, trial: int) -> int:
        """Where a trial stands among the M.

        Raises:
            InputError: it has no predictions.
        """
        if trial not in self.trials:
            raise InputError(
                f"t{trial:03d} of study {shown(self.study.name)} has no predictions; these have: {named(self.trials)}"
            )
        return list(self.trials).index(trial)

    def untrained_folds(self, task: str) -> set[int]:
        """Numbers of the folds whose training part lacks a class of a task."""
        counts = self.counted.get(task)
        return set() if counts is None else set(np.unique(self.fold_of[~counts]).tolist())

    def fold_aucs(self, trial: int) -> dict[str, list[float | None]]:
        """AUC of each task on each fold, [F]; None where it doesn't count, or the fold isn't run."""
        if trial not in self._known_aucs:
            row = self.row(trial)
            self._known_aucs[trial] = self.aucs_by_fold({task: scores[row] for task, scores in self.scores.items()})
        return {task: list(values) for task, values in self._known_aucs[trial].items()}

    def aucs_by_fold(self, scores: Mapping[str, Array]) -> dict[str, list[float | None]]:
        """As `fold_aucs`, of any predictions of the study's documents on its folds: of each task [R, N, C]."""
        held_out = [np.flatnonzero(self.fold_of[self._repeat(fold)] == fold) for fold in range(self.folds)]
        return {
            task: [self._auc(task, of_task[self._repeat(fold), rows], fold, rows) for fold, rows in enumerate(held_out)]
            for task, of_task in scores.items()
        }

    def fold_scores(self, trial: int) -> list[float | None]:
        """What the objective means on one fold, [F]: the task's AUC, or the mean over the tasks that are defined there.

        As `tune.selection.fold_score`, which racing compares.
        """
        aucs = self.fold_aucs(trial)
        if self.study.objective in aucs:
            return aucs[self.study.objective]
        columns = zip(*aucs.values(), strict=True)
        known = [[value for value in column if value is not None] for column in columns]
        return [float(np.mean(values)) if values else None for values in known]

    def bias_corrected(self) -> BiasCorrected | None:
        """The winner's pooled AUC without the luck of the choice; its `winner` counts among `trials`.

        Configurations in which a fold failed are left out: they couldn't be chosen, whatever their numbers.
        None where no configuration is whole, or the objective is undefined; see `hilbert.metrics.bbc_cv`.
        """
        return self._bias_corrected

    @property
    def choosable(self) -> list[int]:
        """Rows among the M of the configurations that the winner was picked from: those without a failed fold.

        Each counts once, however many trials repeat it.
        """
        trials = self.study.trials.set_index("trial")
        possible = trials["status"].eq("FINISHED") & trials["failed_folds"].eq("")
        if "repeats" in trials:
            possible &= trials["repeats"].isna()
        return [row for row, trial in enumerate(self.trials) if possible[trial]]

    def first(self, trial: int) -> int:
        """The trial that counts for a trial's configuration: itself, unless it repeats another one's."""
        if "repeats" not in self.study.trials:
            return trial
        other = self.study.trials.set_index("trial")["repeats"].get(trial)
        return trial if other is None or pd.isna(other) else int(other)

    @property
    def choices(self) -> int:
        """How many configurations the winner was picked from."""
        return len(self.choosable)

    @property
    def n_splits(self) -> int:
        """Folds of a repeat."""
        return self.folds // self.repeats

    @cached_property
    def _bias_corrected(self) -> BiasCorrected | None:
        whole = is_whole(self.study.trials.set_index("trial"))
        if not any(whole[trial] for trial in self.trials):
            return None
        kept = self.choosable
        found = bbc_cv(
            self.labels,
            {task: scores[kept] for task, scores in self.scores.items()},
            {task: spec.kind for task, spec in self.tasks.items()},
            task=self.study.objective if self.study.objective in self.tasks else None,
            counted=self.counted,
            groups=self.groups,
        )
        return None if found is None else found._replace(winner=kept[found.winner])

    @cached_property
    def _known_aucs(self) -> dict[int, dict[str, list[float | None]]]:
        return {}

    def _repeat(self, fold: int) -> int:
        return fold // self.n_splits

    def pooled_aucs(self, trial: int, folds: Collection[int]) -> dict[str, float | None]:
        """AUC of each task's predictions on these folds together, of those that count."""
        row, parts = self.row(trial), [(self._repeat(k), self.fold_of[self._repeat(k)] == k) for k in folds]
        labels = {task: self.counted_labels(task) for task in self.tasks}
        return {
            task: pooled_auc(
                [labels[task][repeat, rows] for repeat, rows in parts],
                [self.scores[task][row, repeat][rows] for repeat, rows in parts],
                spec.kind,
                repeats=[repeat for repeat, _ in parts],
            )
            if parts
            else None
            for task, spec in self.tasks.items()
        }

    def _auc(self, task: str, scores: Array, fold: int, rows: Numbers) -> float | None:
        """AUC of the scores [n, C] of a fold's documents `rows`."""
        if np.isnan(scores).any():
            return None
        return auc(self.counted_labels(task)[self._repeat(fold), rows], scores, self.tasks[task].kind)


def named(trials: Sequence[int]) -> str:
    """Names of configurations for people: `t003, t005 to t012`."""
    return in_runs(trials, lambda trial: f"t{trial:03d}")


def trial_number(text: str) -> int | None:
    """14, t14 or t014 as a number; None for anything else."""
    found = re.fullmatch(r"[tT]?([0-9]{1,9})", text.strip())
    return int(found[1]) if found else None


def gather_evidence(client: Client, study: str) -> Evidence:
    """Reads a study's predictions, of all configurations of which nothing more will come.

    Raises:
        InputError: there is no such study here, its files aren't, or none of its configurations has predictions.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for every file
    found = read_study(client, study)
    design = read_design(client, found)
    trials = found.trials.reindex(columns=["trial", "run", "status", "cv/folds_done"])
    ended = trials[trials["status"].isin(["FINISHED", "FAILED"]) & (trials["cv/folds_done"] > 0)]
    runs = dict(zip(ended["trial"].tolist(), ended["run"], strict=True))
    workers = READERS if str(client.tracking_uri).startswith("http") else 1  # a file is read no faster by many
    with ThreadPoolExecutor(workers) as pool:
        read = dict(zip(runs, pool.map(partial(_read_trial, client), runs.values()), strict=True))

    missing = {trial: one for trial, one in read.items() if isinstance(one, str)}
    labels = {task: np.full(len(design.documents), np.nan) for task in design.tasks}
    shown: dict[int, dict[str, Array]] = {}
    configurations: dict[int, Mapping[str, Any]] = {}
    for trial, one in read.items():
        if isinstance(one, str):
            continue
        try:
            shown[trial] = _scores(one.predictions, design, labels)
            configurations[trial] = one.configuration
        except ValueError as error:
            missing[trial] = f"{PREDICTIONS} {error}"
    if not shown:
        raise InputError(_nothing(client, found, missing))
    return _recounted(
        Evidence(
            study=found,
            trials=list(shown),
            tasks=design.tasks,
            documents=design.documents,
            groups=design.groups,
            repeats=len(design.fold_of),
            folds=design.folds,
            fold_of=design.fold_of,
            labels=labels,
            scores={task: np.stack([one[task] for one in shown.values()]) for task in design.tasks},
            configurations=configurations,
            missing=dict(sorted(missing.items())),
            counted=counted_predictions(
                design.tasks, labels, design.parts, design.fold_of, seen=_seen(shown, design), totals=design.totals
            ),
        )
    )


def _seen(shown: Mapping[int, Mapping[str, Array]], design: Design) -> NDArray[np.bool_]:
    """[N], which documents are held out in a fold that some configuration ran."""
    found = np.zeros(len(design.documents), dtype=np.bool_)
    for scores in shown.values():
        found |= (~np.isnan(next(iter(scores.values()))).any(2)).any(0)
    return found


def _recounted(made: Evidence) -> Evidence:
    """With the trials' means of what counts, whatever the version that recorded them says."""
    if all(flags.all() for flags in made.counted.values()):
        return made
    whole = ran_on_every_fold(made.study.trials.set_index("trial"))
    trials = [trial for trial in made.trials if whole[trial]]
    aucs = {trial: made.fold_aucs(trial) for trial in trials}
    pooled = {trial: made.pooled_aucs(trial, range(made.folds)) for trial in trials}
    return replace(made, study=replace(made.study, trials=recounted(made.study.trials, aucs, pooled)))


def _nothing(client: Client, study: ReadStudy, missing: Mapping[int, str]) -> str:
    """Why there are no predictions at all."""
    if not missing:
        return (
            f"study {study.name!r} has no configuration yet of which predictions are recorded; 'hilbert sweep' goes on "
            "with it"
        )
    trial, why = next(iter(missing.items()))
    where = client.get_experiment_by_name(study.name).artifact_location
    return (
        f"study {study.name!r}: the held-out predictions of none of its {len(missing)} configurations can be had from "
        f"{where} (t{trial:03d}: {why}); the artifacts must be within reach of this computer"
    )


# ---- one trial -------------------------------------------------------------------------------------------------------


class _Trial(NamedTuple):
    configuration: Mapping[str, Any]
    predictions: pd.DataFrame


def _read_trial(client: Client, run: str) -> _Trial | str:
    """A trial's artifacts, or why they can't be had."""
    name = CONFIGURATION
    with temporary_folder() as folder:
        try:
            configuration = read_configuration(Path(client.download_artifacts(run, name, str(folder))))
            name = PREDICTIONS
            table = read_predictions(Path(client.download_artifacts(run, name, str(folder))))
            return _Trial(configuration, table)
        except Exception as error:  # whatever the artifact store raises: the others may be there
            return f"{name}: {first_line(error)}"


def _scores(table: pd.DataFrame, design: Design, labels: Mapping[str, Array]) -> dict[str, Array]:
    """A trial's scores, of each task [R, N, C]; labels that weren't known are written into `labels`.

    Raises:
        ValueError: the table isn't one of this study's predictions. Nothing has been written then.
    """
    absent = {"document_id", "fold", "task", "label", "class", "score"} - set(table.columns)
    if absent:
        raise ValueError(f"has no column {shown(min(absent))}")
    parts = {task: _part(table[table["task"] == task], task, design) for task in design.tasks}
    for task, (_, known) in parts.items():
        both = ~np.isnan(known) & ~np.isnan(labels[task])
        if (known[both] != labels[task][both]).any():
            raise ValueError(f"has other labels of {shown(task)} than the trials before")
    for task, (_, known) in parts.items():
        np.copyto(labels[task], known, where=np.isnan(labels[task]))
    return {task: scores for task, (scores, _) in parts.items()}


def _part(table: pd.DataFrame, task: str, design: Design) -> tuple[Array, Array]:
    """Scores [R, N, C] and labels [N] of one task of a trial."""
    spec, repeats = design.tasks[task], len(design.fold_of)
    document = pd.Index(design.documents).get_indexer(pd.Index(table["document_id"]))
    place = pd.Index(spec.classes or [""]).get_indexer(pd.Index(table["class"]))
    fold = table["fold"].to_numpy(dtype=np.int64)
    repeat = fold // (design.folds // repeats)
    values = table["score"].to_numpy(dtype=np.float64)
    if (document < 0).any() or (place < 0).any():
        raise ValueError(f"names documents or classes of {shown(task)} that the study's files don't")
    if ((fold < 0) | (fold >= design.folds)).any() or (design.fold_of[repeat, document] != fold).any():
        raise ValueError("holds other documents in a fold than study/splits.csv says")
    scores = np.full((repeats, len(design.documents), spec.outputs), np.nan)
    scores[repeat, document, place] = values
    if not np.isfinite(values).all() or np.isfinite(scores).sum() != len(values):
        raise ValueError(f"has a score of {shown(task)} twice, or one that is no number")
    if (np.isnan(scores).any(2) != np.isnan(scores).all(2)).any():
        raise ValueError(f"lacks some classes of {shown(task)}")
    labels = np.full(len(design.documents), np.nan)
    known = table["label"].notna().to_numpy()
    labels[document[known]] = _numbers(table["label"][known], spec)
    return scores, labels


def _numbers(texts: "pd.Series[str]", spec: TaskConfig) -> Array:
    if not spec.classes:
        return texts.to_numpy(dtype=np.float64)
    found = pd.Index(spec.classes).get_indexer(pd.Index(texts)).astype(np.float64)
    if (found < 0).any():
        raise ValueError("has a label that is no class of the study")
    return found

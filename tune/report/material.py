"""What a report is made of: everything that MLflow has of a study, read once.

What an older study did not record, or what can't be had, is None, and its section says so.
"""

import json
import logging
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from hilbert.errors import InputError
from hilbert.spreadsheets import read_csv
from hilbert.temporary import temporary_folder
from tune.choice import Choice, selected
from tune.comparison import PARAMS, parameter_columns, ranking
from tune.entries import parameter_text
from tune.evidence import CONFIGURATION, PREDICTIONS, Evidence, gather_evidence
from tune.formats import log_name
from tune.recorded import read_data, read_object, read_predictions
from tune.report.predicted import Predicted, by_task, of_trial, untrained_folds, without_folds
from tune.selection import objective_metric
from tune.space import Choices, Parameter, Parameters, Range, Study, Value
from tune.study_file import load_study
from tune.tracking import FOLD, ReadStudy, read_study, search_runs, study_files

Data = Mapping[str, Any]
T = TypeVar("T")
logger = logging.getLogger(__name__)
Client = Any
"""An `mlflow.MlflowClient`; MLflow itself is not imported here."""
MOST_ERRORS = 50
"""Tracebacks that are fetched to name the kind of error."""


@dataclass(frozen=True)
class StudyFiles:
    """The files that a sweep leaves beside its runs, each None where it isn't there.

    Attributes:
        text: the study file.
        study: the study file, read; None too where this version of HILBERT can't read it.
        versions: command, packages, machine.
        data: documents, classes, stores, folds.
        splits: one row a document: `document_id`, `group_id`, and for each fold `fold_<k>` its part.
        counts: `fold`, `part`, `task`, `class`, `documents`.
    """

    text: str | None = None
    study: Study | None = None
    versions: Data | None = None
    data: Data | None = None
    splits: pd.DataFrame | None = None
    counts: pd.DataFrame | None = None


@dataclass(frozen=True)
class Material:
    """All that is known of a study.

    Attributes:
        study: its trials.
        ranking: as `hilbert compare` has it, best first; without trials that repeat another one's configuration.
        jobs: one row a fold job: `trial`, `fold`, `status`, `started`, `ended` (seconds since 1970), `seconds`,
            `gpu_seconds`, `error` (the kind of it), and for each task `<task>/auc`; NaN where undefined.
        winner: the first of the ranking; None where no configuration is whole.
        configuration: the winner's configuration, as text.
        predicted: the winner's held-out predictions by task.
        files: the study's files.
        untrained: of each task, numbers of the folds whose training part lacks a class: they count nowhere.
        evidence: all configurations' held-out predictions; None where they can't be had.
        selected: what `hilbert select` chose; None where it chose nothing.
    """

    study: ReadStudy
    ranking: pd.DataFrame
    jobs: pd.DataFrame
    winner: "pd.Series[Any] | None"
    configuration: str | None
    predicted: Mapping[str, Predicted]
    files: StudyFiles
    untrained: Mapping[str, Collection[int]] = field(default_factory=dict)
    evidence: Evidence | None = None
    selected: Choice | None = None

    @property
    def no_evidence(self) -> str:
        """Why there is no evidence; errors' own words stay out, since they may name folders or documents."""
        if self.files.splits is None or self.files.data is None:
            return (
                "the study's splits and data are not recorded with it, or can't be had"
                f" ('hilbert sync {self.study.name}' records them, where the sweep ran)"
            )
        return "the configurations' held-out predictions can't be had from MLflow, or don't fit the study's splits"

    @property
    def folds(self) -> list[int]:
        """Numbers of all folds: as the study file says, else those that were seen."""
        if self.files.data is not None:
            folds = self.files.data["folds"]
            return list(range(folds["n_splits"] * folds.get("repeats", 1)))
        return list(range(int(self.jobs["fold"].max()) + 1)) if len(self.jobs) else []

    @property
    def space(self) -> dict[str, Parameter]:
        """What was searched: as the study file says, else as the values look."""
        if self.files.study is not None:
            return dict(self.files.study.parameters)
        frame = self.study.trials
        return {
            name.removeprefix(PARAMS): _guessed(frame[name].dropna(), log=log_name(name) in frame)
            for name in parameter_columns(frame)
        }

    def values(self) -> list[tuple["pd.Series[Any]", Parameters, float]]:
        """Configurations with a value of the objective, the estimates of those that racing gave up included."""
        space, column, found = self.space, objective_metric(self.study.objective), []
        for _, row in self.ranking.iterrows():
            value = row["cv/auc_corrected"] if row["abandoned"] else row[column]
            texts = {name: row.get(PARAMS + name) for name in space}
            if (row["abandoned"] or pd.notna(row["rank"])) and not any(map(pd.isna, [value, *texts.values()])):
                found.append(
                    (row, {name: parsed(space[name], str(text)) for name, text in texts.items()}, float(value))
                )
        return found


def parsed(parameter: Parameter, text: str) -> Value:
    """A parameter's value from its text in MLflow."""
    if isinstance(parameter, Range):
        return float(text)
    return next((choice for choice in parameter.choices if text in {parameter_text(choice), str(choice)}), text)


def _guessed(texts: "pd.Series[str]", *, log: bool) -> Parameter:
    try:
        numbers = sorted({float(text) for text in texts})
    except ValueError:
        numbers = []
    if len(numbers) > 1 and all(map(math.isfinite, numbers)):
        return Range(low=numbers[0], high=numbers[-1], log=log and numbers[0] > 0)
    return Choices(choices=sorted(set(texts)) or [""])


def gather(client: Client, name: str) -> Material:
    """Reads a study.

    Raises:
        InputError: there is no such study.
    """
    study, evidence = _evidence(client, name)
    everyone = ranking(study)
    ranked = everyone[everyone["repeats"].isna()].reset_index(drop=True)
    winner = ranked.iloc[0] if len(ranked) and pd.notna(ranked.iloc[0]["rank"]) else None
    experiment = client.get_experiment_by_name(name).experiment_id
    files = _files(client, name)
    predicted: Mapping[str, Predicted] = {}
    configuration = None
    with temporary_folder() as folder:
        if winner is not None:
            predicted, configuration = _of_winner(client, winner, study, evidence, files, folder)
        jobs = _jobs(client, experiment, study, folder)
    untrained = _untrained(evidence, predicted, files.splits)
    for task, folds in untrained.items():
        jobs.loc[jobs["fold"].isin(folds), f"{task}/auc"] = math.nan  # an older version may have recorded one
    predicted = {task: without_folds(found, untrained.get(task, ())) for task, found in predicted.items()}
    chosen = _selected(client, name)
    return Material(study, ranked, jobs, winner, configuration, predicted, files, untrained, evidence, chosen)


def _untrained(
    evidence: Evidence | None, predicted: Mapping[str, Predicted], splits: pd.DataFrame | None
) -> dict[str, set[int]]:
    if evidence is not None:
        return {task: evidence.untrained_folds(task) for task in evidence.tasks}
    if splits is None:
        return {}
    return {task: untrained_folds(found, splits) for task, found in predicted.items()}


def _evidence(client: Client, name: str) -> tuple[ReadStudy, Evidence | None]:
    try:
        evidence = gather_evidence(client, name)
    except Exception as error:  # whatever the artifact store raises: the report is made of what there is
        study = read_study(client, name)
        logger.warning("the report has no bias-corrected numbers and no tests: %s", error)
        return study, None
    return evidence.study, evidence


def _selected(client: Client, name: str) -> Choice | None:
    try:
        return selected(client, name)
    except InputError as error:  # it is gone
        logger.warning("%s", error)
        return None


def _of_winner(
    client: Client,
    winner: "pd.Series[Any]",
    study: ReadStudy,
    evidence: Evidence | None,
    files: StudyFiles,
    folder: Path,
) -> tuple[Mapping[str, Predicted], str | None]:
    """The winner's predictions and configuration: from the evidence, else from its own artifacts."""
    number = int(winner["trial"])
    if evidence is not None and number in evidence.trials:
        return of_trial(evidence, number), json.dumps(evidence.configurations[number], indent=2)
    table = _artifact(client, winner["run"], PREDICTIONS, folder, read_predictions)
    configuration = _artifact(client, winner["run"], CONFIGURATION, folder, _text)
    return {} if table is None else by_task(table, study.tasks, _groups(files.splits)), configuration


def _jobs(client: Client, experiment: str, study: ReadStudy, folder: Path) -> pd.DataFrame:
    """The fold jobs of the trials that there are."""
    runs = search_runs(client, experiment, f"tags.`hilbert.level` = '{FOLD}'")
    parents = set(study.trials.loc[study.trials["repeats"].isna(), "run"])  # others show the same fold jobs again
    rows: list[dict[str, Any]] = []
    for run in runs:
        if run.data.tags.get("mlflow.parentRunId") not in parents:
            continue
        failed, metrics = run.info.status == "FAILED", run.data.metrics
        fetch = failed and sum(bool(row["error"]) for row in rows) < MOST_ERRORS
        rows.append(
            {
                "trial": int(run.data.tags["hilbert.trial"]),
                "fold": int(run.data.tags["hilbert.fold"]),
                "status": run.info.status,
                "started": run.info.start_time / 1000,
                "ended": (run.info.end_time or run.info.start_time) / 1000,
                "seconds": metrics.get("cost/seconds", math.nan),
                "gpu_seconds": metrics.get("cost/gpu_seconds", math.nan),
                "error": _kind_of_error(client, run.info.run_id, folder) if fetch else "",
                **{f"{task}/auc": metrics.get(f"{task}/auc", math.nan) for task in study.tasks},
            }
        )
    columns = ["trial", "fold", "status", "started", "ended", "seconds", "gpu_seconds", "error"]
    frame = pd.DataFrame(rows, columns=[*columns, *(f"{task}/auc" for task in study.tasks)])
    return frame.sort_values(["trial", "fold"], ignore_index=True)


def _kind_of_error(client: Client, run: str, folder: Path) -> str:
    """The exception's name alone: its message may name documents."""
    lines = (_artifact(client, run, "error.txt", folder, _text) or "").strip().splitlines()
    found = re.match(r"(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?::|$)", lines[-1]) if lines else None
    return found[1] if found else "see error.txt"


def _artifact(client: Client, run: str, name: str, folder: Path, read: Callable[[Path], T]) -> T | None:
    """Reads an artifact of a run; None where it isn't there, or can't be had."""
    target = folder / run
    target.mkdir(exist_ok=True)
    try:
        return read(Path(client.download_artifacts(run, name, str(target))))
    except Exception:  # whatever the artifact store raises: the report is made of what there is
        return None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _files(client: Client, name: str) -> StudyFiles:
    with temporary_folder() as beside:
        try:
            folder = study_files(client, name, beside)
        except Exception:  # as in `_artifact`
            folder = None
        return StudyFiles() if folder is None else _read(folder)


def _read(folder: Path) -> StudyFiles:
    def read(file: str, reader: Callable[[Path], Any]) -> Any:
        try:
            return reader(folder / file)
        except (OSError, ValueError):
            return None

    return StudyFiles(
        text=read("study.yaml", _text),
        study=read("study.yaml", _study),
        versions=read("versions.json", read_object),
        data=read("data.json", lambda path: read_data(path, whole=True)),
        splits=read("splits.csv", read_csv),
        counts=read("fold_counts.csv", _counts),
    )


def _counts(path: Path) -> pd.DataFrame:
    found = read_csv(path)
    if not {"fold", "part", "task", "class", "documents"} <= set(found.columns):
        raise ValueError("lacks a column")
    return found.astype({"fold": int, "documents": int})


def _study(path: Path) -> Study | None:
    try:
        return load_study(path)
    except InputError:
        return None


def _groups(splits: pd.DataFrame | None) -> dict[str, str] | None:
    if splits is None or not {"document_id", "group_id"} <= set(splits.columns):
        return None
    return dict(zip(splits["document_id"], splits["group_id"], strict=True))

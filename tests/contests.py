"""Studies with all their held-out predictions, made up: in memory, and the same written into MLflow."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recorded import Recorded, Trial, record, study_files

from hilbert.config import FitConfig, TaskConfig
from hilbert.metrics import mean_and_se, pooled_auc
from tune.evidence import Evidence
from tune.tracking import ReadStudy

TASKS = {
    "affect": TaskConfig(kind="binary", classes=("no", "yes")),
    "kind": TaskConfig(kind="multiclass", classes=("b", "a", "c")),
    "age": TaskConfig(kind="regression"),
}
UNLABELLED = 0
"""The document without any label."""


def configuration(tasks: Mapping[str, TaskConfig] = TASKS, **sections: Any) -> dict[str, Any]:
    """The content of configuration.json."""
    config = FitConfig(tasks={name: spec.kind for name, spec in tasks.items()}, **sections)
    return {"features": "features", **config.model_dump(mode="json")}


def make(
    skills: Sequence[float],
    *,
    tasks: Mapping[str, TaskConfig] = TASKS,
    documents: int = 40,
    n_splits: int = 5,
    repeats: int = 1,
    group: int = 1,
    objective: str = "mean_auc",
    abandoned: Mapping[int, Collection[int]] | None = None,
    failed: Mapping[int, Collection[int]] | None = None,
    configurations: Mapping[int, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> Evidence:
    """A study whose configurations are as good as `skills` says, 0 for chance.

    Args:
        skills: of each configuration.
        tasks: its tasks.
        documents: N; the one numbered `UNLABELLED` has no label.
        n_splits: folds of a repeat.
        repeats: R.
        group: documents in a group.
        objective: what it maximises.
        abandoned: the folds that racing let run, of the configurations that it gave up.
        failed: the folds that failed, of configurations in which one did.
        configurations: what is configured; the defaults where left out.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    folds = n_splits * repeats
    fold_of = np.array([rng.permutation(documents) % n_splits + repeat * n_splits for repeat in range(repeats)])
    labels, scores = {}, {}
    for name, spec in tasks.items():
        outputs = spec.outputs
        truth = rng.permutation(documents) % outputs if spec.classes else rng.normal(50, 10, documents).round(2)
        signal = truth[:, None] == np.arange(outputs) if spec.classes else (truth[:, None] - 50) / 10
        noise = rng.normal(0, 1, (len(skills), repeats, documents, outputs))
        made = np.array(skills)[:, None, None, None] * signal + noise
        scores[name] = np.exp(made) / np.exp(made).sum(3, keepdims=True) if spec.classes else made
        labels[name] = truth.astype(np.float64)
        labels[name][UNLABELLED] = np.nan
    absent = {number: set(range(folds)) - set(ran) for number, ran in (abandoned or {}).items()} | dict(failed or {})
    for number, gone in absent.items():
        for values in scores.values():
            values[number][np.isin(fold_of, list(gone))] = np.nan
    known = {number: configuration(tasks) for number in range(len(skills))} | dict(configurations or {})
    bare = ReadStudy("made", objective, list(tasks), pd.DataFrame())
    names = [f"secret{number:03d}" for number in range(documents)]
    groups = [f"g{number // group}" for number in range(documents)]
    numbers = list(range(len(skills)))
    made = Evidence(bare, numbers, tasks, names, groups, repeats, folds, fold_of, labels, scores, known)
    rows = [_row(made, number, abandoned or {}, failed or {}) for number in numbers]
    study = ReadStudy("made", objective, list(tasks), pd.DataFrame(rows))
    return Evidence(study, numbers, tasks, names, groups, repeats, folds, fold_of, labels, scores, known)


def _row(made: Evidence, number: int, abandoned: Collection[int], failed: Mapping[int, Collection[int]]) -> dict:
    """What MLflow has of a trial."""
    aucs = made.fold_aucs(number)
    done = len(ran(made, number))
    row: dict[str, Any] = {
        "trial": number,
        "run": f"run{number}",
        "status": "FAILED" if number in failed else "FINISHED",
        "failed_folds": ",".join(map(str, failed.get(number, []))),
        "abandoned": f"after {done} folds" if number in abandoned else "",
        "cv/folds_done": float(done),
        "cost/seconds": 1.0,
    }
    if number in abandoned:
        return row | {"cv/auc_corrected": 0.5}
    if number in failed:
        return row
    for task, values in aucs.items():
        mean, error, counted = mean_and_se(values)
        row |= {f"{task}/auc_mean": mean, f"{task}/auc_se": error, f"{task}/auc_folds": counted}
        row[f"{task}/auc_pooled"] = pooled(made, number, task)
    for part in ("mean", "pooled"):
        row[f"cv/auc_{part}"] = np.mean([row[f"{task}/auc_{part}"] for task in aucs])
    row["cv/auc_se"] = mean_and_se(made.fold_scores(number)).standard_error
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def ran(made: Evidence, number: int) -> list[int]:
    """The folds that a configuration has run."""
    has = ~np.isnan(next(iter(made.scores.values()))[number]).any(2)
    return [int(fold) for fold in np.unique(made.fold_of[has])]


def pooled(made: Evidence, number: int, task: str) -> float | None:
    """A task's pooled AUC, from the definition."""
    parts = [(repeat, made.fold_of[repeat] == fold) for repeat in range(made.repeats) for fold in range(made.folds)]
    parts = [(repeat, rows) for repeat, rows in parts if rows.any()]
    return pooled_auc(
        [made.labels[task][rows] for _, rows in parts],
        [made.scores[task][number, repeat][rows] for repeat, rows in parts],
        made.tasks[task].kind,
        repeats=[repeat for repeat, _ in parts],
    )


def table(made: Evidence, number: int) -> pd.DataFrame:
    """A configuration's predictions as `tune.predictions` has them."""
    rows = []
    for task, spec in made.tasks.items():
        for repeat in range(made.repeats):
            for row, name in enumerate(made.documents):
                values = made.scores[task][number, repeat, row]
                label = made.labels[task][row]
                shown = None if np.isnan(label) else spec.classes[int(label)] if spec.classes else f"{label:g}"
                if not np.isnan(values).any():
                    fold = made.fold_of[repeat, row]
                    rows += [(name, fold, task, shown, c, s) for c, s in zip(spec.classes or [""], values, strict=True)]
    return pd.DataFrame(rows, columns=["document_id", "fold", "task", "label", "class", "score"])


def write(made: Evidence, folder: Path, *, tables: Mapping[int, pd.DataFrame | None] | None = None) -> Any:
    """Writes such a study into a new MLflow store; returns its client.

    Args:
        made: the study; one of its configurations is complete.
        folder: of the store.
        tables: predictions to be written instead of a configuration's own.
    """
    trials = []
    for row in made.study.trials.to_dict("records"):
        number, aucs = row["trial"], made.fold_aucs(row["trial"])
        folds: dict[int, Any] = {
            fold: {task: values[fold] for task, values in aucs.items()} for fold in ran(made, number)
        }
        folds |= {int(fold): "ValueError: no" for fold in row["failed_folds"].split(",") if fold}
        given = tables[number] if tables and number in tables else table(made, number)
        estimate = 0.5 if row["abandoned"] else None
        trials.append(Trial({}, folds, estimate, given, made.configurations[number]))
    content = {"study": "made"}
    groups = dict(zip(made.documents, made.groups, strict=True))
    whole = max(made.trials, key=lambda number: len(ran(made, number)))
    files = study_files(content, table(made, whole), groups=groups, repeats=made.repeats)
    study = Recorded(list(made.tasks), trials, made.folds, objective=made.study.objective, files=files)
    return record(study, folder)

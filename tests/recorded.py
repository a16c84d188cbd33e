"""Studies written into MLflow by hand, by the names of the contract: what no quick sweep would leave behind."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from sweeps import empty_database

from hilbert.metrics import auc, mean_and_se
from tune.tracking import connect

LEGAL = re.compile(r"[\w. /:-]+")
"""What MLflow lets a metric be called; others are left out."""
Outcome = Mapping[str, float | None] | str
"""Of a fold job: the AUC of each task, or the traceback of its failure."""


@dataclass(frozen=True)
class Trial:
    """A configuration: searched values, outcomes of its folds, and where racing gave it up the estimate."""

    params: Mapping[str, Any]
    folds: Mapping[int, Outcome]
    estimate: float | None = None
    predictions: pd.DataFrame | None = None
    configuration: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Recorded:
    """A study."""

    tasks: Sequence[str]
    trials: Sequence[Trial]
    folds: int
    name: str = "made"
    objective: str = "mean_auc"
    files: Mapping[str, str] = field(default_factory=dict)


def record(study: Recorded, folder: Path) -> Any:
    """Writes a study into a new MLflow store in `folder`; returns its client."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_database(), folder / "mlflow.db")
    client = connect(f"sqlite:///{folder}/mlflow.db")
    tags = {"hilbert.study": "x", "hilbert.objective": study.objective, "hilbert.tasks": json.dumps(list(study.tasks))}
    artifacts = folder / "mlartifacts"
    experiment = client.create_experiment(study.name, artifact_location=artifacts.as_uri(), tags=tags)
    if study.files:
        (artifacts / "study").mkdir(parents=True)
        for name, text in study.files.items():
            (artifacts / "study" / name).write_text(text, encoding="utf-8")
    for number, trial in enumerate(study.trials):
        _record_trial(client, experiment, study, number, trial)
    return client


def _record_trial(client: Any, experiment: str, study: Recorded, number: int, trial: Trial) -> None:
    tags = {"hilbert.level": "trial", "hilbert.trial": str(number), "hilbert.config": f"c{number}"}
    run = client.create_run(experiment, tags=tags, run_name=f"t{number:03d}").info.run_id
    for name, value in trial.params.items():
        client.log_param(run, name, str(value))
    done = {fold: outcome for fold, outcome in trial.folds.items() if not isinstance(outcome, str)}
    failed = sorted(set(trial.folds) - set(done))
    values = {"cv/folds_done": len(done), "cost/seconds": 2.0 * len(trial.folds), **_means(study, trial, done)}
    for name, value in values.items():
        if LEGAL.fullmatch(name):
            client.log_metric(run, name, value)
    if trial.estimate is not None:
        client.set_tag(run, "hilbert.abandoned", f"after {len(done)} folds")
    if failed:
        client.set_tag(run, "hilbert.failed_folds", ",".join(map(str, failed)))
    if trial.predictions is not None:
        trial.predictions.to_parquet(artifacts_of(client, run) / "predictions.parquet", index=False)
    if trial.configuration is not None:
        (artifacts_of(client, run) / "configuration.json").write_text(json.dumps(trial.configuration))
    for fold, outcome in trial.folds.items():
        _record_fold(client, experiment, run, number, fold, outcome)
    client.set_terminated(run, "FAILED" if failed else "FINISHED")


def artifacts_of(client: Any, run: str) -> Path:
    """The folder of a run's artifacts."""
    path = Path(client.get_run(run).info.artifact_uri.removeprefix("file://"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def _means(study: Recorded, trial: Trial, done: Mapping[int, Mapping[str, float | None]]) -> dict[str, float]:
    if trial.estimate is not None:
        return {"cv/auc_corrected": trial.estimate}
    if len(done) < study.folds:
        return {}
    found = {}
    for task in study.tasks:
        mean, error, folds = mean_and_se([outcome[task] for outcome in done.values()])
        found |= {f"{task}/auc_mean": mean, f"{task}/auc_se": error, f"{task}/auc_folds": folds}
        found[f"{task}/auc_pooled"] = mean
    means = [found[f"{task}/auc_mean"] for task in study.tasks]
    if None not in means:
        found |= {"cv/auc_mean": np.mean(means), "cv/auc_pooled": np.mean(means)}
    return {name: round(float(value), 4) for name, value in found.items() if value is not None}


def _record_fold(client: Any, experiment: str, parent: str, number: int, fold: int, outcome: Outcome) -> None:
    tags = {"hilbert.level": "fold", "hilbert.trial": str(number), "hilbert.fold": str(fold)}
    run = client.create_run(experiment, tags=tags | {"mlflow.parentRunId": parent}).info.run_id
    client.log_metric(run, "cost/seconds", 2.0)
    client.log_metric(run, "cost/gpu_seconds", 1.5)
    if isinstance(outcome, str):
        client.log_text(run, outcome, "error.txt")
    else:
        for task, value in outcome.items():
            if value is not None and LEGAL.fullmatch(task):
                client.log_metric(run, f"{task}/auc", value)
    client.set_terminated(run, "FAILED" if isinstance(outcome, str) else "FINISHED")


def predictions(
    tasks: Mapping[str, Sequence[str]], *, documents: int = 24, folds: int = 3, repeats: int = 1, seed: int = 0
) -> pd.DataFrame:
    """A table like `tune.predictions.predictions`: every document held out once a repeat; no classes: a regression.

    The first document has no labels. Higher labels have higher scores, with noise.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for task, classes in tasks.items():
        truth = rng.permutation(documents) % len(classes) if classes else rng.normal(50, 10, documents)
        for repeat in range(repeats):
            held_out_in = rng.permutation(documents) % folds + repeat * folds
            for document in range(documents):
                if classes:
                    weights = rng.exponential(1, len(classes)) + (np.arange(len(classes)) == truth[document])
                    scores, shown = weights / weights.sum(), classes[truth[document]]
                else:
                    scores, shown = np.array([truth[document] + rng.normal(0, 8)]), f"{truth[document]:g}"
                name, fold = f"secret{document:03d}", held_out_in[document]
                label = None if document == 0 else shown
                rows += [(name, fold, task, label, c, s) for c, s in zip(classes or [""], scores, strict=True)]
    return pd.DataFrame(rows, columns=["document_id", "fold", "task", "label", "class", "score"])


def fold_aucs(table: pd.DataFrame) -> dict[int, dict[str, float | None]]:
    """The AUC of every fold and task of such a table."""
    from tune.report.predicted import by_task

    found: dict[int, dict[str, float | None]] = {int(fold): {} for fold in sorted(table["fold"].unique())}
    for task, part in by_task(table, sorted(table["task"].unique()), None).items():
        for fold, values in found.items():
            rows = part.folds == fold
            values[task] = auc(part.labels[rows], part.scores[rows], part.kind)
    return found


def study_files(
    study: Mapping[str, Any], table: pd.DataFrame, *, groups: Mapping[str, str], repeats: int = 1
) -> dict[str, str]:
    """The five files of a study as a whole, for such a table."""
    kinds = {task: part["class"].unique().tolist() for task, part in table.groupby("task", sort=False)}
    documents, folds = sorted(table["document_id"].unique()), int(table["fold"].max()) + 1
    tasks = {}
    for task, classes in kinds.items():
        once = table[table["task"] == task].drop_duplicates("document_id")
        kind = "regression" if classes == [""] else "binary" if len(classes) == 2 else "multiclass"
        counts = {name: int((once["label"] == name).sum()) for name in classes if name}
        tasks[task] = {"kind": kind, "missing": int(once["label"].isna().sum())} | (
            {"classes": counts} if counts else {}
        )
    part = {"encoder": {"name": "hf:some/encoder", "layer": 6}, "dim": 8, "segments": 9}
    data = {
        "documents": len(documents),
        "groups": len(set(groups.values())),
        "stores": {"features": {"fingerprint": "f1n6e4", "audio": part, "text": part}},
        "tasks": tasks,
        "folds": {"n_splits": folds // repeats, "repeats": repeats, "seed": 0, "splits": "5p11t5"},
        "group_crossings": 0,
    }
    versions = {"command": "hilbert sweep s.yaml", "python": "3.12", "platform": "any", "packages": {"torch": "9.9"}}
    splits = pd.DataFrame({"document_id": documents, "group_id": [groups[name] for name in documents]})
    for fold in range(folds):
        held_out = set(table.loc[table["fold"] == fold, "document_id"])
        splits[f"fold_{fold}"] = ["held_out" if name in held_out else "train" for name in documents]
    held = table.drop_duplicates(["document_id", "fold", "task"])
    counts = held.groupby(["fold", "task", "label"]).size().rename("documents").reset_index()
    counts = counts.rename(columns={"label": "class"}).assign(part="held_out")
    return {
        "study.yaml": yaml.safe_dump(dict(study)),
        "versions.json": json.dumps(versions | {"git": None}),
        "data.json": json.dumps(data),
        "splits.csv": splits.to_csv(index=False),
        "fold_counts.csv": counts.to_csv(index=False),
    }

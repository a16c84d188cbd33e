"""A recorded study of any size, without training: what `tune.recorder` leaves in a sqlite store, made in seconds."""

import json
import math
import random
import sqlite3
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from sweeps import empty_database

PARAMETERS = ("loss.contrastive", "loss.cka", "model.experts", "train.learning_rate")
LOG_PARAMETERS = ("loss.contrastive", "train.learning_rate")
TASKS = ("gender", "adult", "age_band")
DONE, GIVEN_UP, FAILED = "done", "given up", "failed"


@dataclass(frozen=True)
class LargeStudy:
    """The database, the experiment, the names of the ranked trials, best first, and of those without a mean."""

    database: Path
    experiment: str
    ranked: list[str]
    others: list[str]

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.database}"


def write_study(folder, *, study="parents", trials=60, folds=25, seed=0):
    """Every seventh trial was given up by racing, and one failed: these have no mean."""
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "mlflow.db"
    database.write_bytes(empty_database().read_bytes())
    client = MlflowClient(f"sqlite:///{database}")
    tags = {"hilbert.study": "0" * 24, "hilbert.objective": "mean_auc", "hilbert.tasks": json.dumps(TASKS)}
    experiment = client.create_experiment(study, artifact_location=(folder / "mlartifacts").as_uri(), tags=tags)
    generator, ranked, others, jobs = random.Random(seed), {}, [], []
    for number in range(trials):
        end = FAILED if number == 5 else GIVEN_UP if number % 7 == 3 else DONE
        count = folds if end == DONE else 3
        parameters = _parameters(generator)
        series = _series(parameters, generator, count)
        mean = round(sum(series) / count, 4)
        while mean in ranked:  # no ties: their order is the server's
            mean = round(mean + 1e-4, 4)
        name = f"t{number:03d} {generator.randbytes(4).hex()}"
        run = _write_trial(client, experiment, name, parameters, _metrics(series, mean, end, folds), series, end)
        jobs += [(run, number, fold, auc) for fold, auc in enumerate(series)]
        if end == DONE:
            ranked[mean] = name
        else:
            others.append(name)
    _write_jobs(database, experiment, jobs)
    return LargeStudy(database, experiment, [ranked[mean] for mean in sorted(ranked, reverse=True)], others)


def _parameters(generator):
    found = {
        "loss.contrastive": 10 ** generator.uniform(-2, 0.3),
        "loss.cka": generator.random(),
        "model.experts": generator.choice([1, 2, 4, 8]),
        "train.learning_rate": 10 ** generator.uniform(-4, -2.3),
    }
    return found | {f"{name}.log10": math.log10(found[name]) for name in LOG_PARAMETERS}


def _series(parameters, generator, folds):
    """AUC of each fold: some learning rates are better, and some folds harder for all."""
    level = 0.86 - 0.06 * (parameters["train.learning_rate.log10"] + 3) ** 2 - 0.02 * parameters["loss.cka"]
    hard = random.Random(99)
    return [round(level + hard.gauss(0, 0.05) + generator.gauss(0, 0.01), 4) for _ in range(folds)]


def _metrics(series, mean, end, folds):
    found = {"cv/folds_done": len(series), "cost/seconds": round(40 + 1000 * (series[0] % 0.05), 1)}
    if end == GIVEN_UP:
        return found | {"cv/auc_corrected": mean}
    if end == FAILED:
        return found
    found |= {"cv/auc_mean": mean, "cv/auc_se": 0.0112, "cv/auc_pooled": round(mean - 0.004, 4)}
    for shift, task in enumerate(TASKS):
        found |= {f"{task}/auc_mean": round(mean + 0.03 * (shift - 1), 4), f"{task}/auc_folds": folds}
    return found


def _write_trial(client, experiment, name, parameters, metrics, series, end):
    now = int(1000 * time.time())
    tags = {"hilbert.level": "trial", "hilbert.trial": str(int(name[1:4])), "mlflow.source.name": "hilbert"}
    tags |= {FAILED: {"hilbert.failed_folds": "3"}, GIVEN_UP: {"hilbert.abandoned": "after 3 folds"}}.get(end, {})
    run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    points = [Metric(key, value, now, 0) for key, value in metrics.items()]
    for key in ("auc", *(f"{task}_auc" for task in TASKS)):
        points += [Metric(f"fold/{key}", value, now, fold) for fold, value in enumerate(series)]
    client.log_batch(run, metrics=points, params=[Param(key, f"{value:.6g}") for key, value in parameters.items()])
    client.set_terminated(run, "FAILED" if end == FAILED else "FINISHED")
    return run


def _write_jobs(database, experiment, jobs):
    """The fold jobs' runs, straight into the tables: through the client they would take minutes."""
    now = int(1000 * time.time())
    runs, tags, metrics = [], [], []
    for parent, number, fold, auc in jobs:
        run = uuid.uuid4().hex
        runs.append((run, f"t{number:03d} f{fold:02d}", "LOCAL", "FINISHED", now, now, "active", int(experiment)))
        own = {"hilbert.level": "fold", "hilbert.trial": number, "hilbert.fold": fold, "mlflow.parentRunId": parent}
        tags += [(key, str(value), run) for key, value in own.items()]
        metrics += [(key, value, now, 0, False, run) for key, value in (("gender/auc", auc), ("cost/seconds", 2.0))]
    connection = sqlite3.connect(database)
    with connection:
        connection.executemany(
            "INSERT INTO runs (run_uuid, name, source_type, status, start_time, end_time, lifecycle_stage, "
            "experiment_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            runs,
        )
        connection.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", tags)
        for table in ("metrics", "latest_metrics"):
            connection.executemany(
                f"INSERT INTO {table} (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)",
                metrics,
            )
    connection.close()

"""Writing to MLflow: experiments, runs, batches, artifacts. Knows the calls, and nothing of studies."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hilbert.temporary import temporary_folder
from tune.artifacts import artifacts
from tune.database import database
from tune.entries import Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_METRICS, MOST_PARAMETERS = 1000, 100  # in one batch: MLflow's own limits
LONGEST_DIGEST = 36


def create_experiment(client: "MlflowClient", name: str, tags: dict[str, str]) -> str:
    """A new experiment; its artifacts lie beside a sqlite file, or where a server puts them."""
    location = None
    if (path := database(client.tracking_uri)) is not None:
        location = (path.parent / "mlartifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location, tags=tags))


def create_run(client: "MlflowClient", experiment: str, name: str, tags: Mapping[str, str], *, started: float) -> str:
    """A new run that is RUNNING since `started`, in seconds since 1970."""
    shown = {"mlflow.runName": name, "mlflow.source.name": "hilbert", "mlflow.source.type": "LOCAL", **tags}
    run = client.create_run(experiment, start_time=int(1000 * started), run_name=name, tags=shown)
    return str(run.info.run_id)


def log_batch(
    client: "MlflowClient",
    run: str,
    entries: Sequence[Entry] = (),
    *,
    at: float = 0.0,
    parameters: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Metrics, parameters and tags, in one call up to MLflow's limits.

    Metrics are dated `at`, seconds since 1970: written again with the same date they are the same, not more.
    """
    from mlflow.entities import Metric, Param, RunTag

    metrics = [Metric(name, value, int(1000 * at), step) for name, value, step in entries]
    params = [Param(name, value) for name, value in (parameters or {}).items()]
    marks = [RunTag(name, value) for name, value in (tags or {}).items()]
    first = metrics[: MOST_METRICS - len(marks) - len(params[:MOST_PARAMETERS])]
    client.log_batch(run, metrics=first, params=params[:MOST_PARAMETERS], tags=marks, synchronous=True)
    for start in range(MOST_PARAMETERS, len(params), MOST_PARAMETERS):
        client.log_batch(run, params=params[start : start + MOST_PARAMETERS], synchronous=True)
    for start in range(len(first), len(metrics), MOST_METRICS):
        client.log_batch(run, metrics=metrics[start : start + MOST_METRICS], synchronous=True)


def log_files(client: "MlflowClient", run: str, write: Callable[[Path], None]) -> None:
    """The files and folders that `write` puts into the folder that it is given, as artifacts of a run."""
    with temporary_folder() as folder:
        write(folder)
        client.log_artifacts(run, str(folder))


def log_experiment_files(client: "MlflowClient", experiment: str, name: str, write: Callable[[Path], None]) -> None:
    """As `log_files`, into the folder `name` of an experiment's own artifacts."""
    location = client.get_experiment(experiment).artifact_location
    with temporary_folder() as folder:
        write(folder)
        artifacts(client.tracking_uri, location).log_artifacts(str(folder), name)


def log_dataset(
    client: "MlflowClient", run: str, *, name: str, fingerprint: str, profile: Mapping[str, object]
) -> None:
    """A data set as an input of a run: its name, its fingerprint, and what it holds; no path."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name,
        digest=fingerprint[:LONGEST_DIGEST],
        source_type="hilbert",
        source=json.dumps({"fingerprint": fingerprint}),
        profile=json.dumps(profile),
    )
    client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "features")])])

"""Where studies are recorded: finding the MLflow server or store, and reading back what `tune.recorder` wrote."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import TypeAdapter

from hilbert.errors import InputError, shown
from hilbert.reading import checked, explained, parse_json
from tune.address import check_credentials, told_after, try_database
from tune.artifacts import artifacts, make_client
from tune.database import SQLITE, database, first_touch, half_made, unusable, whole_address
from tune.estimates import bounded
from tune.redaction import HIDDEN, plain, printable, remember, without_passwords
from tune.selection import repeated

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
_TEXTS = TypeAdapter(list[str])
NUMBER = re.compile("[0-9]{1,9}")

DEFAULT_URI = SQLITE + "mlflow.db"
TRIAL, FOLD = "trial", "fold"
NOTE = "mlflow.note.content"  # what MLflow's pages show on top, Markdown
ESTIMATE = "cv/auc_corrected"  # of a trial that racing gave up
STUDY_FOLDER = "study"  # in an experiment's artifacts: the files of the study as a whole


def tracking_uri(given: str | None = None, study: str | None = None) -> str:
    """Where to record: the command line, then MLFLOW_TRACKING_URI, then the study file, then mlflow.db here.

    A sqlite path is made absolute, for processes with another working folder. What is secret in it is not shown again.

    Raises:
        InputError: no such address can be used.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or study or DEFAULT_URI
    if re.search(rf"://{re.escape(HIDDEN)}@|={re.escape(HIDDEN)}(&|$)", uri):
        raise InputError(
            f"the tracking address {without_passwords(uri)} lacks its password, which is neither shown nor kept: give"
            " the whole address in the variable MLFLOW_TRACKING_URI"
        )
    remember(uri)
    check_credentials(uri)
    return whole_address(uri)


def elsewhere(uri: str) -> list[str]:
    """The option that names a tracking address in a command to be given again; none where it is found without."""
    return [] if uri == tracking_uri() else ["--tracking-uri", without_passwords(uri)]


def connect(uri: str) -> "MlflowClient":
    """A client of the tracking server or store at `uri`. Imports MLflow, which takes seconds.

    Raises:
        InputError: it doesn't answer, or can't be used.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a run that is asked for twice is made twice
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one for every file
    path = database(uri)
    if path is not None and (fault := unusable(path)):
        raise InputError(f"{path} {fault}; --tracking-uri names MLflow's database or server")
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with told_after(f"waiting for MLflow at {uri} ...") if path is None else first_touch(path):
            return _client(uri)
    except InputError:
        raise
    except Exception as error:  # whatever the drivers of databases raise
        status = error.get_http_status_code() if isinstance(error, MlflowException) else None
        if status == 401:
            raise InputError(_not_logged_in(uri)) from None
        if path is not None and half_made(path):
            raise InputError(_half_made(path)) from None
        shown = without_passwords(uri)
        raise InputError(f"MLflow at {shown} can't be used: {first_line(error)}; see --tracking-uri") from None


def connect_to_read(uri: str, wanted: str) -> "MlflowClient":
    """As `connect`, for what reads: a database that isn't there is not made. `wanted` names the study, or the model.

    Raises:
        InputError: as `connect`, and where there is no such file.
    """
    path = database(uri)
    if path is not None and not path.exists():
        raise InputError(f"no {wanted}: there is no {path}; another place is named by --tracking-uri")
    return connect(uri)


def _client(uri: str) -> "MlflowClient":
    """A client, after a first request."""
    try_database(uri)
    client = make_client(uri)
    client.search_experiments(max_results=1)
    return client


def _half_made(path: Path) -> str:
    return (
        f"{path}: MLflow's tables were set up only in part, as when a first start is interrupted, or two set them up at"
        " once. No run is recorded there: remove the file, and give the same command again"
    )


def _not_logged_in(uri: str) -> str:
    """What a server that asks for a password is missing."""
    from mlflow.utils.credentials import read_mlflow_creds

    given = read_mlflow_creds()
    if given.username and given.password:
        wrong = f"refuses user {shown(given.username)} or the password"
    else:
        wrong = "asks for a user and a password"
    return (
        f"MLflow at {without_passwords(uri)} {wrong}; they are read from MLFLOW_TRACKING_USERNAME and"
        " MLFLOW_TRACKING_PASSWORD, or from ~/.mlflow/credentials"
    )


def first_line(error: Exception) -> str:
    """What an error says, in one line, without passwords and control characters."""
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])[:300]


def search_runs(client: "MlflowClient", experiment: str, condition: str) -> list[Any]:
    """All runs of an experiment that meet a condition, page by page."""
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment], condition, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


@dataclass(frozen=True)
class ReadStudy:
    """A study as MLflow has it.

    Attributes:
        name: the study.
        objective: what its search maximises.
        tasks: its tasks.
        trials: one row a trial: `trial`, `run`, `status`, `failed_folds`, `abandoned`, `configuration` (its hash),
            `repeats` (number of the trial whose configuration it repeats, else missing), metrics, `params.<name>`.
    """

    name: str
    objective: str
    tasks: Sequence[str]
    trials: pd.DataFrame


def read_study(client: "MlflowClient", study: str) -> ReadStudy:
    """Reads what is recorded of a study.

    Raises:
        InputError: there is no such study here; the message names those that are.
    """
    experiment = client.get_experiment_by_name(study)
    if experiment is None or experiment.lifecycle_stage != "active" or "hilbert.study" not in experiment.tags:
        known = sorted(found.name for found in client.search_experiments() if "hilbert.study" in found.tags)
        others = f"it holds {', '.join(known)}" if known else "it holds no study"
        raise InputError(
            f"no study {shown(study)} at {client.tracking_uri}: {others}; another place is named by --tracking-uri"
        )
    rows = [
        {
            "trial": _number(run, "hilbert.trial"),
            "run": run.info.run_id,
            "status": run.info.status,
            "failed_folds": plain(run.data.tags.get("hilbert.failed_folds", "")),
            "abandoned": plain(run.data.tags.get("hilbert.abandoned", "")),
            "configuration": plain(run.data.tags.get("hilbert.config", "")),
            **bounded_estimates(run.data.metrics),
            **{f"params.{plain(name)}": plain(value) for name, value in run.data.params.items()},
        }
        for run in search_runs(client, experiment.experiment_id, f"tags.`hilbert.level` = '{TRIAL}'")
    ]
    if not rows:
        raise InputError(f"study {shown(study)} has no trials yet; 'hilbert sweep' runs them")
    trials = pd.DataFrame(rows).sort_values("trial", kind="stable", ignore_index=True)
    trials = trials.assign(repeats=repeated(trials))
    where = f"study {shown(study)}: the tag hilbert.tasks of its MLflow experiment"
    with explained(where, InputError, 'write the tasks there, as ["affect", "spectrum"]'):
        tasks = [plain(task) for task in checked(parse_json(_tag(experiment, "hilbert.tasks").encode()), _TEXTS)]
    return ReadStudy(study, plain(_tag(experiment, "hilbert.objective")), tasks, trials)


def _tag(experiment: Any, name: str) -> str:
    found = experiment.tags.get(name)
    if found is None:
        raise InputError(
            f"study {shown(experiment.name)}: its MLflow experiment has no tag {name}; it isn't a study of HILBERT"
        )
    return str(found)


def _number(run: Any, name: str) -> int:
    """The number that a run's tag holds."""
    text = run.data.tags.get(name)
    if text is None or not NUMBER.fullmatch(text):
        raise InputError(
            f"MLflow run {run.info.run_id}: its tag {name} is {shown(text)}, and must be a number as a sweep writes it;"
            " delete the run, or give it back its tag"
        )
    return int(text)


def bounded_estimates(metrics: Mapping[str, float]) -> dict[str, float]:
    """A trial's metrics, the estimate within 0 and 1: older versions recorded some outside."""
    return {name: bounded(value) if name == ESTIMATE else value for name, value in metrics.items()}


def study_files(client: "MlflowClient", study: str, folder: Path) -> Path | None:
    """Copies the files of a study as a whole, see `tune.study_files`, into `folder`; None where there are none.

    Raises:
        InputError: a server names a folder of this computer as their place.
    """
    from mlflow.exceptions import MlflowException

    location = client.get_experiment_by_name(study).artifact_location
    try:
        return Path(artifacts(client.tracking_uri, location).download_artifacts(STUDY_FOLDER, str(folder)))
    except (MlflowException, OSError):
        return None

"""One link that opens a study's leaderboard in the MLflow UI, and the two saved views behind it.

The plain link is made of documented parts alone: trials without their folds, best first. A saved view adds columns and
charts. Its format is MLflow's own and undocumented, hence it is written only for servers of the versions in `TESTED`;
elsewhere, and where the server refuses it, the plain link has to do.

A saved view is an experiment tag, `mlflow.sharedViewState.<key>`: JSON of name, dates and state, and the state is a
packed JSON object of what the page remembers. The keys are fixed, so that a view is written over and never piles up.
"""

import base64
import importlib.metadata
import json
import logging
import os
import re
import time
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote, urlencode

from tune.formats import log_name
from tune.selection import objective_metric
from tune.tracking import TRIAL

logger = logging.getLogger(__name__)

Client = Any
"""An `mlflow.MlflowClient`; MLflow itself is not imported here."""

TESTED = ("3.17", "3.18")
"""Versions of MLflow, major.minor, in whose UI the saved views were looked at."""
LEADERBOARD, CHARTS = "hilbert-leaderboard", "hilbert-charts"
"""Keys of the two saved views."""
TRIALS_ONLY = f"tags.`hilbert.level` = '{TRIAL}'"
ALL_TRIALS, TEN_BEST = "All trials: what was searched", "The ten best: folds, cost"
"""Headings of the page of charts; the UI gives the charts themselves no titles of ours."""
COST, FOLD_SERIES = "cost/seconds", "fold/auc"
_TAG = "mlflow.sharedViewState."
_PACKED = "deflate;"


def leaderboard_url(server: str, experiment_id: str, objective: str, view: str | None = None) -> str:
    """Address of a study's trials, best first, in the UI of an MLflow server.

    Args:
        server: address of the server, as `http://127.0.0.1:5000`; may have a path.
        experiment_id: the study's experiment.
        objective: what the study maximises.
        view: key of a saved view that is there, `LEADERBOARD` or `CHARTS`. It holds filter and order itself: the UI
            ignores the key where the address has them too.
    """
    query = {"workflowType": "machine_learning"}
    if view is None:
        query |= {
            "searchFilter": TRIALS_ONLY,
            "orderByKey": _metric(objective_metric(objective)),
            "orderByAsc": "false",
        }
    else:
        query |= {"viewStateShareKey": view, "compareRunsMode": "CHART" if view == CHARTS else "TABLE"}
    path = f"/#/experiments/{quote(experiment_id, safe='')}/runs?"
    return _split(server)[0].rstrip("/") + path + urlencode(query, quote_via=quote, safe="")


def save_views(
    client: Client,
    experiment_id: str,
    *,
    objective: str,
    tasks: Sequence[str],
    parameters: Sequence[str],
    log_parameters: Sequence[str] = (),
) -> tuple[str | None, str | None]:
    """Writes the saved views of a study; returns the keys of leaderboard and charts, None where there is no such view.

    Args:
        client: of the server or store that holds the study.
        experiment_id: the study's experiment.
        objective: what the study maximises.
        tasks: its tasks.
        parameters: the searched parameters.
        log_parameters: those of them whose logarithm is recorded too, as `<name>.log10`.
    """
    if not is_tested(server_version(client.tracking_uri)):
        return None, None
    axes = [log_name(name) if name in log_parameters else name for name in parameters]
    views = {
        LEADERBOARD: ("Leaderboard", leaderboard_state(objective, tasks, parameters)),
        CHARTS: ("Charts", charts_state(objective, tasks, axes)),
    }
    try:
        there = client.get_experiment(experiment_id).tags
        for key, (name, state) in views.items():
            if _state_of(there.get(_TAG + key)) != state:
                client.set_experiment_tag(experiment_id, _TAG + key, _saved(name, state))
    except Exception as error:  # a server that refuses, or isn't there: the study goes on without
        logger.info("no saved view: %s", error)
        return None, None
    return LEADERBOARD, CHARTS


def is_server(uri: str) -> bool:
    """Whether a tracking address is a server's, not a store's."""
    return uri.startswith(("http://", "https://"))


def is_tested(version: str | None) -> bool:
    """Whether saved views were tested with a version of MLflow."""
    return version is not None and ".".join(version.split(".")[:2]) in TESTED


def server_version(uri: str) -> str | None:
    """Version of the MLflow server at `uri`, or for a store that of MLflow here; None where it isn't told."""
    if not is_server(uri):
        return importlib.metadata.version("mlflow")
    address, login = _split(uri)
    request = urllib.request.Request(address.rstrip("/") + "/version", headers=_credentials(login))
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read(100).decode("ascii").strip())
    except (OSError, ValueError, HTTPException):
        return None


def _split(server: str) -> tuple[str, str]:
    """A server's address without user and password, and these, as `user:password`; a browser asks for them."""
    found = re.match(r"(https?://)([^/?#@]*)@(.*)", server, re.S)
    return (found[1] + found[3], unquote(found[2])) if found else (server, "")


def _credentials(login: str) -> dict[str, str]:
    """The header that logs in: by the address, else by MLflow's variables."""
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{part}") for part in ("USERNAME", "PASSWORD"))
    if not login and user and password is not None:
        login = f"{user}:{password}"
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode("ascii")} if login else {}


# ---- what the views hold ---------------------------------------------------------------------------------------------


def leaderboard_state(objective: str, tasks: Sequence[str], parameters: Sequence[str]) -> dict[str, Any]:
    """The table: what ranks the trials, what it is made of, what it cost, and what was searched."""
    metrics = _leaderboard_metrics(objective, tasks)
    columns = {_metric(name): _width(name, ranks=name == metrics[0]) for name in metrics}
    columns |= {f"params.`{name}`": _width(name) for name in parameters}
    widths = {"attributes.`Run Name`": 150, "runDateAndNestInfo": 145} | columns | {"duration": 90}
    return _state(objective) | {
        "selectedColumns": list(columns),
        "columnOrder": list(widths),
        "columnWidths": widths,
    }


def charts_state(objective: str, tasks: Sequence[str], axes: Sequence[str]) -> dict[str, Any]:
    """Three charts: parameters against the objective, the folds one by one, and the objective against its cost.

    Parallel coordinates show all trials and have a row of their own; the other two show the ten best. The charts that
    the UI makes of every metric by itself lie below, closed.
    """
    target = objective_metric(objective)
    line = {"lineSmoothness": 0, "useGlobalLineSmoothing": False, "xAxisScaleType": "linear", "scaleType": "linear"}
    charts: list[dict[str, Any]] = [
        {"type": "PARALLEL", "selectedParams": list(axes), "selectedMetrics": [target], "showAllRuns": True},
        {"type": "LINE", "metricKey": FOLD_SERIES, "selectedMetricKeys": [FOLD_SERIES], "xAxisKey": "step"} | line,
        {"type": "SCATTER", "xaxis": {"key": COST, "type": "METRIC"}, "yaxis": {"key": target, "type": "METRIC"}},
    ]
    rows = {"PARALLEL": "hilbert-search", "LINE": "hilbert-best", "SCATTER": "hilbert-best"}
    base = {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    sections = [
        _section("hilbert-search", ALL_TRIALS, columns=1, display=True),
        _section("hilbert-best", TEN_BEST, columns=2, display=True),
        *(_section(f"hilbert-{name}", name, columns=3, display=False) for name in ("cv", "fold", *tasks, "cost")),
    ]
    return _state(objective) | {
        "compareRunCharts": [
            base | {"uuid": f"hilbert-{chart['type'].lower()}", "metricSectionId": rows[chart["type"]]} | chart
            for chart in charts
        ],
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }


def _section(key: str, name: str, *, columns: int, display: bool) -> dict[str, Any]:
    return {"uuid": key, "name": name, "columns": columns, "cardHeight": 360, "display": display, "isReordered": False}


def _state(objective: str) -> dict[str, Any]:
    return {
        "searchFilter": TRIALS_ONLY,
        "orderByKey": _metric(objective_metric(objective)),
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "runsHiddenMode": "FIRST_10_RUNS",
    }


def _leaderboard_metrics(objective: str, tasks: Sequence[str]) -> list[str]:
    """Best first means by the first of them. One task's mean is the mean over all tasks: it is not shown twice.

    The UI leaves out a column that no trial has, as the last one where racing gave nothing up.
    """
    each = [f"{task}/auc_mean" for task in tasks] if len(tasks) > 1 else []
    names = [objective_metric(objective), "cv/auc_mean", "cv/auc_se", *each]
    return list(dict.fromkeys([*names, "cv/folds_done", COST, "cv/auc_corrected"]))


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _width(name: str, *, ranks: bool = False) -> int:
    """Pixels that show a column's name whole, and the arrow of the one that ranks."""
    return max(80, 30 + int(7.3 * len(name)) + 26 * ranks)


def _saved(name: str, state: Mapping[str, Any]) -> str:
    now = int(1000 * time.time())
    packed = base64.b64encode(zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)).decode("ascii")
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": _PACKED + packed})


def _state_of(tag: str | None) -> Any:
    """The state that a tag holds; None where there is none that can be read."""
    try:
        return json.loads(zlib.decompress(base64.b64decode(json.loads(tag or "")["state"].removeprefix(_PACKED))))
    except (ValueError, KeyError, TypeError, zlib.error):
        return None

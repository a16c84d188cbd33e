"""`hilbert ui STUDY`: the study's leaderboard in the browser, with nothing to start first.

A tracking server is there already. A store, a sqlite file, needs one: a server of ours that serves this very store is
used again, else one is started here and ends with this command, in whatever way that ends. A file beside the database
tells that a server runs, `<database>.server.json`. It is believed only where it names this database, its process is
there, and the server that answers knows the study as the database has it.
"""

import json
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from subprocess import Popen
from typing import IO, Any
from urllib.parse import quote, urlsplit

from hilbert.errors import HilbertError, InputError, shown
from hilbert.files import write_text
from hilbert.temporary import temporary_folder
from tune.database import database as database_of
from tune.formats import log_name
from tune.guard import end_guarded, start_guarded
from tune.leaderboard import CHARTS, Client, is_server, leaderboard_url, save_views
from tune.recorded import read_object
from tune.redaction import printable
from tune.space import Study
from tune.terminal import tell
from tune.tracking import connect_to_read, elsewhere, read_study, tracking_uri

HOST, PORT = "127.0.0.1", 5000
"""Where `mlflow server` listens by default: on this computer alone."""
START_LIMIT = 180.0
"""Seconds that a server has to answer after its start."""


def announce(client: Client, experiment_id: str, study: Study) -> str:
    """Where to look at a study: a link on a tracking server, else the command that opens it.

    To be told when a sweep begins and when it ends. Writes the saved views, so that nothing has to be clicked.
    """
    view, _ = save_views(
        client,
        experiment_id,
        objective=study.objective,
        tasks=list(study.tasks),
        parameters=list(study.parameters),
        log_parameters=study.logarithmic,
    )
    uri = client.tracking_uri
    if is_server(uri):
        return leaderboard_url(uri, experiment_id, study.objective, view)
    return shlex.join(["hilbert", "ui", study.study, *elsewhere(uri)])


def way_in(uri: str, environment: Mapping[str, str] = os.environ) -> str:
    """How a server that listens on this computer alone is reached from another one, in words.

    Empty for other servers, and where nobody sits at another computer, as far as ssh says.
    """
    place = urlsplit(uri)
    if place.hostname not in {"127.0.0.1", "localhost"} or "SSH_CONNECTION" not in environment:
        return ""
    port = place.port or 80
    return f"from your own computer: ray attach CLUSTER.yaml -p {port}, or ssh -L {port}:127.0.0.1:{port} HOST, first"


def ui(study: str, *, uri: str | None = None, port: int | None = None, browser: bool = True) -> int:
    """Prints the link of a study's leaderboard and opens it; returns when its server is no longer needed.

    Args:
        study: name of the study.
        uri: the tracking server or store, see `tune.tracking.tracking_uri`.
        port: of the server that is started here; by default 5000, or a free one where that is taken.
        browser: open the link, where there is a display.

    Raises:
        InputError: there is no such study, or the port is taken.
        HilbertError: the server does not start, or ends by itself.
    """
    place = tracking_uri(uri)
    client, database = connect_to_read(place, f"study {shown(study)}"), database_of(place)
    page = _write_views(client, study)
    if is_server(place):
        page.show(place, browser=browser)
        return 0
    experiment = client.get_experiment(page.experiment)
    if (running := _running_server(database, experiment)) is not None:
        page.show(running, browser=browser)
        return 0
    for received in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(received, _interrupt)
    try:
        with _server(place, port) as (address, process, log):
            page.show(address, browser=browser)
            tell("Ctrl-C ends the server")
            process.wait()
            raise HilbertError(f"the MLflow server ended by itself; its last words:\n{_last_words(log)}")
    except KeyboardInterrupt:
        return 0


# ---- what is shown ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Page:
    """A study's pages on whatever server: experiment, objective and keys of the saved views."""

    experiment: str
    objective: str
    leaderboard: str | None
    charts: str | None

    def show(self, server: str, *, browser: bool) -> None:
        link = leaderboard_url(server, self.experiment, self.objective, self.leaderboard)
        print(printable(link), flush=True)
        if self.charts:
            tell(f"charts: {leaderboard_url(server, self.experiment, self.objective, CHARTS)}")
        if browser and _has_display():
            webbrowser.open(link)
        elif "SSH_CONNECTION" in os.environ and server.startswith(f"http://{HOST}:"):
            port = server.rsplit(":", 1)[1]
            tell(f"from your computer: ssh -L {port}:{HOST}:{port} {socket.gethostname()}, then the same link there")


def _write_views(client: Client, study: str) -> _Page:
    found = read_study(client, study)
    recorded = [name.removeprefix("params.") for name in map(str, found.trials) if name.startswith("params.")]
    twins = {log_name(name) for name in recorded} & set(recorded)
    parameters = [name for name in recorded if name not in twins]
    experiment = client.get_experiment_by_name(study).experiment_id
    views = save_views(
        client,
        experiment,
        objective=found.objective,
        tasks=found.tasks,
        parameters=parameters,
        log_parameters=[name for name in parameters if log_name(name) in twins],
    )
    return _Page(experiment, found.objective, *views)


def _has_display() -> bool:
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return shown or sys.platform in {"darwin", "win32"}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# ---- a server that runs already --------------------------------------------------------------------------------------


def _state_file(database: Path) -> Path:
    return database.with_name(f"{database.name}.server.json")


def _running_server(database: Path | None, experiment: Any) -> str | None:
    """Address of a server of ours that serves this very database."""
    if database is None:
        return None
    try:
        state = read_object(_state_file(database))
        os.kill(state["pid"], 0)
        address = f"http://{HOST}:{int(state['port'])}"
        same = state["database"] == str(database.resolve()) and _knows(address, experiment)
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return None
    return address if same else None


def _knows(address: str, experiment: Any) -> bool:
    """Whether a server has this experiment, and not another one of the same number."""
    query = f"/api/2.0/mlflow/experiments/get?experiment_id={quote(experiment.experiment_id, safe='')}"
    told = json.loads(_get(address + query))["experiment"]
    tags = {tag["key"]: tag["value"] for tag in told.get("tags", [])}
    return bool(
        told["name"] == experiment.name
        and told["artifact_location"] == experiment.artifact_location
        and int(told["creation_time"]) == experiment.creation_time
        and tags.get("hilbert.study") == experiment.tags.get("hilbert.study")
    )


def _get(address: str) -> bytes:
    """What a server on this computer answers; no proxy is asked. OSError, where it gives no good answer."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(address, timeout=10) as answer:
            return bytes(answer.read())
    except HTTPException as error:
        raise OSError(f"{address} is no web server: {error}") from None


# ---- a server of our own ---------------------------------------------------------------------------------------------


@contextmanager
def _server(store: str, port: int | None) -> Iterator[tuple[str, "Popen[bytes]", IO[bytes]]]:
    """Starts a server over a store, until the block ends: its address, its process, and what it prints."""
    chosen, database = _choose_port(port), database_of(store)
    address = f"http://{HOST}:{chosen}"
    place = store if ":" in store else str(Path(store).absolute())
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": place,  # which may hold a password: others can read command lines
    }
    with temporary_folder() as elsewhere, tempfile.TemporaryFile() as log:  # it imports what lies where it runs
        command = _command(database, chosen)
        process = start_guarded(command, environment=environment, output=log, folder=elsewhere)
        try:
            _await(address, process, log)
            if database is not None:
                _write_state(database, process.pid, chosen)
            yield address, process, log
        finally:
            end_guarded(process)
            if database is not None:
                _remove_state(database, process.pid)


def _command(database: Path | None, port: int) -> list[str]:
    """The server's command line. Artifacts lie where `tune.recorder` puts them, and the server reads them there."""
    place = ["--host", HOST, "--port", str(port), "--workers", "1"]
    if database is not None:
        place += ["--no-serve-artifacts", "--default-artifact-root", (database.parent / "mlartifacts").as_uri()]
    return [sys.executable, "-m", "mlflow", "server", *place]


def _choose_port(wanted: int | None) -> int:
    for port in (PORT, 0) if wanted is None else (wanted,):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((HOST, port))
                return int(tried.getsockname()[1])
            except (OSError, OverflowError):
                continue
    raise InputError(f"--port {wanted}: taken, or not a port that can be used; without --port a free one is chosen")


def _await(address: str, process: "Popen[bytes]", log: IO[bytes]) -> None:
    """Waits until the server answers.

    Raises:
        HilbertError: it has ended, or is silent for too long.
    """
    started, told = time.monotonic(), 0.0
    while (waited := time.monotonic() - started) < START_LIMIT:
        if process.poll() is not None:
            raise HilbertError(f"the MLflow server does not start; its last words:\n{_last_words(log)}")
        try:
            _get(f"{address}/health")
        except OSError:
            if waited >= told:
                tell(f"starting an MLflow server at {address} ... {waited:.0f} s")
                told += 5
            time.sleep(0.2)
            continue
        return
    raise HilbertError(f"the MLflow server does not answer after {START_LIMIT:.0f} s:\n{_last_words(log)}")


def _last_words(log: IO[bytes], lines: int = 15) -> str:
    log.seek(0)
    return "\n".join(log.read().decode("utf-8", errors="replace").splitlines()[-lines:])


def _write_state(database: Path, process: int, port: int) -> None:
    content = {"database": str(database.resolve()), "pid": process, "port": port}
    write_text(_state_file(database), json.dumps(content))


def _remove_state(database: Path, process: int) -> None:
    """Removes the file unless another server has written it since."""
    try:
        if read_object(_state_file(database))["pid"] == process:
            _state_file(database).unlink()
    except (OSError, ValueError, KeyError):  # a `Fault` among these
        pass

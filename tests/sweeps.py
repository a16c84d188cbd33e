"""Runs of the real command, as a user types it, and what they leave behind."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock
from forked import can_fork, nursery

LIMIT = 240
"""Seconds after which a command counts as hanging."""

QUICK = {
    "study": "quick",
    "tasks": {"gender": "binary", "adult": "binary", "age_band": "multiclass"},
    "folds": {"n_splits": 3, "seed": 1},
    "trials": 2,
    "racing": "none",
    "resources": {"workers": 1},
    "model": {"width": 16, "heads": 2, "experts": 2, "expert_width": 8},
    "train": {"epochs": 2},
    "search": {
        "loss.contrastive": {"low": 0.01, "high": 2.0, "log": True},
        "model.experts": {"choices": [1, 2]},
    },
}


@cache
def empty_database() -> Path:
    """A new MLflow database: making one takes seconds, copying it none."""
    from tune.tracking import connect

    path = Path(tempfile.mkdtemp(prefix="hilbert-test-")) / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


def write_study(folder: Path, *, database: bool = True, **changes: Any) -> Path:
    """A study file, and unless `database` is false an empty MLflow database beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if database:
        shutil.copy(empty_database(), folder / "mlflow.db")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(QUICK | changes), encoding="utf-8")
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tune.cli", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """The user's, without what would send a run elsewhere."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING", "RAY_ADDRESS"))
    }
    return kept | changes


def hilbert(*arguments: str | Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in `folder`, in a process that needs no time for imports wherever that makes no difference."""
    given = environment(**variables)
    if not can_fork(given):
        return run(command(*arguments), folder=folder, **variables)
    return nursery().run([str(argument) for argument in arguments], folder=folder, environment=given, limit=LIMIT)


def run(arguments: Sequence[str], *, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs any command in `folder`, to its end."""
    return subprocess.run(
        arguments,
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Here = Callable[..., Done]
"""What runs a command in this process: `here("compare", "quick", folder=...)`."""


class Swept(NamedTuple):
    """A finished sweep: its folder, and what the command said."""

    folder: Path
    stdout: str
    stderr: str

    def copy(self, folder: Path) -> Path:
        """A copy in `folder` that may be changed, with artifacts of its own; returns `folder`."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        with sqlite3.connect(folder / "mlflow.db") as database:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                places = [self.folder.as_uri() + "/", folder.as_uri() + "/"]
                database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", places)
        database.close()
        return folder


def sweep_once(place: Path, *options: str, **changes: Any) -> Swept:
    """Sweeps a study in the folder `place`, unless another process of this test session has done so."""
    said = place.with_name(f"{place.name}.json")
    with FileLock(f"{place}.lock"):
        if not said.exists():
            shutil.rmtree(place, ignore_errors=True)
            write_study(place, database=False, **changes)
            done = hilbert("sweep", "study.yaml", *options, folder=place)
            assert done.returncode == 0, done.stderr
            said.write_text(json.dumps([done.stdout, done.stderr]), encoding="utf-8")
    return Swept(place, *json.loads(said.read_text(encoding="utf-8")))


def stop_after(jobs: int, arguments: Sequence[str | Path], *, folder: Path, study: str, how: signal.Signals) -> int:
    """Starts the command, sends it `how` as soon as `jobs` fold jobs are done, and returns its exit code."""
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + LIMIT
    while len(list((folder / "studies" / study / "jobs").glob("*.json"))) < jobs:
        assert process.poll() is None, f"the command ended with {process.returncode} before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    return process.wait(LIMIT)


def records(folder: Path, study: str) -> dict[str, dict[str, Any]]:
    """What the fold jobs found, by identity, without the times that differ from run to run."""
    found = {}
    for path in (folder / "studies" / study / "jobs").glob("*.json"):
        content = json.loads(path.read_text())
        for name in ("started", "seconds", "checksum"):
            del content[name]
        content["epochs"].pop("seconds", None)
        found[path.name] = content
    return found

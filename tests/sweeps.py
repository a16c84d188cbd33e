"""Runs of the real command, as a user types it, and what they leave behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tune.tracking import connect

LIMIT = 240
"""Seconds after which a command counts as hanging."""

QUICK = {
    "study": "quick",
    "tasks": {"gender": "binary", "adult": "binary", "age_band": "multiclass"},
    "folds": {"n_splits": 3, "seed": 1},
    "trials": 2,
    "racing": "none",
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
    """Runs the command in `folder`."""
    return run(command(*arguments), folder=folder, **variables)


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
        for name in ("started", "seconds"):
            del content[name]
        content["epochs"].pop("seconds", None)
        found[path.name] = content
    return found

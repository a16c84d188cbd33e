"""What a cluster file must keep to, beyond Ray's own schema: who gets in, what leaves home, who works."""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

import jsonschema
from ray.autoscaler._private.util import prepare_config, validate_config

PRIVATE = (
    ".git/config",
    ".venv/bin/python",
    ".env",
    "mlflow.db",
    "mlflow.db-wal",
    "mlruns/0/meta.yaml",
    "mlartifacts/1/x.parquet",
    "studies/parents/study.json",
    "releases/affect/1/release.json",
    "demo-run/mlflow.db",
    "build/lib/x.py",
    "cohort/segments.csv",
    "cohort/audio/p001.wav",
    "cohort/audio/p001.flac",
    "cohort/p001.mp3",
    "cohort/p001.m4a",
    "cohort/p001.mp4",
    "cohort/p001.TextGrid",
    "cohort/p001.vtt",
)
"""Files that must not leave home, even where a whole project is mounted."""
NEEDED = ("hilbert", "tune", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
NOTICED_WITHIN = 20.0
"""Seconds until a lost node is noticed, at most."""


def faults(config: dict[str, Any]) -> list[str]:
    """All rules that the file of a Ray cluster breaks."""
    try:
        full = prepare_config(config)
        validate_config(full)
    except (ValueError, jsonschema.ValidationError) as error:
        return [f"Ray refuses it: {str(error).splitlines()[0]}"]
    return [*_token(full), *_head(full), *_rights(full), *_home(full), *_packages(full)]


def starts(config: dict[str, Any], kind: str) -> list[str]:
    """The commands that start Ray on the head or on a worker."""
    return [command for command in config[f"{kind}_start_ray_commands"] if "ray start" in command]


def exported(command: str) -> dict[str, str]:
    """The variables that hold when a command reaches `ray start`."""
    before = command.partition("ray start")[0]
    return dict(re.findall(r"\b(RAY_\w+)=(\S+?)(?=[\s;]|$)", " ".join(re.findall(r"export ([^;]*)", before))))


def _token(config: dict[str, Any]) -> Iterator[str]:
    for kind in ("head", "worker"):
        if not starts(config, kind):
            yield f"the {kind} doesn't start Ray"
        for command in starts(config, kind):
            if exported(command).get("RAY_AUTH_MODE") != "token":
                yield f"the {kind} starts Ray without a token"
            if exported(command).get("RAY_USAGE_STATS_ENABLED") != "0":
                yield f"the {kind} reports its use"
        setup = " ".join(config[f"{kind}_setup_commands"])
        if "export RAY_AUTH_MODE=token" not in setup:
            yield f"shells on the {kind} have no token mode"
        if "chmod 600 ~/.ray/auth_token" not in setup:
            yield f"others on the {kind} may read the token"
    if config["file_mounts"].get("~/.ray/auth_token") != "~/.ray/auth_token":
        yield "the token doesn't reach the nodes"


def _head(config: dict[str, Any]) -> Iterator[str]:
    for command in starts(config, "head"):
        words = command.split()
        if "--num-cpus=0" not in words or "--num-gpus=0" not in words:
            yield "the head takes jobs"
        if "--dashboard-host=127.0.0.1" not in words:
            yield "the dashboard is on the network"
        if "--autoscaling-config=~/ray_bootstrap_config.yaml" not in words:
            yield "no worker will ever start"
        if noticed_within(exported(command)) >= NOTICED_WITHIN:
            yield "a lost node is noticed late"
        local = config["provider"]["type"] == "local"
        if local and exported(command).get("RAY_enable_autoscaler_v2") != "0":
            yield "autoscaler 2 starts one worker too few here"
    if config["provider"]["type"] == "aws":
        head = config["available_node_types"][config["head_node_type"]]
        if head["resources"].get("CPU") != 0 or head["resources"].get("GPU") != 0:
            yield "the autoscaler gives the head jobs"
    servers = [command for command in config["head_start_ray_commands"] if "mlflow server" in command]
    if not servers or not all("--host 127.0.0.1 " in command for command in servers):
        yield "MLflow is missing, or on the network"


def _rights(config: dict[str, Any]) -> Iterator[str]:
    """On AWS: the head's role starts machines, the workers' doesn't; Ray's own can't start any that have a role."""
    if config["provider"]["type"] != "aws":
        return
    types = config["available_node_types"]
    roles = {name: node["node_config"].get("IamInstanceProfile", {}).get("Name") for name, node in types.items()}
    head = roles.pop(config["head_node_type"])
    if head is None:
        yield "the head is left to Ray's own role"
    for name, role in roles.items():
        if role is None:
            yield f"{name} can't read the bucket"
        elif role == head:
            yield f"{name} has the head's role"


def noticed_within(variables: dict[str, str]) -> float:
    """Seconds until Ray gives a silent node up, with its own settings where none are made."""
    period = float(variables.get("RAY_health_check_period_ms", 3000))
    timeout = float(variables.get("RAY_health_check_timeout_ms", 10000))
    return (period + timeout) * float(variables.get("RAY_health_check_failure_threshold", 5)) / 1000


def _home(config: dict[str, Any]) -> Iterator[str]:
    for remote, local in config["file_mounts"].items():
        if remote.rstrip("/") in {"~", "~/hilbert", "~/tune"}:
            yield f"{remote} hides the packages"
        if PurePosixPath(local).parts in {(), ("..",)} or local in {"/", "~"}:
            yield f"{local} is mounted whole"
    for path in PRIVATE:
        if not left_out(path, config["rsync_exclude"]):
            yield f"{path} would leave home"


def left_out(path: str, patterns: list[str]) -> bool:
    """Whether rsync leaves a file out: a pattern that begins with a slash is for the top, others for any level."""
    parts = PurePosixPath(path).parts
    return any(
        fnmatch(parts[0], pattern[1:]) if pattern.startswith("/") else any(fnmatch(part, pattern) for part in parts)
        for pattern in patterns
    )


def _packages(config: dict[str, Any]) -> Iterator[str]:
    mounts = config["file_mounts"]
    for name in NEEDED:
        if mounts.get(f"~/project/{name}") != name:
            yield f"{name} doesn't reach the nodes"
    commands = [*config["head_setup_commands"], *config["worker_setup_commands"]]
    installs = [command for command in commands if "pip install" in command]
    if not any("--editable '.[cluster]'" in command for command in installs):
        yield "hilbert is not installed"
    for command in installs:
        if "--constraint constraints.txt" not in command:
            yield f"not pinned: {command}"
        for index in re.findall(r"https?://\S+", command):
            if not index.startswith("https://download.pytorch.org/whl/cu"):
                yield f"another index: {index}"

"""The files of Ray clusters, without a cloud: Ray's own schema, our rules, and what their commands do."""

import getpass
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_rules import NEEDED, PRIVATE, exported, faults, left_out, noticed_within, starts
from ray.autoscaler._private.command_runner import _with_interactive
from ray.scripts.scripts import cli as ray
from servers import free_port

from tune.options import make_parser

ROOT = Path(__file__).parent.parent
AWS, LAB = ROOT / "ray_cluster.yaml", ROOT / "clusters" / "lab.yaml"
LIMIT = 60


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def bash(script: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "USER": getpass.getuser(), **variables}
    return subprocess.run(
        ["bash", "-c", script], cwd=home, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )


# ---- the rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [AWS, LAB], ids=lambda path: path.name)
def test_a_cluster_file_keeps_the_rules(path):
    assert faults(read(path)) == []


def drop_mode(config, kind):
    commands = config[f"{kind}_start_ray_commands"]
    config[f"{kind}_start_ray_commands"] = [command.replace("RAY_AUTH_MODE=token ", "") for command in commands]


def change(key, old, new):
    def act(config):
        assert any(old in line for line in config[key]), (key, old)
        config[key] = [line.replace(old, new) for line in config[key]]

    return act


SPOILED = {
    "head without a token": (lambda c: drop_mode(c, "head"), "the head starts Ray without a token"),
    "worker without a token": (lambda c: drop_mode(c, "worker"), "the worker starts Ray without a token"),
    "token stays home": (lambda c: c["file_mounts"].pop("~/.ray/auth_token"), "the token doesn't reach the nodes"),
    "token for all to read": (
        change("setup_commands", "chmod 600", "chmod 644"),
        "others on the head may read the token",
    ),
    "shells without the mode": (
        change("setup_commands", "export RAY_AUTH_MODE=token", "export X=1"),
        "shells on the worker have no token mode",
    ),
    "head works": (change("head_start_ray_commands", "--num-cpus=0", "--num-cpus=4"), "the head takes jobs"),
    "open dashboard": (
        change("head_start_ray_commands", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
        "the dashboard is on the network",
    ),
    "open MLflow": (
        change("head_start_ray_commands", "--host 127.0.0.1", "--host 0.0.0.0"),
        "MLflow is missing, or on the network",
    ),
    "slow to notice": (
        change("head_start_ray_commands", "RAY_health_check_timeout_ms=2000 ", ""),
        "a lost node is noticed late",
    ),
    "telling": (
        change("worker_start_ray_commands", "STATS_ENABLED=0", "STATS_ENABLED=1"),
        "the worker reports its use",
    ),
    "everything mounted": (lambda c: c["file_mounts"].update({"~/project": "."}), ". is mounted whole"),
    "hidden package": (lambda c: c["file_mounts"].update({"~/hilbert": "hilbert"}), "~/hilbert hides the packages"),
    "recordings": (lambda c: c["rsync_exclude"].remove("*.wav"), "cohort/audio/p001.wav would leave home"),
    "transcripts": (lambda c: c["rsync_exclude"].remove("segments.csv"), "cohort/segments.csv would leave home"),
    "whatever version": (
        change("setup_commands", "--constraint constraints.txt --extra", "--extra"),
        "not pinned: cd ~/project && ~/venv/bin/pip install --quiet --extra-index-url "
        "https://download.pytorch.org/whl/cu130 torch",
    ),
    "unknown key": (lambda c: c.update(max_worker=3), "Ray refuses it: Additional properties are not allowed"),
}


@pytest.mark.parametrize("path", [AWS, LAB], ids=lambda path: path.name)
@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_cluster_file_is_refused(path, name):
    spoil, said = SPOILED[name]
    config = read(path)
    spoil(config)
    assert any(fault.startswith(said) for fault in faults(config)), faults(config)


def machine(config, name):
    return config["available_node_types"][name]["node_config"]


SPOILED_ROLES = {
    "Ray's role": (lambda c: machine(c, "head").pop("IamInstanceProfile"), "the head is left to Ray's own role"),
    "worker without": (lambda c: machine(c, "gpu_spot").pop("IamInstanceProfile"), "gpu_spot can't read the bucket"),
    "worker like a head": (
        lambda c: machine(c, "gpu_on_demand").update(IamInstanceProfile={"Name": "hilbert-head"}),
        "gpu_on_demand has the head's role",
    ),
}


@pytest.mark.parametrize("name", SPOILED_ROLES)
def test_machines_with_the_wrong_role_are_refused(name):
    spoil, said = SPOILED_ROLES[name]
    config = read(AWS)
    spoil(config)
    assert faults(config) == [said]


def test_a_machine_that_forgets_its_role_gets_the_smaller_one():
    text = AWS.read_text(encoding="utf-8")
    own = "      IamInstanceProfile: {Name: hilbert-head}"
    assert text.count(own) == 1
    assert machine(yaml.safe_load(text.replace(own, "")), "head")["IamInstanceProfile"] == {"Name": "hilbert-worker"}


def test_only_what_is_set_before_ray_starts_counts():
    assert exported("export A=1 RAY_X=2; ulimit -n 9; ray start --head; export RAY_AUTH_MODE=token") == {"RAY_X": "2"}
    assert exported("echo RAY_AUTH_MODE=token; ray start") == {}
    assert noticed_within({}) > 60, "Ray's own settings"


def test_what_is_sent_exists_and_installs():
    """Every mounted path is in the repository, and with the needed ones pyproject.toml finds what it names."""
    for path in (AWS, LAB):
        for remote, local in read(path)["file_mounts"].items():
            if remote != "~/.ray/auth_token":
                assert (ROOT / local).exists(), local
                assert remote == f"~/project/{local}", "a relative path must mean the same everywhere"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'readme = "README.md"' in project
    assert 'license-files = ["LICENSE"]' in project
    assert {"README.md", "LICENSE"} <= set(NEEDED)


@pytest.mark.parametrize("path", [AWS, LAB], ids=lambda path: path.name)
def test_the_commands_that_a_file_names_exist(path):
    said = re.findall(r"^#   ((?:hilbert|ray|python) [^#\n]*)", path.read_text(encoding="utf-8"), flags=re.M)
    named = [shlex.split(command.partition(" > ")[0]) for command in said]
    for _, *words in (command for command in named if command[0] == "hilbert"):
        assert make_parser().parse_args(words).cluster == path.relative_to(ROOT)
    for _, name, *words in (command for command in named if command[0] == "ray"):
        known = {option for parameter in ray.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--") and word != "--"} <= known, name
    assert {command[0] for command in named} >= {"hilbert", "ray"}


def test_both_files_send_and_install_the_same():
    aws, lab = read(AWS), read(LAB)
    assert aws["file_mounts"] == lab["file_mounts"]
    assert aws["rsync_exclude"] == lab["rsync_exclude"]
    without_apt = [command.partition(" || { sudo")[0] for command in aws["setup_commands"]]
    assert without_apt == lab["setup_commands"]
    assert starts(aws, "worker")[0].replace("ulimit -n 65536; ", "") == starts(lab, "worker")[0]


@pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync")
def test_rsync_itself_leaves_private_files_out(tmp_path):
    for path in (*PRIVATE, "features/mine/documents.csv", "features/mine/audio.npy", "study.yaml"):
        (tmp_path / "from" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / path).write_text("x")
    excludes = [word for pattern in read(AWS)["rsync_exclude"] for word in ("--exclude", pattern)]
    subprocess.run(["rsync", "-a", *excludes, f"{tmp_path}/from/", f"{tmp_path}/to/"], check=True, timeout=LIMIT)
    arrived = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert arrived == {"features/mine/documents.csv", "features/mine/audio.npy", "study.yaml"}


def test_a_feature_store_arrives_whole(demo_store):
    patterns = read(AWS)["rsync_exclude"]
    assert not [file.name for file in demo_store.iterdir() if left_out(f"features/{file.name}", patterns)]


# ---- what the commands do, run here ----------------------------------------------------------------------------------


def test_shells_on_a_node_begin_in_the_project_with_the_token(tmp_path):
    """As Ray runs them over ssh; the setup may run any number of times."""
    (tmp_path / "project").mkdir()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    (tmp_path / ".bashrc").write_text("export BEFORE=1\n")
    for command in read(AWS)["setup_commands"][:2] * 2:
        assert bash(command, tmp_path).returncode == 0
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".bashrc").read_text().count("hilbert_env") == 1
    told = 'echo "at $PWD" $BEFORE $RAY_AUTH_MODE $MLFLOW_TRACKING_URI "${PATH%%:*}"'
    shell = bash(" ".join(_with_interactive(told)), tmp_path)
    assert f"at {tmp_path}/project 1 token http://127.0.0.1:5000 {tmp_path}/venv/bin" in shell.stdout, shell.stderr
    assert bash(". ~/.bashrc; pwd", tmp_path).stdout.strip() == str(tmp_path), "only shells that people and Ray open"


def test_a_cluster_has_one_mlflow_however_often_it_is_brought_up(tmp_path):
    (command,) = (command for command in read(LAB)["head_start_ray_commands"] if "mlflow server" in command)
    port = str(free_port())
    command = command.replace("5000", port)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    try:
        first = bash(command, tmp_path, PATH=path)
        assert first.returncode == 0, first.stderr + (tmp_path / "mlflow-server" / "server.log").read_text()
        begun = servers(port)
        assert begun
        assert bash(command, tmp_path, PATH=path).returncode == 0
        assert servers(port) == begun
        assert (tmp_path / "mlflow-server" / "mlflow.db").exists()
    finally:
        for process in servers(port):
            os.kill(process, signal.SIGKILL)


def test_without_its_bucket_no_mlflow_is_started(tmp_path):
    (command,) = (command for command in read(AWS)["head_start_ray_commands"] if "mlflow server" in command)
    (tmp_path / "python").write_text("#!/bin/sh\necho asked: $2 >&2; exit 1\n")  # what boto3 does without the bucket
    (tmp_path / "python").chmod(0o755)
    done = bash(command.replace("5000", str(free_port())), tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode != 0
    assert "asked: import boto3; boto3.client('s3').head_bucket(Bucket='CHANGE-ME')" in done.stderr
    assert not (tmp_path / "mlflow-server").exists()


def servers(port: str) -> set[int]:
    """The processes of the MLflow server on a port."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_text(errors="replace").split("\0")
        except OSError:  # ended meanwhile
            continue
        if port in words and any("mlflow" in word for word in words):
            found.add(int(entry.parent.name))
    return found

"""`hilbert submit`: what it refuses, what it decides, and its life with a real job server on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from servers import end, free_port, kill, started, wait_for
from sweeps import LIMIT, environment, hilbert, records, write_study

from hilbert.errors import InputError
from tune.cluster import is_open, read_cluster_file, tunnel_command, way_to_head, workers_at_once
from tune.jobs import Attach, Job, Start, decide
from tune.options import make_parser
from tune.submit import exit_code, request, sweep_command, within

LAB = {"cluster_name": "lab", "provider": {"type": "local", "head_ip": "192.0.2.1", "worker_ips": ["192.0.2.2"]}}
STATUSES = ("PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED")


def jobs(*statuses, study="mine", command="sweep"):
    return [Job(f"hilbert-{study}-{number}", status, command) for number, status in enumerate(statuses, start=1)]


def cluster_file(folder, mounts):
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(LAB | {"file_mounts": mounts}))
    return path


def asked(*words):
    return request(make_parser().parse_args(["submit", *map(str, words)]))


@given(st.lists(st.sampled_from(STATUSES), max_size=5))
def test_a_study_runs_once(statuses):
    """Whatever runs is followed; what doesn't run is started under a name that was never used."""
    found = decide("mine", jobs(*statuses), "sweep")
    running = [f"hilbert-mine-{n}" for n, status in enumerate(statuses, start=1) if status in {"PENDING", "RUNNING"}]
    if running:
        assert found == Attach(running[0])
    else:
        assert found == Start(f"hilbert-mine-{len(statuses) + 1}")


@given(st.permutations([*jobs("FAILED", "STOPPED", "SUCCEEDED"), Job("hilbert-mine-11", "FAILED", "sweep")]))
def test_names_are_counted_not_sorted(known):
    assert decide("mine", known) == Start("hilbert-mine-12")


def test_the_jobs_of_others_are_left_alone():
    others = [*jobs("RUNNING", study="mine-2"), *jobs("RUNNING", study="m"), Job("raysubmit_1", "RUNNING", "sweep")]
    assert decide("mine", others, "sweep") == Start("hilbert-mine-1")
    assert decide("m.ne", jobs("RUNNING"), "sweep") == Start("hilbert-m.ne-1")


def test_a_study_that_runs_with_other_arguments_is_not_taken_for_this_one():
    with pytest.raises(InputError, match="running with other arguments") as refused:
        decide("mine", jobs("RUNNING", command="sweep --set trials=3"), "sweep")
    assert "--set trials=3" in str(refused.value)
    assert decide("mine", jobs("RUNNING", command="sweep --set trials=3")) == Attach("hilbert-mine-1")  # to stop it
    assert decide("mine", jobs("FAILED", command="sweep --set trials=3"), "sweep") == Start("hilbert-mine-2")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), min_size=1), min_size=1, max_size=3))
def test_arguments_reach_the_sweep_as_they_were_given(overrides):
    options = Namespace(overrides=overrides, tracking_uri=None, hash_ids=True)
    command = sweep_command("~/my project", Path("a study.yaml"), options)
    home, change, sweep = command.partition(" && exec hilbert sweep ")
    assert (home, change) == ("cd ~/'my project'", " && exec hilbert sweep ")
    said = subprocess.run(["sh", "-c", f"printf '%s\\0' {sweep}"], capture_output=True, check=True).stdout.decode()
    assert said.split("\0")[:-1] == ["a study.yaml", "--set", *overrides, "--hash-ids"]


@pytest.mark.parametrize("given", ["option", "override"])
def test_the_command_line_on_a_cluster_has_no_password(given):
    uri = "postgresql://ada:s3cr3t@host/db"
    overrides = [f"tracking_uri={uri}"] if given == "override" else ["trials=3"]
    options = Namespace(overrides=overrides, tracking_uri=uri if given == "option" else None, hash_ids=False)
    command = sweep_command("~/project", Path("study.yaml"), options)
    assert "s3cr3t" not in command
    assert command.endswith("# recording to postgresql://***@host/db")
    script = command.replace("hilbert", "echo").replace("~/project", "/")
    said = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout.decode()
    assert said.split() == ["sweep", "study.yaml", *(["--set", "trials=3"] if given == "option" else [])]


def test_paths_mean_the_same_on_the_cluster(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features" / "mine").mkdir(parents=True)
    write_study(tmp_path / "studies.d", database=False, features="features/mine")
    mounts = {"~/project/features": "features", "~/project/studies.d/study.yaml": "studies.d/study.yaml"}
    found = asked("studies.d/study.yaml", "--set", "trials=3", "--cluster", cluster_file(tmp_path, mounts))
    assert found.command == "cd ~/project && exec hilbert sweep studies.d/study.yaml --set trials=3"
    assert found.again == f"hilbert submit studies.d/study.yaml --set trials=3 --cluster {tmp_path}/cluster.yaml"
    whole = {"/data/here": "."}
    found = asked(tmp_path / "studies.d" / "study.yaml", "--cluster", cluster_file(tmp_path, whole), "--no-up")
    assert found.command == "cd /data/here && exec hilbert sweep studies.d/study.yaml"
    assert found.again.endswith("--no-up")


@pytest.mark.parametrize(
    ("mounts", "message"),
    [
        ({"~/project/features": "features"}, r'study.yaml to the cluster; add the line "~/project/study.yaml": study'),
        ({"~/project/study.yaml": "study.yaml"}, r'add the line "~/project/features/mine": features/mine'),
        ({"~/a/features": "features", "~/b/study.yaml": "study.yaml"}, "must bring all to one folder"),
        ({"~/a/f": "features", "~/a/study.yaml": "study.yaml"}, "brings features/mine to ~/a/f/mine, which must end"),
        ({"~/.ray/auth_token": "auth_token"}, "there is no auth_token here; 'ray get-auth-token --generate' makes"),
    ],
)
def test_what_the_cluster_can_not_have_is_said_before_anything_starts(tmp_path, monkeypatch, mounts, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features" / "mine").mkdir(parents=True)
    write_study(tmp_path, database=False, features="features/mine")
    with pytest.raises(InputError, match=message):
        asked("study.yaml", "--cluster", cluster_file(tmp_path, mounts))


def test_a_study_elsewhere_is_refused(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    study = write_study(tmp_path, database=False, features=str(tmp_path / "features"))
    with pytest.raises(InputError, match="the study file must lie in this folder"):
        asked(study, "--cluster", cluster_file(tmp_path / "project", {}))
    assert within(tmp_path / "project" / "a" / ".." / "b", "it") == Path("b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such cluster file"),
        ("a: [", "can't be read as YAML"),
        ("study: mine", "'cluster_name' and 'provider'"),
    ],
)
def test_what_is_no_cluster_file_is_refused(tmp_path, content, message):
    path = tmp_path / "cluster.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_cluster_file(path)


def test_nodes_that_come_by_themselves_are_counted():
    assert workers_at_once(LAB) == 1
    kinds = {"head": {"min_workers": 0}, "gpu": {"min_workers": 2}, "spot": {}}
    cloud = {"provider": {"type": "aws"}, "head_node_type": "head", "available_node_types": kinds}
    assert workers_at_once(cloud) == 2
    assert workers_at_once({"provider": {"type": "local", "head_ip": "192.0.2.1"}}) == 0


def test_the_way_to_a_listed_head_needs_no_memory_of_ray(tmp_path):
    auth = {"ssh_user": "me", "ssh_private_key": "/key", "ssh_proxy_command": "ssh -W %h:%p gate"}
    assert way_to_head(LAB | {"auth": auth}) == ["-i", "/key", "-o", "ProxyCommand=ssh -W %h:%p gate", "me@192.0.2.1"]
    assert way_to_head({"provider": {"type": "aws"}, "auth": auth}) == []
    listed = read_cluster_file(cluster_file(tmp_path, {}))
    assert tunnel_command(listed, 4321)[-3:] == ["-L", "127.0.0.1:4321:127.0.0.1:8265", "192.0.2.1"]
    assert tunnel_command(replace(listed, ssh=()), 4321)[1:] == ["dashboard", str(listed.path), "--port", "4321"]


def submitted_to(folder, provider, store):
    """What `hilbert submit` says of a cluster with such a provider."""
    write_study(folder, database=False, features=str(store))
    content = {"cluster_name": "c", "provider": provider, "auth": {"ssh_user": "nobody-here"}}
    content["file_mounts"] = {"~/project/study.yaml": "study.yaml"}
    (folder / "cluster.yaml").write_text(yaml.safe_dump(content))
    done = hilbert("submit", "study.yaml", "--cluster", "cluster.yaml", folder=folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_ray_up_that_fails_is_quoted(tmp_path, demo_store):
    said = submitted_to(tmp_path, {"type": "cloud-nine"}, demo_store)
    assert "hilbert: 'ray up --yes --log-style pretty cluster.yaml' failed with exit code 1; its last lines:" in said
    assert "cloud-nine" in said.partition("its last lines:")[2]


def test_a_listed_head_that_can_not_be_reached_is_not_restarted(tmp_path, demo_store):
    said = submitted_to(tmp_path, {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}, demo_store)
    assert "hilbert: no connection to the head of cluster.yaml:" in said
    assert "ray up" not in said


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", None, 1),
        ("FAILED", -9, 1),
        ("STOPPED", -2, 130),
    ],
)
def test_exit_codes(status, code, meaning):
    assert exit_code(Job("hilbert-mine-1", status, "", code)) == meaning


@pytest.fixture(scope="module")
def head():
    """A Ray head with its job server on this machine, with a token, in a temporary folder of its own; its address."""
    folder = tempfile.mkdtemp(prefix="hilbert-ray-")
    address, log = f"http://127.0.0.1:{(port := free_port())}", Path(folder) / "log"
    ports = [f"--{name}={number}" for name, number in {"port": free_port(), "dashboard-port": port}.items()]
    ray = ["start", "--head", "--block", *ports, "--dashboard-agent-listen-port", str(free_port()), "--num-cpus=2"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *ray, f"--temp-dir={folder}"],
            env=environment(**token, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        wait_for(lambda: is_open(port), process)
        yield address, token
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_a_sweep_as_a_job(head, tmp_path, demo_store):
    """Started once, followed twice, left, stopped, started anew: what it says and its exit code arrive."""
    address, token = head
    study = write_study(tmp_path, features=str(demo_store), trials=50, resources={"workers": 1})
    submit = ["submit", study.name, "--address", address, "--folder", str(tmp_path)]
    with started(*submit, folder=tmp_path, **token) as first:
        wait_for(lambda: records(tmp_path, "quick"), first)
        with started(*submit, folder=tmp_path, **token) as second:
            assert "hilbert-quick-1 is running: following it" in second.stderr.readline()
            assert "held-out documents" in next(line for line in second.stdout if "adult," in line)
            refused = hilbert(*submit, "--set", "trials=60", folder=tmp_path, **token)
            assert refused.returncode == 2
            assert "running with other arguments" in refused.stderr
            kill(first.pid, how=signal.SIGINT)
            assert first.wait(LIMIT) == 130
            assert f"follow it again: hilbert {' '.join(submit)}" in first.stderr.read()
            assert hilbert(*submit, "--stop", folder=tmp_path, **token).returncode == 0
            assert second.wait(LIMIT) == 130
    kept = records(tmp_path, "quick")
    wrong = hilbert(*submit[:-1], str(tmp_path / "elsewhere"), folder=tmp_path, **token)
    assert "submitted hilbert-quick-2" in wrong.stderr
    assert wrong.returncode == 2
    assert records(tmp_path, "quick") == kept


@pytest.mark.cluster
def test_a_stranger_is_refused(head, tmp_path, demo_store):
    address, _ = head
    study = write_study(tmp_path, features=str(demo_store))
    submit = ["submit", study.name, "--address", address, "--folder", str(tmp_path)]
    refused = hilbert(*submit, folder=tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="1" * 64)
    assert refused.returncode == 2
    assert "the cluster refuses this computer" in refused.stderr

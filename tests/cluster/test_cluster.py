"""The whole life of a cluster of machines that are there already, from a laptop: `make test-cluster`.

Fake computers with real ssh (netns.sh), the shipped cluster file, the real commands. The tests are one story, in order.
"""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from lab import HEAD, LIMIT, ROOT, Lab, eventually, lab, why_impossible
from lab import records as records_in
from sweeps import QUICK, hilbert

impossible = why_impossible()
pytestmark = [pytest.mark.skipif(bool(impossible), reason=impossible), pytest.mark.timeout(400)]

STUDY = QUICK | {"features": "demo/speechocean"}
SHORT = STUDY | {"study": "short"}
LONG = STUDY | {"study": "long", "trials": 500, "train": {"epochs": 40, "patience": 0}, "resources": {"retries": 0}}
"""Longer than anything that is done to it; its first configurations depend on no result."""
COMPARED = 2
"""Of its configurations, those that are run here too."""
SUBMIT = ("hilbert", "submit", "long.yaml", "--cluster", "lab.yaml")
RUNS = """
from mlflow import MlflowClient
client = MlflowClient("http://127.0.0.1:5000")
experiment = client.get_experiment_by_name("long").experiment_id
runs = client.search_runs([experiment], "tags.`hilbert.level` = 'fold'", max_results=5000)
print([[int(run.data.tags["hilbert.trial"]), int(run.data.tags["hilbert.fold"])] for run in runs])
"""


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    for study in (SHORT, LONG):
        (folder / f"{study['study']}.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def here(studies):
    """What the studies find on this machine alone."""
    for study in (SHORT, LONG):
        changes = [f"features={ROOT / 'demo' / 'speechocean'}", f"trials={COMPARED}", "resources.workers=2"]
        done = hilbert("sweep", f"{study['study']}.yaml", "--set", *changes, folder=studies)
        assert done.returncode == 0, done.stderr
    return {study["study"]: records_in(studies / "studies" / study["study"] / "jobs") for study in (SHORT, LONG)}


@pytest.fixture(scope="module")
def cluster(studies):
    with lab() as made:
        made.make_project(ROOT / "clusters" / "lab.yaml", studies / "short.yaml", studies / "long.yaml")
        yield made


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def grows(cluster: Lab, found: int, *unless: "subprocess.Popen[bytes]") -> int:
    """Waits until the sweep has finished one more fold job; returns how many it has."""
    eventually(lambda: len(cluster.records("long")) > found, unless=unless)
    return len(cluster.records("long"))


def told(process: "subprocess.Popen[bytes]", log: Path, limit: float = LIMIT) -> str:
    """What a command said, after it ended."""
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        pytest.fail(f"still running: {log.read_text()}")
    return log.read_text()


def end(process: "subprocess.Popen[bytes]") -> None:
    """As when a terminal is closed by force."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_without_a_token_nothing_is_started(cluster: Lab):
    done = cluster.run("laptop", *SUBMIT)
    assert done.returncode == 2
    assert "'ray get-auth-token --generate' makes the token" in done.stderr
    assert cluster.run("laptop", "ray", "get-auth-token", "--generate").returncode == 0


def test_a_sweep_runs_on_machines_that_know_nothing_of_the_checkout(cluster: Lab, here, log):
    assert cluster.run("w1", "bash", "-ic", "~/venv/bin/python -c 'import hilbert'").returncode == 1
    process = cluster.start("laptop", "hilbert", "submit", "short.yaml", "--cluster", "lab.yaml", output=log)
    said = told(process, log)
    assert process.returncode == 0, said
    assert "submitted hilbert-short-1: cd ~/project && exec hilbert sweep short.yaml" in said
    assert cluster.records("short") == here["short"]
    ranking = cluster.run("head", "bash", "-ic", "hilbert compare short --csv")
    assert len(ranking.stdout.splitlines()) == 1 + SHORT["trials"], ranking.stderr


def test_rays_own_command_does_the_same_and_goes_on_after_the_laptop_was_lost(cluster: Lab, here, log):
    plain = ("ray", "submit", "lab.yaml", "tune/sweep.py", "--", "short.yaml", "--set", "study=plain")
    process = cluster.start("laptop", *plain, output=log)
    eventually(lambda: cluster.records("plain"), unless=[process])
    end(process)
    kept = cluster.records("plain")
    eventually(lambda: "sweep.py" not in cluster.run("head", "bash", "-c", "ps -eo args | grep '[s]weep.py'").stdout)
    done = cluster.run("laptop", *plain)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from your own computer: ray attach CLUSTER.yaml -p 5000" in done.stdout + done.stderr
    assert cluster.records("plain").items() >= kept.items()
    assert cluster.records("plain") == here["short"]


def test_strangers_are_refused(cluster: Lab):
    def answer(*words: str) -> str:
        url = "http://127.0.0.1:8265/api/jobs/"
        return cluster.run("head", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *words, url).stdout

    token = (cluster.home("laptop") / ".ray" / "auth_token").read_text().strip()
    assert answer() == "401"
    assert answer("-H", "Authorization: Bearer " + "0" * len(token)) == "403"
    assert answer("-H", f"Authorization: Bearer {token}") == "200"
    assert cluster.run("laptop", "curl", "-s", "-m", "5", f"http://{HEAD}:8265/").returncode == 7  # on the head alone
    done = cluster.run("laptop", "env", "RAY_AUTH_TOKEN=" + "0" * len(token), *SUBMIT)
    assert done.returncode == 2
    assert "the cluster refuses this computer" in done.stderr
    stranger = ("env", "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=" + "0" * len(token))
    assert cluster.run("laptop", *stranger, "timeout", "60", "ray", "start", f"--address={HEAD}:6379").returncode != 0
    assert cluster.nodes() == 3


def test_a_sweep_outlives_workers_connections_and_the_laptop(cluster: Lab, log):
    process = cluster.start("laptop", *SUBMIT, "--no-up", output=log)
    found = grows(cluster, 0, process)
    cluster.do("crash", "w1")
    cluster.do("boot", "w1")
    found = grows(cluster, found, process)
    cluster.do("crash", "laptop")
    process.wait(LIMIT)
    found = grows(cluster, found)
    cluster.do("boot", "laptop")
    cluster.do("unplug", "w2")

    log.write_text("")
    again = cluster.start("laptop", *SUBMIT, "--no-up", output=log)
    eventually(lambda: "hilbert-long-1 is running: following it" in log.read_text(), unless=[again])
    cluster.do("unplug", "laptop")
    eventually(lambda: "connection lost; trying again" in log.read_text(), unless=[again])
    eventually(lambda: cluster.nodes() == 2, unless=[again])  # the head, and w1 again
    found = grows(cluster, found, again)
    cluster.do("plug", "laptop")
    cluster.do("plug", "w2")
    eventually(lambda: "mean_auc" in log.read_text().rpartition("connection lost")[2], unless=[again])
    other = cluster.run("laptop", *SUBMIT, "--no-up", "--set", "trials=5")
    assert other.returncode == 2, other.stderr
    assert "running with other arguments" in other.stderr
    end(again)
    grows(cluster, found)


def test_a_sweep_outlives_its_head(cluster: Lab, log):
    kept = cluster.records("long")
    cluster.do("crash", "head")
    cluster.do("boot", "head")
    assert cluster.records("long").items() >= kept.items()
    process = cluster.start("laptop", *SUBMIT, output=log)
    grows(cluster, len(kept) + 3, process)
    assert cluster.records("long").items() >= kept.items()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(LIMIT)
    eventually(lambda: "follow it again: hilbert submit long.yaml --cluster lab.yaml" in log.read_text())
    grows(cluster, len(cluster.records("long")))


def test_a_sweep_is_stopped_and_all_that_it_did_is_there_once(cluster: Lab, here):
    stopped = cluster.run("laptop", *SUBMIT, "--stop")
    assert stopped.returncode == 0, stopped.stderr
    found = cluster.records("long")
    assert cluster.run("laptop", *SUBMIT, "--stop").returncode == 2  # nothing is left to be stopped
    assert cluster.records("long") == found
    assert found.items() >= here["long"].items()
    assert not [record for record in found.values() if record["error"]]
    (cluster.home("head") / "runs.py").write_text(RUNS, encoding="utf-8")
    runs = cluster.run("head", "bash", "-ic", "python ~/runs.py")
    assert runs.returncode == 0, runs.stderr
    recorded = [tuple(pair) for pair in json.loads(runs.stdout.strip().splitlines()[-1])]
    assert len(set(recorded)) == len(recorded) == len(found)


def test_down_leaves_nothing_running(cluster: Lab):
    assert cluster.run("laptop", "ray", "down", "--yes", "lab.yaml").returncode == 0

    def left(host: str) -> str:
        return cluster.run(host, "bash", "-c", "ps -eo args | grep -E '[r]aylet|[g]cs_server|[r]ay::'").stdout

    assert left("head") == ""
    eventually(lambda: not left("w1") and not left("w2"))

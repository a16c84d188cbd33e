"""A sweep on a cluster whose nodes come while it waits and while it runs."""

import json
import sys
from pathlib import Path

import pytest
from servers import RayCluster, started, wait_for
from sweeps import LIMIT, records, run, write_study

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def test_a_sweep_waits_for_the_first_node_and_uses_the_next(tmp_path, demo_store):
    resources = {"cpus_per_job": 2}  # more than the head has
    write_study(tmp_path, features=str(demo_store), train={"epochs": 150, "patience": 0}, resources=resources)
    with (
        RayCluster() as cluster,
        started("sweep", "study.yaml", folder=tmp_path, RAY_ADDRESS=cluster.address) as sweep,
    ):
        assert sweep.stderr is not None
        said = next(line for line in sweep.stderr if "waiting up to 20 minutes" in line)
        assert "a fold job asks for 2 CPU, and no node of the cluster has that (1 CPU)" in said
        cluster.add_node(cpus=2)
        wait_for(lambda: len(cluster.at_work()) == 1, sweep)
        cluster.add_node(cpus=2)
        wait_for(lambda: len(set(cluster.at_work().values())) == 2, sweep)
        assert sweep.wait(LIMIT) == 0
    assert len(records(tmp_path, "quick")) == 6


def test_a_fold_job_goes_on_on_another_node_from_its_last_state(tmp_path):
    states = tmp_path / "states"
    states.mkdir()
    with RayCluster() as cluster:
        cluster.add_node()
        cluster.add_node()
        script = Path(__file__).parent / "states_ledger.py"
        done = run([sys.executable, str(script), cluster.address, str(states)], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [3, None, ["job.pt"], [], True]

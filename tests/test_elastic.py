"""A sweep on a cluster whose nodes come while it waits and while it runs."""

import pytest
from servers import RayCluster, started, wait_for
from sweeps import LIMIT, records, write_study

pytestmark = pytest.mark.timeout(400)


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

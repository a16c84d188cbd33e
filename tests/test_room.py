"""How many fold jobs fit on a cluster that grows and shrinks, and what its autoscaler is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert.errors import StudyError
from tune.room import LOOK_EVERY, MOST_ASKED, MOST_PROBES, Room
from tune.space import ResourcesConfig


class Cluster:
    """What Ray would say, at a time that stands still."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        self.nodes, self.asked, self.time, self.looks = list(nodes), [], 0.0, 0
        self.joins: dict[float, dict[str, float]] = {}

    def there(self):
        self.looks += 1
        return self.nodes

    def sleep(self, seconds):
        self.time += seconds
        self.nodes += [self.joins.pop(when) for when in sorted(self.joins) if when <= self.time]

    def room(self, *, autoscaler=True, **resources) -> Room:
        return Room(
            ResourcesConfig(**resources),
            self.there,
            self.asked.append if autoscaler else None,
            clock=lambda: self.time,
            sleep=self.sleep,
        )


@given(
    cpus=st.integers(0, 64),
    gpus=st.integers(0, 8),
    share=st.sampled_from([0, 0.1, 0.25, 1 / 3, 0.5, 1, 2]),
    each=st.sampled_from([0.5, 1, 3]),
)
def test_as_many_fit_as_there_is_of_everything(cpus, gpus, share, each):
    slots = Cluster({"CPU": cpus, "GPU": gpus}).room(cpus_per_job=each, gpus_per_job=share).slots
    assert slots * each <= cpus + 1e-6
    assert slots * share <= gpus + 1e-6
    assert (slots + 1) * each > cpus or (share and (slots + 1) * share > gpus - 1e-6)


@given(st.lists(st.fixed_dictionaries({"CPU": st.integers(0, 9), "GPU": st.integers(0, 2)}), max_size=4))
def test_a_job_stays_on_one_node(nodes):
    alone = [Cluster(node).room(cpus_per_job=2, gpus_per_job=0.5).slots for node in nodes]
    assert Cluster(*nodes).room(cpus_per_job=2, gpus_per_job=0.5).slots == sum(alone)


def test_a_share_of_a_gpu_is_all_of_one_gpu_s():
    assert Cluster({"CPU": 99, "GPU": 4}).room(gpus_per_job=0.3).slots == 4 * 3  # not 13: none lies across two
    assert Cluster({"CPU": 99, "GPU": 4}).room(gpus_per_job=0.6).slots == 4


def test_nodes_without_a_gpu_are_left_alone_by_jobs_that_ask_for_one():
    mixed = Cluster({"CPU": 64}, {"CPU": 8, "GPU": 1}, {"CPU": 2, "GPU": 1})
    assert mixed.room(gpus_per_job=0.25).slots == 4 + 2
    assert mixed.room(gpus_per_job=0).slots == 74


def test_packing_changes_the_room_at_once_as_far_as_there_are_processors():
    cluster = Cluster({"CPU": 64}, {"CPU": 8, "GPU": 2}, {"CPU": 2, "GPU": 1})
    room = cluster.room(gpus_per_job="auto")
    assert room.slots == 3
    room.packing.measured(2**30, 80 * 2**30)  # 45 would fit, but no node has processors for more than 4 a GPU
    assert room.slots == 8 + 2
    assert room.job == {"CPU": 1, "GPU": 0.25}


def test_a_fleet_is_asked_for_when_it_is_known_how_large():
    cluster = Cluster({"CPU": 0.0})
    room = cluster.room(gpus_per_job="auto")
    room.want(500)
    assert cluster.asked[-1] == [{"CPU": 1, "GPU": 1.0}] * MOST_PROBES
    room.packing.measured(2**30, 20 * 2**30)
    room.want(500)
    assert cluster.asked[-1] == [{"CPU": 1, "GPU": 0.0909}] * 500


def test_auto_means_processors_where_no_gpu_will_ever_be():
    cluster, said = Cluster({"CPU": 4}), []
    room = cluster.room(autoscaler=False, gpus_per_job="auto")
    room.wait(said.append)
    assert (room.slots, room.job) == (4, {"CPU": 1})
    assert said == ["there is no GPU here: fold jobs run on processors alone (resources.gpus_per_job: auto)"]


def test_auto_waits_for_a_gpu_on_a_cluster_and_uses_one_that_is_there():
    cluster, said = Cluster({"CPU": 4}), []
    cluster.joins[30.0] = {"CPU": 8, "GPU": 1}
    cluster.room(gpus_per_job="auto").wait(said.append)
    assert cluster.time >= 30
    assert "ask for less in cpus_per_job and gpus_per_job (0: no GPU), or add a node" in said[0]
    here = Cluster({"CPU": 4, "GPU": 1}).room(autoscaler=False, gpus_per_job="auto")
    here.wait(said.append)
    assert (here.slots, len(said)) == (1, 1)


def test_it_follows_the_nodes_and_keeps_to_the_limit():
    cluster = Cluster({"CPU": 2})
    room = cluster.room(workers=5)
    assert room.slots == 2
    cluster.nodes.append({"CPU": 9})
    assert (room.slots, cluster.looks) == (2, 1)  # it doesn't look all the time
    cluster.time += LOOK_EVERY
    assert room.slots == 5
    cluster.nodes, cluster.time = [], cluster.time + LOOK_EVERY
    assert room.slots == 0


def test_the_autoscaler_is_told_what_is_left_and_nothing_twice():
    cluster = Cluster({"CPU": 1})
    room = cluster.room(gpus_per_job=0.25)
    for left in (3, 3, 2, 0):
        room.want(left)
    assert cluster.asked == [[{"CPU": 1, "GPU": 0.25}] * 3, [{"CPU": 1, "GPU": 0.25}] * 2, []]
    room.want(10**6)
    assert len(cluster.asked[-1]) == MOST_ASKED
    limited = cluster.room(workers=4)
    limited.want(100)
    assert len(cluster.asked[-1]) == 4
    cluster.room(autoscaler=False).want(5)


def test_it_waits_for_a_node_and_says_so_once():
    cluster, said = Cluster({"CPU": 4}), []
    cluster.joins[30.0] = {"CPU": 8, "GPU": 1}
    cluster.room(gpus_per_job=1).wait(said.append)
    assert 30 <= cluster.time <= 30 + 2 * LOOK_EVERY
    assert len(said) == 1
    assert "a fold job asks for 1 CPU and 1 GPU, and no node of the cluster has that (4 CPU and 0 GPU)" in said[0]


@pytest.mark.parametrize("autoscaler", [True, False])
def test_it_doesn_t_wait_for_ever(autoscaler):
    cluster, said = Cluster({"CPU": 0.5}), []
    with pytest.raises(
        StudyError, match=r"asks for 1 CPU, and no node of the cluster has that \(0.5 CPU\): ask for less"
    ):
        cluster.room(autoscaler=autoscaler, minutes_for_nodes=1).wait(said.append)
    assert cluster.time <= 60 + 2 * LOOK_EVERY
    assert bool(said) == autoscaler
    assert autoscaler or cluster.time == 0

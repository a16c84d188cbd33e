"""Nodes that are lost while fold jobs run on them: no fault of the job's. Workers that die of themselves: theirs."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import RayCluster, kill, started, wait_for
from sweeps import LIMIT, records, write_study
from test_ledger import Books, drive

from tune.lost import GRACE, LOOK_EVERY, MOST_LOSSES, PATIENCE, Gone, Missing, Node, tell

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


class Place:
    """A node as the cluster sees it, at a time that stands still."""

    def __init__(self):
        self.time, self.alive, self.answering = 100.0, True, False
        self.missing = Missing(
            lambda: {"n": Node("gpu-3 (10.0.0.3)", self.alive)}, lambda node: self.answering, clock=lambda: self.time
        )
        self.job = Books(1, 1).ledger.next()

    def gone(self, **changes):
        return Gone(self.job, 0.0, 0.0, "it died", **{"node": "n"} | changes)

    def after(self, seconds):
        """What is known so many seconds later: how many jobs lost their node, and how many died."""
        self.time += seconds
        lost, died = self.missing.settled()
        return len(lost), len(died)


def test_a_node_that_is_known_to_be_lost_late_takes_the_blame():
    place = Place()
    place.missing.add(place.gone())
    assert place.after(GRACE + 10) == (0, 0)  # not answered, not known to be lost: as after a power cut
    place.alive = False
    assert place.after(LOOK_EVERY) == (1, 0)
    assert place.after(PATIENCE) == (0, 0)  # told once


def test_a_node_that_answers_lives_and_the_job_died():
    place = Place()
    place.answering = True
    place.missing.add(place.gone())
    assert place.after(GRACE / 2) == (0, 0)  # it may be shutting down
    assert place.after(GRACE) == (0, 1)


@pytest.mark.parametrize("known", [{"node": ""}, {"node": "another"}, {}])
def test_what_is_never_known_counts_as_died(known):
    place = Place()
    place.missing.add(place.gone(**known))
    assert place.after(PATIENCE - 1) == (0, 0)
    assert place.after(1 + LOOK_EVERY) == (0, 1)


def test_what_ray_says_or_the_limit_of_time_decides_at_once():
    for changes, expected in (({"lost": True, "node": ""}, (1, 0)), ({"died": True}, (0, 1))):
        place = Place()
        place.missing.add(place.gone(node=""))
        place.missing.add(place.gone(**changes))
        assert place.after(LOOK_EVERY) == expected


def test_a_job_that_takes_its_nodes_down_is_not_run_for_ever():
    place = Place()
    assert [place.missing.lose(place.job) for _ in range(MOST_LOSSES + 2)] == [True] * MOST_LOSSES + [False] * 2


def test_the_user_is_told_by_node():
    assert tell({"a (10.0.0.1)": 3, "b": 1, "c": 0}) == [
        "node a (10.0.0.1) was lost: 3 fold jobs run again",
        "node b was lost: 1 fold job runs again",
    ]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000), st.sampled_from([2, 3, 5]))
def test_losses_cost_no_attempt_and_every_job_ends_once(trials, folds, workers, seed, every):
    books, losses = Books(trials, folds, retries=0), 0
    put_back, take = books.ledger.put_back, books.ledger.take

    def lossy(job, record):
        nonlocal losses
        losses += 1
        if losses % every == 0:
            assert put_back(job)
        else:
            take(job, record)

    books.ledger.take = lossy
    drive(books, workers, seed)
    assert sorted(books.recorded) == [(t, f) for t in range(trials) for f in range(folds)]
    assert set(books.ledger.attempts.values()) <= {1}
    assert books.ledger.finished


def test_a_lost_job_of_a_configuration_that_was_given_up_doesn_t_come_back():
    books = Books(1, 2)
    ledger, job = books.ledger, books.ledger.next()
    ledger.trials[0].abandoned = True
    ledger.trials[0].pending.clear()
    assert not ledger.put_back(job)
    assert ledger.finished or ledger.next() is None


CHANGES = {"trials": 1, "search": {}, "train": {"epochs": 60, "patience": 0}}


def sweep_on(cluster, folder, demo_store, retries):
    resources = {"cpus_per_job": 2, "retries": retries}  # more than the head has
    write_study(folder, features=str(demo_store), resources=resources, **CHANGES)
    return started("sweep", "study.yaml", folder=folder, RAY_ADDRESS=cluster.address)


def test_lost_nodes_cost_no_retries(tmp_path, demo_store):
    """One node is switched off, which says goodbye; the next loses its power, which is found out much later."""
    with RayCluster() as cluster:
        node = cluster.add_node(cpus=4)
        with sweep_on(cluster, tmp_path, demo_store, retries=0) as sweep:
            for lose in (lambda raylet: kill(raylet, how=signal.SIGTERM), cluster.lose_node):
                wait_for(lambda: list(cluster.at_work().values()).count(node) == 2, sweep)  # noqa: B023
                lose(node)
                node = cluster.add_node(cpus=4)
            out, err = sweep.communicate(timeout=LIMIT)
    assert sweep.returncode == 0, err
    assert err.count("was lost: 2 fold jobs run again") == 2, err
    assert len(records(tmp_path, "quick")) == 3
    assert "Traceback" not in out + err


def test_a_worker_that_dies_on_a_node_that_lives_is_a_failure_of_its_job(tmp_path, demo_store):
    with RayCluster() as cluster:
        cluster.add_node(cpus=2)
        with sweep_on(cluster, tmp_path, demo_store, retries=0) as sweep:
            wait_for(cluster.at_work, sweep)
            kill(*cluster.at_work())
            out, err = sweep.communicate(timeout=LIMIT)
    assert sweep.returncode == 1, err
    assert "t000 is not ranked" in out
    failed = next((tmp_path / "studies/quick/jobs").glob("*.failed.json")).read_text()
    assert "died on a node that lives" in failed
    assert "was lost" not in err

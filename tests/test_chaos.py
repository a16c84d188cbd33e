"""A sweep on a cluster where everything that can die does, and ends with what an undisturbed one finds.

Killed while the sweep runs: workers in the midst of their jobs, a whole node, the MLflow server, and the driver itself.
"""

import signal
from contextlib import ExitStack

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from servers import RayCluster, Server, kill, started, wait_for
from sweeps import LIMIT, hilbert, records, write_study

from tune.tracking import connect, search_runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TRIALS, FOLDS = 4, 4  # no proposal of the first ten depends on results, hence on the order in which jobs end
STUDY = {
    "trials": TRIALS,
    "folds": {"n_splits": FOLDS, "seed": 1},
    "train": {"epochs": 16, "patience": 0},
    "resources": {"retries": 20},
}


def jobs_done(folder):
    return len(records(folder, "quick"))


def is_time(name):
    return name.startswith("cost/") or name.endswith("seconds")


def recorded(uri):
    """Everything in MLflow but times and random ids, a run an entry, sorted."""
    client = connect(uri)
    experiment = client.get_experiment_by_name("quick")
    found = search_runs(client, experiment.experiment_id, "")
    return sorted((described(client, run) for run in found), key=lambda run: (run["trial"], run["fold"]))


def described(client, run):
    tags = run.data.tags
    series = "fold/auc" if tags["hilbert.level"] == "trial" else "epoch/train_total"
    return {
        "trial": int(tags["hilbert.trial"]),
        "fold": int(tags.get("hilbert.fold", -1)),
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "tags": {n: value for n, value in tags.items() if n.startswith("hilbert.") and n != "hilbert.git"},
        "metrics": {name: value for name, value in run.data.metrics.items() if not is_time(name)},
        "series": {(point.step, point.value) for point in client.get_metric_history(run.info.run_id, series)},
        "artifacts": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
    }


def children_belong_to_their_trials(uri):
    client = connect(uri)
    found = search_runs(client, client.get_experiment_by_name("quick").experiment_id, "")
    trials = {run.info.run_id: run.data.tags["hilbert.trial"] for run in found}
    parents = [(run, trials.get(run.data.tags.get("mlflow.parentRunId"))) for run in found]
    return all(
        parent == (run.data.tags["hilbert.trial"] if run.data.tags["hilbert.level"] == "fold" else None)
        for run, parent in parents
    )


def proposed(folder):
    """What Optuna's journal holds."""
    storage = JournalStorage(JournalFileBackend(str(folder / "studies/quick/proposals.journal")))
    trials = optuna.load_study(study_name="quick", storage=storage).trials
    return [(trial.number, trial.params, trial.values, trial.state) for trial in trials]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, demo_store):
    """The same study here, with one worker and nothing that dies."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_study(folder, features=str(demo_store), **STUDY | {"resources": {"workers": 1}})
    done = hilbert("sweep", "study.yaml", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


class Chaos:
    """A sweep on a cluster of two nodes that records to a server, and what befalls it."""

    def __init__(self, folder, cluster, server):
        self.folder, self.cluster, self.server = folder, cluster, server
        self.raylet = cluster.add_node()
        self.driver = None

    def sweep(self):
        """The same command, whatever happened before."""
        variables = {"RAY_ADDRESS": self.cluster.address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        return started("sweep", "study.yaml", "--tracking-uri", self.server.uri, folder=self.folder, **variables)

    def until(self, done):
        """Waits for a number of fold jobs in the archive."""
        wait_for(lambda: jobs_done(self.folder) >= done, self.driver)
        assert jobs_done(self.folder) < TRIALS * FOLDS

    def kill_workers(self, nodes=1):
        """Kills all workers as soon as jobs are trained on so many nodes at once."""
        wait_for(lambda: len(self.cluster.at_work()) >= nodes, self.driver)
        kill(*self.cluster.at_work())

    def kill_driver(self):
        """Kills the driver in the midst of a job."""
        wait_for(self.cluster.at_work, self.driver)
        kill(self.driver.pid)

    def lose_node(self):
        """Kills a node in the midst of a job of its own."""
        wait_for(lambda: self.raylet in self.cluster.at_work().values(), self.driver)
        self.cluster.lose_node(self.raylet)

    def freeze_workers(self):
        """Stops all workers in the midst of their jobs: until there are others, no job ends."""
        wait_for(self.cluster.at_work, self.driver)
        kill(*self.cluster.at_work(), how=signal.SIGSTOP)

    def new_node(self):
        """Waits until a node that joins has a job."""
        self.raylet = self.cluster.add_node()
        wait_for(lambda: self.raylet in self.cluster.at_work().values(), self.driver)

    def first_driver(self):
        """Loses its workers, then its server, and dies with results unrecorded."""
        self.until(1)
        self.kill_workers(nodes=2)
        self.until(3)
        self.server.stop()
        self.until(5)
        self.kill_driver()

    def second_driver(self):
        """Loses a node, works on through an outage of the server, gets another node, and dies."""
        self.until(6)
        self.lose_node()
        self.server.stop()
        self.until(8)
        self.freeze_workers()
        self.server.start()
        self.new_node()
        self.kill_workers()
        self.until(11)
        self.kill_driver()


def test_whatever_dies_the_sweep_ends_with_what_an_undisturbed_one_finds(undisturbed, tmp_path, demo_store):
    folder = tmp_path / "sweep"
    write_study(folder, database=False, features=str(demo_store), **STUDY)
    with ExitStack() as stack:
        server, cluster = stack.enter_context(Server(tmp_path / "server")), stack.enter_context(RayCluster())
        chaos = Chaos(folder, cluster, server)
        for happens in (chaos.first_driver, chaos.second_driver):
            with chaos.sweep() as chaos.driver:
                happens()
            if server.process is None:
                server.start()
        with chaos.sweep() as process:
            out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
        assert "Traceback" not in out + err
        assert records(folder, "quick") == records(undisturbed, "quick")
        assert len(records(folder, "quick")) == TRIALS * FOLDS
        assert proposed(folder) == proposed(undisturbed)
        found, expected = recorded(server.uri), recorded(f"sqlite:///{undisturbed}/mlflow.db")
        assert [(run["trial"], run["fold"]) for run in found] == [
            (trial, fold) for trial in range(TRIALS) for fold in (-1, *range(FOLDS))
        ]
        assert {run["status"] for run in found} == {"FINISHED"}
        assert found == expected
        assert children_belong_to_their_trials(server.uri)
        assert not list((folder / "studies/quick").rglob("*.partial"))


def test_a_second_driver_is_refused_and_the_first_goes_on(tmp_path, demo_store):
    write_study(tmp_path, features=str(demo_store), trials=1, search={}, resources={"workers": 1})
    with started("sweep", "study.yaml", folder=tmp_path) as first:
        wait_for((tmp_path / "studies/quick/study_file.json").exists, first)
        second = hilbert("sweep", "study.yaml", folder=tmp_path)
        assert second.returncode == 2
        assert "another sweep of this study is running; wait for it or stop it" in second.stderr
        assert "Traceback" not in second.stderr
        _, err = first.communicate(timeout=LIMIT)
    assert first.returncode == 0, err
    assert jobs_done(tmp_path) == 3

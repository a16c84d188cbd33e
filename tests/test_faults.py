"""What goes wrong in hours of training: jobs that hang, workers that die, servers that go away."""

import pytest
from servers import Server, at_work, kill, started, wait_for
from sweeps import LIMIT, hilbert, records, write_study

from tune.tracking import connect, search_runs

pytestmark = pytest.mark.timeout(500)

ONE_STORE = {"trials": 1, "search": {}, "resources": {"workers": 1}}


def jobs_done(folder, study="quick"):
    return len(list((folder / "studies" / study / "jobs").glob("*.json")))


def test_a_job_that_hangs_is_ended_and_told_with_its_stacks(tmp_path, demo_store):
    train = {"epochs": 100_000, "patience": 0}
    write_study(tmp_path, features=str(demo_store), train=train, **ONE_STORE | {"folds": {"n_splits": 2}})
    overrides = ("--set", "resources.minutes_per_job=0.1", "--set", "resources.retries=0")
    done = hilbert("sweep", "study.yaml", *overrides, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "t000 is not ranked: folds 0,1 failed" in done.stdout
    failed = next((tmp_path / "studies/quick/jobs").glob("*.failed.json")).read_text()
    assert "ended after the time limit of 0.1 minutes" in failed
    assert "training.py" in failed


def test_a_worker_that_is_killed_costs_its_job_alone(tmp_path, demo_store):
    changes = ONE_STORE | {"train": {"epochs": 40, "patience": 0}}
    write_study(tmp_path / "a", features=str(demo_store), **changes)
    with started("sweep", "study.yaml", folder=tmp_path / "a") as process:
        wait_for(lambda: jobs_done(tmp_path / "a") >= 1, process)
        wait_for(lambda: at_work(process.pid), process)
        kill(*at_work(process.pid))
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    write_study(tmp_path / "b", features=str(demo_store), **changes)
    assert hilbert("sweep", "study.yaml", folder=tmp_path / "b").returncode == 0
    assert records(tmp_path / "a", "quick") == records(tmp_path / "b", "quick")
    assert "Traceback" not in out + err


def test_a_study_whose_first_jobs_fail_alike_is_stopped_with_the_error(tmp_path, demo_store):
    folds = {"n_splits": 5, "repeats": 4}
    write_study(tmp_path, features=str(demo_store), train={"device": "cuda:99"}, folds=folds)
    done = hilbert("sweep", "study.yaml", folder=tmp_path)
    assert done.returncode == 1
    assert "4 of the first 4 fold jobs failed alike" in done.stderr
    assert "cuda:99" in done.stderr
    assert jobs_done(tmp_path) < 10


def test_budgets_end_a_sweep_and_a_larger_one_goes_on(tmp_path, demo_store):
    write_study(tmp_path, features=str(demo_store), resources={"workers": 1})
    done = hilbert("sweep", "study.yaml", "--set", "fold_jobs=4", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "t000" in done.stdout
    before = records(tmp_path, "quick")
    assert len(before) == 4
    done = hilbert("sweep", "study.yaml", "--extend", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path, "quick").items() > before.items()
    assert len(records(tmp_path, "quick")) == 9
    done = hilbert("sweep", "study.yaml", "--extend", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "--extend 0: must be 1 or more" in done.stderr


def test_racing_spares_hopeless_configurations_their_folds(tmp_path, demo_store):
    write_study(
        tmp_path,
        features=str(demo_store),
        tasks={"adult": "binary"},
        folds={"n_splits": 8},
        train={"epochs": 6, "patience": 0},
        racing="wilcoxon",
        trials=3,
        resources={"workers": 1},
        search={"train.learning_rate": {"choices": [1e-3, 1e-6, 2e-6, 3e-6, 4e-6, 5e-6]}},
    )
    done = hilbert("sweep", "study.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "given up" in done.stdout
    assert jobs_done(tmp_path) < 24
    before = records(tmp_path, "quick")
    again = hilbert("sweep", "study.yaml", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert records(tmp_path, "quick") == before
    assert again.stdout == done.stdout


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path / "server") as found:
        yield found


def recorded(server):
    """(trial, fold) of every run, and the runs' states."""
    client = connect(server.uri)
    found = search_runs(client, client.get_experiment_by_name("quick").experiment_id, "")
    return sorted((r.data.tags["hilbert.trial"], r.data.tags.get("hilbert.fold", "")) for r in found), {
        r.info.status for r in found
    }


def test_training_goes_on_without_mlflow_and_records_are_written_when_it_is_back(tmp_path, demo_store, server):
    folder = tmp_path / "sweep"
    write_study(folder, features=str(demo_store), resources={"workers": 1})
    variables = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with started("sweep", "study.yaml", "--tracking-uri", server.uri, folder=folder, **variables) as process:
        wait_for(lambda: jobs_done(folder) >= 1, process)
        server.stop()
        wait_for(lambda: jobs_done(folder) == 6, process)
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "'hilbert sync quick' or the same command writes them" in err
    assert "Traceback" not in out + err
    server.start()
    done = hilbert("sync", "quick", "--tracking-uri", server.uri, folder=folder)
    assert done.returncode == 0, done.stderr
    everything = sorted((trial, fold) for trial in "01" for fold in ("", "0", "1", "2"))
    assert recorded(server) == (everything, {"FINISHED"})
    assert hilbert("sync", "quick", "--tracking-uri", server.uri, folder=folder).returncode == 0
    assert recorded(server) == (everything, {"FINISHED"})


def test_sync_of_what_never_ran_is_refused(tmp_path):
    done = hilbert("sync", "quick", folder=tmp_path)
    assert done.returncode == 2
    assert "no study has been run here" in done.stderr
    assert list(tmp_path.iterdir()) == []

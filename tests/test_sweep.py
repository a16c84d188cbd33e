"""Whole sweeps: the real command, real Ray, real MLflow, real speech features."""

import csv
import io
import json
import signal
from pathlib import Path

import pandas as pd
import pytest
from sweeps import QUICK, hilbert, records, stop_after, write_study

from tune.tracking import connect, search_runs, study_files

pytestmark = pytest.mark.timeout(400)

TASKS = tuple(QUICK["tasks"])
SERIES = {"fold/auc", *(f"fold/{task}_auc" for task in TASKS)}
PARENT_METRICS = (
    {"cv/auc_mean", "cv/auc_se", "cv/auc_pooled", "cv/folds_done", "cost/seconds", "cost/gpu_seconds"}
    | {f"{task}/auc_{part}" for task in TASKS for part in ("mean", "se", "pooled", "folds")}
    | SERIES
)
OF_CLASSES = ("auc", "average_precision", "balanced_accuracy", "brier", "calibration_error")


def runs(folder: Path, study: str = "quick"):
    client = connect(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(study)
    found = search_runs(client, experiment.experiment_id, "")
    return (
        client,
        [r for r in found if r.data.tags["hilbert.level"] == "trial"],
        [r for r in found if r.data.tags["hilbert.level"] == "fold"],
    )


def proposals(folder: Path, study: str = "quick"):
    """The searched parameters of every trial in MLflow."""
    _, parents, _ = runs(folder, study)
    return {r.data.tags["hilbert.trial"]: r.data.params for r in parents}


# ---- what needs no shared sweep comes first: another process may be making it ----------------------------------------


def test_a_configuration_with_failed_folds_is_listed_and_not_ranked(tmp_path, demo_store):
    search = {"train.device": {"choices": ["cpu", "cuda:99"]}}
    write_study(tmp_path, features=str(demo_store), train={"epochs": 1, "device": "cuda:99"}, search=search, trials=2)
    done = hilbert("sweep", "study.yaml", folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "t000 is not ranked: folds 0,1,2 failed" in done.stdout
    client, parents, children = runs(tmp_path)
    trials = {r.data.tags["hilbert.trial"]: r for r in parents}
    assert trials["0"].info.status == "FAILED"
    assert "cv/auc_mean" not in trials["0"].data.metrics
    failed = next(r for r in children if r.data.tags["hilbert.trial"] == "0")
    assert failed.info.status == "FAILED"
    trace = Path(client.download_artifacts(failed.info.run_id, "error.txt")).read_text()
    assert "Traceback" in trace


def test_pairs_of_backbones_are_searched_and_compared(tmp_path, demo_store):
    from hilbert.features import FeatureStore

    store = FeatureStore.open(demo_store)
    halves = {name: [getattr(store, name)[i][:, ::2] for i in range(len(store))] for name in ("audio", "text")}
    FeatureStore.write(tmp_path / "half", documents=store.documents, **halves)
    stores = {"full": str(demo_store), "half": "half"}
    write_study(tmp_path, features=stores, search={}, trials=4)
    done = hilbert("sweep", "study.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "by features" in done.stdout
    assert {p["features"] for p in proposals(tmp_path).values()} == {"full", "half"}


# ---- one sweep -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory, quick_sweep):
    """A sweep with one worker."""
    return quick_sweep.copy(tmp_path_factory.mktemp("one")), quick_sweep


def test_a_sweep_ends_with_the_ranked_table_and_the_way_to_mlflow(one):
    _, done = one
    assert "quick: by mean_auc" in done.stdout
    assert "t000" in done.stdout
    assert "t001" in done.stdout
    assert done.stderr.count("hilbert ui quick") == 2  # at the beginning and at the end
    assert "gender, held-out documents (f, m) by fold:" in done.stderr
    assert "2/2 trials, 6/6 fold jobs" in done.stderr


def test_mlflow_holds_trials_and_fold_jobs_by_the_names_of_the_contract(one):
    folder, _ = one
    _, parents, children = runs(folder)
    assert len(parents) == 2
    assert len(children) == 6
    for run in parents:
        assert run.info.status == "FINISHED"
        assert run.info.run_name.startswith(f"t{int(run.data.tags['hilbert.trial']):03d} ")
        assert run.data.metrics.keys() == PARENT_METRICS
        assert run.data.params.keys() == {"loss.contrastive", "loss.contrastive.log10", "model.experts"}
        logarithm = float(run.data.params["loss.contrastive.log10"])
        assert 10**logarithm == pytest.approx(float(run.data.params["loss.contrastive"]), rel=1e-4)
        assert run.data.metrics["cv/folds_done"] == 3
        mine = [r for r in children if r.data.tags["mlflow.parentRunId"] == run.info.run_id]
        assert sorted(r.data.tags["hilbert.fold"] for r in mine) == ["0", "1", "2"]
        for task in TASKS:
            mean = sum(r.data.metrics[f"{task}/auc"] for r in mine) / 3
            assert run.data.metrics[f"{task}/auc_mean"] == pytest.approx(mean, abs=1.01e-4)
    for run in children:
        assert run.info.status == "FINISHED"
        assert {"hilbert.trial", "hilbert.fold", "hilbert.config", "hilbert.splits"} <= run.data.tags.keys()
        assert {f"{task}/{name}" for task in TASKS for name in OF_CLASSES} <= run.data.metrics.keys()
        assert {
            "epoch/train_total",
            "epoch/train_contrastive",
            "epoch/train_weighted_contrastive",
            "epoch/inner_loss",
        } <= (run.data.metrics.keys())
        assert run.data.params == {}


def test_epoch_curves_and_fold_series_have_their_steps(one):
    folder, _ = one
    client, parents, children = runs(folder)
    epochs = client.get_metric_history(children[0].info.run_id, "epoch/train_total")
    assert [metric.step for metric in epochs] == [1, 2]
    series = client.get_metric_history(parents[0].info.run_id, "fold/auc")
    assert [metric.step for metric in series] == [0, 1, 2]


def test_artifacts_are_predictions_curves_and_the_configuration(one):
    folder, _ = one
    client, parents, children = runs(folder)
    names = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    assert names == {"configuration.json", "predictions.parquet", "plots"}
    plots = {file.path for file in client.list_artifacts(parents[0].info.run_id, "plots")}
    assert plots == {
        *(f"plots/{kind}_{task}.png" for task in TASKS for kind in ("roc", "pr", "confusion", "calibration")),
        *(f"plots/{name}.png" for name in ("training", "balance", "experts", "folds", "classes")),
    }
    local = Path(client.download_artifacts(parents[0].info.run_id, "predictions.parquet"))
    frame = pd.read_parquet(local)
    assert frame.groupby("task")["document_id"].nunique().to_dict() == dict.fromkeys(TASKS, 125)
    adult = frame[frame["task"] == "adult"].pivot_table(index="document_id", columns="class", values="score")
    assert adult.sum(axis=1).to_numpy() == pytest.approx(1)
    assert [file.path for file in client.list_artifacts(children[0].info.run_id)] == ["predictions.parquet"]
    configuration = json.loads(
        Path(client.download_artifacts(parents[0].info.run_id, "configuration.json")).read_text()
    )
    assert configuration["model"]["width"] == 16


def test_every_trial_has_a_note_with_its_rank_and_its_data(one):
    folder, _ = one
    _, parents, _ = runs(folder)
    notes = {r.data.tags["mlflow.note.content"].splitlines()[0][:15] for r in parents}
    assert notes == {"**Rank 1 of 2**", "**Rank 2 of 2**"}
    for run in parents:
        (data,) = run.inputs.dataset_inputs
        assert json.loads(data.dataset.source)["fingerprint"].startswith(data.dataset.digest)


def test_the_experiment_holds_the_study_file_versions_and_splits(one, tmp_path, demo_store):
    folder, _ = one
    client, _, _ = runs(folder)
    files = study_files(client, "quick", tmp_path)
    assert {path.name for path in files.iterdir()} == {
        "study.yaml",
        "versions.json",
        "data.json",
        "splits.csv",
        "fold_counts.csv",
    }
    assert json.loads((files / "versions.json").read_text())["command"] == "hilbert sweep study.yaml"
    splits = pd.read_csv(files / "splits.csv")
    assert splits["document_id"].tolist() == pd.read_csv(demo_store / "documents.csv")["document_id"].tolist()
    assert (splits.filter(like="fold_") == "held_out").sum(axis=1).eq(1).all()
    note = client.get_experiment_by_name("quick").tags["mlflow.note.content"]
    assert "125 documents in 125 groups; 3 folds" in note


def test_compare_prints_csv_best_first(one):
    folder, _ = one
    done = hilbert("compare", "quick", "--csv", folder=folder)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert float(rows[0]["cv/auc_mean"]) >= float(rows[1]["cv/auc_mean"])
    assert rows[0].keys() >= PARENT_METRICS - SERIES
    assert rows[0]["params.model.experts"] in {"1", "2"}


def test_no_transcript_no_path_and_no_id_reaches_mlflow_but_in_predictions(one, demo_store):
    folder, _ = one
    ids = [name.encode() for name in pd.read_csv(demo_store / "documents.csv")["document_id"]]
    files = [path for path in [folder / "mlflow.db", *(folder / "mlartifacts").rglob("*")] if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert b".ogg" not in content
        assert b"we call it bear" not in content
        if path.name not in {"predictions.parquet", "splits.csv"}:
            assert not [name for name in ids if name in content], path


def test_two_workers_find_the_same_to_the_last_bit(quick_sweep, hashed_sweep, demo_store):
    folder = hashed_sweep.folder
    assert records(folder, "quick") == records(quick_sweep.folder, "quick")
    assert proposals(folder) == proposals(quick_sweep.folder)
    ids = [name.encode() for name in pd.read_csv(demo_store / "documents.csv")["document_id"]]
    for path in [folder / "mlflow.db", *(folder / "mlartifacts").rglob("*.*")]:
        content = path.read_bytes()
        assert not [name for name in ids if name in content], path
        if path.name == "predictions.parquet":
            assert pd.read_parquet(path)["document_id"].str.fullmatch("[0-9a-f]{16}").all()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_was_stopped_goes_on_to_the_same_end(one, tmp_path, demo_store, how):
    write_study(tmp_path, features=str(demo_store), resources={"workers": 1})
    code = stop_after(2, ["sweep", "study.yaml"], folder=tmp_path, study="quick", how=how)
    assert code == (130 if how == signal.SIGINT else -signal.SIGKILL)
    before = records(tmp_path, "quick")
    assert 2 <= len(before) < 6
    if how == signal.SIGINT:
        _, parents, children = runs(tmp_path)
        assert {run.info.status for run in [*parents, *children]} <= {"FINISHED", "KILLED"}
        assert len(children) == len(before)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "studies/quick/jobs").glob("*.json")}
    done = hilbert("sweep", "study.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert records(tmp_path, "quick") == records(one[0], "quick")
    assert proposals(tmp_path) == proposals(one[0])
    _, parents, children = runs(tmp_path)
    assert sorted((r.data.tags["hilbert.trial"], r.data.tags["hilbert.fold"]) for r in children) == [
        (trial, fold) for trial in "01" for fold in "012"
    ]
    assert {run.info.status for run in [*parents, *children]} == {"FINISHED"}
    assert len(parents) == 2


def test_a_finished_study_is_left_alone_and_guarded(one):
    folder, _ = one
    before = records(folder, "quick")
    again = hilbert("sweep", "study.yaml", folder=folder)
    assert again.returncode == 0, again.stderr
    assert records(folder, "quick") == before
    changed = hilbert("sweep", "study.yaml", "--set", "train.epochs=3", folder=folder)
    assert changed.returncode == 2
    assert "train.epochs was 2, now 3" in changed.stderr
    assert "Traceback" not in changed.stderr


def test_another_study_of_the_same_name_is_not_mixed_in(one, tmp_path, demo_store):
    folder, _ = one
    write_study(tmp_path, features=str(demo_store), folds={"n_splits": 3, "seed": 2})
    done = hilbert("sweep", "study.yaml", "--tracking-uri", f"sqlite:///{folder}/mlflow.db", folder=tmp_path)
    assert done.returncode == 2
    assert "has an experiment of this name with other data, folds, tasks or search" in done.stderr


def test_a_record_that_is_lost_is_written_again_from_the_archive(one, tmp_path):
    folder, _ = one
    _, parents, children = runs(folder)
    done = hilbert("sweep", "study.yaml", "--tracking-uri", f"sqlite:///{tmp_path}/other.db", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "2/2 trials" in done.stderr
    client = connect(f"sqlite:///{tmp_path}/other.db")
    experiment = client.get_experiment_by_name("quick")
    again = search_runs(client, experiment.experiment_id, "")
    assert len(again) == len(parents) + len(children)
    for run in parents:
        twin = next(r for r in again if r.info.run_name == run.info.run_name)
        assert twin.data.metrics == run.data.metrics

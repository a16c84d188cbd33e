"""From a sweep to predictions by the real commands: release, predict, and the model behind HTTP."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pickles import is_pickle
from servers import end, wait_for
from sweeps import command, environment, hilbert, write_study

from hilbert.features import FeatureStore
from hilbert.release import Release
from tune.registry import champion
from tune.tracking import connect

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),  # within MLflow, as the next
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]

LOCAL_FOLDER = "releases/affect/1"


def client_of(folder: Path):
    return connect(f"sqlite:///{folder}/mlflow.db")


def versions(folder: Path) -> list[tuple[str, bool]]:
    client = client_of(folder)
    leads = champion(client, "affect")
    return sorted(
        (str(found.version), leads is not None and leads.version == str(found.version))
        for found in client.search_model_versions("")
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory, demo_store) -> Path:
    """A finished sweep of two configurations on three folds."""
    folder = tmp_path_factory.mktemp("swept")
    write_study(folder, features=str(demo_store), objective="pooled_auc")
    done = hilbert("sweep", "study.yaml", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def released(swept) -> Path:
    """The same with a release of the best."""
    done = hilbert("release", "quick", "--name", "affect", "--licence", "CC BY 4.0", folder=swept)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["models:/affect/1", LOCAL_FOLDER]
    return swept


@pytest.fixture(scope="module")
def table(released, demo_store) -> pd.DataFrame:
    """The predictions in Python."""
    store = FeatureStore.open(demo_store)
    return Release.load(released / LOCAL_FOLDER).predict(store, names=store.document_ids).table()


def test_the_folder_says_all_that_one_has_to_know(released):
    folder = released / LOCAL_FOLDER
    assert {path.name for path in folder.iterdir()} == {
        *(
            "calibration.json",
            "config.json",
            "model.safetensors",
            "model_card.md",
            "preprocessing.json",
            "release.json",
        ),
        "learned_from.json",
    }
    assert not any(is_pickle(path.read_bytes()) for path in folder.iterdir())
    config = json.loads((folder / "config.json").read_text())
    assert config["tasks"]["gender"]["classes"] == ["f", "m"]
    assert set(json.loads((folder / "calibration.json").read_text())) == {"gender", "adult", "age_band"}
    encoders = json.loads((folder / "preprocessing.json").read_text())
    assert encoders["audio"]["encoder"]["revision"].startswith("opensmile")
    made = json.loads((folder / "release.json").read_text())["made"]
    assert made["classes"]["gender"] == {"f": 67, "m": 58}
    assert (made["how"], made["epochs"], made["study"]) == ("refit", 2, "quick")
    assert made["versions"]["packages"]["torch"]


def test_the_card_has_raw_and_corrected_numbers(released):
    card = (released / LOCAL_FOLDER / "model_card.md").read_text()
    for part in ("Intended use", "Cohort", "How well it predicts", "Calibration", "Limits", "Licence"):
        assert f"\n## {part}\n" in card
    assert "CC BY 4.0" in card
    assert "m 58" in card
    lines = [line.split("|") for line in card.splitlines() if line.startswith("| gender |") and "[" in line]
    assert len(lines) == 1
    raw, corrected = (float(cell.split()[0]) for cell in lines[0][2:4])
    recorded = client_of(released).search_runs(
        [client_of(released).get_experiment_by_name("quick").experiment_id],
        "tags.`hilbert.level` = 'trial'",
        order_by=["metrics.`cv/auc_pooled` DESC"],
    )[0]
    assert raw == pytest.approx(recorded.data.metrics["gender/auc_pooled"], abs=6e-4)
    assert 0 < corrected < 1
    assert str(released) not in card


@pytest.mark.parametrize("model", ["models:/affect@champion", "models:/affect/1", "runs:/{run}", LOCAL_FOLDER])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_all_ways_to_the_model_predict_the_same(here, released, demo_store, table, tmp_path, model, ending):
    run = json.loads((released / LOCAL_FOLDER / "release.json").read_text())["made"]["run"]
    output = tmp_path / f"predicted.{ending}"
    done = here("predict", model.format(run=run), demo_store, "--output", output, folder=released)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(output)]
    assert "the model has learned from these very people" in done.stderr
    found = pd.read_parquet(output) if ending == "parquet" else pd.read_csv(output)
    pd.testing.assert_frame_equal(found, table, check_exact=True)


def test_embeddings_and_explanations_lie_beside_the_predictions(here, released, demo_store, tmp_path):
    arguments = (LOCAL_FOLDER, demo_store, "--output", tmp_path / "p.parquet", "--embeddings", "--explain")
    done = here("predict", *arguments, folder=released)
    assert done.returncode == 0, done.stderr
    names = ["p.parquet", "p.embeddings.parquet", "p.segments.parquet", "p.experts.parquet"]
    assert done.stdout.splitlines() == [str(tmp_path / name) for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    segments = pd.read_parquet(tmp_path / "p.segments.parquet")
    np.testing.assert_allclose(segments.groupby("document_id")["joint"].sum(), 1, atol=1e-6)
    assert len(pd.read_parquet(tmp_path / "p.embeddings.parquet")) == 125
    again = here("predict", *arguments, folder=released)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert here("predict", *arguments, "--overwrite", folder=released).returncode == 0


def test_predictions_of_new_people_are_scored_where_labels_are_known(here, released, demo_store, tmp_path):
    store = FeatureStore.open(demo_store)
    known = store.write_part(tmp_path / "known", range(40))
    done = here("predict", LOCAL_FOLDER, tmp_path / "known", "--output", tmp_path / "known.csv", folder=released)
    assert done.returncode == 0
    assert "learned from these very people (40)" in done.stderr
    assert "AUC" not in done.stderr
    parts = {name: [getattr(known, name)[row] * (1.1 if row >= 10 else 1) for row in range(40)] for name in ("audio",)}
    parts |= {"text": [known.text[row] for row in range(40)]}
    encoders = {f"{name}_encoder": encoder for name, encoder in known.encoders.items()}
    FeatureStore.write(tmp_path / "part", documents=known.documents, **parts, **encoders)
    done = here("predict", LOCAL_FOLDER, tmp_path / "part", "--output", tmp_path / "p.csv", folder=released)
    assert done.returncode == 0
    assert "learned from 10 of these 40 people" in done.stderr
    assert "of new people, against their labels" in done.stderr
    assert "30 of those that count as new have the document_id" in done.stderr
    assert "AUC [95 % interval]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models:/nobody@champion", "{store}", "--output", "p.csv"), "models:/nobody@champion: not to be had"),
        (("nowhere", "{store}", "--output", "p.csv"), "nowhere: no such folder"),
        ((LOCAL_FOLDER, "nowhere", "--output", "p.csv"), "nowhere: no such folder"),
        ((LOCAL_FOLDER, "{store}", "--output", "p.xlsx"), "must end with .csv or .parquet"),
        ((LOCAL_FOLDER, "{store}", "--output", "none/p.csv"), "there is no folder none"),
        (("{store}", "{store}", "--output", "p.csv"), "not a release, it lacks release.json"),
    ],
)
def test_wrong_input_is_one_message(here, released, demo_store, arguments, message):
    done = here("predict", *(part.format(store=demo_store) for part in arguments), folder=released)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (released / "p.csv").exists()


def test_features_of_another_encoder_are_refused(here, released, demo_store, tmp_path):
    other = tmp_path / "store"
    shutil.copytree(demo_store, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["modalities"]["text"]["encoder"]["revision"] = "sha256:other"
    (other / "manifest.json").write_text(json.dumps(manifest))
    done = here("predict", LOCAL_FOLDER, other, "--output", tmp_path / "p.csv", folder=released)
    assert done.returncode == 2
    assert "text features of another encoder" in done.stderr
    assert "sha256:other" in done.stderr


def test_mlflow_serves_the_same_numbers(released, demo_store, table):
    store = FeatureStore.open(demo_store)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/affect@champion"]
    process = subprocess.Popen(
        [*serve, "--env-manager", "local", "--port", str(port), "--workers", "1"],
        cwd=released,
        env=environment(
            MLFLOW_TRACKING_URI=f"sqlite:///{released}/mlflow.db",
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # MLflow looks for uvicorn there
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/ping"), process)
        order = np.random.default_rng(0).permutation(125)[:9]
        rows = [
            {
                "document_id": store.document_ids[row],
                "audio": store.audio[row].tolist(),
                "text": store.text[row].tolist(),
            }
            for row in order
        ]
        found = pd.DataFrame(ask(port, {"dataframe_records": rows})["predictions"])
        pd.testing.assert_frame_equal(found, table.iloc[order].reset_index(drop=True), check_exact=True)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(port, {"dataframe_records": [{"document_id": "x", "audio": []}]})
        assert refused.value.code == 400
        refused.value.close()
    finally:
        end(process)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(port: int, content: dict) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


# ---- the champion ----------------------------------------------------------------------------------------------------


@pytest.fixture
def scratch(released, tmp_path) -> Path:
    """A copy of the released study, whose registry may be changed; runs' artifacts are shared."""
    for name in ("mlflow.db", "studies", "study.yaml"):
        source = released / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def test_a_release_that_is_not_better_is_refused_with_the_numbers(here, scratch):
    done = here("release", "quick", "--name", "affect", "--require-better", folder=scratch)
    assert done.returncode == 1, done.stderr
    assert "not shown to be better" in done.stderr
    assert "AUC +0.0000, and " in done.stderr
    assert "without the luck of being the best of 2" in done.stderr
    assert "models:/affect/1 stays the champion" in done.stderr
    assert done.stdout == ""
    assert versions(scratch) == [("1", True)]
    assert not (scratch / "releases").exists()


def test_without_a_champion_there_is_nothing_to_be_better_than(here, scratch):
    done = here("release", "quick", "--name", "other", "--require-better", "--trial", "t001", folder=scratch)
    assert done.returncode == 0, done.stderr
    assert "has no champion yet" in done.stderr
    assert done.stdout.splitlines()[0] == "models:/other/1"


def test_the_champion_is_trained_on_the_new_study_s_folds_where_they_differ(here, scratch, demo_store):
    write_study(scratch, database=False, features=str(demo_store), study="later", trials=1, folds={"n_splits": 2})
    (scratch / "study.yaml").write_text((scratch / "study.yaml").read_text().replace("trials: 2", "trials: 1"))
    assert hilbert("sweep", "study.yaml", folder=scratch).returncode == 0
    done = here("release", "later", "--name", "affect", "--require-better", folder=scratch)
    assert done.returncode == 1, done.stderr
    assert "folds of the champion's configuration" in done.stderr
    assert "t000 against models:/affect/1 on the same folds: AUC" in done.stderr
    assert versions(scratch) == [("1", True)]


def test_an_ensemble_is_the_fold_models_of_the_sweep(here, scratch, demo_store):
    done = here("release", "quick", "--name", "affect", "--how", "ensemble", "--output", "mine", folder=scratch)
    assert done.returncode == 0, done.stderr
    assert versions(scratch) == [("1", False), ("2", True)]
    made = Release.load(scratch / "mine")
    assert len(made.members) == 3
    assert made.made["reproduced_within"] == 0.0  # each predicts its held-out documents as the sweep recorded, to a bit
    refused = here("predict", "mine", demo_store, "--output", "p.csv", "--embeddings", folder=scratch)
    assert refused.returncode == 2
    assert "has no one embedding" in refused.stderr
    assert here("predict", "mine", demo_store, "--output", "p.csv", folder=scratch).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "--name", "a"), "no study 'nothing'"),
        (("quick", "--name", "a/b"), "--name 'a/b': letters"),
        (("quick", "--name", "a", "--trial", "9"), "no configuration 9"),
        (("quick", "--name", "a", "--output", "studies"), "is there already"),
        (("quick", "--name", "a", "--features", "elsewhere"), "elsewhere: no such feature store"),
    ],
)
def test_wrong_requests_are_one_message(here, released, arguments, message):
    done = here("release", *arguments, folder=released)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_features_that_have_changed_are_refused(here, released, demo_store, tmp_path):
    other = shutil.copytree(demo_store, tmp_path / "store")
    FeatureStore.open(other).with_documents(
        FeatureStore.open(other).documents.assign(adult=["no", "yes"] * 62 + ["no"])
    )
    done = here("release", "quick", "--name", "a", "--features", str(other), folder=released)
    assert done.returncode == 2
    assert "have changed since the study 'quick' was run" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_it_trains_it_leaves_nothing(scratch, how):
    process = subprocess.Popen(
        command("release", "quick", "--name", "affect", "--how", "ensemble"),
        cwd=scratch,
        env=environment(TMPDIR=str(scratch / "tmp")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    (scratch / "tmp").mkdir()
    try:
        wait_for(lambda: list((scratch / "tmp").rglob("model.safetensors*")), process)
        os.kill(process.pid, how)
        assert process.wait(60) == (130 if how == signal.SIGINT else -how)
        deadline = time.monotonic() + 30
        while _workers(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _workers(process.pid)
    finally:
        end(process)
    assert versions(scratch) == [("1", True)]
    assert not (scratch / "releases").exists()


def _workers(leader: int) -> list[int]:
    """Processes of the session that are left."""
    from servers import session

    return [process for process in session(leader) if process != leader]

"""The model registry: a champion is moved by one request, and what comes to nothing leaves nothing.

The MLflow store is real; between it and the registry stands, in some tests, a client that spoils one request.
"""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pickles import is_pickle
from spoiled import Killed, Spoiled, database
from synthetic import SPECS, make_model, make_store

import tune.registry
from hilbert.calibration import Calibrator
from hilbert.errors import HilbertError, InputError
from hilbert.release import Release
from tune.registry import champion, fetch, offered, promote, write_model
from tune.release import NotBetterError, _check_rival
from tune.runs import create_experiment, create_run
from tune.tracking import connect

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),  # within MLflow, as the next
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]

STORE = make_store(12, missing=0.2)
NAMES = list(STORE.documents["document_id"])
RELEASE = Release(
    "affect",
    [make_model(dtype=torch.float32)],
    {task: Calibrator() for task, spec in SPECS.items() if spec.kind != "regression"},
    {"audio": {"name": "mine"}, "text": {"name": "mine"}},
    made={"trial": 3},
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A release as an MLflow model."""
    folder = tmp_path_factory.mktemp("model")
    RELEASE.save(folder / "release", card="# affect\n")
    write_model(folder / "release", folder / "model")
    return folder / "model"


def world(folder: Path):
    """A store with a run; its address and the run."""
    uri = database(folder)
    client = connect(uri)
    experiment = create_experiment(client, "s", {})
    return uri, create_run(client, experiment, "t003", {}, started=1.0)


def publish(client, run: str, model: Path) -> None:
    with offered(client, "affect", run, model, tags={"hilbert.study": "s"}, description="words") as version:
        promote(client, version)


def registry(client) -> list[tuple]:
    """All that it holds: versions, and whether the alias points to them."""
    leads = champion(client, "affect")
    return [
        (found.name, str(found.version), leads is not None and leads.version == str(found.version))
        for found in client.search_model_versions("")
    ] + [found.name for found in client.search_registered_models()]


def test_the_latest_is_the_champion_and_all_versions_stay(tmp_path, model):
    uri, run = world(tmp_path)
    client = connect(uri)
    for _ in range(2):
        publish(client, run, model)
    assert sorted(registry(client)[:2]) == [("affect", "1", False), ("affect", "2", True)]
    version = client.get_model_version("affect", "2")
    assert version.tags == {"hilbert.study": "s", "hilbert.state": "ready"}
    assert version.description == "words"


@pytest.mark.parametrize("address", ["models:/affect@champion", "models:/affect/1", "runs:/{run}"])
def test_what_is_fetched_is_what_was_released(tmp_path, model, address):
    uri, run = world(tmp_path)
    publish(connect(uri), run, model)
    (tmp_path / "got").mkdir()
    got = Release.load(fetch(connect(uri), address.format(run=run), tmp_path / "got"))
    expected = RELEASE.predict(STORE, names=NAMES).table()
    pd.testing.assert_frame_equal(got.predict(STORE, names=NAMES).table(), expected, check_exact=True)
    assert got.made == {"trial": 3}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("models:/nobody@champion", "not to be had"),
        ("models:/affect@other", "not to be had"),
        ("models:/affect/7", "not to be had"),
        ("models:/affect", "not to be had"),
        ("runs:/none", "not to be had"),
        ("runs:/{run}", "holds several releases, name one"),
    ],
)
def test_what_is_not_there(tmp_path, model, address, message):
    uri, run = world(tmp_path)
    for _ in range(2):
        publish(connect(uri), run, model)
    with pytest.raises(InputError, match=message):
        fetch(connect(uri), address.format(run=run), tmp_path)


@pytest.mark.parametrize("heard", [False, True], ids=["lost", "unheard"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_a_request_that_fails_leaves_the_registry_as_it_was(tmp_path, model, heard, first):
    for number in range(1, requests_of_a_release(tmp_path / "count", model, first=first) + 1):
        uri, run = world(tmp_path / str(number))
        if not first:
            publish(connect(uri), run, model)
        before = registry(connect(uri))
        spoiled = Spoiled(connect(uri), number, heard=heard, deadly=False)
        try:
            publish(spoiled, run, model)
        except HilbertError:
            assert registry(connect(uri)) == before, number
            kept = 0 if first else 1
            assert len(list((tmp_path / str(number)).rglob("release.json"))) == kept, number
        else:
            assert champion(connect(uri), "affect").version == ("1" if first else "2"), number
            assert len(registry(connect(uri))) == (2 if first else 3), number


@pytest.mark.parametrize("heard", [False, True], ids=["lost", "unheard"])
def test_whoever_is_killed_leaves_the_champion_and_the_next_release_tidies_up(tmp_path, model, heard, monkeypatch):
    monkeypatch.setattr(tune.registry, "STALE", -1.0)
    for number in range(1, requests_of_a_release(tmp_path / "count", model, first=False) + 1):
        uri, run = world(tmp_path / str(number))
        publish(connect(uri), run, model)
        spoiled = Spoiled(connect(uri), number, heard=heard, deadly=True)
        with suppress(Killed):
            publish(spoiled, run, model)
        moved = champion(connect(uri), "affect").version == "2"
        publish(connect(uri), run, model)
        left = registry(connect(uri))
        assert [found[2] for found in left[:-1]].count(True) == 1, number
        assert len(left) - 1 == (3 if moved else 2), number


def requests_of_a_release(folder: Path, model: Path, *, first: bool) -> int:
    uri, run = world(folder)
    if not first:
        publish(connect(uri), run, model)
    client = Spoiled(connect(uri), 10**9, heard=True, deadly=False)
    publish(client, run, model)
    return client.requests


def test_a_champion_that_changed_meanwhile_has_to_be_compared_with_anew(tmp_path, model):
    uri, run = world(tmp_path)
    client = connect(uri)
    publish(client, run, model)
    compared = champion(client, "affect")
    _check_rival(client, compared)
    publish(client, run, model)
    with pytest.raises(NotBetterError, match="models:/affect/1 isn't the champion any more"):
        _check_rival(client, compared)


def test_the_block_s_own_failure_withdraws_the_version(tmp_path, model):
    uri, run = world(tmp_path)
    client = connect(uri)
    block = offered(client, "affect", run, model, tags={}, description="")
    assert block.__enter__().uri == "models:/affect/1"
    assert len(registry(client)) == 2
    interrupted = KeyboardInterrupt()
    assert not block.__exit__(KeyboardInterrupt, interrupted, None)
    assert registry(client) == []
    assert not list(tmp_path.rglob("release.json"))


# ---- the stored model ------------------------------------------------------------------------------------------------


def rows(documents) -> pd.DataFrame:
    """Documents as a request has them."""
    return pd.DataFrame(
        {
            "document_id": [NAMES[document] for document in documents],
            **{
                name: [np.asarray(getattr(STORE, name)[document], dtype=np.float64).tolist() for document in documents]
                for name in ("audio", "text")
            },
        }
    )


def test_mlflow_s_model_predicts_the_same(model):
    import mlflow

    loaded = mlflow.pyfunc.load_model(str(model))
    order = np.random.default_rng(0).permutation(12)
    expected = RELEASE.predict(STORE, order, names=[NAMES[row] for row in order]).table()
    pd.testing.assert_frame_equal(loaded.predict(rows(order)), expected, check_exact=True)


def test_wrong_requests_are_refused(model):
    import mlflow

    loaded = mlflow.pyfunc.load_model(str(model))
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"missing inputs.*text"):
        loaded.predict(rows([0]).drop(columns="text"))
    with pytest.raises(InputError, match="4"):
        loaded.predict(rows([0]).assign(text=[[[1.0, 2.0]]]))
    nothing = rows([0]).assign(audio=[[]], text=[[]])
    with pytest.raises(InputError, match=NAMES[0]):
        loaded.predict(nothing)


def test_it_holds_code_signature_and_example_and_no_pickle(model):
    import mlflow

    info = mlflow.models.get_model_info(str(model))
    assert [column.name for column in info.signature.inputs] == ["document_id", "audio", "text"]
    outputs = [column.name for column in info.signature.outputs]
    assert outputs == list(RELEASE.predict(STORE, [0]).table())
    example = json.loads((model / "input_example.json").read_text())
    assert "example" in json.dumps(example)
    files = [path for path in model.rglob("*") if path.is_file()]
    assert {"served.py", "MLmodel", "release.json"} <= {path.name for path in files}
    assert not {path.suffix for path in files} & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".npz"}
    for path in files:
        assert not is_pickle(path.read_bytes()), path

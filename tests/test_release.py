"""A release folder: what it predicts, that it is whole, and that nothing but HILBERT is needed to use it."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cohorts import write_cohort
from pickles import is_pickle
from sklearn.metrics import roc_auc_score
from synthetic import AUDIO_DIM, SPECS, TEXT_DIM, make_model, make_store, model_config
from tiny_models import make

import hilbert
from hilbert.calibration import Calibrator
from hilbert.cohort import Cohort
from hilbert.config import HilbertConfig
from hilbert.errors import InputError, StoreError
from hilbert.extraction import extract
from hilbert.features import FeatureStore
from hilbert.inference import check_encoders, evaluate, predict
from hilbert.model import Hilbert
from hilbert.predicted import MODALITIES
from hilbert.release import Release

STORE = make_store(20, missing=0.2)
NAMES = list(STORE.documents["document_id"])
CALIBRATORS = {
    "affect": Calibrator("temperature", temperature=1.7, offsets=(0.3, -0.3)),
    "spectrum": Calibrator("temperature", temperature=0.6, offsets=(0.1, 0.2, -0.3)),
}
ENCODERS = {
    "audio": {"name": "hf:a", "revision": "r1", "dim": AUDIO_DIM, "layer": 6, "precision": "float32"},
    "text": {"name": "hf:b", "revision": "r2", "dim": TEXT_DIM, "pooling": "mean"},
}


def release(members: int = 1, **changes) -> Release:
    models = [make_model(seed=seed, dtype=torch.float32) for seed in range(members)]
    given = {"name": "affect", "members": models, "calibrators": CALIBRATORS, "encoders": ENCODERS} | changes
    return Release(**given)


@pytest.fixture(params=[1, 3], ids=["one", "ensemble"])
def saved(request, tmp_path) -> Path:
    release(request.param).save(tmp_path / "release", card="# affect\n")
    return tmp_path / "release"


# ---- predictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 3])
def test_order_and_company_change_no_bit(members):
    made = release(members)
    everyone = made.predict(STORE, names=NAMES)
    rows = np.random.default_rng(0).permutation(20)[:13]
    some = made.predict(STORE, rows, names=[NAMES[row] for row in rows])
    for task, scores in some.scores.items():
        np.testing.assert_array_equal(scores, everyone.scores[task][rows])
    for model, found in enumerate(some.embeddings):
        for name, values in found.items():
            np.testing.assert_array_equal(values, everyone.embeddings[model][name][rows])
    whole = everyone.segment_table().set_index("document_id")
    for name, table in some.segment_table().groupby("document_id"):
        pd.testing.assert_frame_equal(table.set_index("document_id"), whole.loc[[name]])


def test_an_ensemble_is_the_mean_of_its_calibrated_models():
    models = release(3).members
    alone = [release(members=1) for _ in models]
    each = [Release(one.name, [model], CALIBRATORS, ENCODERS) for one, model in zip(alone, models, strict=True)]
    expected = np.mean([one.predict(STORE).scores["affect"] for one in each], axis=0)
    np.testing.assert_array_equal(release(3).predict(STORE).scores["affect"], expected)


def test_calibration_is_applied():
    plain = release(calibrators={task: Calibrator() for task in CALIBRATORS}).predict(STORE).scores["affect"]
    np.testing.assert_array_equal(release().predict(STORE).scores["affect"], CALIBRATORS["affect"](plain))
    assert not np.allclose(release().predict(STORE).scores["affect"], plain)


def test_tables():
    found = release().predict(STORE, names=NAMES)
    table = found.table()
    assert list(table) == [
        *("document_id", "affect", "affect/low", "affect/high"),
        *("spectrum", "spectrum/a", "spectrum/b", "spectrum/c", "score"),
    ]
    np.testing.assert_allclose(table[["affect/low", "affect/high"]].sum(axis=1), 1)
    assert (table["affect"] == np.where(table["affect/low"] >= table["affect/high"], "low", "high")).all()
    assert found.embedding_table().shape == (20, 1 + 3 * 8)
    assert [name for name in found.embedding_table() if name.endswith("/0")] == ["joint/0", "text/0", "audio/0"]


@pytest.mark.parametrize("members", [1, 3])
def test_attention_adds_up(members):
    found = release(members).predict(STORE, names=NAMES)
    segments = found.segment_table()
    assert len(segments) == sum(len(getattr(STORE, name).values) for name in MODALITIES)
    np.testing.assert_allclose(segments.groupby("document_id")["joint"].sum(), 1, atol=1e-6)
    np.testing.assert_allclose(segments.groupby(["document_id", "modality"])["own"].sum(), 1, atol=1e-6)
    experts = found.expert_table()
    assert len(experts) == 20 * members
    np.testing.assert_allclose(experts[["joint/audio", "joint/text"]].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(experts.filter(like="affect/expert_").sum(axis=1), 1, atol=1e-6)


def test_nobody_is_predicted_as_an_empty_table():
    assert len(release().predict(STORE, []).table()) == 0


def test_an_ensemble_has_no_embedding():
    with pytest.raises(InputError, match="ensemble of 3 models has no one embedding"):
        release(3).predict(STORE).embedding_table()


def test_features_of_another_dimension():
    with pytest.raises(InputError, match="text features have 9 dimensions, and 'affect' was trained on 4"):
        release().predict(make_store(4, text_dim=9))


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_a_release_comes_back_to_the_last_bit(saved):
    loaded = Release.load(saved)
    before = release(len(loaded.members)).predict(STORE).table()
    pd.testing.assert_frame_equal(loaded.predict(STORE).table(), before, check_exact=True)
    assert (loaded.encoders, loaded.window, loaded.dtype) == (ENCODERS, None, "float32")


def test_a_single_model_loads_by_itself(saved):
    if (saved / "config.json").exists():
        assert isinstance(hilbert.Hilbert.from_pretrained(saved), Hilbert)
    else:
        assert len(list(saved.glob("members/*/model.safetensors"))) == 3


def test_no_pickle(saved):
    for path in saved.rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".safetensors", ".md"}
            assert not is_pickle(path.read_bytes()), path
    assert is_pickle(pickle.dumps({"a": 1}))


def edited(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def drop_class(config) -> None:
    config["tasks"]["affect"]["classes"].pop()


def drop_third_class(config) -> None:
    config["tasks"]["spectrum"]["classes"].pop()


DAMAGES = {
    "truncated weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100]),
        "model.safetensors: not a readable safetensors file",
    ),
    "one bit of the weights": (lambda folder: flip(folder / "model.safetensors", -5), "model.safetensors: changed"),
    "another version of the model": (
        lambda folder: edited(folder / "config.json", lambda config: config.update(version=7)),
        "config.json: version 7 of the model format; this hilbert reads version 1",
    ),
    "another version of the release": (
        lambda folder: edited(folder / "release.json", lambda config: config.update(version=2)),
        "release.json: version 2 of the format",
    ),
    "a missing class name": (
        lambda folder: edited(folder / "config.json", drop_class),
        r"config.json: tasks.affect: a binary task has two classes.*\['low'\]",
    ),
    "one of three class names": (
        lambda folder: edited(folder / "config.json", drop_third_class),
        "does not fit config.json beside it: classifier.heads.1.bias",
    ),
    "other class names": (
        lambda folder: edited(folder / "config.json", lambda c: c["tasks"]["affect"].update(classes=["no", "yes"])),
        "config.json: changed since the release was made",
    ),
    "calibration": (
        lambda folder: edited(folder / "calibration.json", lambda c: c["affect"].update(temperature=3.0)),
        "calibration.json: changed",
    ),
    "no calibration": (lambda folder: (folder / "calibration.json").unlink(), "calibration.json: missing"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "no release.json": (lambda folder: (folder / "release.json").unlink(), "not a release, it lacks release.json"),
    "half of release.json": (
        lambda folder: (folder / "release.json").write_text((folder / "release.json").read_text()[:50]),
        "release.json: damaged",
    ),
    "an empty release.json": (
        lambda folder: (folder / "release.json").write_text('{"format": "hilbert-release", "version": 1}'),
        "release.json: damaged, 'name' is missing",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_release_is_refused_with_the_file_s_name(tmp_path, what):
    damage, message = DAMAGES[what]
    release().save(tmp_path, card="")
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        Release.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("classes", [["low"], [], ["low", "low"], ["low", ""], ["a", "b", "c"]])
def test_a_binary_task_has_two_names(classes):
    content = model_config().model_dump(mode="json")
    content["tasks"]["affect"]["classes"] = classes
    with pytest.raises(ValueError, match="a binary task has two classes"):
        HilbertConfig.model_validate(content)


# ---- alone -----------------------------------------------------------------------------------------------------------

ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "optuna", "mlflow"}:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Refuse())
"""


def test_neither_ray_nor_optuna_nor_mlflow_is_needed(demo_store, tmp_path):
    folder = tmp_path / "release"
    store = FeatureStore.open(demo_store)
    config = HilbertConfig(audio_dim=store.audio_dim, text_dim=store.text_dim, tasks={"affect": SPECS["affect"]})
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Hilbert(config).eval()
    Release("affect", [model], {"affect": CALIBRATORS["affect"]}, store.encoders).save(folder, card="")
    expected = Release.load(folder).predict(store, names=store.document_ids).table()
    in_python = f"import hilbert; hilbert.predict({str(folder)!r}, {str(demo_store)!r}).table().to_parquet('a.parquet')"
    command = (
        "from tune.cli import main;"
        f"sys.exit(main(['predict', {str(folder)!r}, {str(demo_store)!r}, '--output', 'b.parquet']))"
    )
    for code in (in_python, command):
        done = subprocess.run([sys.executable, "-c", ALONE + code], cwd=tmp_path, timeout=100, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    for name in ("a.parquet", "b.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / name), expected, check_exact=True)
    registered = command.replace(repr(str(folder)), "'models:/affect@champion'").replace("b.parquet", "c.parquet")
    refused = subprocess.run([sys.executable, "-c", ALONE + registered], cwd=tmp_path, timeout=100, capture_output=True)
    assert refused.returncode == 2
    assert b"models:/affect@champion: MLflow isn't installed here; copy the release's folder" in refused.stderr
    assert b"Traceback" not in refused.stderr


# ---- the right features ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "change", "message"),
    [
        ("audio", {"revision": "r9"}, "revision 'r9' instead of 'r1'"),
        ("audio", {"dim": 8}, "dim 8 instead of 7"),
        ("audio", {"layer": 5}, "layer 5 instead of 6"),
        ("text", {"pooling": "first"}, "pooling 'first' instead of 'mean'"),
        ("text", {"revision": None}, "revision None instead of 'r2'"),
        ("text", {"new": 1}, "new 1 instead of None"),
    ],
)
def test_features_of_other_encoders_are_refused(modality, change, message):
    encoders = ENCODERS | {modality: ENCODERS[modality] | change}
    with pytest.raises(StoreError, match=f"somewhere: {modality} features of another encoder.*{message}"):
        check_encoders(release(), encoders, where="somewhere")


def test_a_moved_encoder_is_the_same_encoder():
    encoders = ENCODERS | {"audio": ENCODERS["audio"] | {"name": "hf:elsewhere", "precision": "float16"}}
    check_encoders(release(), encoders, where="somewhere")
    with pytest.raises(StoreError, match="no text features"):
        check_encoders(release(), {"audio": encoders["audio"]}, where="somewhere")


def test_without_a_revision_the_name_counts():
    mine = release(encoders={"audio": {"name": "mine"}, "text": {"name": None}})
    check_encoders(mine, {"audio": {"name": "mine"}, "text": {"name": None}}, where="x")
    with pytest.raises(StoreError, match="name 'yours' instead of 'mine'"):
        check_encoders(mine, {"audio": {"name": "yours"}, "text": {"name": None}}, where="x")


def test_a_revision_that_was_not_noted_is_not_compared_and_that_is_said(caplog):
    known = {"audio": ENCODERS["audio"], "text": ENCODERS["text"] | {"revision": None}}
    check_encoders(release(encoders=known), ENCODERS, where="somewhere")
    assert "revision of hf:b isn't known to the release" in caplog.text
    other = ENCODERS | {"text": ENCODERS["text"] | {"name": "hf:c"}}
    with pytest.raises(StoreError, match="name 'hf:c' instead of 'hf:b'"):
        check_encoders(release(encoders=known), other, where="somewhere")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cohort, its features by two tiny encoders, and a release for them."""
    folder = tmp_path_factory.mktemp("world")
    cohort = write_cohort(folder / "cohort")
    encoders = {"audio": f"hf:{make('hubert', folder / 'speech')}", "text": f"hf:{make('bert', folder / 'words')}"}
    store = extract(Cohort.load(cohort), folder / "store", **encoders, window=0.3, dtype="float16")
    config = HilbertConfig(audio_dim=store.audio_dim, text_dim=store.text_dim, tasks=SPECS)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Hilbert(config).eval()
    made = Release("affect", [model], CALIBRATORS, store.encoders, window=0.3, dtype="float16")
    made.save(folder / "release", card="")
    return folder


def test_a_cohort_is_encoded_and_predicted_like_its_store(world):
    of_store = hilbert.predict(world / "release", world / "store")
    of_cohort = hilbert.predict(world / "release", world / "cohort", batch_size=1)
    assert of_store.documents == ["a", "b", "c"]
    pd.testing.assert_frame_equal(of_store.table(), of_cohort.table(), check_exact=False, atol=2e-3)
    assert list(of_store.segment_table()["segment"]) == list(of_cohort.segment_table()["segment"])
    kept = hilbert.predict(world / "release", world / "cohort", store=world / "kept")
    pd.testing.assert_frame_equal(
        kept.table(), hilbert.predict(world / "release", world / "kept").table(), check_exact=True
    )


def test_another_encoder_is_refused_before_anything_is_encoded(world, tmp_path):
    other = make("roberta", tmp_path / "other")
    calls = []
    with pytest.raises(StoreError, match=r"text features of another encoder than 'affect'.*revision"):
        predict(world / "release", world / "cohort", text=f"hf:{other}", encoding=lambda *done: calls.append(done))
    assert not calls
    moved = shutil.copytree(world / "words", tmp_path / "moved")
    found = predict(world / "release", world / "cohort", text=f"hf:{moved}")
    assert found.documents == ["a", "b", "c"]


def test_features_of_unknown_origin_need_a_store(world):
    made = Release.load(world / "release")
    unknown = Release(made.name, made.members, made.calibrators, {name: {"name": None} for name in MODALITIES})
    with pytest.raises(InputError, match=r"of unknown origin.*give a feature store"):
        predict(unknown, world / "cohort")


def test_other_windows_are_warned_of(world, caplog):
    made = Release.load(world / "release")
    other = Release(made.name, made.members, made.calibrators, made.encoders, window=7.0)
    predict(other, world / "store")
    assert "extracted with --window 0.3" in caplog.text
    assert "7.0" in caplog.text


@pytest.mark.parametrize(
    ("make_it", "message"),
    [(lambda path: None, "no such folder"), (lambda path: path.mkdir(), "neither a feature store nor a cohort")],
)
def test_data_that_is_none(tmp_path, make_it, message):
    make_it(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        predict(release(), tmp_path / "data")


def test_predictions_are_scored_where_labels_are_known(caplog):
    found = release().predict(STORE, names=NAMES)
    table = STORE.documents.assign(affect=["odd", None, *STORE.documents["affect"][2:]])[
        ["group_id", "affect", "score"]
    ]
    quality = evaluate(found, table).set_index("task")
    assert list(quality.index) == ["affect", "score"]
    known = np.array([name == "high" for name in table["affect"][2:]], dtype=float)
    assert quality.loc["affect", "auc"] == pytest.approx(roc_auc_score(known, found.scores["affect"][2:, 1]))
    assert quality.loc["affect", "brier"] == pytest.approx(np.mean((known - found.scores["affect"][2:, 1]) ** 2))
    assert list(quality["labelled"]) == [18, 20]
    assert quality.loc["affect", "low"] <= quality.loc["affect", "auc"] <= quality.loc["affect", "high"]
    assert "odd" in caplog.text


def test_public_names():
    assert sorted(hilbert.__all__) == ["Hilbert", "HilbertClassifier", "Release", "predict"]
    assert all(getattr(hilbert, name) is not None for name in hilbert.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hilbert.nothing

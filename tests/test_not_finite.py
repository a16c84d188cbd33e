"""NaN, infinity and 1e30, in features or in weights, are refused by name; never a class without probabilities."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sweeps import write_study
from synthetic import SPECS, fit_config, make_fold, make_model, make_store, model_config

import hilbert
from hilbert import HilbertClassifier, Release
from hilbert.calibration import Calibrator
from hilbert.documents import Documents
from hilbert.errors import InputError, StoreError
from hilbert.features import FeatureStore
from hilbert.files import digest
from hilbert.model import Hilbert
from hilbert.training import fit, fit_all

WRONG = [np.nan, np.inf, -np.inf, 1e30, -1e30]
TASKS = {"affect": "binary"}


def forged(folder, value, *, modality="audio", document=5, dtype="float32"):
    """A store as another tool may write it: whole, by its manifest, with one wrong value in a document's last segment.

    Returns its folder, the document's id, and the segment's number.
    """
    cohort = make_store(48)
    parts = {name: getattr(cohort, name).split() for name in ("audio", "text")}
    numbers = [np.arange(len(rows)) + 100 for rows in parts[modality]]
    table = cohort.documents
    FeatureStore.write(folder, documents=table, dtype=dtype, **parts, **{f"{modality}_segments": numbers})
    path = folder / f"{modality}.npy"
    array = np.load(path, mmap_mode="r+")
    array[getattr(cohort, modality).offsets[document + 1] - 1, 2] = value
    array.flush()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][path.name]["sha256"] = digest(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder, table["document_id"][document], numbers[document][-1]


def release(**changes) -> Release:
    calibrators = {"affect": Calibrator(), "spectrum": Calibrator()}
    encoders = {name: {"name": None} for name in ("audio", "text")}
    return Release(**({"name": "mine", "members": [make_model(dtype=torch.float32)], "calibrators": calibrators,
                       "encoders": encoders} | changes))  # fmt: skip


# ---- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("modality", ["audio", "text"])
def test_training_names_document_and_segment(tmp_path, value, modality):
    folder, name, segment = forged(tmp_path / "store", value, modality=modality)
    told = rf"{modality}\.npy: {modality} of document '{name}', segment {segment}: feature 2 is .*finite numbers below"
    store = FeatureStore.open(folder)
    with pytest.raises(StoreError, match=told):
        fit(fit_config(tasks=TASKS), store, make_fold())
    with pytest.raises(StoreError, match=told):
        fit_all(fit_config(tasks=TASKS), store, epochs=1)
    with pytest.raises(StoreError, match=told):
        FeatureStore.open(folder, verify="sha256")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_half_precision_too(tmp_path, value):
    folder, name, segment = forged(tmp_path / "store", value, dtype="float16")
    with pytest.raises(StoreError, match=rf"document '{name}', segment {segment}: feature 2"):
        fit(fit_config(tasks=TASKS), FeatureStore.open(folder), make_fold())


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("document", [0, 15, 40])
def test_features_in_memory_are_looked_at_wherever_they_are(value, document):
    """Held-out, inner validation and training documents."""

    def change(x):
        return np.where(np.arange(x.size).reshape(x.shape) == x.size - 1, value, x)

    store = make_store(48).with_features([document], change)
    with pytest.raises(InputError, match=rf"audio of document 'd{document:03}', segment \d+: feature 6 is"):
        fit(fit_config(tasks=TASKS), store, make_fold())


@pytest.mark.parametrize("command", [("fit", "--fold", "0"), ("sweep",)])
def test_a_study_of_such_features_is_refused_before_anything_trains(here, tmp_path, command):
    folder, name, segment = forged(tmp_path / "store", np.nan, document=0)
    write_study(tmp_path, database=False, features=str(folder), tasks=TASKS)
    done = here(command[0], "study.yaml", *command[1:], folder=tmp_path)
    assert done.returncode == 2
    assert f"document {name!r}, segment {segment}: feature 2 is nan" in done.stderr
    assert "learning_rate" not in done.stderr


@pytest.mark.parametrize("value", WRONG)
def test_predictions_name_document_and_segment(here, tmp_path, value):
    folder, name, segment = forged(tmp_path / "store", value)
    release().save(tmp_path / "release", card="")
    done = here("predict", "release", folder, "--output", "p.csv", folder=tmp_path)
    assert done.returncode == 2
    assert f"document {name!r}, segment {segment}: feature 2 is" in done.stderr
    assert not (tmp_path / "p.csv").exists()
    with pytest.raises(StoreError, match=f"segment {segment}"):
        hilbert.predict(tmp_path / "release", folder)


def test_ordinary_values_of_any_scale_pass(tmp_path):
    cohort = make_store(48).with_features(range(48), lambda x: x * 1e12)
    assert np.isfinite(fit(fit_config(tasks=TASKS, epochs=1), cohort, make_fold()).scores["affect"]).all()


@pytest.mark.parametrize("value", WRONG)
def test_a_served_model_and_the_classifier_refuse_them(value):
    store = make_store(24)
    X = list(zip(store.audio.split(), store.text.split(), strict=True))
    X[3][1][0, 1] = value
    with pytest.raises(InputError, match="text of document '3': segment 0, feature 1 is"):
        HilbertClassifier(train={"epochs": 1}).fit(X, store.documents["affect"])
    with pytest.raises(InputError, match="text of document 'c': segment 0, feature 1 is"):
        Documents.of([X[3]], names=["c"])


def test_a_store_is_not_written_with_them(tmp_path):
    cohort = make_store(4)
    parts = {"audio": [rows * 1e30 for rows in cohort.audio.split()], "text": cohort.text.split()}
    with pytest.raises(StoreError, match=r"audio of document 'd000': holds .*e\+29; features must be below 1e\+18"):
        FeatureStore.write(tmp_path / "store", documents=cohort.documents, **parts)


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("classifier.heads.0.weight", np.nan, "finite numbers"),
        ("audio_encoder.standardise.mean", np.inf, "finite numbers"),
        ("text_encoder.standardise.deviation", 0.0, "deviations of 0 or below"),
        ("text_encoder.standardise.deviation", -1.0, "deviations of 0 or below"),
    ],
)
def test_a_model_whose_weights_are_no_numbers_is_not_loaded(here, tmp_path, name, value, told):
    model = make_model(dtype=torch.float32)
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] = value
    release(members=[model]).save(tmp_path / "release", card="")
    with pytest.raises(InputError, match=rf"model\.safetensors: {name} holds .*{told}|holds {told}"):
        Hilbert.from_pretrained(tmp_path / "release")
    cohort = make_store(4)
    parts = {"audio": cohort.audio.split(), "text": cohort.text.split()}
    FeatureStore.write(tmp_path / "store", documents=cohort.documents, **parts)
    done = here("predict", "release", "store", "--output", "p.csv", folder=tmp_path)
    assert done.returncode == 2
    assert name in done.stderr
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("part", ["members", "calibrators"])
def test_a_prediction_that_is_no_number_is_refused(part):
    """Whatever it comes from: here a model and a calibrator made in memory."""
    model = Hilbert(model_config()).float().eval()
    with torch.no_grad():
        model.classifier.heads[0].bias.fill_(np.nan)
    calibrators = {
        "affect": Calibrator("temperature", temperature=np.nan, offsets=(0.0, 0.0)),
        "spectrum": Calibrator(),
    }
    made = release(**({"members": [model]} if part == "members" else {"calibrators": calibrators}))
    store = make_store(6)
    names = [f"p{number}" for number in range(6)]
    with pytest.raises(InputError, match=r"'mine' predicts affect of document 'p0' to be \[nan, nan\]"):
        made.predict(store, names=names)


def test_nan_in_a_calibration_file_is_refused(tmp_path):
    release().save(tmp_path / "release", card="")
    path = tmp_path / "release" / "calibration.json"
    path.write_text(path.read_text().replace('"none"', "NaN", 1))
    with pytest.raises(InputError, match=r"calibration\.json"):
        Release.load(tmp_path / "release")


def test_what_they_were_made_from_predicts(tmp_path):
    release().save(tmp_path / "release", card="")
    found = Release.load(tmp_path / "release").predict(make_store(6)).table()
    assert isinstance(found, pd.DataFrame)
    assert not found.isna().any().any()
    assert set(SPECS) <= set(found)

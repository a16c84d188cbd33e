"""Labels edited in place and features replaced are noticed before anything trains, and files are read once for that."""

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sweeps import write_study
from synthetic import fit_config, make_fold, make_store

from hilbert import store_checks, verified
from hilbert.classifier import documents_of
from hilbert.errors import LabelsChangedError, StoreError
from hilbert.features import FeatureStore
from hilbert.training import fit
from tune.job import StudyData
from tune.plan import make_plan
from tune.study_file import load_study

TASKS = {"affect": "binary", "score": "regression"}


def made(folder: Path, *, seed: int = 0, **changes: object) -> FeatureStore:
    cohort = make_store(48, seed=seed)
    table = cohort.documents.assign(**changes)
    parts = {"audio": cohort.audio.split(), "text": cohort.text.split()}
    return FeatureStore.write(folder, documents=table, overwrite=True, **parts)


def edit_labels(folder: Path) -> None:
    """Two digits of a number are swapped: as many bytes, another label."""
    path = folder / "documents.csv"
    text = path.read_text(encoding="utf-8")
    number = text.splitlines()[3].rpartition(",")[2]
    digits = list(number.replace(".", ""))
    place = next(i for i in range(len(digits) - 1) if digits[i] != digits[i + 1])
    shift = place + (place >= number.index("."))
    after = shift + 1 + (number[shift + 1] == ".")
    swapped = list(number)
    swapped[shift], swapped[after] = swapped[after], swapped[shift]
    path.write_text(text.replace(number, "".join(swapped)), encoding="utf-8", newline="")


def edit_features(folder: Path, name: str = "audio.npy") -> None:
    """One number is another one, in place."""
    array = np.load(folder / name, mmap_mode="r+")
    array[3] += 1
    array.flush()


@pytest.fixture
def store(tmp_path, monkeypatch) -> FeatureStore:
    """A store on disk, a cache of its own, and files that count as left alone from their first moment."""
    monkeypatch.setenv("HILBERT_CACHE", str(tmp_path / "cache"))
    as_another_process(monkeypatch)
    store = made(tmp_path / "store")
    monkeypatch.setattr(verified, "SETTLED", -60.0)
    return store


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files that are read from end to end."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    digest = store_checks.digest
    monkeypatch.setattr(store_checks, "digest", counted)
    return names


def as_another_process(monkeypatch) -> None:
    monkeypatch.setattr(verified, "_here", {})
    monkeypatch.setattr(verified, "_told", {})


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_a_label_changed_in_place_is_noticed_whenever_the_store_is_opened(store):
    size = (store.folder / "documents.csv").stat().st_size
    edit_labels(store.folder)
    assert (store.folder / "documents.csv").stat().st_size == size
    with pytest.raises(LabelsChangedError) as caught:
        FeatureStore.open(store.folder)
    for part in (str(store.folder / "documents.csv"), "'hilbert extract' again", "with_documents"):
        assert part in str(caught.value)
    with pytest.raises(StoreError):
        pickle.loads(pickle.dumps(store))


@pytest.mark.parametrize("arguments", [("sweep",), ("fit", "--fold", "0")])
@pytest.mark.parametrize(("edit", "name"), [(edit_labels, "documents.csv"), (edit_features, "audio.npy")])
def test_a_study_of_changed_data_is_refused_before_anything_trains(here, store, tmp_path, arguments, edit, name):
    write_study(tmp_path, database=False, features=str(store.folder), tasks=TASKS)
    edit(store.folder)
    done = here(arguments[0], "study.yaml", *arguments[1:], folder=tmp_path)
    assert done.returncode == 2
    assert str(store.folder / name) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "studies").exists()


# ---- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["audio.npy", "text.npy", "text_segments.npy"])
def test_replaced_features_are_noticed_before_they_are_used(store, tmp_path, name):
    edit_features(store.folder, name)
    opened = FeatureStore.open(store.folder)
    told = rf"{name}: its contents have changed"
    with pytest.raises(StoreError, match=told):
        opened.verify()
    with pytest.raises(StoreError, match=told):
        fit(fit_config(tasks=TASKS), opened, make_fold())
    with pytest.raises(StoreError, match=told):
        make_plan(load_study(write_study(tmp_path, database=False, features=str(store.folder), tasks=TASKS)))


def test_changed_features_are_not_passed_on_as_right_ones(store, tmp_path):
    edit_features(store.folder)
    opened = FeatureStore.open(store.folder)
    with pytest.raises(StoreError, match=r"audio\.npy: its contents have changed"):
        documents_of(opened)
    with pytest.raises(StoreError, match=r"audio\.npy: its contents have changed"):
        opened.write_part(tmp_path / "part", [0, 1])
    with pytest.raises(StoreError, match=r"audio\.npy: its contents have changed"):
        opened.with_documents(opened.documents.assign(affect="low"))


def test_features_changed_between_two_fits_are_noticed(store):
    config = fit_config(tasks=TASKS, epochs=1)
    before = fit(config, store, make_fold())
    np.testing.assert_array_equal(fit(config, store, make_fold()).scores["affect"], before.scores["affect"])
    edit_features(store.folder)
    with pytest.raises(StoreError, match="have changed"):
        fit(config, store, make_fold())


def test_a_store_that_was_replaced_stays_what_it_was_to_whoever_has_it_open(store, monkeypatch):
    config = fit_config(tasks=TASKS, epochs=1)
    before = fit(config, store, make_fold())
    monkeypatch.setattr(verified, "SETTLED", 3600.0)
    made(store.folder, seed=1)
    np.testing.assert_array_equal(fit(config, store, make_fold()).scores["affect"], before.scores["affect"])
    never_read = FeatureStore.open(store.folder)
    made(store.folder, seed=2)
    with pytest.raises(StoreError, match="was replaced since the store was opened"):
        fit(config, never_read, make_fold())


def test_writing_the_same_again_mends_what_was_changed_in_place(store, caplog):
    fingerprint = store.fingerprint
    edit_features(store.folder)
    cohort = make_store(48)
    parts = {"audio": cohort.audio.split(), "text": cohort.text.split()}
    again = FeatureStore.write(store.folder, documents=cohort.documents, **parts)
    assert again.fingerprint == fingerprint
    again.verify()
    assert "audio.npy: damaged, or edited in place" in caplog.text


# ---- read once -------------------------------------------------------------------------------------------------------


def test_features_are_read_once_on_a_computer(store, read, monkeypatch):
    features = {f"{name}{part}.npy" for name in ("audio", "text") for part in ("", "_offsets", "_segments")}
    store.verify()
    assert sorted(read) == sorted(features)
    read.clear()
    store.verify()
    FeatureStore.open(store.folder).verify()
    as_another_process(monkeypatch)
    FeatureStore.open(store.folder).verify()
    assert set(read) == {"documents.csv"}
    os.utime(store.folder / "text.npy")
    read.clear()
    store.verify()
    assert read == ["text.npy"]


def test_new_labels_are_written_without_reading_features(store, read):
    store.verify()
    read.clear()
    made_new = store.with_documents(store.documents.assign(affect="low"))
    assert set(read) == {"documents.csv"}
    read.clear()
    made_new.verify()
    assert read == []
    FeatureStore.open(made_new.folder, verify="sha256")


def test_the_cache_is_private_and_not_needed(store, read, monkeypatch, tmp_path):
    store.verify()
    cache = tmp_path / "cache" / "verified.json"
    assert cache.stat().st_mode & 0o777 == 0o600
    whole = cache.read_bytes()
    junk = [b"", b"{", b"[]", b'{"format": "hilbert-verified", "version": 1, "files": {"a": 3}}', b"[" * 100_000]
    for content in [*junk, whole.replace(b'"version": 1', b'"version": 2'), os.urandom(1000)]:
        cache.write_bytes(content)
        as_another_process(monkeypatch)
        read.clear()
        store.verify()
        assert len(read) == 6
    for place in ("/dev/null/none", "/proc/none"):
        monkeypatch.setenv("HILBERT_CACHE", place)
        as_another_process(monkeypatch)
        read.clear()
        store.verify()
        store.verify()
        assert len(read) == 6
    monkeypatch.delenv("HILBERT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("/proc/none"))
    as_another_process(monkeypatch)
    store.verify()


def test_the_cache_keeps_a_bounded_number_of_files_in_mind(store, monkeypatch, tmp_path):
    monkeypatch.setattr(verified, "MOST", 4)
    store.verify()
    assert len(json.loads((tmp_path / "cache" / "verified.json").read_bytes())["files"]) == 4


def test_a_file_that_changed_just_now_is_not_kept_in_mind(store, read, monkeypatch):
    monkeypatch.setattr(verified, "SETTLED", 3600.0)
    store.verify()
    store.verify()
    assert len(read) == 12


def test_workers_take_the_driver_s_word_as_long_as_the_files_are_the_same(store, read, monkeypatch, tmp_path):
    study = load_study(write_study(tmp_path, database=False, features=str(store.folder), tasks=TASKS))
    plan = make_plan(study)
    data: StudyData = pickle.loads(pickle.dumps(plan.data))
    name = next(iter(data.stores))
    as_another_process(monkeypatch)
    monkeypatch.setenv("HILBERT_CACHE", "/proc/none")
    read.clear()
    fit(fit_config(tasks=TASKS, epochs=1), data.open(name), data.folds[0])
    assert set(read) == {"documents.csv"}
    as_another_process(monkeypatch)
    edit_features(store.folder)
    with pytest.raises(StoreError, match="have changed"):
        fit(fit_config(tasks=TASKS, epochs=1), data.open(name), data.folds[0])


def test_a_store_takes_what_is_known_of_it_along(store, read, monkeypatch):
    store.verify()
    content = pickle.dumps(store)
    as_another_process(monkeypatch)
    monkeypatch.setenv("HILBERT_CACHE", "/proc/none")
    read.clear()
    pickle.loads(content).verify()
    assert set(read) == {"documents.csv"}


TURN = """
import sys
from pathlib import Path
from hilbert import store_checks, verified
from hilbert.features import FeatureStore
verified.SETTLED, digest = -60.0, store_checks.digest
store_checks.digest = lambda path: print(path.name, flush=True) or digest(path)
FeatureStore.open(sys.argv[1]).verify()
"""


def test_of_several_processes_one_reads(store):
    started = [
        subprocess.Popen([sys.executable, "-c", TURN, str(store.folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    names = [name for process in started for name in process.communicate(timeout=100)[0].split()]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert names.count("audio.npy") == names.count("text.npy") == 1


# ---- extraction ------------------------------------------------------------------------------------------------------


@pytest.fixture
def extracted(tmp_path):
    """A cohort and the store of its texts."""
    import cohorts
    from tiny_models import make

    from hilbert.cohort import Cohort
    from hilbert.extraction import extract

    segments = "document_id,segment,audio,start,end,text\na,0,,,,one two\nb,0,,,,three\nc,0,,,,four five six\n"
    folder = cohorts.write_cohort(tmp_path / "cohort", segments=segments)
    encoder = f"hf:{make('bert', tmp_path / 'words')}"

    def run(**options):
        return extract(Cohort.load(folder), tmp_path / "features", text=encoder, **options)

    run()
    return run


def test_labels_edited_in_a_store_are_written_again_from_the_cohort(extracted, tmp_path, caplog):
    path = tmp_path / "features" / "documents.csv"
    right = path.read_bytes()
    for wrong in (right.replace(b"high", b"low"), right.replace(b"high", b"hihg"), right[:-10], b""):
        path.write_bytes(wrong)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            extracted().verify()
        assert path.read_bytes() == right
        assert "had been edited in place, and is written again with the labels of" in caplog.text


def test_a_store_with_damaged_features_is_not_declared_finished(extracted, tmp_path):
    right = (tmp_path / "features" / "text.npy").read_bytes()
    edit = np.load(tmp_path / "features" / "text.npy", mmap_mode="r+")
    edit[0] += 1
    edit.flush()
    with pytest.raises(StoreError, match=r"text\.npy: its contents have changed.*--overwrite"):
        extracted()
    extracted(overwrite=True).verify()
    assert (tmp_path / "features" / "text.npy").read_bytes() == right

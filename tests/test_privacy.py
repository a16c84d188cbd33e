"""What is recorded where ids are hashed: no id, no folder of this computer, no name of its user."""

import json
import sqlite3
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from sweeps import empty_database

from tune.archive import Archive
from tune.job import FoldJob, failed
from tune.predictions import hashed
from tune.privacy import command, packaged, place, placeless, private_study, without_ids

KEY = b"k" * 32
FRAMES = """Traceback (most recent call last):
  File "/home/ada lovelace/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 12, in forward
    return self._call(x)
  File "/opt/hilbert code/hilbert/training.py", line 7, in fit
  File "/usr/lib/python3.11/json/decoder.py", line 3, in decode
  File "/data/plugins/mine.py", line 3, in encode
"""
PACKAGED = """Traceback (most recent call last):
  File "torch/nn/modules/module.py", line 12, in forward
    return self._call(x)
  File "hilbert/training.py", line 7, in fit
  File "json/decoder.py", line 3, in decode
  File ".../mine.py", line 3, in encode
"""


def test_code_is_named_as_in_its_package():
    assert packaged(FRAMES) == PACKAGED
    assert packaged("StoreError: /data/features: damaged") == "StoreError: /data/features: damaged"


def test_places_are_seen_from_here_or_named_without_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada lovelace")
    assert place(str(tmp_path / "features" / "a b")) == "features/a b"
    assert place("/data/features/a b") == ".../a b"
    assert place("hf:/models/whisper?layer=6") == "hf:.../whisper?layer=6"
    for same in ("features/a", "s3://bucket/a", "hf:openai/whisper-tiny", "opensmile:eGeMAPSv02"):
        assert place(same) == same
    said = f"/home/ada lovelace/x/y.csv, {tmp_path}/in/a.npy, '/data/a b/c', /data/d/e: 3/4 of s3://b/c (a/b) sqlite:////d/m.db"
    expected = ".../x/y.csv, in/a.npy, '.../c', .../e: 3/4 of s3://b/c (a/b) sqlite:///.../m.db"
    assert placeless(said) == expected
    assert placeless("in /data/my cohort/f.bin", known=["/data/my cohort"]) == "in .../my cohort/f.bin"
    line = "hilbert sweep /data/s.yaml --set features=/data/f --tracking-uri sqlite:////data/m.db 'a b'"
    assert command(line) == "hilbert sweep .../s.yaml --set features=.../f --tracking-uri sqlite:///.../m.db 'a b'"


def test_ids_and_groups_are_replaced_wherever_they_stand():
    groups = {"spk 12": "fam.7", "12": "12", "Zoë": "Zoë", "it's": "it's", "a" * 100: "x-1"}
    text = "spk 12, 'fam.7' (12) Zoë 'it\\'s' x-1 x-10 128 spk 123\n  File \"a.py\", line 12, in f\nof " + repr(
        "a" * 100
    )
    found = without_ids(groups, KEY)(text)
    first, frame, last = found.split("\n")
    assert frame == '  File "a.py", line 12, in f'
    assert last == f"of '{hashed('a' * 100, KEY)}'"
    for name in ("spk 12", "fam.7", "12", "Zoë", "x-1"):
        assert hashed(name, KEY) in first
    assert first.endswith("x-10 128 spk 123")
    assert "fam" not in first
    assert without_ids({}, KEY)("same") == "same"


def test_a_study_file_keeps_what_its_release_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = {"study": "x", "storage": "/data/studies", "tracking_uri": "sqlite:////data/m.db"}
    stores = {"a": str(tmp_path / "f" / "a"), "b": "/data/f/b", "c": "s3://bucket/c"}
    assert private_study(study | {"features": stores}) == {
        "study": "x",
        "features": {"a": "f/a", "b": ".../b", "c": "s3://bucket/c"},
    }
    assert private_study({"features": "/data/f"}) == {"features": ".../f"}


# ---- a whole study ---------------------------------------------------------------------------------------------------


def texts(database: Path) -> list[str]:
    """Every text in a database, but for where artifacts lie."""
    found = []
    with sqlite3.connect(database) as opened:
        for (table,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = opened.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in rows.description]
            places = {"artifact_location", "artifact_uri", "source", "storage_location"}
            found += [
                str(value)
                for row in rows.fetchall()
                for name, value in zip(names, row, strict=True)
                if name not in places
            ]
    opened.close()
    return found


@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore")
def test_nothing_of_a_hashed_study_names_people_folders_or_the_user(
    tmp_path, here, hashed_sweep, demo_store, monkeypatch
):
    """A study with a failed fold job is written anew, and released; what was said of the failure names all of it."""
    folder = hashed_sweep.copy(tmp_path / "lovelace")
    archive, user = Archive(folder / "studies" / "quick"), "ada-lovelace"
    table = pd.read_csv(demo_store / "documents.csv", dtype=str)
    ids = {*table["document_id"], *table.get("group_id", [])}
    for variable in ("LOGNAME", "USER", "USERNAME"):
        monkeypatch.setenv(variable, user)
    one = sorted((archive.folder / "jobs").glob("*.json"))[0]
    record = archive.load(one.stem)
    one.unlink()
    error = f"{FRAMES}StoreError: {demo_store}/x.bin: documents {sorted(ids)} of /home/{user}/cohort"
    job = FoldJob(0, record.fold, None, "features", record.identity)
    archive.save(failed(job, error, time.time()))
    told = f"hilbert sweep {folder}/study.yaml --storage /home/{user}/s"
    archive.keep_versions(archive.versions() | {"command": told})
    (folder / "other.db").write_bytes(empty_database().read_bytes())
    for path in (folder / "mlartifacts").rglob("*"):
        if path.is_file():
            path.unlink()
    to_other = ("--tracking-uri", "sqlite:///other.db")
    assert here("sync", "quick", *to_other, folder=folder).returncode == 0
    done = here("release", "quick", "--name", "x", "--calibration", "none", "--licence", "mine", *to_other)
    assert done.returncode == 0, done.stderr

    secrets = [str(tmp_path), str(demo_store), user, "lovelace", "/home/", str(Path.home()) + "/", *ids]
    files = [path for path in (folder / "mlartifacts").rglob("*") if path.is_file()]
    assert {"error.txt", "MLmodel", "study.yaml", "versions.json"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
    for text in texts(folder / "other.db"):
        assert not [secret for secret in secrets if secret in text], text
    (told,) = [path.read_text() for path in files if path.name == "error.txt"]
    assert told.startswith(PACKAGED)
    assert hashed(min(ids), archive.id_key()) in told


@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore")
def test_a_model_and_an_error_name_no_folder_without_hashes_too(tmp_path, here, quick_sweep, monkeypatch):
    folder = quick_sweep.copy(tmp_path / "work")
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/hilbert", "release", "quick"])
    assert here("release", "quick", "--name", "x", "--calibration", "none", folder=folder).returncode == 0
    (model,) = (folder / "mlartifacts").rglob("MLmodel")
    artifacts = yaml.safe_load(model.read_text())["flavors"]["python_function"]["artifacts"]
    assert artifacts["release"]["uri"] == artifacts["release"]["path"]
    assert (model.parent / artifacts["release"]["path"] / "release.json").exists()
    for name in ("MLmodel", "conda.yaml", "python_env.yaml"):
        assert "/tmp" not in (model.parent / name).read_text()
    made = json.loads((model.parent / artifacts["release"]["path"] / "release.json").read_text())
    assert made["made"]["versions"]["command"] == "hilbert release quick"

"""MLflow's sqlite file: folders of any name, two first starts at once, and files that can't be used."""

import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from sweeps import empty_database, environment, run

from hilbert.errors import InputError
from tune.database import address, database, first_touch
from tune.tracking import connect, elsewhere, tracking_uri

RACE = """
import os, sys, traceback
import mlflow.store.tracking.sqlalchemy_store
from tune.tracking import connect, tracking_uri
def first():
    try:
        connect(tracking_uri()).create_experiment(str(os.getpid()))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
children = []
for _ in range(3):
    if (child := os.fork()) == 0:
        code = first()
        sys.stderr.flush()
        os._exit(code)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.timeout(400)
def test_first_starts_at_once_make_one_sound_database(tmp_path):
    done = run([sys.executable, "-c", RACE], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {found.name for found in connect(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()}
    assert len(names) == 4  # three, and MLflow's own


def test_the_lock_of_a_process_that_died_is_free(tmp_path):
    path = tmp_path / "mlflow.db"
    hold = f"from tune.database import *\nwith first_touch(Path({str(path)!r})): print('held', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "mlflow.db.lock").exists()
    started = time.monotonic()
    with first_touch(path):
        assert time.monotonic() - started < 5


def test_a_lock_that_is_held_is_said_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tune.database.TELL_AFTER", 0.1)
    monkeypatch.setattr("tune.database.PATIENCE", 0.3)
    path = tmp_path / "mlflow.db"
    with first_touch(path), pytest.raises(InputError, match=r"mlflow\.db\.lock"), first_touch(path):
        pass
    assert "waiting for another process" in capsys.readouterr().err


@pytest.mark.parametrize("left", ["DELETE FROM alembic_version", "DELETE FROM alembic_version; DROP TABLE trace_tags"])
def test_a_first_start_that_was_interrupted_is_named(tmp_path, here, left):
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_database().read_bytes())
    with sqlite3.connect(path) as opened:
        opened.executescript(left)
    opened.close()
    code, _, err = here("compare", "quick", folder=tmp_path)
    assert code == 2
    assert "only in part" in err
    assert "remove the file" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["a b", "100%", "c#1", "ü", "a+b&c", "=;@:,'\"$(x)"])
def test_a_folder_of_any_name_holds_its_database(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    uri = tracking_uri()
    assert database(uri) == folder / "mlflow.db"
    (folder / "mlflow.db").write_bytes(empty_database().read_bytes())
    client = connect(uri)
    client.set_experiment_tag("0", "here", "yes")
    with sqlite3.connect(folder / "mlflow.db") as opened:
        assert opened.execute("SELECT value FROM experiment_tags WHERE key = 'here'").fetchall() == [("yes",)]
    opened.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    monkeypatch.chdir(tmp_path)
    assert elsewhere(uri) == ["--tracking-uri", uri]
    assert tracking_uri(uri) == uri


@pytest.mark.parametrize(("name", "found"), [("q?x=1", "?"), ("50%25", "%25"), ("%C3%BC", "%C3")])
def test_a_folder_whose_name_an_address_cannot_hold_is_refused_at_once(tmp_path, monkeypatch, here, name, found):
    folder = tmp_path / name
    folder.mkdir()
    for arguments in (
        ["compare", "quick"],
        ["ui", "quick", "--no-browser"],
        ["select", "quick"],
    ):
        code, _, err = here(*arguments, folder=folder)
        assert code == 2
        assert repr(found) in err
        assert "rename the folder" in err
        assert len(err.splitlines()) == 1
    assert not list(folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="rename the folder"):
        tracking_uri(f"sqlite:////tmp/q?x=1/{name}/mlflow.db")


def test_an_address_may_be_escaped_and_have_options(tmp_path):
    assert tracking_uri("sqlite:////a%20b/mlflow.db?timeout=9") == "sqlite:////a b/mlflow.db?timeout=9"
    assert address(tmp_path / "x.db") == f"sqlite:///{tmp_path}/x.db"
    assert database("http://localhost:5000") is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"no database at all", "no sqlite database"), (None, "is a folder"), ("other", "else")],
)
def test_a_file_that_is_no_database_of_mlflow_is_named_at_once(tmp_path, here, content, expected):
    path = tmp_path / "mlflow.db"
    if content is None:
        path.mkdir()
    elif content == "other":
        with sqlite3.connect(path) as opened:
            opened.execute("CREATE TABLE mine (x)")
        opened.close()
    else:
        path.write_bytes(content)
    started = time.monotonic()
    code, _, err = here("compare", "quick", folder=tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert expected in err
    assert time.monotonic() - started < 10


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match=r"/proc/nothing/mlflow\.db isn't there, and its folder can't be written"):
        connect("sqlite:////proc/nothing/mlflow.db")


def test_a_database_that_can_only_be_read_needs_no_lock(tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_database().read_bytes())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert connect(f"sqlite:///{path}").search_experiments()

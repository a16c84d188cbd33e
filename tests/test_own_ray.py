"""The Ray that a command starts for itself: where its files lie, where it listens, and what happens if it dies."""

import os
import signal
from pathlib import Path

import pytest
from servers import kill, session, started, wait_for
from sweeps import LIMIT, hilbert, records, write_study

from hilbert.errors import StudyError
from hilbert.temporary import PREFIX
from tune import own_ray
from tune.own_ray import LONGEST_PATH, SOCKET, folder_for_ray, obituary

pytestmark = pytest.mark.timeout(500)


def jobs_done(folder):
    return len(list((folder / "studies" / "quick" / "jobs").glob("*.json")))


def listening(processes):
    """Addresses at which processes listen for TCP, as the kernel writes them: hexadecimal."""
    sockets = set()
    for process in processes:
        for entry in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(entry.readlink().name)
            except OSError:  # closed meanwhile
                continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}


def test_a_sweep_where_everything_is_hostile(tmp_path, demo_store):
    """Modules of the user's, a long folder for temporary files, no UTF-8; and nobody else can reach its Ray."""
    write_study(tmp_path, features=str(demo_store), trials=1, search={})
    for name in ("tune", "hilbert", "ray", "torch", "select", "statistics"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the user was imported')\n")
    (tmp_path / "optuna").mkdir()
    (tmp_path / "optuna" / "__init__.py").write_text("raise SystemExit('a package of the user was imported')\n")
    long = tmp_path / ("long" * 30)
    variables = {"PYTHONSAFEPATH": "1", "RAY_TMPDIR": str(long), "PYTHONIOENCODING": "ascii"}  # safe: as `hilbert` is
    with started("sweep", "study.yaml", folder=tmp_path, **variables) as process:
        wait_for(lambda: jobs_done(tmp_path) >= 1 or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
        assert listening(session(process.pid)) <= LOOPBACK
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert "+-" in out
    assert jobs_done(tmp_path) == 3
    assert not list(long.iterdir())


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_process_of_rays_that_dies_is_named_and_the_same_command_goes_on(tmp_path, demo_store, name):
    train = {"epochs": 40, "patience": 0}
    write_study(tmp_path, features=str(demo_store), trials=1, search={}, train=train)
    places = tmp_path / "tmp"
    places.mkdir()
    with started("sweep", "study.yaml", folder=tmp_path, RAY_TMPDIR="/tmp", TMPDIR=str(places)) as process:
        wait_for(lambda: jobs_done(tmp_path) >= 1, process)
        found = {title.split()[0].rpartition("/")[2]: one for one, (_, title) in session(process.pid).items()}
        kill(found[name])
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert out == ""
    (told,) = [line for line in err.splitlines() if line.startswith("hilbert:")]
    assert f"{name}, a process of Ray on this computer, has died (SIGKILL" in told
    assert "what is finished is kept, and the same command goes on from there" in told
    assert "state-dump" not in err
    assert list(places.glob(f"{PREFIX}*")), "it was killed, and left its folder"
    done = hilbert("sweep", "study.yaml", folder=tmp_path, TMPDIR=str(places))
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path, "quick")) == 3
    assert not list(places.glob(f"{PREFIX}*"))


def test_ray_lies_where_the_user_says_and_has_a_short_name(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for name in ("TMPDIR", "RAY_TMPDIR"):
        long = tmp_path / name / ("x" * 90)
        monkeypatch.setenv("RAY_TMPDIR", str(long)) if name == "RAY_TMPDIR" else long.mkdir(parents=True)
        monkeypatch.setattr("tempfile.tempdir", str(long))
        with folder_for_ray() as folder:
            assert len(os.fsencode(folder)) + len(SOCKET) <= LONGEST_PATH
            assert folder.resolve().parent == long
            assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
        assert not folder.parent.exists()
        assert not list(long.iterdir())
    monkeypatch.setenv("RAY_TMPDIR", "/dev/shm")
    with folder_for_ray() as folder:
        assert folder.parent == Path("/dev/shm")


def test_a_folder_for_ray_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file" / "below"))
    with pytest.raises(StudyError, match=r"RAY_TMPDIR=.*below: can't be written"), folder_for_ray():
        pass
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 90)))
    (tmp_path / ("x" * 90)).mkdir()
    monkeypatch.setattr(own_ray, "SHORT", tmp_path / "nowhere")
    with (
        pytest.raises(StudyError, match=r"set RAY_TMPDIR to a folder whose path has 2\d bytes at most"),
        folder_for_ray(),
    ):
        pass


@pytest.mark.parametrize(
    ("code", "expected"),
    [(-signal.SIGKILL, "SIGKILL, as the system does"), (-250, "signal 250"), (1, "exit code 1")],
)
def test_how_it_died_is_told(code, expected):
    told = obituary("raylet", code, Path("/tmp/logs"))
    assert f"raylet, a process of Ray on this computer, has died ({expected}" in told
    assert "\n" not in told

"""Temporary folders of killed processes are cleared; those of living ones, other users, other programs are not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hilbert.errors import HilbertError
from hilbert.temporary import PREFIX, clear, temporary_folder, temporary_place

HOLD = """
import sys
from pathlib import Path
from hilbert.temporary import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "inside").mkdir()
    (folder / "inside" / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has a temporary folder below `tmp_path`; and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_a_folder_is_private_and_gone_at_the_end(tmp_path):
    with temporary_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.parent == tmp_path
        (folder / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_living_process_keeps_its_folder_and_a_killed_one_does_not(tmp_path, holder):
    process, folder = holder
    clear(tmp_path)
    assert (folder / "inside" / "file").read_text() == "x"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.exists()
    clear(tmp_path)
    assert not folder.exists()


def test_the_next_folder_clears_what_was_left(tmp_path, holder):
    process, folder = holder
    process.kill()
    process.wait()
    with temporary_folder(tmp_path) as mine:
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [mine]
    assert not folder.exists()


def test_a_folder_that_a_thread_of_this_process_has_is_kept(tmp_path):
    with temporary_folder(tmp_path) as folder:
        clear(tmp_path)
        assert folder.exists()


def test_what_is_not_ours_is_left_alone(tmp_path, monkeypatch):
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("x")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / f"{PREFIX}link").symlink_to(elsewhere)
    (shared / f"{PREFIX}file").write_text("x")
    (shared / "hilbert-other-computer").mkdir()
    (shared / "hilbert-ray-of-somebody").mkdir()
    clear(shared)
    assert len(list(shared.iterdir())) == 4
    assert (elsewhere / "file").exists()
    (shared / f"{PREFIX}other").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    clear(shared)
    assert (shared / f"{PREFIX}other").exists()


def test_without_a_place_for_temporary_files_one_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    with pytest.raises(HilbertError, match="set TMPDIR"):
        temporary_place()
    with (
        pytest.raises(HilbertError, match=r"no temporary folder can be made in .*nowhere.*TMPDIR"),
        temporary_folder(tmp_path / "nowhere"),
    ):
        pass


def test_no_file_of_a_name_that_can_be_foreseen_is_written_through_a_link(tmp_path, monkeypatch):
    """Another user may put links into a folder that both can write, such as /tmp."""
    import pandas as pd
    from synthetic import model_config

    from hilbert.model import Hilbert
    from tune.predict import _write

    precious = tmp_path / "precious"
    precious.write_text("x")
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in (".table.csv.partial", "model.safetensors.partial"):
        (shared / name).symlink_to(precious)
    _write({"predictions": pd.DataFrame({"a": [1]})}, {"predictions": shared / "table.csv"})
    Hilbert(model_config()).save_pretrained(shared)
    assert precious.read_text() == "x"
    assert (shared / "table.csv").read_text() == "a\n1\n"


def test_work_that_goes_on_later_goes_into_no_folder_behind_a_link(tmp_path):
    from cohorts import write_cohort

    from hilbert.cohort import Cohort
    from hilbert.errors import StoreError
    from hilbert.extraction import extract

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "store.partial").symlink_to(elsewhere)
    tables = {"documents": "document_id,affect\na,low\n", "segments": "document_id,segment,audio,text\na,0,,words\n"}
    cohort = Cohort.load(write_cohort(tmp_path / "cohort", **tables))
    with pytest.raises(StoreError, match=r"store\.partial: can't be written \(a link lies there"):
        extract(cohort, tmp_path / "store", text=Words())
    assert not list(elsewhere.iterdir())


class Words:
    """An encoder of texts."""

    dim, description = 1, {"name": "words", "dim": 1}

    def encode(self, segments):
        return [[float(len(segment))] for segment in segments]

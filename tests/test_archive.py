"""A study's own folder: whole files or none, one sweep at a time, one study under one name."""

from dataclasses import replace

import pytest

from hilbert.errors import StudyError
from tune.archive import Archive, ArchiveError
from tune.job import JobRecord

RECORD = JobRecord(identity="abc", fold=2, started=1.5, seconds=0.1, scores={"x": [[0.1, 0.9]]}, auc={"x": None})


@pytest.fixture
def archive(tmp_path):
    found = Archive(tmp_path / "study")
    with found.locked():
        yield found


def test_a_record_comes_back_as_it_was(archive):
    archive.save(RECORD)
    assert archive.load("abc") == RECORD
    assert archive.load("abd") is None


def test_a_failed_job_is_not_done(archive):
    failed = replace(RECORD, error="boom")
    archive.save(failed)
    assert archive.load("abc") is None
    assert archive.load("abc", failed=True) == failed
    archive.save(RECORD)
    assert archive.load("abc", failed=True) == RECORD


def test_a_second_sweep_is_kept_out(archive):
    with pytest.raises(StudyError, match="another sweep of this study is running"), Archive(archive.folder).locked():
        pass


def test_a_changed_study_is_told_what_has_changed(archive):
    archive.begin({"folds": {"seed": 0, "n_splits": 5}, "tasks": {"x": "binary"}})
    archive.begin({"tasks": {"x": "binary"}, "folds": {"n_splits": 5, "seed": 0}})
    with pytest.raises(StudyError, match=r"folds\.seed was 0, now 1; tasks\.y was not there, now \"binary\""):
        archive.begin({"folds": {"seed": 1, "n_splits": 5}, "tasks": {"x": "binary", "y": "binary"}})


def test_what_racing_gave_up_is_remembered(archive):
    assert archive.abandoned() == set()
    archive.abandon(3)
    archive.abandon(1)
    assert Archive(archive.folder).abandoned() == {1, 3}


def test_the_key_of_hashed_ids_is_made_once_and_kept_from_others(archive):
    key = archive.id_key()
    assert len(key) == 32
    assert archive.id_key() == key
    assert (archive.folder / "id_key").stat().st_mode & 0o077 == 0


def test_a_disk_that_takes_no_more_is_told_and_leaves_no_half_file(archive):
    before = sorted(archive.folder.rglob("*"))
    with pytest.raises(ArchiveError, match="can't be written"):
        archive.save(replace(RECORD, identity="x" * 300))  # no file can have such a name
    assert sorted(archive.folder.rglob("*")) == before


def test_a_folder_that_cant_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="storage"), Archive(tmp_path / "file" / "study").locked():
        pass

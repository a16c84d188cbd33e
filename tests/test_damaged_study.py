"""A study's folder in which files are damaged: what can be made again is set aside and named, the rest is refused."""

import json
import os
from dataclasses import asdict, replace

import pytest
from test_journal import SPACES, run, study_of

from hilbert.errors import StudyError
from tune.archive import Archive
from tune.checkpoints import FileStates, StateCheckpoint
from tune.job import JobRecord
from tune.journal import damaged_lines
from tune.records import sealed, unsealed

RECORD = JobRecord(
    identity="abc",
    fold=2,
    started=1.5,
    seconds=0.1,
    best_epoch=1,
    epochs={"train_total": [0.5, None]},
    document_ids=["a", "b"],
    labels={"x": [0.0, None]},
    scores={"x": [[0.25, 0.75], [1e-7, 1.0]]},
    auc={"x": None},
    usage={"x": [1.0]},
)


@pytest.fixture
def said():
    return []


@pytest.fixture
def archive(tmp_path, said):
    found = Archive(tmp_path / "study", say=said.append)
    with found.locked():
        yield found


def old(record):
    """As versions before the checksum wrote it."""
    return json.dumps(asdict(record)).encode()


# ---- records ---------------------------------------------------------------------------------------------------------


def test_every_changed_bit_of_a_record_is_noticed(archive, said):
    archive.save(RECORD)
    path = archive.folder / "jobs" / "abc.json"
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        assert archive.load("abc") is None, place
        assert "set aside as abc.json.damaged" in said.pop()
    assert not path.exists()
    assert len(list(path.parent.glob("abc.json.damaged*"))) == len(content)
    archive.save(RECORD)
    assert archive.load("abc") == RECORD
    assert not said


def test_a_record_of_the_version_before_is_read_as_it_is():
    assert unsealed(old(RECORD), "abc", failed=False) == RECORD
    first = asdict(RECORD)
    for name in ("usage", "gpus", "gpu_memory", "gpu_total", "out_of_memory"):
        del first[name]
    assert unsealed(json.dumps(first).encode(), "abc", failed=False) == replace(RECORD, usage={})


def changed(**values):
    return json.dumps(asdict(RECORD) | values).encode()


DAMAGES = {
    "empty": b"",
    "cut": sealed(RECORD)[:-40],
    "zeros": bytes(300),
    "a list": b"[1]",
    "of another job": sealed(replace(RECORD, identity="abd")),
    "of a failed job": sealed(replace(RECORD, error="boom")),
    "called off": sealed(replace(RECORD, stopped=True)),
    "old, of another job": changed(identity="abd"),
    "old, without scores": json.dumps({k: v for k, v in asdict(RECORD).items() if k != "scores"}).encode(),
    "old, unknown key": changed(auk={}),
    "old, text for a fold": changed(fold="2"),
    "old, huge": changed(seconds=10**400),
    "old, nested": changed(scores={"x": [[[[0.5]]], [0.5]]}),
    "old, fewer labels": changed(labels={"x": [0.0]}),
    "old, other tasks": changed(labels={"y": [0.0, None]}),
    "old, ragged": changed(scores={"x": [[0.25, 0.75], [1.0]]}),
    "old, deep": b'{"identity": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "NaN": old(RECORD).replace(b"0.25", b"NaN"),
    "key twice": old(RECORD).replace(b'"fold": 2', b'"fold": 2, "fold": 2'),
    "checksum elsewhere": sealed(RECORD).replace(b'"checksum"', b'"checksum" '),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_record_is_set_aside_and_named(archive, said, what):
    path = archive.folder / "jobs" / "abc.json"
    path.write_bytes(DAMAGES[what])
    assert archive.load("abc") is None
    assert (path.parent / "abc.json.damaged").read_bytes() == DAMAGES[what]
    (words,) = said
    assert str(path) in words
    assert "its fold job runs again" in words
    assert len(words) < 500


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_lies_in_a_record_s_place_and_is_no_file_is_set_aside(archive, said, make):
    path = archive.folder / "jobs" / "abc.json"
    make(path)
    assert archive.load("abc") is None
    archive.save(RECORD)
    assert archive.load("abc") == RECORD
    assert len(said) == 1


def test_a_record_that_may_not_be_read_stays_where_it_is(archive):
    archive.save(RECORD)
    path = archive.folder / "jobs" / "abc.json"
    path.unlink()
    path.symlink_to("x" * 300)  # as if its permissions forbade it, which the superuser isn't told
    with pytest.raises(StudyError, match=r"abc\.json: can't be read"):
        archive.load("abc")
    assert os.path.lexists(path)


def test_a_record_that_does_not_fit_the_study_is_set_aside(archive, said):
    archive.save(RECORD)
    assert archive.load("abc", misfit=lambda record: f"it is of fold {record.fold}") is None
    assert "it is of fold 2" in said[0]


# ---- what else can be made again -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[1, -1]", b'{"a": 1}', b"[true]", b"[" * 9999])
def test_damaged_notes_are_set_aside(archive, said, content):
    (archive.folder / "abandoned.json").write_bytes(content)
    assert archive.abandoned() == set()
    archive.abandon(3)
    assert archive.abandoned() == {3}
    (archive.folder / "versions.json").write_bytes(content[:1])
    assert archive.versions() == {}
    assert [words.split(": ")[0].rpartition("/")[2] for words in said] == ["abandoned.json", "versions.json"]


def test_a_state_of_another_job_or_with_a_changed_bit_counts_as_none(tmp_path):
    states = FileStates(tmp_path)
    one, other = (StateCheckpoint(states, name, every=0) for name in ("one", "other"))
    one.save(lambda: {"weights": [1.0, 2.0], "epoch": 3})
    assert one.load() == {"weights": [1.0, 2.0], "epoch": 3}
    content = (tmp_path / "one.pt").read_bytes()
    (tmp_path / "other.pt").write_bytes(content)
    assert other.load() is None
    for place in range(0, len(content), 7):
        spoiled = bytearray(content)
        spoiled[place] ^= 4
        (tmp_path / "one.pt").write_bytes(spoiled)
        assert one.load() is None, place
    for make in (os.mkdir, os.mkfifo):
        (tmp_path / "one.pt").unlink()
        make(tmp_path / "one.pt")
        assert one.load() is None
        one.save(lambda: {"epoch": 4})
        assert one.load() == {"epoch": 4}
    assert len(list(tmp_path.glob("one.pt.damaged-*"))) == 2


# ---- what guards the study -------------------------------------------------------------------------------------------


def test_a_damaged_description_of_the_study_is_refused_and_kept(archive):
    archive.begin({"splits": "a"})
    for content in (b"", b"{", b"[]", b'{"splits": "a"} x'):
        (archive.folder / "study.json").write_bytes(content)
        with pytest.raises(StudyError, match=r"study\.json: damaged, .* copy it from a backup; or, .* delete it"):
            archive.begin({"splits": "a"})
        assert (archive.folder / "study.json").read_bytes() == content
    (archive.folder / "study_file.json").write_bytes(b"\xff")
    with pytest.raises(StudyError, match=r"study_file\.json: damaged, .* writes it anew"):
        archive.study_file()


@pytest.mark.parametrize("content", [b"", b"short", bytes(33), bytes(4000)])
def test_a_key_of_another_length_is_refused(archive, content):
    (archive.folder / "id_key").write_bytes(content)
    with pytest.raises(StudyError, match=r"id_key: damaged, .* copy it from a backup"):
        archive.id_key()
    assert (archive.folder / "id_key").read_bytes() == content


def test_another_key_or_a_lost_one_is_noticed(archive, said):
    key = archive.id_key()
    path = archive.folder / "id_key"
    path.write_bytes(bytes([key[0] ^ 1]) + key[1:])
    with pytest.raises(StudyError, match="it isn't the key whose SHA-256"):
        archive.id_key()
    path.unlink()
    assert archive.has_id_key
    with pytest.raises(StudyError, match="id_key: missing; copy it from a backup"):
        archive.id_key()
    path.write_bytes(key)
    path.chmod(0o644)
    assert archive.id_key() == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert "could be read by others" in said[0]
    (archive.folder / "id_key.sha256").unlink()  # of a version that knew none
    assert archive.id_key() == key


# ---- the journal -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study():
    return study_of(SPACES["the first is the study file's"])


@pytest.fixture(scope="module")
def journal(tmp_path_factory, study):
    """What a search leaves, and its lines."""
    folder = tmp_path_factory.mktemp("whole")
    expected = run(folder, study)
    return expected, (folder / "proposals.journal").read_bytes().splitlines(keepends=True)


def without_seals(lines):
    """As the version before wrote it."""
    entries = [json.loads(line) for line in lines]
    plain = [{name: value for name, value in one.items() if name not in {"checksum", "number"}} for one in entries]
    return [json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in plain]


def is_proposal(line):
    return line.startswith(b'{"op_code":4,')


def spoil(line, how):
    return {
        "a bit": line[:60] + bytes([line[60] ^ 1]) + line[61:],
        "no end": line[:-1],
        "half": line[: len(line) // 2] + b"\n",
        "zeros": bytes(len(line) - 1) + b"\n",
        "empty": b"\n",
    }[how]


@pytest.mark.parametrize("how", ["a bit", "no end", "half", "zeros", "empty"])
def test_a_journal_with_a_damaged_line_goes_on_to_the_same_end_or_is_refused(tmp_path, study, journal, how, capsys):
    expected, lines = journal
    for place, line in enumerate(lines):
        folder = tmp_path / str(place)
        folder.mkdir()
        spoiled = [*lines[:place], spoil(line, how), *lines[place + 1 :]]
        (folder / "proposals.journal").write_bytes(b"".join(spoiled))
        tells = not is_proposal(line) and place > 0
        following = lines[place + 1 :]
        if how == "no end":  # it takes the next line with it
            tells, following = tells and not any(map(is_proposal, following[:1])), following[1:]
        if tells or not following:
            assert run(folder, study) == expected, place
            assert place + 1 == len(lines) or "set aside as proposals.journal.damaged" in capsys.readouterr().err
        else:
            with pytest.raises(StudyError, match=r"proposals\.journal: damaged, .* copy it from a backup"):
                run(folder, study)
            assert (folder / "proposals.journal").read_bytes() == b"".join(spoiled)


def test_the_last_proposal_is_made_again(tmp_path, study, journal):
    expected, lines = journal
    last = max(place for place, line in enumerate(lines) if is_proposal(line))
    (tmp_path / "proposals.journal").write_bytes(b"".join([*lines[:last], b"{\n"]))
    assert run(tmp_path, study) == expected


def test_a_journal_of_the_version_before_goes_on(tmp_path, study, journal):
    expected, lines = journal
    plain = without_seals(lines)
    for cut in (len(plain), 4, 1):
        (tmp_path / str(cut)).mkdir()
        (tmp_path / str(cut) / "proposals.journal").write_bytes(b"".join(plain[:cut]))
        assert run(tmp_path / str(cut), study) == expected
    assert damaged_lines(b"".join([*plain, b"{\n"])) == (plain, [b"{\n"])
    with pytest.raises(ValueError, match="what stood there isn't known"):
        damaged_lines(b"".join([*plain[:2], b"{\n", *plain[2:]]))


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(params={"loss.contrastive": "x", "model.experts": 0}),
        lambda entry: entry.update(distributions={}),
        lambda entry: entry.update(state=99),
        lambda entry: entry.update(datetime_start=5),
        lambda entry: entry.pop("study_id"),
        lambda entry: entry["params"].update({"loss.contrastive": -1.0}),
    ],
)
def test_a_proposal_of_the_version_before_that_none_could_make(tmp_path, study, journal, change):
    plain = without_seals(journal[1])
    entry = json.loads(plain[1])
    change(entry)
    (tmp_path / "proposals.journal").write_bytes(b"".join([plain[0], json.dumps(entry).encode() + b"\n", *plain[2:]]))
    with pytest.raises(StudyError, match=r"proposals\.journal: damaged"):
        run(tmp_path, study)


def test_the_journal_of_another_study(tmp_path, study, journal):
    (tmp_path / "proposals.journal").write_bytes(journal[1][0].replace(b'"s"', b'"t"').replace(b'"checksum"', b'"c"'))
    with pytest.raises(StudyError, match="it is the journal of study 't'"):
        run(tmp_path, study)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nothing")])
def test_what_is_no_journal_is_refused_at_once(tmp_path, study, make):
    make(tmp_path / "proposals.journal")
    with pytest.raises(StudyError, match=r"proposals\.journal"):
        run(tmp_path, study)

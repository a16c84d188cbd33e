"""Random damage to every kind of file: one message for the user, or the work done right; nothing else, and no waiting.

HILBERT_FUZZ=1000 tries that many damages of each kind of file; a few are part of every run.
"""

import json
import os
import random
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import yaml
from contests import make, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import make_store
from test_journal import SPACES, study_of
from test_release import ENCODERS, release

from hilbert import Release
from hilbert.errors import HilbertError, InputError
from hilbert.features import FeatureStore
from tune.archive import Archive
from tune.checkpoints import FileStates, StateCheckpoint
from tune.cluster import read_cluster_file
from tune.evidence import gather_evidence
from tune.job import JobRecord
from tune.search import Search

pytestmark = pytest.mark.timeout(3600 if "HILBERT_FUZZ" in os.environ else 120)
LONGEST = 20.0
"""Seconds that reading a damaged file may take, on a busy computer."""
SEEDS = st.integers(0, 2**32 - 1)
examples = settings(
    max_examples=int(os.environ.get("HILBERT_FUZZ", "12")),
    derandomize="HILBERT_FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# ---- damage ----------------------------------------------------------------------------------------------------------


def flip(content, rng):
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 3, 50])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content, rng):
    return content[: rng.randrange(len(content) + 1)]


def extend(content, rng):
    return content + rng.choice([b"\0", b"\n", b"}", b"{}", content, rng.randbytes(99)])


def hole(content, rng):
    start = rng.randrange(len(content) + 1)
    return content[:start] + bytes(rng.randrange(200)) + content[start + rng.randrange(200) :]


def replaced(content, rng):
    return rng.choice([b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 50_000, bytes(500), b'{"a": NaN}', b"1e999"])


VALUES = [
    None,
    True,
    -1,
    0,
    10**400,
    1e308,
    -0.5,
    "",
    "x",
    "../x",
    "\ud800",
    [],
    {},
    [[[[]]]],
    [1, "a"],
    {"a": {"b": []}},
]


def places(content):
    """Every list or object in JSON with its keys or indices."""
    if isinstance(content, dict | list):
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        for key in keys:
            yield content, key
            yield from places(content[key])


def other_value(content, rng):
    """JSON in which a value is another one, a key is gone or stands twice; by lines, where it is a line each."""
    lines = content.splitlines()
    place = rng.randrange(len(lines)) if len(lines) > 1 and lines[0].endswith(b"}") else None
    try:
        parsed = json.loads(content if place is None else lines[place])
    except ValueError:
        return flip(content, rng)
    known = list(places(parsed))
    if known:
        holder, key = rng.choice(known)
        if rng.random() < 0.2:
            del holder[key]
        elif rng.random() < 0.1 and isinstance(holder, dict):
            holder[f"{key}2"] = holder[key]
        else:
            holder[key] = rng.choice([*VALUES, float("nan"), float("inf")])
    text = json.dumps(parsed).encode()
    return text if place is None else b"\n".join([*lines[:place], text, *lines[place + 1 :], b""])


CONTENTS = [flip, flip, cut, extend, hole, replaced, other_value, other_value, other_value]


def damage(path, rng):
    """Damages a file in some way."""
    how = rng.random()
    if how < 0.85:
        content = path.read_bytes()
        path.write_bytes(rng.choice(CONTENTS)(content, rng))
        return
    others = [other for other in sorted(path.parent.iterdir()) if other.is_file() and other != path]
    path.unlink()
    if how < 0.9 and others:
        shutil.copy(rng.choice(others), path)
        return
    rng.choice(
        [
            lambda: None,
            lambda: os.mkfifo(path),
            lambda: path.mkdir(),
            lambda: path.symlink_to("nothing"),
            lambda: path.symlink_to(path.name),
            lambda: path.symlink_to("/dev/zero"),
        ]
    )()


@contextmanager
def damaged(folder, seed, *patterns):
    """A copy of a folder in which a file of these patterns is damaged; yields it, and the file's path within it."""
    rng = random.Random(seed)
    with TemporaryDirectory() as beside:
        copy = Path(shutil.copytree(folder, Path(beside) / folder.name))
        files = sorted(path for pattern in patterns for path in copy.glob(pattern) if path.is_file())
        path = rng.choice(files)
        damage(path, rng)
        started = time.monotonic()
        yield copy, path.relative_to(copy)
        assert time.monotonic() - started < LONGEST, path


def one_message(error):
    assert str(error)
    assert len(str(error)) < 2000
    assert "Traceback" not in str(error)


# ---- stores ----------------------------------------------------------------------------------------------------------

STORE = make_store(6, missing=0.2, seed=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    encoders = {f"{name}_encoder": ENCODERS[name] for name in ("audio", "text")}
    folder = tmp_path_factory.mktemp("store") / "store"
    parts = {"audio": STORE.audio.split(), "text": STORE.text.split()}
    FeatureStore.write(folder, documents=STORE.documents, **parts, **encoders)
    return folder


def content_of_store(folder):
    found = FeatureStore.open(folder)
    found.verify()
    parts = [
        (part.values.tobytes(), part.offsets.tolist(), part.segments.tolist()) for part in (found.audio, found.text)
    ]
    return found.documents.to_csv(), parts, found.fingerprint


@given(SEEDS)
@examples
def test_stores(store, seed):
    expected = content_of_store(store)
    with damaged(store, seed, "*") as (folder, _):
        try:
            assert content_of_store(folder) == expected
        except InputError as error:
            one_message(error)


# ---- releases --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 2], ids=["one", "ensemble"])
def released(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "release"
    release(request.param).save(folder, card="# A card")
    return folder


@given(SEEDS)
@examples
def test_releases(released, seed):
    expected = Release.load(released).predict(STORE).table()
    with damaged(released, seed, "**/*") as (folder, _):
        try:
            assert Release.load(folder).predict(STORE).table().equals(expected)
        except InputError as error:
            one_message(error)


def test_predict_says_what_is_wrong_in_one_message(released, store, tmp_path, here):
    for seed in range(8):
        with damaged(released, seed, "**/*") as (folder, _):
            output = tmp_path / f"{seed}.csv"
            done = here("predict", folder, store, "--output", output, folder=tmp_path)
        assert "Traceback" not in done.stderr
        assert done.returncode in {0, 2}, done.stderr
        assert output.exists() == (done.returncode == 0)
        assert done.returncode == 0 or done.stderr.count("hilbert: ") == 1


# ---- a study's folder ------------------------------------------------------------------------------------------------

STUDY = study_of(SPACES["the first is the study file's"])
FOLDS = 2


def record_of(proposal, fold):
    """What a fold job of a proposal finds: the same whenever it runs."""
    rng = np.random.default_rng([proposal.number, fold])
    scores = rng.random((3, 2)).tolist()
    return JobRecord(
        identity=f"{proposal.configuration[:12]}{fold}",
        fold=fold,
        started=1.0,
        seconds=2.0,
        document_ids=["a", "b", "c"],
        labels={"x": [0.0, 1.0, None]},
        scores={"x": scores},
        auc={"x": float(scores[0][0])},
    )


def carry_on(folder, say):
    """Goes on with a study to its end, without Ray: what is there is taken, what is missing runs. All it has shown."""
    archive, found = Archive(folder, say=say), {}
    with archive.locked():
        archive.begin({"study": "s", "splits": "abc"})
        search = Search(STUDY, archive.journal)
        for number in range(STUDY.trials):
            proposal = search.proposals[number] if number < len(search.proposals) else search.ask()
            records = []
            for fold in range(FOLDS):
                expected = record_of(proposal, fold)
                record = archive.load(
                    expected.identity, misfit=lambda one, fold=fold: "" if one.fold == fold else "fold"
                )
                if record is None:
                    record = expected
                    archive.save(record)
                records.append(record)
            search.tell(number, sum(record.auc["x"] for record in records) / FOLDS)
            found[number] = (proposal.parameters, records, search.told[number])
        archive.abandoned()
        archive.abandon(1)
        archive.versions()
        key = archive.id_key()
        state = StateCheckpoint(FileStates(archive.checkpoints), "job", every=0)
        kept = state.load()
        state.save(lambda: {"epoch": 3})
        told = archive.study_file() if (folder / "study_file.json").exists() else None
    return found, key, told, kept


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studied") / "study"
    carry_on(folder, say=print)
    archive = Archive(folder)
    archive.keep_versions({"torch": "2"})
    archive.keep_study_file({"study": "s"})
    return folder


REFUSED = {"proposals.journal", "study.json", "study_file.json", "id_key", "id_key.sha256"}
"""What can't be made again."""


def refused_or_done(work, path):
    """What the work gives; where it is refused, which only some files may cause, nothing."""
    if path.name not in REFUSED:
        return work()
    try:
        return work()
    except HilbertError as error:
        one_message(error)
        return None, None


@given(SEEDS)
@examples
def test_a_study_goes_on_to_the_same_end(studied, seed):
    with TemporaryDirectory() as beside:
        expected = carry_on(Path(shutil.copytree(studied, Path(beside) / "study")), say=print)
    said = []
    with damaged(studied, seed, "jobs/*", "checkpoints/*", "*.json*", "proposals.journal", "id_key*") as (folder, path):
        *found, told, kept = refused_or_done(lambda: carry_on(folder, said.append), path)
        if not found:
            return
        assert found == list(expected[:2])
        assert told == expected[2] or path.name == "study_file.json"
        assert kept in (expected[3], None)
        gone_on, *_ = carry_on(folder, said.append)
        assert gone_on == expected[0]


# ---- what MLflow has -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    return folder, write(make([1, 2]), folder)


@given(SEEDS)
@examples
def test_what_comes_from_mlflow(recorded, seed):
    folder, client = recorded
    rng = random.Random(seed)
    path = rng.choice(sorted(path for path in (folder / "mlartifacts").rglob("*") if path.is_file()))
    content = path.read_bytes()
    try:
        path.write_bytes(rng.choice(CONTENTS)(content, rng))
        started = time.monotonic()
        try:
            gather_evidence(client, "made").bias_corrected()
        except InputError as error:
            one_message(error)
        assert time.monotonic() - started < LONGEST
    finally:
        path.write_bytes(content)


# ---- cluster files ---------------------------------------------------------------------------------------------------

CLUSTER = {
    "cluster_name": "lab",
    "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]},
    "auth": {"ssh_user": "me", "ssh_private_key": "~/.ssh/id"},
    "file_mounts": {"~/project": "."},
    "available_node_types": {"cpu": {"min_workers": 2}},
}


@given(SEEDS, st.booleans())
@examples
def test_cluster_files(seed, as_json):
    text = json.dumps(CLUSTER) if as_json else yaml.safe_dump(CLUSTER)
    with TemporaryDirectory() as beside:
        (Path(beside) / "cluster").mkdir()
        (Path(beside) / "cluster" / "lab.yaml").write_text(text)
        with damaged(Path(beside) / "cluster", seed, "*") as (folder, _):
            try:
                read_cluster_file(folder / "lab.yaml")
            except InputError as error:
                one_message(error)

"""Whom a release has learned from: known by their features whatever else changes, and never counted as new."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from synthetic import SPECS, make_store

import hilbert
from hilbert import learned
from hilbert.calibration import Calibrator
from hilbert.config import HilbertConfig
from hilbert.errors import InputError
from hilbert.features import FeatureStore
from hilbert.inference import evaluate
from hilbert.learned import LearnedFrom
from hilbert.model import Hilbert
from hilbert.release import Release

AUDIO, TEXT = 24, 12
N = 40
KNOWN = range(25)
ENCODERS = {name: {"name": None} for name in ("audio", "text")}


def cohort(**changes):
    return make_store(N, audio_dim=AUDIO, text_dim=TEXT, longest=9, **changes)


def written(folder, store, rows=range(N), *, change=lambda name, x: x, table=None, dtype="float32"):
    """Documents of a cohort as a store on disk, their features changed."""
    parts = {name: [change(name, getattr(store, name)[row]) for row in rows] for name in ("audio", "text")}
    documents = (store.documents if table is None else table).iloc[list(rows)]
    return FeatureStore.write(folder, documents=documents, dtype=dtype, **parts)


def release_of(store, **changes) -> Release:
    """A release whose model has seen all documents of a store."""
    config = HilbertConfig(audio_dim=AUDIO, text_dim=TEXT, tasks=SPECS)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Hilbert(config).eval()
    for name, encoder in (("audio", model.audio_encoder), ("text", model.text_encoder)):
        values = getattr(store, name).values.astype(np.float64)
        encoder.standardise.fit(values.mean(0), values.std(0))
    groups = list(store.documents["group_id"])
    found = LearnedFrom.of(model, store, names=list(store.documents["document_id"]), groups=groups)
    calibrators = {"affect": Calibrator(), "spectrum": Calibrator()}
    return Release(**({"name": "mine", "members": [model], "calibrators": calibrators, "encoders": ENCODERS,
                       "learned": found} | changes))  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cohort, the store of those that a release has learned from, and the release."""
    folder = tmp_path_factory.mktemp("world")
    store = cohort()
    known = written(folder / "known", store, KNOWN)
    release_of(known).save(folder / "release", card="")
    return store, folder


def seen_by(folder, store):
    return hilbert.predict(folder / "release", store).seen


# ---- who is known ----------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
SAME_PEOPLE = {
    "as they are": {},
    "one more column": {"table": lambda table: table.assign(later="x")},
    "emptied labels": {"table": lambda table: table.assign(affect=None)},
    "other ids and groups": {
        "table": lambda table: table.assign(document_id=[f"x{i}" for i in range(N)], group_id=None)
    },
    "another order": {"rows": list(reversed(range(N)))},
    "some of them": {"rows": [3, 30, 7, 31]},
    "a corrected transcript": {"change": lambda name, x: x + 1 if name == "text" else x},
    "a corrected word": {"change": lambda name, x: np.concatenate([x[:-1], x[-1:] + 1]) if name == "text" else x},
    "half of their segments": {"change": lambda name, x: x[: max(1, len(x) // 2)]},
    "two of their segments, in another order": {"change": lambda name, x: x[::-1][:2]},
    "more segments": {"change": lambda name, x: np.concatenate([x, x + RNG.standard_normal(x.shape)])},
    "last digits": {"change": lambda name, x: x * (1 + 1e-6 * RNG.standard_normal(x.shape))},
    "half precision": {"dtype": "float16"},
}


@pytest.mark.parametrize("what", SAME_PEOPLE)
def test_a_person_is_known_whatever_else_changes(world, tmp_path, what):
    store, folder = world
    options = dict(SAME_PEOPLE[what])
    rows = options.pop("rows", range(N))
    table = options.pop("table", lambda found: found)(store.documents)
    seen = seen_by(folder, written(tmp_path / "store", store, rows, table=table, **options))
    assert seen.known.tolist() == [row in KNOWN for row in rows]
    assert not seen.words.any()
    assert not seen.ids.any()


def test_others_are_new(world, tmp_path):
    _, folder = world
    seen = seen_by(folder, written(tmp_path / "store", cohort(seed=1)))
    assert not seen.known.any()
    assert not seen.words.any()
    assert seen.ids.tolist() == [row in KNOWN for row in range(N)]  # the same names, of other people
    assert seen.groups.tolist() == [row // 2 <= max(KNOWN) // 2 for row in range(N)]


def test_other_audio_under_the_same_words_is_a_hint(world, tmp_path):
    store, folder = world
    other = written(tmp_path / "store", store, change=lambda name, x: x + 1 if name == "audio" else x)
    seen = seen_by(folder, other)
    assert not seen.known.any()
    assert seen.ids.tolist() == [row in KNOWN for row in range(N)]
    enough = [row in KNOWN for row in range(N)]
    assert seen.words.tolist() == enough


def test_a_family_of_somebody_known_is_a_hint(world, tmp_path):
    store, folder = world
    assert store.documents["group_id"][24] == store.documents["group_id"][25] == "g12"
    seen = seen_by(folder, written(tmp_path / "store", store, [25, 26]))
    assert seen.groups.tolist() == [True, False]


def test_text_alone_tells_only_where_there_is_no_audio(tmp_path):
    store = cohort(missing=0.3)
    lacks = np.diff(store.audio.offsets) == 0
    release_of(store).save(tmp_path / "release", card="")
    silent = written(tmp_path / "silent", store, np.flatnonzero(lacks))
    assert seen_by(tmp_path, silent).known.all()


def test_what_several_share_identifies_nobody(tmp_path):
    """Silence, zeros, and sentences that everybody reads."""
    store, new = cohort(), cohort(seed=1)
    silence = np.full((1, AUDIO), 0.3, np.float32)
    zeros = np.zeros((1, AUDIO), np.float32)
    sentences = np.random.default_rng(5).standard_normal((6, TEXT)).astype(np.float32)

    def same(name, x):
        return np.concatenate([x, silence, silence + 1, zeros]) if name == "audio" else sentences

    release_of(written(tmp_path / "known", store, KNOWN, change=same)).save(tmp_path / "release", card="")
    seen = seen_by(tmp_path, written(tmp_path / "new", new, change=same))
    assert not seen.known.any()
    assert not seen.words.any()
    assert seen_by(tmp_path, written(tmp_path / "all", store, change=same)).known.tolist() == [
        row in KNOWN for row in range(N)
    ]


def test_few_features_tell_people_apart_too():
    model = Hilbert(HilbertConfig(audio_dim=2, text_dim=1, tasks=SPECS)).eval()
    store, other = (make_store(300, audio_dim=2, text_dim=1, longest=20, seed=seed) for seed in (0, 1))
    names = list(store.documents["document_id"])
    found = LearnedFrom.of(model, store, names=names)
    assert found.seen(model, store, np.arange(300), names=names).known.all()
    assert not found.seen(model, other, np.arange(300), names=names).known.any()


# ---- the file --------------------------------------------------------------------------------------------------------


def test_long_recordings_are_kept_in_part(monkeypatch):
    monkeypatch.setattr(learned, "MOST", {"audio": 8, "text": 8})
    store = make_store(10, audio_dim=AUDIO, text_dim=TEXT, longest=60)
    release = release_of(store)
    assert release.learned.traces["audio"].counts.max() == 8
    names = list(store.documents["document_id"])
    assert release.seen(store, names=names).known.all()
    half = store.with_features(range(10), lambda x: x[::2])
    assert release.seen(half, names=names).known.mean() >= 0.9


def test_two_releases_have_no_hash_in_common(world):
    store, _ = world
    one, two = (release_of(store).learned for _ in range(2))
    for name in ("audio", "text"):
        assert not np.isin(one.traces[name].hashes, two.traces[name].hashes).any()
    assert not np.isin(one.ids, two.ids).any()
    assert not np.isin(one.groups, two.groups).any()


def test_it_is_small_and_holds_no_name(world):
    _, folder = world
    text = (folder / "release" / "learned_from.json").read_text()
    segments = sum(json.loads(text)["audio"]["segments"]) + sum(json.loads(text)["text"]["segments"])
    assert len(text) < 12 * segments + 24 * 40 + 1500
    assert "d003" not in text
    assert "learned_from.json" in json.loads((folder / "release" / "release.json").read_text())["files"]


def test_ids_are_left_out_where_guessing_must_not_tell_them():
    store = cohort()
    found = LearnedFrom.of(release_of(store).members[0], store, names=[])
    assert len(found.ids) == len(found.groups) == 0
    names, groups = list(store.documents["document_id"]), list(store.documents["group_id"])
    seen = found.seen(release_of(store).members[0], store, np.arange(N), names=names, groups=groups)
    assert seen.known.all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("key"),
        lambda content: content.update(key="ab"),
        lambda content: content.update(document_ids="***"),
        lambda content: content["audio"].update(hashes="AAAA"),
        lambda content: content["audio"].update(segments=[10**9]),
        lambda content: content["text"].update(scale=[0.0] * 10),
        lambda content: content.update(version=2),
    ],
)
def test_a_damaged_file_is_named(world, tmp_path, damage):
    store, _ = world
    path = tmp_path / "learned_from.json"
    content = release_of(store).learned.to_json()
    path.write_text(json.dumps(content))
    assert LearnedFrom.load(path).to_json() == content
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"learned_from\.json: .*(again|segments)"):
        LearnedFrom.load(path)


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_only_new_people_are_scored(world, tmp_path):
    store, folder = world
    everyone = written(tmp_path / "store", store)
    found = hilbert.predict(folder / "release", everyone)
    quality = evaluate(found, everyone.documents).set_index("task")
    new = [row for row in range(N) if row not in KNOWN]
    alone = hilbert.predict(folder / "release", written(tmp_path / "new", store, new))
    expected = evaluate(alone, store.documents.iloc[new].reset_index(drop=True)).set_index("task")
    pd.testing.assert_frame_equal(quality, expected)
    truth = [label == "high" for label in store.documents["affect"][new]]
    assert quality.loc["affect", "auc"] == pytest.approx(roc_auc_score(truth, found.scores["affect"][new, 1]))
    assert quality.loc["affect", "labelled"] == len(new)
    unknown = evaluate(replace(found, seen=None), everyone.documents).set_index("task")
    assert unknown.loc["affect", "labelled"] == N


CASES = {
    "all": (KNOWN, {}, ["learned from these very people (25)"], ["AUC"]),
    "some": (
        range(N),
        {},
        ["learned from 25 of these 40 people", "of new people, against their labels", "AUC"],
        ["document_id"],
    ),
    "none": (
        range(26, N),
        {},
        ["learned from none of these 14 people", "AUC"],
        ["of new people, against their labels", "group_id"],
    ),
    "a family": (range(25, N), {}, ["learned from none", "1 of those that count as new have the group_id", "AUC"], []),
    "encoded anew": (
        range(N),
        {"change": lambda name, x: x + 1 if name == "audio" else x},
        ["learned from none", "25 of those that count as new have the document_id", "say the same words", "AUC"],
        [],
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_the_command_counts_known_and_new_people(here, world, tmp_path, what):
    store, folder = world
    rows, options, said, unsaid = CASES[what]
    written(tmp_path / "store", store, rows, **options)
    done = here("predict", folder / "release", "store", "--output", "p.csv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in said:
        assert part in done.stderr
    for part in unsaid:
        assert part not in done.stderr
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(rows)


def test_without_labels_only_known_people_are_mentioned(here, world, tmp_path):
    store, folder = world
    bare = store.documents[["document_id"]]
    for name, rows in (("some", range(N)), ("none", range(26, N))):
        written(tmp_path / name, store, rows, table=bare)
        done = here("predict", folder / "release", name, "--output", f"{name}.csv", folder=tmp_path)
        assert ("learned from 25 of these 40 people" in done.stderr) == (name == "some")
        assert "AUC" not in done.stderr
        assert "none of these" not in done.stderr


def test_an_older_release_says_that_nothing_is_known(here, world, tmp_path):
    _, folder = world
    known = FeatureStore.open(folder / "known")
    release_of(known, learned=None, made={"fingerprint": known.fingerprint}).save(tmp_path / "old", card="")
    assert not (tmp_path / "old" / "learned_from.json").exists()
    whole = here("predict", "old", known.folder, "--output", "whole.csv", folder=tmp_path)
    assert "learned from these very people" in whole.stderr
    assert "AUC" not in whole.stderr
    known.write_part(tmp_path / "part", range(20))
    part = here("predict", "old", "part", "--output", "part.csv", folder=tmp_path)
    assert part.returncode == 0
    assert "not known whether the model has learned from any of these people" in part.stderr
    assert "AUC" in part.stderr
    assert hilbert.predict(tmp_path / "old", tmp_path / "part").seen is None

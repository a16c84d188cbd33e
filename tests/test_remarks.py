"""What an extraction says of its sound, with file and row; what it counts; and what it takes up of earlier versions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sounds
from sweeps import Here

from hilbert import encoders
from hilbert.cohort import Cohort
from hilbert.errors import CohortError, StoreError
from hilbert.extraction import extract, plan
from hilbert.features import FeatureStore
from hilbert.remarks import SHOWN, summary
from hilbert.shards import Item, Shard, Stretch, encode_shard
from tune.encoding import Encoders, Order, decoded

SPEECH = sounds.speech()
ODD = {
    "fine.wav": SPEECH,
    "silent.wav": 0 * SPEECH,
    "clipped.wav": np.clip(4 * SPEECH, -1, 1),
    "float.wav": np.where(np.arange(len(SPEECH)) == 9_000, 1.5, SPEECH),
    "units/float.wav": 32_768 * SPEECH,
}


class Energy:
    """Samples and mean square of a segment; counts what it has seen."""

    seen = 0

    def __init__(self, name: str) -> None:
        self.description = {"name": name, "modality": "audio", "dim": 2}
        self.dim = 2

    def encode(self, segments: Sequence[Any]) -> np.ndarray:
        Energy.seen += len(segments)
        return np.array([[one.size, np.square(one).mean()] for one in segments], np.float32).reshape(-1, 2)


encoders.register_encoder("energy", lambda name, *_: Energy(name.written))


def write(folder: Path, files: dict[str, np.ndarray], *, repeat: int = 1, extra: str = "") -> Path:
    """A document a file, of `repeat` segments each, all from the beginning to the end."""
    for name, samples in files.items():
        sounds.write(folder / name, samples, subtype="FLOAT" if name.endswith("float.wav") else "PCM_16")
    rows = [f"{name},{part},{name},," for name in files for part in range(repeat)]
    (folder / "documents.csv").write_text("document_id\n" + "".join(f"{name}\n" for name in files))
    (folder / "segments.csv").write_text("document_id,segment,audio,start,end\n" + "\n".join(rows) + "\n" + extra)
    return folder


def run(cohort: Path, store: Path, **more: Any) -> FeatureStore:
    return extract(Cohort.load(cohort, check_audio=False), store, audio="energy:e", **more)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    extra = "fine.wav,1,units/float.wav,,\n"  # or its document would be left without features
    files = {name: samples for name, samples in ODD.items() if "/" not in name}
    folder = write(tmp_path / "cohort", files, extra=extra)
    sounds.write(folder / "units/float.wav", ODD["units/float.wav"], subtype="FLOAT")
    return folder


def test_odd_sound_is_told_with_its_row_and_counted(
    cohort: Path, tmp_path: Path, here: Here, caplog: pytest.LogCaptureFixture
) -> None:
    done = here("extract", cohort, tmp_path / "store", "--audio", "energy:e", "--on-error", "skip")
    assert done.returncode == 0
    told = [record.message for record in caplog.records]
    assert told[0].startswith("left out: segments.csv row 6: document 'fine.wav', segment 1, 'units/float.wav' holds")
    assert "16-bit units; divide them by 32768" in told[0]
    assert [line.partition(":")[0] for line in told[1:]] == [f"segments.csv row {row}" for row in (3, 4, 5)]
    assert told[1].endswith("document 'silent.wav', segment 0, 'silent.wav' is silent")
    assert "'clipped.wav' is clipped: " in told[2]
    assert "'float.wav' reaches 1.50, above full scale" in told[3]
    found = FeatureStore.open(tmp_path / "store").manifest["extraction"]
    counted = {"read": 4, "silent": 1, "quiet": 0, "clipped": 1, "above_full_scale": 1, "beyond_end": 0}
    assert found["sound"] == counted | {"broken_file": 0}
    assert found["skipped"] == {"audio": 1}
    line = "sound: 4 segments read, 1 silent, 1 clipped, 1 above full scale, 1 left out"
    assert line in done.stderr.splitlines()
    again = here("extract", cohort, tmp_path / "store", "--audio", "energy:e", "--on-error", "skip")
    assert line in again.stderr.splitlines()


def test_implausible_sound_fails_unless_it_is_to_be_skipped(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="--on-error skip") as caught:
        run(cohort, tmp_path / "store")
    (fault,) = caught.value.faults
    assert "row 6" in fault
    assert "divide them by 32768" in fault


def test_windows_of_a_row_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    half = np.concatenate([SPEECH, 0 * SPEECH])
    store = run(write(tmp_path / "cohort", {"half.wav": half}), tmp_path / "store", window=0.5)
    assert [record.message for record in caplog.records] == [
        "segments.csv row 2: document 'half.wav', segment 0, 'half.wav' is silent (6 of its 12 windows)"
    ]
    assert store.manifest["extraction"]["sound"]["silent"] == 6


def test_many_lines_of_a_kind_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(write(tmp_path / "cohort", {"silent.wav": 0 * SPEECH}, repeat=SHOWN + 7), tmp_path / "store")
    assert len(caplog.records) == SHOWN + 1
    assert caplog.records[-1].message == "... and 7 more rows: silent"


def test_nothing_odd(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = run(write(tmp_path / "cohort", {"fine.wav": SPEECH}), tmp_path / "store")
    assert not caplog.records
    assert summary(store.manifest["extraction"]) == "sound: 1 segments read, nothing odd about them"
    assert summary({"key": "x"}) is None


class StopError(Exception):
    """Ctrl-C, or a power cut."""


def _stop(done: int, total: int) -> None:
    raise StopError


def test_what_was_found_survives_a_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"silent.wav": 0 * SPEECH[:160], "fine.wav": SPEECH[:160]}
    cohort = write(tmp_path / "cohort", files, repeat=128)
    whole = run(cohort, tmp_path / "whole")
    told = [record.message for record in caplog.records]
    caplog.clear()
    with pytest.raises(StopError):
        run(cohort, tmp_path / "store", progress=_stop)
    Energy.seen = 0
    store = run(cohort, tmp_path / "store")
    assert Energy.seen == 128
    assert [record.message for record in caplog.records] == told
    assert store.manifest["extraction"] == whole.manifest["extraction"]
    assert store.manifest["extraction"]["sound"]["silent"] == 128


def test_workers_find_the_same(cohort: Path) -> None:
    encoder = Energy("energy:e")
    (shard,) = plan(Cohort.load(cohort, check_audio=False), {"audio": encoder}).shards
    order = Order({"audio": "energy:e"}, "cpu", 1, str(cohort), str(cohort), 0.0, {"audio": encoder.description})
    there = decoded(Encoders(order)({"place": 0, "shard": shard}), shard, 2)
    alone = encode_shard(shard, encoder, cohort)
    np.testing.assert_array_equal(there.values, alone.values)
    assert (there.failures, there.notes) == (alone.failures, alone.notes)
    assert alone.notes


# --- MP3s whose header promises too much --------------------------------------------------------------------------


def test_windows_are_cut_from_the_true_length_and_two_extractions_are_equal(tmp_path: Path) -> None:
    quiet_first = np.concatenate([np.zeros(6 * sounds.RATE), SPEECH])
    cohort = write(tmp_path / "cohort", {"fine.wav": SPEECH})
    sounds.variable_mp3(cohort / "x.mp3", quiet_first)
    with (cohort / "segments.csv").open("a") as file:
        file.write("fine.wav,1,x.mp3,,\n")
    Cohort.load(cohort)
    one, two = (run(cohort, tmp_path / name, window=1.0) for name in ("one", "two"))
    assert one.audio is not None
    assert len(one.audio[0]) == 3 + 10
    assert one.audio.values[3:, 0].sum() == pytest.approx(9 * sounds.RATE, abs=2_000)
    assert one.fingerprint == two.fingerprint
    whole = plan(Cohort.load(cohort), {"audio": Energy("energy:e")}).shards[0]
    assert [item.content.anew for item in whole.items if isinstance(item.content, Stretch)] == [False, True]
    manifest = json.loads((run(cohort, tmp_path / "earlier").folder / "manifest.json").read_text())
    manifest["extraction"]["key"] = "another"
    (tmp_path / "earlier" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="or an earlier version read some of its recordings wrongly"):
        run(cohort, tmp_path / "earlier")


# --- earlier versions -----------------------------------------------------------------------------------------------


def test_keys_of_healthy_sound_are_those_of_the_first_version() -> None:
    stretches = [Stretch("x.wav", 0.0, None, "ab" * 32), Stretch("x.wav", 0.5, 1.25, "ab" * 32)]
    shard = Shard("audio", tuple(Item(0, place, place + 2, content) for place, content in enumerate(stretches)))
    first = "c555903762c3eb2084fb1a51a75c111b29f77af82bfe60f56f2f3ffe9b662e31"
    assert shard.key({"name": "simple"}) == first
    changed = Stretch("x.wav", 0.0, None, "ab" * 32, anew=True)
    assert Shard("audio", (Item(0, 0, 2, changed), shard.items[1])).key({"name": "simple"}) != first


def _forget_sound(store: Path) -> None:
    """Makes a store as earlier versions wrote it."""
    manifest = json.loads((store / "manifest.json").read_text())
    del manifest["extraction"]["sound"]
    (store / "manifest.json").write_text(json.dumps(manifest))


def test_a_healthy_store_of_an_earlier_version_is_looked_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = write(tmp_path / "cohort", {"fine.wav": SPEECH, "silent.wav": 0 * SPEECH})
    first = run(cohort, tmp_path / "store")
    _forget_sound(tmp_path / "store")
    Energy.seen = 0
    for expected in (["it is checked now, once"], []):
        caplog.clear()
        found = run(cohort, tmp_path / "store")
        assert [record.message.rpartition("; ")[2] for record in caplog.records] == expected
        assert found.fingerprint == first.fingerprint
        assert found.manifest["extraction"] == first.manifest["extraction"]
    assert Energy.seen == 0


def test_a_store_of_sound_that_was_clipped_to_squares_is_not_taken_for_right(cohort: Path, tmp_path: Path) -> None:
    run(cohort, tmp_path / "store", on_error="skip")
    _forget_sound(tmp_path / "store")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    manifest["extraction"]["skipped"] = {"audio": 0}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError) as caught:
        run(cohort, tmp_path / "store", on_error="skip")
    assert "1 of its segments should not have been used; unfit are: segments.csv row 6" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    found = run(cohort, tmp_path / "store", on_error="skip", overwrite=True)
    assert found.manifest["extraction"]["skipped"] == {"audio": 1}


def test_what_is_wrong_with_a_file_is_said_alike_wherever_the_cohort_lies(tmp_path: Path) -> None:
    shard = Shard("audio", (Item(0, 0, 2, Stretch("noise.wav", 0.0, None, "")),))
    folders = [tmp_path / "a", tmp_path / ("a" * 100) / "b"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "noise.wav").write_bytes(b"damaged")
    near, far = (encode_shard(shard, Energy("energy"), folder).failures for folder in folders)
    assert near == far
    assert str(tmp_path) not in near[0]

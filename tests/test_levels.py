"""Sound that can't be speech as somebody recorded it: refused, or used and noted."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
import sounds

from hilbert.audio import listen, read_stretch
from hilbert.cohort import Cohort
from hilbert.errors import CohortError

SPEECH = sounds.speech()
LOUD = np.clip(4 * SPEECH, -1, 1)


def write(path: Path, samples: np.ndarray, *, rate: int = sounds.RATE, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, rate, format="WAV", subtype=subtype)
    return path


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (32_768 * SPEECH, "16-bit units; divide them by 32768"),
        (np.round(3 * SPEECH / np.abs(SPEECH).max()), "16-bit units; divide them by 32768"),  # nearly silent
        (2**23 * SPEECH, "24-bit units; divide them by 8388608"),
        (2**31 * SPEECH, "32-bit units; divide them by 2147483648"),
        (np.round(128 + 100 * SPEECH), "sound lies within [-1, 1]"),
        (np.stack([SPEECH, -SPEECH], axis=1), "2 channels that cancel each other"),
        (
            np.stack([SPEECH, sounds.speech(seed=1) * 0.03 - SPEECH], axis=1),
            "2 channels that cancel each other (opposite signs)",
        ),
        (np.where(np.arange(48_000) == 40_000, np.nan, SPEECH), "not finite numbers"),
        (np.where(np.arange(48_000) == 40_000, -np.inf, SPEECH), "not finite numbers"),
    ],
)
def test_what_is_refused(tmp_path: Path, samples: np.ndarray, says: str) -> None:
    path = write(tmp_path / "x.wav", samples)
    with pytest.raises(CohortError) as caught:
        read_stretch(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "kinds", "says"),
    [
        (SPEECH, {}, ""),
        (np.stack([SPEECH, sounds.speech(seed=1)], axis=1), {}, ""),
        (np.stack([SPEECH, 0 * SPEECH], axis=1), {}, ""),
        (np.stack([SPEECH, *(7 * [0 * SPEECH])], axis=1), {}, ""),
        (np.stack([0.1 * np.random.default_rng(k).standard_normal(48_000) for k in range(8)], axis=1), {}, ""),
        (0 * SPEECH, {"silent"}, "is silent"),
        (np.stack([0 * SPEECH, 0 * SPEECH], axis=1), {"silent"}, "is silent"),
        (0 * SPEECH + 0.25, {"silent"}, "a constant 0.25"),
        (2.0**-15 * np.sign(SPEECH), {"silent"}, "is silent"),
        (1e-3 * SPEECH, {"quiet"}, "dB of full scale"),
        (LOUD, {"clipped"}, "is clipped: "),
        (np.stack([LOUD, 0 * LOUD], axis=1), {"clipped"}, "is clipped: "),
        (4 * SPEECH, {"clipped", "above_full_scale"}, "above full scale"),
        (1.0 * np.where(np.arange(48_000) == 40_000, 1.5, SPEECH), {"above_full_scale"}, "reaches 1.50"),
    ],
)
def test_what_is_noted(tmp_path: Path, samples: np.ndarray, kinds: set[str], says: str) -> None:
    sound = listen(write(tmp_path / "x.wav", samples))
    assert set(sound.notes) == set(kinds)
    assert says in " ".join(sound.notes.values())


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "ULAW"])
def test_clipping_is_seen_at_every_width(tmp_path: Path, subtype: str) -> None:
    assert set(listen(write(tmp_path / "x.wav", LOUD, subtype=subtype)).notes) == {"clipped"}


def test_integers_at_full_scale_are_no_other_unit(tmp_path: Path) -> None:
    square = np.where(np.arange(48_000) // 100 % 2, 1.0, -1.0)
    assert set(listen(write(tmp_path / "x.wav", square, subtype="PCM_16")).notes) == {"clipped"}


def test_only_the_stretch_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", np.concatenate([0 * SPEECH, SPEECH, 1000 * SPEECH]))
    assert set(listen(path, 0.0, 3.0).notes) == {"silent"}
    assert not listen(path, 3.0, 6.0).notes
    with pytest.raises(CohortError, match="units"):
        listen(path, 6.0, 9.0)
    assert "lasts only 9.00 s" in listen(path, 3.0, 5.9).notes.get("beyond_end", "lasts only 9.00 s")


def test_an_end_far_beyond_the_file_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", SPEECH)
    assert not listen(path, 1.0, 3.9).notes
    assert listen(path, 1.0, 9.0).notes["beyond_end"] == "should end at 9 s, but the file lasts only 3.00 s"


@pytest.mark.parametrize(
    ("rate", "says"),
    [(1, "1 samples a second"), (3_999, "3999"), (768_001, "768001"), (2**31 - 1, "2147483647")],
)
def test_rates_that_are_not_of_speech(tmp_path: Path, rate: int, says: str) -> None:
    path = write(tmp_path / "x.wav", SPEECH, rate=rate, subtype="PCM_16")
    for attempt in (read_stretch, lambda path: Cohort.load(_cohort_of(path))):
        with pytest.raises(CohortError) as caught:
            attempt(path)
        assert says in str(caught.value)
        assert "speech has 4000 to 768000" in str(caught.value)


@pytest.mark.parametrize("rate", [4_000, 192_000, 768_000])
def test_rates_that_are(tmp_path: Path, rate: int) -> None:
    wave = read_stretch(write(tmp_path / "x.wav", sounds.speech(0.5, rate=rate), rate=rate))
    assert abs(wave.size - 8_000) <= 1


def test_channels(tmp_path: Path) -> None:
    many = np.repeat(SPEECH[:, None], 64, axis=1)
    np.testing.assert_allclose(
        read_stretch(write(tmp_path / "x.wav", many)), read_stretch(write(tmp_path / "y.wav", SPEECH)), atol=1e-6
    )
    with pytest.raises(CohortError, match="65 channels, and 64 are the most"):
        read_stretch(write(tmp_path / "z.wav", np.repeat(SPEECH[:, None], 65, axis=1)))


def test_days_at_once_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    write(path, SPEECH, rate=4_000, subtype="PCM_U8")
    with path.open("rb+") as file:
        file.truncate(2**31 - 10_000)  # a sparse file, as long as a WAV of 8 bits gets
    sounds.patch(path, b"data", 4, (0xFFFFFFFF).to_bytes(4, "little"))
    with pytest.raises(CohortError, match=r"149\.1 hours at once don't fit into memory; cut them"):
        read_stretch(path)
    assert listen(path, 10.0, 11.0).wave.size == 16_000


def _cohort_of(path: Path) -> Path:
    tables: Mapping[str, str] = {
        "documents.csv": "document_id\na\n",
        "segments.csv": f"document_id,segment,audio\na,0,{path.name}\n",
    }
    for name, text in tables.items():
        (path.parent / name).write_text(text)
    return path.parent

"""Reading cohorts: what is tolerated, what is kept, and what the fingerprint sees. Faults: test_bad_data.py."""

import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path

import cohorts
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from hilbert.audio import SAMPLE_RATE, duration, read_stretch, windows
from hilbert.cohort import Cohort
from hilbert.errors import CohortError
from hilbert.tables import read_table, table_text

MINI = Path(__file__).parent / "data" / "speechocean-mini"
CELLS = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(str.strip))


def test_reads_documents_and_segments(tmp_path: Path) -> None:
    cohort = Cohort.load(cohorts.write_cohort(tmp_path))
    assert len(cohort) == 3
    assert cohort.document_ids == ["a", "b", "c"]
    assert cohort.documents["affect"].tolist() == ["low", None, "high"]
    assert cohort.documents.index.tolist() == [2, 3, 4]
    assert cohort.segments["segment"].tolist() == [0, 1, 0, 1, 0]
    assert cohort.segments["audio"].tolist() == ["one.wav", "one.wav", None, None, "sub/two.wav"]
    assert cohort.segments["text"].tolist()[1:3] == [None, "only words here"]
    assert cohort.segments["end"].tolist()[:2] == [0.5, 1.0]
    assert math.isnan(cohort.segments["start"].tolist()[4])
    assert cohort.segments_of("b").index.tolist() == [4, 5]


def test_segments_come_in_order_whatever_the_rows(tmp_path: Path) -> None:
    header, *rows = cohorts.SEGMENTS.splitlines()
    rows = [row.replace("b,1", "b,10").replace("b,0", "b,9") for row in rows[::-1]]
    cohort = Cohort.load(cohorts.write_cohort(tmp_path, segments="\n".join([header, *rows])))
    found = list(zip(cohort.segments["document_id"], cohort.segments["segment"], strict=True))
    assert found == [("a", 0), ("a", 1), ("b", 9), ("b", 10), ("c", 0)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", " , "),
        lambda text: text.replace("\n", "\n\n") + "\n\n",
        lambda text: text.removesuffix("\n"),
        lambda text: "\n".join(line + ",x" for line in text.splitlines()),
        lambda text: text + "," * text.splitlines()[0].count(",") + "\n",
    ],
    ids=["byte-order mark", "CRLF", "blanks", "blank lines", "no last newline", "unknown column", "row of nothing"],
)
def test_tolerates_what_programs_write(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    plain = Cohort.load(cohorts.write_cohort(tmp_path / "plain"))
    documents, segments = spoil(cohorts.DOCUMENTS), spoil(cohorts.SEGMENTS)
    cohort = Cohort.load(cohorts.write_cohort(tmp_path / "spoilt", documents, segments))
    columns = plain.segments.columns
    pd.testing.assert_frame_equal(
        cohort.segments[columns].reset_index(drop=True), plain.segments.reset_index(drop=True)
    )
    pd.testing.assert_frame_equal(
        cohort.documents[plain.documents.columns].reset_index(drop=True), plain.documents.reset_index(drop=True)
    )


def test_a_transcript_may_be_long_and_have_lines(tmp_path: Path) -> None:
    words = "so it went on " * 20_000
    segments = f'document_id,segment,text\na,0,"{words}\nand ""on"""\na,1,x\n'
    cohort = Cohort.load(cohorts.write_cohort(tmp_path, "document_id\na\n", segments))
    assert cohort.segments["text"].tolist() == [f'{words}\nand "on"', "x"]
    assert cohort.segments.index.tolist() == [2, 4]  # rows are lines of the file


def test_audio_may_be_linked_from_another_disk(tmp_path: Path) -> None:
    cohorts.write_wave(tmp_path / "disk" / "two.wav")
    folder = cohorts.write_cohort(tmp_path / "cohort")
    (folder / "sub" / "two.wav").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").symlink_to(tmp_path / "disk")
    assert len(Cohort.load(folder)) == 3


def test_audio_headers_can_be_left_for_later(tmp_path: Path) -> None:
    folder = cohorts.write_cohort(tmp_path)
    (folder / "one.wav").write_bytes(b"broken")
    assert len(Cohort.load(folder, check_audio=False)) == 3
    with pytest.raises(CohortError):
        Cohort.load(folder)


def test_fingerprint_sees_contents_and_nothing_else(tmp_path: Path) -> None:
    first = Cohort.load(cohorts.write_cohort(tmp_path / "a")).fingerprint()
    os.utime(tmp_path / "a" / "one.wav", (0, 0))
    assert Cohort.load(tmp_path / "a").fingerprint() == first
    assert Cohort.load(cohorts.write_cohort(tmp_path / "elsewhere" / "b")).fingerprint() == first
    changed = {first}
    for number, (documents, segments) in enumerate(
        [
            (cohorts.DOCUMENTS.replace("low", "high"), cohorts.SEGMENTS),
            (cohorts.DOCUMENTS, cohorts.SEGMENTS.replace("bear", "bears")),
            (cohorts.DOCUMENTS, cohorts.SEGMENTS.replace("0.5,1.0", "0.5,0.9")),
        ]
    ):
        folder = cohorts.write_cohort(tmp_path / str(number), documents, segments)
        changed.add(Cohort.load(folder).fingerprint())
    cohorts.write_wave(tmp_path / "a" / "one.wav", seed=5)
    changed.add(Cohort.load(tmp_path / "a").fingerprint())
    assert len(changed) == 5


@given(st.lists(st.tuples(st.integers(0, 9).map(str), CELLS, CELLS), min_size=1, max_size=5))
def test_tables_survive_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    rows = [tuple(cell or None for cell in row) for row in rows]  # type: ignore[misc]
    rows = [tuple((cell and cell.replace("\r", "").strip()) or None for cell in row) for row in rows]  # type: ignore[misc]
    frame = pd.DataFrame(rows, columns=["x", "y", "z"], dtype=object)
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_text(table_text(frame), encoding="utf-8", newline="")
    table = read_table(path)
    assert table.faults == ()
    pd.testing.assert_frame_equal(table.frame.reset_index(drop=True), frame)


# --- audio -----------------------------------------------------------------------------------------------------------


def test_reads_only_the_stretch(tmp_path: Path) -> None:
    cohorts.write_wave(tmp_path / "x.wav", 2.0)
    whole = read_stretch(tmp_path / "x.wav")
    assert whole.dtype == np.float32
    assert whole.shape == (32_000,)
    np.testing.assert_array_equal(read_stretch(tmp_path / "x.wav", 0.5, 1.25), whole[8_000:20_000])
    np.testing.assert_array_equal(read_stretch(tmp_path / "x.wav", 1.5, 9.0), whole[24_000:])


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_every_rate_becomes_16_khz_mono(tmp_path: Path, rate: int) -> None:
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "x.wav", np.stack([2 * tone - 0.1, 0.1 + 0 * tone], axis=1), rate, subtype="FLOAT")
    wave = read_stretch(tmp_path / "x.wav")
    assert abs(len(wave) - SAMPLE_RATE) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(wave)) / SAMPLE_RATE)
    inner = slice(800, -800)  # a filter rings at the edges
    np.testing.assert_allclose(wave[inner], expected[inner], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "subtype"), [("x.flac", "PCM_16"), ("x.ogg", "VORBIS"), ("x.ogg", "OPUS"), ("x.mp3", None)]
)
def test_a_stretch_of_a_compressed_file_is_what_the_whole_has_there(
    tmp_path: Path, name: str, subtype: str | None
) -> None:
    """MP3 decoders start wrongly after a seek: without a lead 80 ms would be silent."""
    time = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    soundfile.write(tmp_path / name, 0.5 * np.sin(2 * np.pi * 300 * time), SAMPLE_RATE, subtype=subtype)
    assert duration(tmp_path / name) == pytest.approx(4.0, abs=0.2)
    whole = read_stretch(tmp_path / name)
    for start in (0.25, 1.0, 2.5):
        wave = read_stretch(tmp_path / name, start, start + 0.5)
        first = round(start * SAMPLE_RATE)
        np.testing.assert_allclose(wave, whole[first : first + 8_000], atol=1e-5)


def test_real_opus_stretch_equals_that_of_the_whole() -> None:
    path = sorted((MINI / "audio").iterdir())[0]
    whole = read_stretch(path)
    np.testing.assert_allclose(read_stretch(path, 1.0, 1.5), whole[16_000:24_000], atol=1e-3)


def _truncated_flac(path: Path) -> None:
    cohorts.write_wave(path.with_suffix(".wav"), 3.0)
    wave, rate = soundfile.read(path.with_suffix(".wav"))
    soundfile.write(path, wave, rate, format="FLAC")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _not_finite(path: Path) -> None:
    soundfile.write(path, np.array([0.0, np.nan, 0.1] * 1_000), 16_000, format="WAV", subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "start", "end", "says"),
    [
        (lambda path: path.write_bytes(b"not sound"), 0.0, None, "can't be read as audio"),
        (lambda path: None, 0.0, None, "can't be read as audio"),
        (_truncated_flac, 0.0, None, "x.flac"),
        (_not_finite, 0.0, None, "not finite"),
        (cohorts.write_wave, 1.5, None, "empty stretch"),
        (cohorts.write_wave, 0.5, 0.5, "empty stretch"),
    ],
)
def test_damaged_audio_is_named(
    tmp_path: Path, make: Callable[[Path], object], start: float, end: float | None, says: str
) -> None:
    path = tmp_path / ("x.flac" if make is _truncated_flac else "x.wav")
    make(path)
    with pytest.raises(CohortError) as caught:
        read_stretch(path, start, end)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


@given(start=st.floats(0, 1e4), length=st.floats(0.01, 5e3), window=st.floats(0.05, 60))
def test_windows_tile_the_stretch(start: float, length: float, window: float) -> None:
    cut = windows(start, start + length, window)
    assert cut[0][0] == start
    assert cut[-1][1] == pytest.approx(start + length)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(cut))
    lengths = np.array([end - begin for begin, end in cut])
    assert (lengths <= window * (1 + 1e-3)).all()
    np.testing.assert_allclose(lengths, length / len(cut), rtol=1e-6)
    assert len(cut) <= length / window + 1


@pytest.mark.parametrize("window", [0.0, -1.0, math.inf, math.nan])
def test_windows_need_a_length(window: float) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        windows(0.0, 1.0, window)

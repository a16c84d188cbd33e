"""How long a sound file really is: cut files, headers that say too little or too much, in every container."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import sounds

from hilbert.audio import duration, listen, read_stretch
from hilbert.containers import structure
from hilbert.errors import CohortError
from hilbert.recordings import examine

QUIET_FIRST = np.concatenate([np.zeros(20 * sounds.RATE), 0.3 * np.random.default_rng(0).standard_normal(48_000)])


def fault_of(path: Path) -> str:
    with pytest.raises(CohortError) as caught:
        duration(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", sounds.KINDS)
def test_a_whole_file_is_as_long_as_it_was_written(tmp_path: Path, name: str) -> None:
    path = sounds.write(tmp_path / name)
    block = 0.07 if name == "adpcm.wav" else 0  # coded in blocks, the last one filled up
    assert duration(path) == pytest.approx(3.0, abs=block)
    assert not examine(path).overstated
    assert read_stretch(path).size == examine(path).frames
    np.testing.assert_allclose(read_stretch(path, 2.0, 2.5), read_stretch(path)[32_000:40_000], atol=1e-3)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("name", sounds.KINDS)
def test_a_cut_file_is_found(tmp_path: Path, name: str, share: float) -> None:
    path = sounds.cut(sounds.write(tmp_path / name), share)
    told = fault_of(path)
    assert "is cut" in told
    if name not in ("x.voc", "vorbis.ogg", "opus.ogg", "x.caf", "alac.caf"):
        assert "promises 3.0" in told or "promises 2.9" in told or "promises 3.1" in told
    with pytest.raises(CohortError, match="is cut"):
        read_stretch(path)


@pytest.mark.parametrize("name", ["x.wav", "x.aiff", "x.au", "x.flac", "vorbis.ogg", "opus.ogg", "x.mp3"])
def test_what_is_left_of_a_cut_file_is_read_and_noted(tmp_path: Path, name: str) -> None:
    whole = read_stretch(sounds.write(tmp_path / name), 0.1, 0.3)
    path = sounds.cut(tmp_path / name, 0.7)
    sound = listen(path, 0.1, 0.3)
    np.testing.assert_allclose(sound.wave, whole, atol=1e-6)
    assert "is cut" in sound.notes["broken_file"]
    with pytest.raises(CohortError, match="is cut"):
        listen(path, 0.1, 2.9)


# --- headers that say less than the file holds ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mark", "offset", "value"),
    [
        ("x.wav", b"data", 4, struct.pack("<I", 32_000)),
        ("x.wav", b"data", 4, struct.pack("<I", 0)),
        ("float.wav", b"data", 4, struct.pack("<I", 64_000)),
        ("extensible.wav", b"data", 4, struct.pack("<I", 48_000)),
        ("mulaw.wav", b"data", 4, struct.pack("<I", 16_000)),
        ("adpcm.wav", b"data", 4, struct.pack("<I", 16 * 512)),
        ("x.rf64", b"ds64", 16, struct.pack("<Q", 32_000)),
        ("x.aiff", b"SSND", 4, struct.pack(">I", 32_008)),
        ("x.au", b".snd", 8, struct.pack(">I", 32_000)),
        ("x.caf", b"data", 4, struct.pack(">q", 32_004)),
        ("x.flac", b"fLaC", 22, struct.pack(">I", 16_000)),
    ],
)
def test_a_header_that_says_less_than_the_file_holds(
    tmp_path: Path, name: str, mark: bytes, offset: int, value: bytes
) -> None:
    path = sounds.patch(sounds.write(tmp_path / name), mark, offset, value)
    said = "0.00 s" if not any(value) else "1.0"
    told = fault_of(path)
    assert "holds more sound than its header says" in told
    assert f"instead of {said}" in told
    assert "export the recording again" in told or "ffmpeg -i" in told


@pytest.mark.parametrize("name", ["x.wav", "x.aiff", "x.au", "x.caf", "x.flac", "x.mp3", "vorbis.ogg", "opus.ogg"])
def test_files_that_were_joined_byte_by_byte(tmp_path: Path, name: str) -> None:
    path = sounds.write(tmp_path / name)
    path.write_bytes(2 * path.read_bytes())
    told = fault_of(path)
    assert "holds more sound than its header says: " in told or "holds 2 streams" in told


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFDB])
def test_a_wave_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    path = sounds.patch(sounds.write(tmp_path / "x.wav"), b"data", 4, struct.pack("<I", size))
    assert duration(path) == 3.0


@pytest.mark.parametrize(
    "tail",
    [
        b"LIST" + struct.pack("<I", 9_000) + b"INFO" + b"\x07" * 8_996,
        b"id3 " + struct.pack("<I", 9_001) + b"\x07" * 9_001,
        b"ID3\x04" + b"\x07" * 9_000,
        b"bext" + struct.pack("<I", 602) + bytes(602) + b"LIST" + struct.pack("<I", 9_000) + b"\xff" * 9_000,
        bytes(9_000),
        b"\x07" * 1_000,
    ],
)
def test_what_follows_the_sound_is_no_sound(tmp_path: Path, tail: bytes) -> None:
    path = sounds.write(tmp_path / "x.wav")
    path.write_bytes(path.read_bytes() + tail)
    assert duration(path) == 3.0
    assert read_stretch(path).size == 48_000


def test_chunks_behind_the_sound_of_a_w64_are_not_read_as_sound(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "x.w64")
    path.write_bytes(path.read_bytes() + b"levl" + bytes(12) + struct.pack("<Q", 24 + 9_000) + b"\x07" * 9_000)
    with soundfile.SoundFile(path) as file:
        assert file.frames > 48_000
    assert examine(path).overstated
    assert read_stretch(path).size == 48_000


# --- Ogg -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vorbis.ogg", "opus.ogg"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda pages: [*pages[:3], *pages[4:]], "are missing"),
        (lambda pages: [*pages[:3], pages[3][:-9] + bytes(9), *pages[4:]], "wrong checksum"),
        (lambda pages: [*pages[:3], b"\xaa" * 500, *pages[3:]], "bytes that are no Ogg page"),
        (lambda pages: pages[:-1], "is cut"),
        (lambda pages: pages * 2, "holds 2 streams"),
    ],
)
def test_damaged_ogg(tmp_path: Path, name: str, spoil: Callable[[list[bytes]], list[bytes]], says: str) -> None:
    path = sounds.write(tmp_path / name, sounds.speech(8.0))
    mark = b"OggS"
    pages = [mark + rest for rest in path.read_bytes().split(mark)[1:]]
    assert len(pages) > 4
    path.write_bytes(b"".join(spoil(pages)))
    assert says in fault_of(path)


def test_a_tag_behind_an_ogg_is_no_damage(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "opus.ogg")
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    assert duration(path) == 3.0


# --- MP3 -----------------------------------------------------------------------------------------------------------


def test_a_playable_mp3_whose_header_promises_too_much_is_read_to_its_end(tmp_path: Path) -> None:
    path = sounds.variable_mp3(tmp_path / "x.mp3", QUIET_FIRST)
    with soundfile.SoundFile(path) as file:
        promised = file.frames / sounds.RATE
    assert promised > 30
    assert duration(path) == pytest.approx(23.0, abs=0.15)
    wave = read_stretch(path)
    assert wave.size == examine(path).frames
    np.testing.assert_array_equal(wave, read_stretch(path))
    assert np.abs(wave[-32_000:]).max() > 0.3
    with pytest.raises(CohortError, match="empty stretch"):
        read_stretch(path, 25.0, 27.0)


def test_a_header_of_too_many_frames_is_not_believed_where_the_bytes_are_there(tmp_path: Path) -> None:
    path = sounds.variable_mp3(tmp_path / "x.mp3", sounds.speech(4.0), header=True)
    sounds.patch(path, b"Xing", 8, struct.pack(">I", 400))
    assert duration(path) == pytest.approx(4.0, abs=0.15)
    assert read_stretch(path).size == examine(path).frames


def test_an_mp3_of_which_the_rest_would_be_left_out_is_named(tmp_path: Path) -> None:
    loud_first = sounds.variable_mp3(tmp_path / "loud.mp3", QUIET_FIRST[::-1])
    assert "holds more sound than its header says: 23.0" in fault_of(loud_first)


def test_other_bytes_before_the_frames_hide_nothing(tmp_path: Path) -> None:
    path = sounds.variable_mp3(tmp_path / "x.mp3", QUIET_FIRST[::-1])
    path.write_bytes(bytes(200) + path.read_bytes())
    assert "holds more sound than its header says: 23.0" in fault_of(path)


def test_an_mp3_without_a_header_that_ends_within_a_frame_is_cut(tmp_path: Path) -> None:
    path = sounds.variable_mp3(tmp_path / "x.mp3", sounds.speech())
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert "it ends within a frame" in fault_of(path)
    path.write_bytes(whole + b"TAG" + bytes(125))
    assert structure(path) == structure(sounds.variable_mp3(tmp_path / "y.mp3", sounds.speech()))


def test_a_hole_in_an_mp3_is_damage(tmp_path: Path) -> None:
    path = sounds.variable_mp3(tmp_path / "x.mp3", sounds.speech(6.0))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : 2 * len(data) // 3] = bytes(len(data) // 3)
    path.write_bytes(data)
    assert "bytes between its frames are no sound" in fault_of(path)


def test_tags_around_an_mp3_are_no_sound(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "x.mp3")
    before = structure(path)
    picture = b"ID3\x04\x00\x00" + bytes([0, 2, 0, 0]) + b"\xff\xfb\x90" * 10_922 + b"xx"
    path.write_bytes(picture + path.read_bytes() + b"TAG" + bytes(125))
    assert structure(path) == before
    assert duration(path) == 3.0


def test_blocks_of_a_long_mp3_follow_each_other(tmp_path: Path) -> None:
    """Seeking between blocks, as soundfile does, lost 80 ms of every minute."""
    path = tmp_path / "x.mp3"
    with soundfile.SoundFile(path, "w", sounds.RATE, 1) as file:
        for second in range(70):
            file.write(sounds.speech(1.0, seed=second))
    whole, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(read_stretch(path), whole)


# --- other things --------------------------------------------------------------------------------------------------


def test_a_flac_that_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "x.flac")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO: 36 bits, 0 meaning unknown
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert "doesn't say how long it is" in fault_of(path)


@pytest.mark.parametrize("name", ["x.raw", "x.wav", "x.mp3", "x.ogg", "x.w64"])
@pytest.mark.parametrize("size", [0, 1, 13, 5_000])
def test_what_is_no_sound_is_named(tmp_path: Path, name: str, size: int) -> None:
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(size).bytes(size))
    assert "can't be read as audio" in fault_of(path)


def test_a_file_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "x.wav")
    assert duration(path) == 3.0
    sounds.write(path, sounds.speech(1.0))
    assert duration(path) == 1.0

"""MPEG audio (MP3, MP2): frames, counted by walking from header to header, against what a Xing or VBRI header says.

An MP3 has no header of its own. Encoders may write one into a first, silent frame: how many frames follow, in how many
bytes. Without one libsndfile estimates the length from the first frame's bit rate, wrongly where the rate varies.
"""

import mmap
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SAME = 0xFFFE0C00  # bits of a frame's header that don't change within a stream: mark, version, layer, sample rate
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version bits
_KBITS = {
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),  # MPEG-1, layer I
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),  # MPEG-2 and 2.5, layer I
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_NEAR = 256  # bytes of the first frame in which a Xing or VBRI header begins
_FARTHEST = 1 << 20  # bytes of other things that may lie before the first frame


@dataclass(frozen=True)
class Frames:
    """What the frames of a file tell.

    Attributes:
        rate: samples a second.
        channels: 1 or 2.
        size: samples of a frame, per channel.
        count: whole frames of sound; a frame that holds a Xing or VBRI header is none.
        promised: frames that such a header promises, None without one.
        promised_bytes: bytes from that header's frame to the last one, None where it doesn't say.
        held_bytes: of these, those that are there.
        incomplete: the file ends within a frame.
        foreign: bytes between frames that belong to none.
        trimmed: the header is Xing's, so that decoders take the encoder's padding off.
    """

    rate: int
    channels: int
    size: int
    count: int
    promised: int | None
    promised_bytes: int | None
    held_bytes: int
    incomplete: bool
    foreign: int
    trimmed: bool


@dataclass(frozen=True)
class _Head:
    length: int  # bytes of the frame
    size: int  # samples
    rate: int
    channels: int


def frames(path: Path) -> Frames | None:
    """Counts the frames of an MPEG audio file; None where there are none, or of a free bit rate.

    Raises:
        OSError: the file can't be read.
    """
    if not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start, end = _after_tags(data), _before_tags(data)
        if data[start : start + 4] == b"fLaC" or _is_free(_word(data, start)):  # FLAC may stand behind an ID3 tag too
            return None
        first = _next(data, start, min(end, start + _FARTHEST), end, None)
        if first is None:
            return None
        head = _head(_word(data, first))
        assert head is not None
        promise = _promise(data, first, head)
        walked = _walk(data, first if promise is None else first + head.length, end, _word(data, first) & _SAME)
        promised, promised_bytes, trimmed = promise or (None, None, False)
        if not walked.count and promise is None:
            return None
        incomplete = walked.incomplete and end == len(data)
        return Frames(
            *(head.rate, head.channels, head.size, walked.count, promised, promised_bytes, end - first),
            *(incomplete, walked.foreign, trimmed),
        )


@cache
def _head(word: int) -> _Head | None:
    """What the 32 bits of a frame's header say; None where they are no header, or one of a free bit rate."""
    version, layer, kbits, rate = (word >> 19) & 3, (word >> 17) & 3, (word >> 12) & 15, (word >> 10) & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 0 or kbits in (0, 15) or rate == 3:
        return None
    bits = 1000 * _KBITS[version == 3, layer][kbits - 1]
    hertz, padding, channels = _RATES[version][rate], (word >> 9) & 1, 1 if (word >> 6) & 3 == 3 else 2
    if layer == 3:
        return _Head((12 * bits // hertz + padding) * 4, 384, hertz, channels)
    size = 576 if layer == 1 and version != 3 else 1152
    return _Head(size // 8 * bits // hertz + padding, size, hertz, channels)


def _is_free(word: int) -> bool:
    """Whether a frame's header leaves its bit rate, and with it its length, open."""
    return word >> 21 == 0x7FF and not (word >> 12) & 15


def _word(data: mmap.mmap, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "big")


def _after_tags(data: mmap.mmap) -> int:
    """Where ID3v2 tags at the beginning end."""
    place = 0
    while data[place : place + 3] == b"ID3" and place + 10 <= len(data):
        flags, sizes = data[place + 5], data[place + 6 : place + 10]
        length = sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]
        place += 10 + length + (10 if flags & 0x10 else 0)
    return place


def _before_tags(data: mmap.mmap) -> int:
    """Where ID3v1, APE and Lyrics3 tags at the end begin."""
    end = len(data)
    if data[max(0, end - 128) : end].startswith(b"TAG"):
        end -= 128
    if data[max(0, end - 32) : end].startswith(b"APETAGEX"):
        length, _, flags = struct.unpack("<III", data[end - 20 : end - 8])
        end -= length + (32 if flags >> 31 else 0)
    if data[max(0, end - 9) : end] == b"LYRICS200" and data[end - 15 : end - 9].isdigit():
        end -= int(data[end - 15 : end - 9]) + 15
    return max(0, end)


def _next(data: mmap.mmap, place: int, until: int, end: int, same: int | None) -> int | None:
    """The next place where a frame begins, after which another one does, or the file ends; None where there is none."""
    while (place := data.find(b"\xff", place, until)) >= 0:
        word = _word(data, place)
        head = _head(word)
        if head is not None and same in (None, word & _SAME):
            after = place + head.length
            if after + 4 > end or _word(data, after) & _SAME == word & _SAME:
                return place
        place += 1
    return None


@dataclass(frozen=True)
class _Walked:
    count: int
    incomplete: bool
    foreign: int


def _walk(data: mmap.mmap, place: int, end: int, same: int) -> _Walked:
    """Counts the whole frames from a place on."""
    count = foreign = 0
    while place < end:
        word = _word(data, place)
        head = _head(word) if word & _SAME == same else None
        if head is not None:
            if place + head.length > end:
                return _Walked(count, True, foreign)
            place, count = place + head.length, count + 1
            continue
        following = _next(data, place, end, end, same)
        if following is None:  # behind the last frame: less than a header, padding, an unknown tag
            return _Walked(count, end - place < 4 and data[place] == 0xFF, foreign)
        foreign += following - place
        place = following
    return _Walked(count, False, foreign)


def _promise(data: mmap.mmap, first: int, head: _Head) -> tuple[int | None, int | None, bool] | None:
    """(frames, bytes, whether it is Xing's) that a header in the first frame promises; None without one."""
    frame = data[first : first + min(head.length, _NEAR)]
    place = max(frame.find(b"Xing", 0, 64), frame.find(b"Info", 0, 64))
    if place >= 0 and len(frame) >= place + 16:
        flags, *numbers = struct.unpack(">III", frame[place + 4 : place + 16])
        named = [number for bit, number in zip((1, 2), (numbers if flags & 1 else [0, numbers[0]]), strict=True)]
        return (named[0] if flags & 1 else None, named[1] if flags & 2 else None, True)
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        length, count = struct.unpack(">II", frame[46:54])
        return count, length, False
    return None

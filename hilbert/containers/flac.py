"""FLAC (RFC 9639): where its last frame says that it ends; libsndfile reads no further than the header says."""

import mmap
from dataclasses import dataclass
from pathlib import Path

_STREAM = b"fLaC"
_INFO = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")  # head of the first block of metadata, which is always there
_LONGEST = 1 << 18  # bytes of a frame, where the header doesn't say
_RATES = (88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)  # by code, from 1
_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}  # by code


@dataclass(frozen=True)
class Stream:
    """What the frames of a file tell.

    Attributes:
        end: the last frame's last sample, counted from 1; None where no frame was found.
        streams: that lie in the file, one after the other.
    """

    end: int | None
    streams: int


@dataclass(frozen=True)
class _Info:
    block: int  # samples of a frame, where all but the last have as many
    rate: int
    channels: int
    bits: int


def stream(path: Path) -> Stream | None:
    """Looks for a FLAC file's last frame; None where the file is none.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if len(data) < 42 or data[4:8] not in _INFO:
            return None
        longest = int.from_bytes(data[15:18], "big") or _LONGEST
        packed = int.from_bytes(data[18:22], "big")
        info = _Info(int.from_bytes(data[10:12], "big"), packed >> 12, (packed >> 9 & 7) + 1, (packed >> 4 & 31) + 1)
        streams = 1 + sum(_count(data, _STREAM + mark) for mark in _INFO)
        return Stream(_end(data, max(42, len(data) - 2 * longest), info), streams)


def _count(data: mmap.mmap, mark: bytes) -> int:
    """How often a mark stands behind the file's own beginning."""
    count, place = 0, 4
    while (place := data.find(mark, place)) >= 0:
        count, place = count + 1, place + 4
    return count


def _end(data: mmap.mmap, start: int, info: _Info) -> int | None:
    place = len(data)
    while (place := data.rfind(b"\xff", start, place)) >= 0:
        if (end := _frame_end(data[place : place + 16], info)) is not None:
            return end
    return None


def _frame_end(head: bytes, info: _Info) -> int | None:
    """The last sample, counted from 1, of the frame that begins with these bytes; None where they begin none."""
    if len(head) < 16 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    size, rate, channels, bits = head[2] >> 4, head[2] & 15, head[3] >> 4, head[3] >> 1 & 7
    fits = (
        size > 0
        and (not 0 < rate < 12 or _RATES[rate - 1] == info.rate)
        and rate < 15
        and (channels + 1 if channels < 8 else 2) == info.channels
        and channels < 11
        and (bits == 0 or _BITS.get(bits) == info.bits)
    )
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # the number is coded as UTF-8 would be, to 7 bytes
    after = 5 + max(0, ones - 1)
    if not fits or ones in (1, 8):
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5:after]:
        number = number << 6 | byte & 0x3F
    wide = {6: 1, 7: 2}.get(size, 0)
    told = int.from_bytes(head[after : after + wide], "big") + 1
    samples = told if wide else 192 if size == 1 else 576 << size - 2 if size < 6 else 256 << size - 8
    after += wide + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if _checksum(head[:after]) != head[after]:
        return None
    return (number if head[1] & 1 else number * info.block) + samples


def _checksum(head: bytes) -> int:
    """CRC-8 of the polynomial x^8 + x^2 + x + 1."""
    crc = 0
    for byte in head:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc

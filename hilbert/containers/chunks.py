"""Containers that say in bytes how much sound they hold: WAV, RF64, W64, AIFF, AU, CAF, NIST SPHERE.

The sound's chunk claims a size; the file's own size, and the chunks behind it, tell how much there is.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"
MARKS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b".snd", b"dns.", b"caff", b"NIST_1A", _W64_RIFF)
"""How files begin that `extent` understands."""

_MORE_SOUND = (*MARKS, b"data", b"SSND")  # behind the sound: a second recording, as when files were joined
_MOST_CHUNKS = 10_000
_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True)
class Extent:
    """How much sound a header claims, and how much the file has room for.

    Attributes:
        claimed: bytes; None where the header leaves it open, as one does that was written to a pipe.
        held: bytes.
    """

    claimed: int | None
    held: int


@dataclass(frozen=True)
class _Sound:
    """Where the sound's bytes begin, how many the header claims (None: open), and how the chunks behind are read."""

    start: int
    claimed: int | None
    layout: "_Layout | None" = None


@dataclass(frozen=True)
class _Layout:
    """How one family of containers writes its chunks.

    Attributes:
        begin: where the first chunk lies.
        name: bytes of a chunk's name.
        size: struct format of its size.
        counts_head: whether the size counts name and size themselves.
        align: chunks begin at multiples of this.
        sound: how the name of the sound's chunk begins.
        lead: bytes of that chunk before the sound.
    """

    begin: int
    name: int
    size: str
    counts_head: bool
    align: int
    sound: bytes
    lead: int = 0

    @property
    def head(self) -> int:
        """Bytes before a chunk's content."""
        return self.name + struct.calcsize(self.size)


_LITTLE = _Layout(12, 4, "<I", False, 2, b"data")
_BIG = _Layout(12, 4, ">I", False, 2, b"data")
_AIFF = _Layout(12, 4, ">I", False, 2, b"SSND", lead=8)
_W64 = _Layout(40, 16, "<Q", True, 8, b"data\xf3\xac\xd3\x11")
_CAF = _Layout(8, 4, ">q", False, 1, b"data", lead=4)


def extent(path: Path) -> Extent | None:
    """How much sound the header of a file claims, and how much the file holds; None where no sound is found.

    Bytes behind the sound that are chunks of other kinds, or zeros, don't count as sound.

    Raises:
        OSError: the file can't be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        sound = _sound(file, size)
        if sound is None or sound.start > size:
            return None
        room = size - sound.start
        if sound.claimed is None or sound.claimed >= room:
            return Extent(sound.claimed, room)
        return Extent(sound.claimed, sound.claimed + _rest(file, sound, size))


def _sound(file: BinaryIO, size: int) -> _Sound | None:
    mark = file.read(4)
    if mark in (b".snd", b"dns."):
        start, claimed = struct.unpack(">II" if mark == b".snd" else "<II", _exactly(file, 4, 8))
        return _Sound(start, None if claimed == 0xFFFFFFFF else claimed)
    if mark == b"NIST":
        return _nist(file)
    if mark in (b"RF64", b"BW64"):
        return _rf64(file, size)
    layout = {b"RIFF": _LITTLE, b"RIFX": _BIG, b"FORM": _AIFF, b"riff": _W64, b"caff": _CAF}[mark]
    return _find(file, size, layout, _open_ended if layout.head == 8 else lambda claimed: claimed < 0)


def _open_ended(claimed: int) -> bool:
    """Whether a size of 32 bits stands for "not known yet", as recorders and pipes write it.

    2^32 - 1 (ffmpeg), or somewhat less where other headers are counted; 2^31 - 4096 (SoX) to 2^31 (arecord).
    """
    return 0xFFFFFF00 <= claimed <= 0xFFFFFFFF or 0x7FFFF000 <= claimed <= 0x80000000


def _find(file: BinaryIO, size: int, layout: _Layout, is_open: Callable[[int], bool]) -> _Sound | None:
    """The sound's chunk; sizes of chunks before it are followed as far as the file goes."""
    place = layout.begin
    for _ in range(_MOST_CHUNKS):
        found = _chunk(file, place, layout)
        if found is None or place > size:
            return None
        name, claimed = found
        if name.startswith(layout.sound):
            bytes_claimed = None if is_open(claimed) else max(0, claimed - layout.lead)
            return _Sound(place + layout.head + layout.lead, bytes_claimed, layout)
        place += layout.head + max(0, claimed)
        place += -place % layout.align
    return None


def _chunk(file: BinaryIO, place: int, layout: _Layout) -> tuple[bytes, int] | None:
    """(name, bytes of content as claimed) of the chunk at a place; None at the end."""
    head = _exactly(file, place, layout.head)
    if len(head) < layout.head:
        return None
    (claimed,) = struct.unpack(layout.size, head[layout.name :])
    return head[: layout.name], claimed - (layout.head if layout.counts_head else 0)


def _exactly(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _rf64(file: BinaryIO, size: int) -> _Sound | None:
    """A WAV of 64-bit sizes, which its first chunk holds."""
    head = _exactly(file, 12, 24)
    sound = _find(file, size, _LITTLE, lambda _: False)
    if sound is None or head[:4] != b"ds64":
        return sound
    (claimed,) = struct.unpack("<Q", head[16:24])
    if sound.claimed != 0xFFFFFFFF:  # sizes below 4 GiB may stand where a WAV has them
        return sound
    return _Sound(sound.start, None if claimed == 2**64 - 1 else claimed, _LITTLE)


def _nist(file: BinaryIO) -> _Sound | None:
    """A header of lines `name -type value`, its own length in the second."""
    try:
        length = int(_exactly(file, 8, 8))
        lines = _exactly(file, 0, min(length, _AT_ONCE)).decode("latin-1").splitlines()
        fields = {parts[0]: parts[2] for line in lines if len(parts := line.split()) == 3}
        sizes = [int(fields[name]) for name in ("sample_count", "channel_count", "sample_n_bytes")]
    except (ValueError, KeyError):
        return None
    return _Sound(length, sizes[0] * sizes[1] * sizes[2])


def _rest(file: BinaryIO, sound: _Sound, size: int) -> int:
    """Bytes behind the sound that are neither chunks nor zeros: sound that the header doesn't claim."""
    assert sound.claimed is not None
    end = sound.start + sound.claimed
    starts = [end] if sound.layout is None else [end, end + -end % sound.layout.align]  # some leave the padding out
    places = [_after_chunks(file, start, size, sound.layout) for start in dict.fromkeys(starts)]
    place = max(places)
    if place >= size or _exactly(file, place, 3) in (b"ID3", b"TAG") or _only_zeros(file, place):
        return 0
    return size - place


def _after_chunks(file: BinaryIO, place: int, size: int, layout: _Layout | None) -> int:
    """Where chunks that begin at a place, and follow each other, end."""
    while layout is not None and (found := _chunk(file, place, layout)) is not None:
        name, claimed = found
        following = place + layout.head + claimed
        printable = name[:4].isascii() and name[:4].decode().isprintable()
        if not printable or name.startswith(_MORE_SOUND) or claimed < 0 or following > size:
            break
        place = min(size, following + -following % layout.align)
    return place


def _only_zeros(file: BinaryIO, place: int) -> bool:
    file.seek(place)
    while block := file.read(_AT_ONCE):
        if block.count(0) != len(block):
            return False
    return True

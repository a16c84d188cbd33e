"""Ogg (Vorbis, Opus, FLAC, Speex): pages, each with a checksum, a number and, the last one, an end mark (RFC 3533)."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct("<4sBBqIIIB")  # mark, version, flags, position, stream, number, checksum, segments
_FIRST, _LAST = 2, 4
_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Pages:
    """What the pages of a file tell.

    Attributes:
        ended: the last page of every stream says that it is the last, and is whole.
        streams: of sound, in the file.
        damage: a page that is missing or has changed, and where; empty where there is none.
    """

    ended: bool
    streams: int
    damage: str


def pages(path: Path) -> Pages:
    """Walks through the pages of an Ogg file, and computes their checksums.

    Raises:
        OSError: the file can't be read.
    """
    open_streams, streams, damage = dict[int, int](), 0, ""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            mark, _, flags, _, stream, number, checksum, segments = _HEAD.unpack(head)
            if mark != b"OggS":
                # Something else behind the last page, such as a tag, is no damage.
                damage = "bytes that are no Ogg page lie between its pages" if open_streams else ""
                break
            table = file.read(segments)
            content = file.read(sum(table))
            if len(content) < sum(table) or len(table) < segments:
                return Pages(False, streams, "")
            if _checksum(head[:22] + bytes(4) + head[26:] + table + content) != checksum:
                damage = f"page {number} of its Ogg stream has changed (wrong checksum)"
                break
            if flags & _FIRST:
                streams += content.startswith(_CODECS)
            elif number != open_streams.get(stream, number - 1) + 1:
                damage = f"pages {open_streams[stream] + 1} to {number - 1} of its Ogg stream are missing"
                break
            open_streams[stream] = number
            if flags & _LAST:
                del open_streams[stream]
    return Pages(not open_streams, streams, damage)


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32: that of zlib with the bits of every byte the other way round, and no inversion."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")

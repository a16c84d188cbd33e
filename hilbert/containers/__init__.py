"""What a sound file's container tells of its length, and what the file really holds, without decoding it.

libsndfile believes headers: it reads a cut WAV to where it was cut, a WAV whose header says less than the file holds to
where the header says, and estimates the length of an MP3 without a header of its own. None of these is an error to it.
Here the bytes are looked at: chunks of WAV, RF64, W64, AIFF, AU, CAF and NIST SPHERE (`chunks`), pages of Ogg (`ogg`),
frames of MP3 (`mpeg`) and of FLAC (`flac`). Other containers have no check of their own.
"""

from collections.abc import Callable
from pathlib import Path

from hilbert.containers import chunks, flac, ogg
from hilbert.containers.chunks import Extent
from hilbert.containers.flac import Stream
from hilbert.containers.mpeg import Frames, frames
from hilbert.containers.ogg import Pages

__all__ = ["Extent", "Frames", "Pages", "Stream", "Structure", "frames", "structure"]

Structure = Extent | Frames | Pages | Stream | None

_LONGEST_MARK = 16
_MARKS: tuple[tuple[bytes, Callable[[Path], Structure]], ...] = (
    (b"OggS", ogg.pages),
    (b"ID3", frames),
    (b"fLaC", flac.stream),
    *((mark, chunks.extent) for mark in chunks.MARKS),
)


def structure(path: Path) -> Structure:
    """What a file's container tells; None where it isn't known, or not understood.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        head = file.read(_LONGEST_MARK)
    for mark, look in _MARKS:
        if head.startswith(mark):
            return look(path)
    return frames(path) if head[:1] == b"\xff" else None

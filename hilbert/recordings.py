"""What is known of a sound file before it is read: its rate, how much of it there is, and what is wrong with it.

A header's word is compared with what the container really holds (`hilbert.containers`); where the two can't be brought
together, the file is decoded once for its length. What was found is kept, for as long as the process lives and the
file stays as it is.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from hilbert.containers import Extent, Frames, Pages, Stream, Structure, frames, structure
from hilbert.errors import CohortError

SHORTFALL = 0.1
"""Seconds that a file may hold less, or more, than its header says: nothing that anybody would hear, or cut off."""
SLOWEST, FASTEST = 4_000, 768_000
"""Samples a second: below the first nobody is understood, above the second no sound card records."""
MOST_CHANNELS = 64
BLOCK = 1 << 20
"""Samples of all channels decoded at once: neither an hour of sound nor a thousand channels stand in memory whole."""
_WIDTHS = {
    **{"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1},
    **{"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8},
}
"""Bytes of a sample, where every sample has the same."""
_UNKNOWN = 1 << 62  # frames: libsndfile's word for a length that it doesn't know
_STEP = 4096  # frames: where decoding fails, what was decoded before within one step is lost


@dataclass(frozen=True)
class Recording:
    """A sound file.

    Attributes:
        rate: samples a second.
        channels: at least 1.
        frames: samples per channel that can be read, at most.
        floats: its samples are floating-point numbers, which may be of any size.
        fault: what is wrong with the file as a whole, and what would be right: it was cut, or its header says less than
            it holds. Stretches that lie within `frames` can be read all the same. Empty where nothing is wrong.
        overstated: there are fewer frames than libsndfile reads from the header.
        mpeg: it is an MP3.
    """

    rate: int
    channels: int
    frames: int
    floats: bool
    fault: str = ""
    overstated: bool = False
    mpeg: bool = False

    @property
    def seconds(self) -> float:
        """Length of what can be read."""
        return self.frames / self.rate


def examine(path: Path) -> Recording:
    """Look at a sound file: its header, its container, and its samples where both leave the length open.

    Raises:
        CohortError: the file is missing or not sound, no stretch of it can be trusted, or it can't be of speech.
    """
    with readable(path):
        state = path.stat()
        return _examine(path, state.st_size, state.st_mtime_ns, state.st_ino)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what reading a sound file may raise into an error that names the file."""
    try:
        yield
    except CohortError:
        raise
    # soundfile raises TypeError for headerless files (.raw), whose rate it would have to be told.
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        raise CohortError(f"{path}: can't be read as audio ({error}); replace it with a sound file") from None


@cache
def _examine(path: Path, *_state: int) -> Recording:
    found = structure(path)
    if isinstance(found, Frames) and (cut := _cut_mpeg(found)):
        # Not opened: the decoder would print warnings of its own.
        return _checked(path, Recording(found.rate, found.channels, found.count * found.size, False, cut, mpeg=True))
    with _opened(path, found) as file:
        floats = file.subtype in ("FLOAT", "DOUBLE")
        told = _checked(path, Recording(file.samplerate, file.channels, file.frames, floats))
        if told.frames >= _UNKNOWN:
            raise CohortError(f"{path}: doesn't say how long it is; {_rewrite(path, 'flac')}")
        if file.format == "MP3":
            return _mpeg(path, told, found or frames(path))  # other things may lie before its frames
        if isinstance(found, Extent):
            return _extent(told, found, file.subtype)
        if isinstance(found, Pages):
            return _ogg(path, told, found)
        if file.format == "FLAC":
            return _flac(path, told, file, found if isinstance(found, Stream) else None)
        if "truncated" in file.extra_info.casefold():  # libsndfile's log, for containers that are not looked into here
            return replace(told, fault="is cut: the file holds less than its header promises; replace it")
        return told


def _opened(path: Path, found: object) -> soundfile.SoundFile:
    """The file, opened; where it is too short even for that, the reason."""
    try:
        return soundfile.SoundFile(path)
    except soundfile.SoundFileError:
        what = ""
        if isinstance(found, Extent) and found.claimed is not None and found.claimed > found.held:
            what = f"is cut: its header promises {found.claimed} bytes of sound, and the file holds {found.held}"
        elif isinstance(found, Extent) and found.claimed is not None and found.claimed < found.held:
            what = f"holds more sound than its header says: {found.held} bytes instead of {found.claimed}"
        elif isinstance(found, Pages) and not found.ended:
            what = "is cut: its Ogg stream has no end, and hardly a beginning"
        if not what:
            raise
        raise CohortError(f"{path}: {what}; replace it by a whole copy") from None


def _checked(path: Path, told: Recording) -> Recording:
    """The same.

    Raises:
        CohortError: this can't be a recording of speech.
    """
    if not SLOWEST <= told.rate <= FASTEST:
        raise CohortError(
            f"{path}: has a header of {told.rate} samples a second, and speech has {SLOWEST} to {FASTEST}; write the "
            "right rate into it, or replace the file"
        )
    if told.channels > MOST_CHANNELS:
        raise CohortError(
            f"{path}: has a header of {told.channels} channels, and {MOST_CHANNELS} are the most; export the speaker's"
        )
    return told


def _rewrite(path: Path, ending: str, *options: str) -> str:
    words = " ".join(["ffmpeg -i", path.name, *options, f"new.{ending}"])
    return f"write it anew with the right length ({words}), or replace the file"


# --- one container each: the told length against what is there -------------------------------------------------------


def _cut(promised: float, held: float) -> str:
    return (
        f"is cut: its header promises {promised:.2f} s, and the file holds {held:.2f} s ({held / promised:.0%}); "
        "replace the file by a whole copy"
    )


def _extent(told: Recording, found: Extent, subtype: str) -> Recording:
    width = _WIDTHS.get(subtype, 0) * told.channels  # bytes of a frame
    if not width and not told.frames:
        return told
    # Compressed sound: of the two, libsndfile reads the smaller.
    each = 1 / (width * told.rate) if width else told.seconds / max(1, min(found.claimed or found.held, found.held))
    held = each * found.held
    if found.claimed is not None and each * found.claimed - held > SHORTFALL:
        return replace(told, fault=_cut(each * found.claimed, held))
    if held - told.seconds > SHORTFALL:
        fault = _understated(told.seconds, held, "mend the header, or export the recording again")
        return replace(told, fault=fault)
    frames = min(told.frames, round(held * told.rate)) if width else told.frames  # chunks behind it are no sound
    return replace(told, frames=frames, overstated=frames < told.frames)


def _understated(promised: float, held: float, remedy: str) -> str:
    return (
        f"holds more sound than its header says: {held:.2f} s instead of {promised:.2f} s, and the rest would be left "
        f"out; {remedy}"
    )


def _several(path: Path, told: Recording, streams: int) -> CohortError:
    return CohortError(
        f"{path}: holds {streams} streams of sound, of which one alone would be read ({told.seconds:.2f} s); "
        "write them as one, or as files of their own"
    )


def _ogg(path: Path, told: Recording, found: Pages) -> Recording:
    if found.damage:
        raise CohortError(f"{path}: is damaged: {found.damage}; replace the file")
    if found.streams > 1:
        raise _several(path, told, found.streams)
    fault = ""
    if not found.ended:
        fault = (
            f"is cut: its Ogg stream has no end, and {told.seconds:.2f} s of it are there; replace the file by a whole "
            f"copy (if it is whole, ffmpeg -i {path.name} -c copy new{path.suffix} writes the end)"
        )
    return replace(told, fault=fault)


def _flac(path: Path, told: Recording, file: soundfile.SoundFile, found: Stream | None) -> Recording:
    """Reads the last sample, which takes a search and one block, and all of them where there is no last one."""
    if found is not None and found.streams > 1:
        raise _several(path, told, found.streams)
    end = ((found and found.end) or 0) / told.rate
    if end - told.seconds > SHORTFALL:
        return replace(told, fault=_understated(told.seconds, end, _rewrite(path, "flac")))
    with contextlib.suppress(soundfile.SoundFileError):
        file.seek(max(0, told.frames - 1))
        if len(file.read(1)) or not told.frames:
            return told
    held = _decoded(path)
    return replace(told, frames=held, fault=_cut(told.seconds, held / told.rate))


def _cut_mpeg(found: Frames) -> str:
    """Why these frames are not all that there were; empty where they are, or nothing tells."""
    each = found.size / found.rate
    held = found.count * each
    missing = found.promised - found.count if found.promised is not None else 0
    spoilt = found.foreign * held / max(1, found.held_bytes)  # seconds, at the mean bit rate
    if spoilt > SHORTFALL or (spoilt and missing > 0):
        return f"is damaged: {found.foreign} bytes between its frames are no sound; replace the file"
    whole = found.promised_bytes is not None and found.promised_bytes <= found.held_bytes
    if missing * each > SHORTFALL and not whole:
        return _cut(held + missing * each, held)
    if found.incomplete and found.promised is None:
        return (
            f"is cut: it ends within a frame, after {held:.2f} s, and without a header nobody knows how long it was; "
            "replace the file by a whole copy (if it is whole, ffmpeg -i OLD.mp3 NEW.flac writes what is there)"
        )
    return ""


def _mpeg(path: Path, told: Recording, found: Structure) -> Recording:
    """What libsndfile says of its length is the encoder's own word, or an estimate, which may be far off."""
    if not isinstance(found, Frames):  # of a free bit rate
        return replace(told, frames=_decoded(path), mpeg=True)
    walked = found.count * found.size
    if cut := _cut_mpeg(found):
        return replace(told, frames=walked, fault=cut, mpeg=True)
    held, fault = told.frames, ""
    if found.trimmed and found.promised == found.count:
        pass
    elif found.trimmed or found.promised is not None or told.frames < walked:
        held = _decoded(path)
        beyond = (walked - held) / told.rate
        if beyond > SHORTFALL + 2 * found.size / told.rate:  # decoders trim some 1,100 samples, and may skip a frame
            fault = _understated(held / told.rate, walked / told.rate, _rewrite(path, "flac"))
    else:
        held = walked
    return replace(told, frames=held, fault=fault, overstated=held < told.frames and not fault, mpeg=True)


def _decoded(path: Path) -> int:
    """Frames that can be decoded, up to the end or to where decoding fails."""
    count = 0
    with contextlib.suppress(soundfile.SoundFileError), Straight(path) as file, file.straight_on():
        buffer = np.empty((_STEP, file.channels), np.float32)
        while got := len(file.read(out=buffer)):
            count += got
    return count


class Straight(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A sound file whose blocks follow each other.

    soundfile seeks after every read, to where it is already, and a decoder of MP3 that has sought gives some 80 ms of
    wrong samples.
    """

    _straight = False

    def seekable(self) -> bool:
        """Whether soundfile may seek."""
        return not self._straight and super().seekable()

    @contextlib.contextmanager
    def straight_on(self) -> Iterator[None]:
        """While it lasts, every read goes on where the one before ended."""
        self._straight = True
        try:
            yield
        finally:
            self._straight = False

"""Reading sound: a stretch of a file as one 16 kHz waveform.

Any format that libsndfile reads (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, ...). Channels are averaged, and
other sample rates are converted with soxr. A waveform is float32 [samples], nominally within [-1, 1]. What a file
promises is not believed: what was decoded is counted, and its level looked at (`hilbert.recordings`, `hilbert.levels`).
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from hilbert.errors import CohortError
from hilbert.levels import BEYOND_END, BROKEN_FILE, Meter
from hilbert.recordings import BLOCK, SHORTFALL, Recording, Straight, examine, readable

SAMPLE_RATE = 16_000
OVERHANG = 1.0
"""Seconds that a stretch's end may lie after the file's, as transcripts often have it."""
_LONGEST = 1 << 30  # samples of a stretch at the file's rate: 4 GiB; 18 hours at 16 kHz, 6 at 48 kHz
_BLOCK_BEFORE = 1 << 20  # frames that were read at once when every block of an MP3 began with wrong samples
_LEAD = 0.5  # seconds decoded and dropped before a stretch: after a seek, MP3 decoders give wrong samples at first

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sound:
    """A stretch as it was read.

    Attributes:
        wave: float32 [samples] at 16 kHz, at least one, all finite.
        notes: what is odd about it, by kind (`hilbert.levels.KINDS`).
    """

    wave: Waveform
    notes: Mapping[str, str]


def duration(path: Path) -> float:
    """Length of a sound file in seconds: of what can be decoded, whatever its header says.

    Raises:
        CohortError: the file is missing, not sound that can be read, cut, or longer than its header says.
    """
    found = examine(path)
    if found.fault:
        raise CohortError(f"{path}: {found.fault}")
    return found.seconds


def was_misread(found: Recording, start: float, end: float | None) -> bool:
    """Whether the first versions read other samples for a stretch, in seconds, of a file that is whole.

    They read on where the header promised more than there was, and every block of an MP3 but the first began wrongly.
    """
    stop = found.seconds if end is None else end
    frames = (min(stop, found.seconds) - start + min(start, _LEAD)) * found.rate
    return (found.mpeg and frames > _BLOCK_BEFORE) or (found.overstated and stop >= found.seconds)


def read_stretch(path: Path, start: float = 0.0, end: float | None = None) -> Waveform:
    """The waveform of `listen`, without its notes."""
    return listen(path, start, end).wave


def listen(path: Path, start: float = 0.0, end: float | None = None) -> Sound:
    """Read seconds [start, end) of a file, and nothing else of it, as a 16 kHz mono waveform.

    An `end` beyond the file's end means the file's end, and is noted where it lies far beyond. A stretch that lies
    wholly in what is left of a damaged file is read, and noted.

    Raises:
        CohortError: naming the file: missing, not sound, damaged, an empty stretch, or sound that can't be speech
            (`hilbert.levels`).
    """
    found = examine(path)
    first, last = _bounds(path, found, start, end)
    meter = Meter(floats=found.floats)
    with readable(path):
        wave = _decode(path, found.rate, first, last, meter)
    if wave.size == 0 or wave.size < last - first - SHORTFALL * found.rate:
        raise CohortError(
            f"{path}: damaged, {wave.size / found.rate:g} s could be decoded from {start:g} s on where the file "
            f"promises {(last - first) / found.rate:g} s; replace the file"
        )
    if fault := meter.fault():
        raise CohortError(f"{path}: {fault}")
    notes = meter.notes()
    if found.fault:
        notes[BROKEN_FILE] = f"could be read, but its file {found.fault}"
    elif end is not None and end > found.seconds + OVERHANG:
        notes[BEYOND_END] = f"should end at {end:g} s, but the file lasts only {found.seconds:.2f} s"
    if found.rate != SAMPLE_RATE:
        resampled = np.asarray(soxr.resample(wave, found.rate, SAMPLE_RATE), dtype=np.float32)
        wave = resampled if resampled.size else wave[:1]
    return Sound(np.ascontiguousarray(wave, dtype=np.float32), notes)


def _bounds(path: Path, found: Recording, start: float, end: float | None) -> tuple[int, int]:
    """The first frame of a stretch, and the one after its last."""
    if found.fault and (end is None or end > found.seconds + SHORTFALL):
        raise CohortError(f"{path}: {found.fault}")
    first = round(start * found.rate)
    last = found.frames if end is None else min(round(end * found.rate), found.frames)
    if first >= last:
        where = f"its {found.seconds:g} s hold nothing from {start:g} s" + ("" if end is None else f" to {end:g} s")
        raise CohortError(f"{path}: empty stretch, {where}; start must lie before end, and within the file")
    if last - first > _LONGEST:
        raise CohortError(
            f"{path}: {(last - first) / found.rate / 3600:.1f} hours at once don't fit into memory; cut them (--window)"
        )
    return first, last


def _decode(path: Path, rate: int, first: int, last: int, meter: Meter) -> Waveform:
    """What can be decoded of frames [first, last), mono at the file's own rate."""
    parts = [np.empty(0, np.float32)]
    with Straight(path) as file:
        lead = min(first, round(_LEAD * rate)) if file.seekable() else first
        if file.seekable():
            file.seek(first - lead)
        buffer = np.empty((min(last - first, BLOCK // file.channels), file.channels), np.float32)
        with file.straight_on():
            while lead > 0 and (got := len(file.read(min(lead, len(buffer)), out=buffer))):
                lead -= got
            while first < last and (got := len(file.read(min(last - first, len(buffer)), out=buffer))):
                block = buffer[:got]
                mono = block[:, 0].copy() if file.channels == 1 else block.mean(axis=1)
                meter.add(block, mono)
                parts.append(mono)
                first += got
    return np.concatenate(parts)


def windows(start: float, end: float, window: float) -> list[tuple[float, float]]:
    """Cut [start, end) into as few windows of equal length as keep each within `window` seconds.

    Equal windows leave no sliver at the end, whose features would be noise.
    """
    if not (window > 0 and math.isfinite(window)):
        raise ValueError(f"a window lasts more than 0 seconds, not {window!r}")
    count = max(1, math.ceil((end - start) / window - 1e-6))
    edges = [start + (end - start) * k / count for k in range(count + 1)]
    return list(itertools.pairwise(edges))

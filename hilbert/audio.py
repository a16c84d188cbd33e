"""Reading sound: a stretch of a file as one 16 kHz waveform.

Any format that libsndfile reads (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, ...). Channels are averaged, and
other sample rates are converted with soxr. A waveform is float32 [samples], nominally within [-1, 1].
"""

import itertools
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from hilbert.errors import CohortError

SAMPLE_RATE = 16_000
_BLOCK = 1 << 20  # frames read at once: an hour of stereo never stands in memory whole
_LEAD = 0.5  # seconds decoded and dropped before a stretch: after a seek, MP3 decoders give wrong samples at first
_SHORTFALL = 0.1  # seconds that a file may end before its header says, as some MP3s do

Waveform = npt.NDArray[np.float32]


def duration(path: Path) -> float:
    """Length of a sound file in seconds, from its header.

    Raises:
        CohortError: the file is missing, or not sound that can be read.
    """
    try:
        with soundfile.SoundFile(path) as file:
            return float(file.frames / file.samplerate)
    except (soundfile.LibsndfileError, OSError) as error:
        raise CohortError(f"{path}: can't be read as audio ({error}); replace it with a sound file") from None


def _decode(path: Path, start: float, end: float | None) -> tuple[Waveform, int]:
    """Mono samples of [start, end) at the file's own rate, and that rate."""
    with soundfile.SoundFile(path) as file:
        rate = int(file.samplerate)
        first = round(start * rate)
        last = file.frames if end is None else min(round(end * rate), file.frames)
        if first >= last:
            where = f"its {file.frames / rate:g} s hold nothing from {start:g} s" + (
                "" if end is None else f" to {end:g} s"
            )
            raise CohortError(f"{path}: empty stretch, {where}; start must lie before end, and within the file")
        lead = min(first, round(_LEAD * rate))
        file.seek(first - lead)
        blocks = file.blocks(blocksize=_BLOCK, frames=last - first + lead, dtype="float32", always_2d=True)
        wave = np.concatenate([block.mean(axis=1) for block in blocks] or [np.empty(0, np.float32)])[lead:]
    if wave.size == 0 or wave.size < last - first - _SHORTFALL * rate:
        raise CohortError(
            f"{path}: damaged, {wave.size / rate:g} s could be decoded from {start:g} s on where the header "
            f"promises {(last - first) / rate:g} s; replace the file"
        )
    return wave, rate


def read_stretch(path: Path, start: float = 0.0, end: float | None = None) -> Waveform:
    """Read seconds [start, end) of a file, and nothing else of it, as a 16 kHz mono waveform.

    An `end` beyond the file's end means the file's end.

    Returns:
        float32 [samples], at least one sample, all finite.

    Raises:
        CohortError: naming the file: missing, not sound, damaged, an empty stretch, or samples that are not finite.
    """
    try:
        wave, rate = _decode(path, start, end)
    except (soundfile.LibsndfileError, OSError) as error:
        raise CohortError(f"{path}: can't be read as audio ({error}); replace it with a sound file") from None
    if not np.isfinite(wave).all():
        raise CohortError(f"{path}: holds samples that are not finite numbers (NaN or infinity); export it again")
    if rate != SAMPLE_RATE:
        resampled = np.asarray(soxr.resample(wave, rate, SAMPLE_RATE), dtype=np.float32)
        wave = resampled if resampled.size else wave[:1]
    return np.ascontiguousarray(wave, dtype=np.float32)


def windows(start: float, end: float, window: float) -> list[tuple[float, float]]:
    """Cut [start, end) into as few windows of equal length as keep each within `window` seconds.

    Equal windows leave no sliver at the end, whose features would be noise.
    """
    if not (window > 0 and math.isfinite(window)):
        raise ValueError(f"a window lasts more than 0 seconds, not {window!r}")
    count = max(1, math.ceil((end - start) / window - 1e-6))
    edges = [start + (end - start) * k / count for k in range(count + 1)]
    return list(itertools.pairwise(edges))

"""Sound files of every kind, whole and spoiled, made in a moment."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
KINDS = {
    "x.wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "extensible.wav": ("WAVEX", "PCM_24"),
    "mulaw.wav": ("WAV", "ULAW"),
    "adpcm.wav": ("WAV", "MS_ADPCM"),
    "gsm.wav": ("WAV", "GSM610"),
    "x.w64": ("W64", "PCM_16"),
    "x.rf64": ("RF64", "PCM_16"),
    "x.aiff": ("AIFF", "PCM_16"),
    "x.au": ("AU", "PCM_16"),
    "x.caf": ("CAF", "PCM_16"),
    "alac.caf": ("CAF", "ALAC_16"),
    "x.sph": ("NIST", "PCM_16"),
    "x.voc": ("VOC", "PCM_16"),
    "x.flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "x.mp3": ("MP3", "MPEG_LAYER_III"),
}
"""Containers and codecs by a file's name."""


def speech(seconds: float = 3.0, *, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """[samples] something that rises and falls as speech does, peak about 0.4."""
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (200 + 40 * np.sin(3 * time)) * time) * np.sin(2 * np.pi * time) ** 2
    return tone + 0.01 * np.random.default_rng(seed).standard_normal(len(time))


def write(path: Path, samples: np.ndarray | None = None, *, rate: int = RATE, subtype: str | None = None) -> Path:
    """A sound file of the kind that its name stands for."""
    kind = KINDS.get(path.name, (None, subtype))
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = speech() if samples is None else samples
    soundfile.write(path, sound, rate, format=kind[0], subtype=subtype or kind[1])
    return path


def cut(path: Path, share: float = 0.3) -> Path:
    """Keeps the first bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def patch(path: Path, mark: bytes, offset: int, value: bytes) -> Path:
    """Overwrites bytes behind the first mark."""
    with path.open("rb+") as file:
        file.seek(file.read(1 << 20).index(mark) + offset)
        file.write(value)
    return path


def variable_mp3(path: Path, samples: np.ndarray, *, header: bool = False) -> Path:
    """An MP3 of variable rate, without the header that would say how long it is, unless asked for."""
    with soundfile.SoundFile(path, "w", RATE, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.1) as file:
        file.write(samples)
    if not header:
        data = path.read_bytes()
        path.write_bytes(data[data.index(data[:2], 4) :])  # the header is a frame of its own, the first
    return path

"""Hand-made acoustic features: the functionals of an openSMILE feature set (Eyben et al. 2010).

`opensmile:eGeMAPSv02` (Eyben et al. 2016) gives 88 numbers on pitch, loudness, spectrum and voice quality of a
segment: a strong, explainable baseline that needs no GPU. Needs the optional package `opensmile`.

Two cases are defined here because openSMILE leaves them open:

- a feature that can't be measured (too short, no voiced frame) and comes out as NaN or infinite is stored as 0, which
  is what openSMILE itself writes for pitch where nothing is voiced;
- a segment shorter than 0.1 s is padded with silence to 0.1 s.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hilbert.encoders.base import EncoderName, Features, Modality, Waveform, check_options, nearest
from hilbert.errors import EncoderError, shown

_RATE = 16_000
_SHORTEST = _RATE // 10


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OpenSmile:
    """Functionals of one feature set; see `hilbert.encoders.Encoder`."""

    def __init__(self, smile: Any, description: Mapping[str, Any]) -> None:
        self._smile = smile
        self.description = description

    @property
    def dim(self) -> int:
        """Features per segment."""
        return int(self.description["dim"])

    def encode(self, segments: Sequence[Waveform]) -> Features:
        """[n, D] functionals of n waveforms at 16 kHz."""
        # The library lets go of Python's lock while it works, so threads use every core.
        with warnings.catch_warnings(), ThreadPoolExecutor(_cores()) as pool:
            warnings.filterwarnings("ignore", message="Segment too short")
            rows = list(pool.map(self._encode_one, segments))
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def _encode_one(self, wave: Waveform) -> Features:
        # openSMILE wants 16-bit samples, and its wrapper lets 1.0 wrap around to -32768: a click where there was none.
        wave = np.clip(wave, -1.0, 1.0 - 2.0**-15).astype(np.float32)
        wave = np.pad(wave, (0, max(0, _SHORTEST - wave.size)))
        row = np.asarray(self._smile(wave, _RATE), dtype=np.float32).reshape(-1)
        return np.nan_to_num(row, nan=0.0, posinf=0.0, neginf=0.0)


def load_opensmile(name: EncoderName, modality: Modality, device: str, batch_size: int) -> OpenSmile:  # noqa: ARG001
    """Make the encoder `opensmile:<feature set>`; it runs on the CPU whatever the device.

    Raises:
        EncoderError: the package is missing, the set unknown, or the modality not audio.
    """
    if modality != "audio":
        raise EncoderError(
            f"encoder {shown(name.written)}: openSMILE hears, it can't read; name an hf: model for {modality}"
        )
    check_options(name, ())
    try:
        import opensmile
    except ImportError:
        raise EncoderError(
            f"encoder {shown(name.written)}: the package opensmile is missing; pip install 'hilbert[opensmile]'"
        ) from None
    sets = opensmile.FeatureSet.__members__
    if name.target not in sets:
        raise EncoderError(f"encoder {shown(name.written)}: unknown feature set; {nearest(name.target, sets)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older sets warn that they are deprecated: the user chose them by name
        smile = opensmile.Smile(sets[name.target], opensmile.FeatureLevel.Functionals, sampling_rate=_RATE)
    description = {
        "name": name.written,
        "revision": f"opensmile {opensmile.__version__}",
        "modality": "audio",
        "dim": int(smile.num_features),
        "pooling": "functionals",
        "not_finite": 0,
    }
    return OpenSmile(smile, description)

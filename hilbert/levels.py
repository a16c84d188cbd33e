"""Whether sound can be speech as somebody recorded it: told from its samples, while they are read.

Some sound is refused, because what would be made of it is wrong: samples in another unit, channels that cancel each
other. Other sound is used, and a note says what is odd: silence, clipping, levels above full scale.

C = channels, n = samples per channel of one block. Full scale is 1.0.
"""

import math

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.float32]

LOUDEST = 4.0
"""Floating-point sound may exceed full scale, as mixers and resamplers leave it: by 12 dB and no more."""
CLIPPED_AT, CLIPPED_SHARE = 0.98, 0.01
"""Level that counts as full scale (8-bit and mu-law sound ends there), and the share of samples there that is told."""
SILENT = 1e-4
"""Range of a silence: the last bit of 16, to and fro."""
QUIET = 1e-3
"""Peak of what is nearly silent: -60 dB of full scale."""
CANCELLED = 0.05
"""Power of the channels' mean against what unrelated channels would give (1; equal ones give C; opposite ones 0)."""

BEYOND_END, BROKEN_FILE = "beyond_end", "broken_file"
KINDS = {
    "silent": "silent",
    "quiet": "nearly silent",
    "clipped": "clipped",
    "above_full_scale": "above full scale",
    BEYOND_END: "shorter than asked for",
    BROKEN_FILE: "of damaged files",
}
"""Kinds of notes, and how a summary says them."""


class Meter:
    """Takes in the blocks of a stretch; then tells what is wrong with it.

    Args:
        floats: the file holds floating-point samples, which may be of any size.
    """

    def __init__(self, *, floats: bool) -> None:
        self._floats, self._whole_numbers = floats, floats
        self._low, self._high = math.inf, -math.inf  # of all channels
        self._mono_low, self._mono_high = math.inf, -math.inf
        self._samples = self._at_full_scale = 0
        self._power, self._mono_power = np.zeros(1), 0.0
        self._channels = 1

    def add(self, block: Block, mono: Block) -> None:
        """Takes in a block [n, C], and the mean of its channels [n]; n >= 1."""
        flat = block.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self._low, self._high = _lower(self._low, low), _higher(self._high, high)
        self._samples += flat.size
        if not math.isfinite(low + high):
            return
        if max(high, -low) >= CLIPPED_AT:
            self._at_full_scale += int(np.count_nonzero(np.abs(flat) >= CLIPPED_AT))
        if self._whole_numbers:
            self._whole_numbers = bool(np.array_equal(flat, np.rint(flat)))
        self._channels = block.shape[1]
        if self._channels == 1:
            self._mono_low, self._mono_high = self._low, self._high
            return
        self._mono_low = min(self._mono_low, float(mono.min()))
        self._mono_high = max(self._mono_high, float(mono.max()))
        self._power = self._power + np.einsum("nc,nc->c", block, block)
        self._mono_power += float(mono @ mono)

    @property
    def _peak(self) -> float:
        return max(self._high, -self._low)

    def fault(self) -> str:
        """Why this sound can't be used, and what would be right; empty where it can."""
        if not math.isfinite(self._low + self._high):
            return "holds samples that are not finite numbers (NaN or infinity); export it again"
        if self._peak > LOUDEST or (self._whole_numbers and self._peak >= 1):
            unit = next((bits for bits in (16, 24) if self._peak <= 2 ** (bits - 1)), 32)
            return (
                f"holds samples up to {self._peak:g}, where sound lies within [-1, 1]: they look like {unit}-bit "
                f"units; divide them by {2 ** (unit - 1)}, and export it again"
            )
        loud_enough = self._power.max() > self._samples / self._channels * (QUIET / 10) ** 2
        if loud_enough and self._mono_power < CANCELLED * self._power.sum() / self._channels**2:
            return (
                f"has {self._channels} channels that cancel each other (opposite signs): their mean is no speech; "
                "export one of them, or turn one's sign"
            )
        return ""

    def notes(self) -> dict[str, str]:
        """What is odd about sound that can be used, by kind (`KINDS`)."""
        if self._mono_high - self._mono_low <= SILENT:
            level = (self._mono_high + self._mono_low) / 2
            return {"silent": "is silent" + (f" (a constant {level:.3g})" if abs(level) > SILENT else "")}
        peak = max(self._mono_high, -self._mono_low)
        if peak < QUIET:
            return {"quiet": f"is nearly silent: it reaches {20 * math.log10(peak):.0f} dB of full scale"}
        found = {}
        if self._at_full_scale >= CLIPPED_SHARE * self._samples:
            share = self._at_full_scale / self._samples
            found["clipped"] = f"is clipped: {share:.0%} of its samples stand at full scale"
        if self._floats and self._peak > 1:
            found["above_full_scale"] = (
                f"reaches {self._peak:.2f}, above full scale (1.0), where encoders of 16-bit sound (openSMILE) clip it"
            )
        return found


def _lower(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else min(a, b)


def _higher(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)

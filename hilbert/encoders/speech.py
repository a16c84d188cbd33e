"""How a waveform becomes the input of a speech model: cut into pieces, feature-extracted, and its real frames counted.

Whisper sees a fixed length, padded with silence: only the frames of real audio may be pooled. Of the wav2vec 2.0
family, models with `feat_extract_norm="group"` (wav2vec2-base, HuBERT-base, WavLM-base) normalise over time and were
trained without a mask, so that padding changes every frame: pieces of different length never share a batch there.
Models with `feat_extract_norm="layer"` (the large ones) take a mask. Any other model gets batches of one length.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hilbert.encoders.base import Waveform

SAMPLE_RATE = 16_000
_SHORTEST = SAMPLE_RATE // 40  # 25 ms: the receptive field of the wav2vec 2.0 family and of a spectrogram's frame


@dataclass(frozen=True, eq=False)
class SpeechFront:
    """Cuts waveforms into pieces and collates pieces into a batch.

    Attributes:
        extractor: the model's feature extractor.
        limit: samples that the model hears at once; longer audio is cut.
        shortest: samples that make one frame; shorter audio is padded with silence.
        pads: pieces of different length may share a batch.
        conv: (kernel, stride) of the convolutions that make frames from samples; empty where they are unknown.
        samples_per_frame: for a model whose input always has the same length (Whisper), else None.
    """

    extractor: Any
    limit: int
    shortest: int
    pads: bool
    conv: tuple[tuple[int, int], ...] = ()
    samples_per_frame: int | None = None

    def cut(self, wave: Waveform) -> list[Waveform]:
        """Pieces of at most `limit` samples; a rest too short for one frame is dropped."""
        pieces = [wave[start : start + self.limit] for start in range(0, len(wave), self.limit)] or [wave]
        if len(pieces) > 1 and len(pieces[-1]) < self.shortest:
            pieces.pop()
        short = self.shortest - len(pieces[-1])
        return [*pieces[:-1], np.pad(pieces[-1], (0, short))] if short > 0 else pieces

    def collate(self, pieces: Sequence[Waveform]) -> tuple[dict[str, torch.Tensor], list[int] | None]:
        """The model's input, and how many frames of each piece are real (None: all)."""
        options: dict[str, Any] = {"padding": True, "return_attention_mask": True} if self.pads else {}
        if self.samples_per_frame:
            frames = [math.ceil(len(piece) / self.samples_per_frame) for piece in pieces]
            options = {"padding": "max_length"}
        else:
            frames = [self._frames(len(piece)) for piece in pieces] if self.pads else []
        batch = self.extractor(list(pieces), sampling_rate=SAMPLE_RATE, return_tensors="pt", **options)
        return dict(batch), frames or None

    def _frames(self, samples: int) -> int:
        for kernel, stride in self.conv:
            samples = (samples - kernel) // stride + 1
        return samples


def _receptive_field(conv: Sequence[tuple[int, int]]) -> int:
    field = 1
    for kernel, stride in reversed(conv):
        field = (field - 1) * stride + kernel
    return field


def speech_front(extractor: Any, config: Any, seconds: float) -> SpeechFront:
    """The front of a speech model: fixed length for Whisper, masked or equal-length batches for the others."""
    limit = round(seconds * SAMPLE_RATE)
    if config.model_type == "whisper":
        # Two frames of the spectrogram make one of the encoder.
        return SpeechFront(
            extractor, min(limit, extractor.n_samples), 1, pads=False, samples_per_frame=2 * extractor.hop_length
        )
    if not (hasattr(config, "conv_kernel") and hasattr(config, "feat_extract_norm")):
        return SpeechFront(extractor, limit, _SHORTEST, pads=False)
    conv = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
    pads = config.feat_extract_norm == "layer" and bool(getattr(extractor, "return_attention_mask", False))
    # An adapter shortens the sequence further, in ways of its own: equal lengths need no count.
    pads = pads and not getattr(config, "add_adapter", False)
    return SpeechFront(extractor, limit, _receptive_field(conv), pads=pads, conv=conv)


def speech_facts(front: SpeechFront) -> Mapping[str, Any]:
    """What the description says about the cut."""
    return {"seconds": front.limit / SAMPLE_RATE}

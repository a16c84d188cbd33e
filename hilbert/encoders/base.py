"""What an encoder is, and how its name is read.

An encoder is a frozen pretrained model, or a hand-made extractor, that turns one segment into one vector. It is named
by one string, `scheme:what?option=value&option=value`, for example `hf:openai/whisper-small?layer=-2`.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from hilbert.errors import EncoderError, shown

Modality = Literal["audio", "text"]
Waveform = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Turns segments into vectors; the same segment always into the same vector, whatever stands beside it."""

    @property
    def description(self) -> Mapping[str, Any]:
        """JSON-able, and enough to tell this encoder's output from any other's: name, revision, dim, pooling, ..."""
        ...

    @property
    def dim(self) -> int:
        """Features per segment, D."""
        ...

    def encode(self, segments: Sequence[Any]) -> Features:
        """Encode n segments, 16 kHz float32 waveforms [samples] or strings.

        Returns:
            float32 [n, D], in the order given, all finite.
        """
        ...


@dataclass(frozen=True)
class EncoderName:
    """An encoder's name, taken apart.

    Attributes:
        written: as the user wrote it.
        scheme: what stands before the colon.
        target: model, folder or feature set.
        options: what stands after the question mark.
    """

    written: str
    scheme: str
    target: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, name: str) -> "EncoderName":
        """Take `scheme:target?option=value&...` apart.

        Raises:
            EncoderError: the name has another form.
        """
        scheme, colon, rest = name.partition(":")
        target, question, query = rest.partition("?")
        if not colon or not scheme or not target:
            raise EncoderError(
                f"encoder {shown(name)}: an encoder is named scheme:what, for example hf:openai/whisper-small, "
                "hf:models/my-bert or opensmile:eGeMAPSv02"
            )
        try:
            pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if question else []
        except ValueError:
            raise EncoderError(f"encoder {shown(name)}: options are written ?layer=-1&pooling=mean") from None
        twice = [key for key, _ in pairs if [other for other, _ in pairs].count(key) > 1]
        if twice:
            raise EncoderError(f"encoder {shown(name)}: option {shown(twice[0])} is given twice")
        return cls(name, scheme, target, dict(pairs))


def nearest(word: str, known: Collection[str]) -> str:
    """Half a sentence that leads from a wrong word to the right one."""
    close = difflib.get_close_matches(word.lower(), [one.lower() for one in known], n=1, cutoff=0.5)
    found = [one for one in known if close and one.lower() == close[0]]
    there = f"there are {', '.join(sorted(known))}"
    return f"did you mean {shown(found[0])}? {there}" if found else there


def check_options(name: EncoderName, known: Collection[str]) -> None:
    """Refuse an option that the encoder does not have.

    Raises:
        EncoderError: naming the nearest option.
    """
    for option in name.options:
        if option not in known:
            hint = nearest(option, known) if known else "it has none"
            raise EncoderError(f"encoder {shown(name.written)}: unknown option {shown(option)}; {hint}")

"""Frozen encoders, found by name.

load_encoder("hf:openai/whisper-small", modality="audio")        any speech or text model of transformers
load_encoder("opensmile:eGeMAPSv02", modality="audio")           hand-made acoustic functionals
register_encoder("mine", factory)                                yours, then named mine:...

A package of yours makes its encoders known to the command line by entry points of the group `hilbert.encoders`,
whose name is the scheme and whose object is the factory.
"""

from collections.abc import Callable
from importlib.metadata import entry_points

from hilbert.encoders.base import Encoder, EncoderName, Modality, nearest
from hilbert.encoders.huggingface import load_huggingface
from hilbert.encoders.opensmile import load_opensmile
from hilbert.errors import EncoderError, shown

__all__ = ["Encoder", "EncoderFactory", "EncoderName", "Modality", "load_encoder", "register_encoder"]

ENTRY_POINTS = "hilbert.encoders"

EncoderFactory = Callable[[EncoderName, Modality, str, int], Encoder]
"""(name, modality, device, batch size) -> Encoder; raises EncoderError for a name it can't load."""

_FACTORIES: dict[str, EncoderFactory] = {"hf": load_huggingface, "opensmile": load_opensmile}


def register_encoder(scheme: str, factory: EncoderFactory) -> None:
    """Make names `scheme:...` known.

    Raises:
        ValueError: the scheme is taken by another factory, or no word.
    """
    if not scheme.isidentifier():
        raise ValueError(f"a scheme is one word of letters, digits and _, not {shown(scheme)}")
    if _FACTORIES.setdefault(scheme, factory) is not factory:
        raise ValueError(f"the scheme {shown(scheme)} is taken; choose another")


def load_encoder(name: str, *, modality: Modality, device: str = "auto", batch_size: int = 16) -> Encoder:
    """Load an encoder by its name.

    Args:
        name: `hf:<model id or folder>[?layer=-1&pooling=mean&...]`, `opensmile:<feature set>`, or a registered scheme.
        modality: what it shall encode, "audio" or "text".
        device: "auto" (cuda, else mps, else cpu), or a torch device.
        batch_size: segments at once on the device; the result doesn't depend on it.

    Raises:
        EncoderError: the name is not understood, or what it names can't be loaded.
    """
    parsed = EncoderName.parse(name)
    _load_entry_point(parsed.scheme)
    if parsed.scheme not in _FACTORIES:
        raise EncoderError(
            f"encoder {shown(name)}: unknown scheme {shown(parsed.scheme)}; {nearest(parsed.scheme, _FACTORIES)}"
        )
    if batch_size < 1:
        raise EncoderError(f"encoder {shown(name)}: the batch size is {batch_size}; it must be at least 1")
    return _FACTORIES[parsed.scheme](parsed, modality, device, batch_size)


def _load_entry_point(scheme: str) -> None:
    """Registers the factory that an installed package offers for a scheme which is not known yet."""
    if scheme not in _FACTORIES:
        for found in entry_points(group=ENTRY_POINTS, name=scheme):
            register_encoder(scheme, found.load())

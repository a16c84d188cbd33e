"""HILBERT: one embedding per person from voice and words, and honest predictions from it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hilbert.classifier import HilbertClassifier as HilbertClassifier
    from hilbert.inference import predict as predict
    from hilbert.model import Hilbert as Hilbert
    from hilbert.release import Release as Release

__version__ = "0.1.0"

__all__ = ["Hilbert", "HilbertClassifier", "Release", "predict"]

_HOMES = {
    "Hilbert": "hilbert.model",
    "HilbertClassifier": "hilbert.classifier",
    "Release": "hilbert.release",
    "predict": "hilbert.inference",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is asked for: torch takes seconds, and `hilbert --help` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hilbert' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""The errors a user can cause, in one small hierarchy.

Everything that a user can put right is an `InputError`: the command line prints its message, without a
traceback, and ends with exit code 2. A message says what is wrong, where, and what would be right.
"""

from collections.abc import Sequence

LONGEST_VALUE = 80
"""Characters of a value that a message shows."""


def shown(value: object) -> str:
    """A value as a message shows it: its `repr`, cut in the middle where it is long; control characters are escaped."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, something nested too deeply
        text = f"<{type(value).__name__}>"
    if len(text) <= LONGEST_VALUE:
        return text
    half = (LONGEST_VALUE - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


class HilbertError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(HilbertError, ValueError):
    """The user's input was wrong: a file, a key, a value or a combination of them."""


class CohortError(InputError):
    """A cohort folder breaks its format.

    Attributes:
        faults: every fault found, one line each, with file and row.
    """

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([message, *faults]))
        self.faults = tuple(faults)


class StoreError(InputError):
    """A feature store is missing, damaged, foreign, or does not fit what is asked of it."""


class LabelsChangedError(StoreError):
    """The documents.csv of a feature store isn't the one that was written: somebody has edited it in place."""


class StudyError(InputError):
    """A study file, or an override of one of its keys, is wrong."""


class EncoderError(InputError):
    """An encoder's name is not understood, or the encoder can't be loaded."""

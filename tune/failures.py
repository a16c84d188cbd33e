"""Failed fold jobs: which end a sweep, and which run again when the same command is given.

A fold job that failed by its configuration's doing stays failed: memory of a GPU, a learning rate. These run again:

- all, as long as no fold job of the study has ever succeeded;
- those that failed like the first jobs of a sweep that was stopped for it;
- those whose cause lay outside of the configuration: a worker that died, files, imports, connections.
"""

import builtins
import re

from hilbert.errors import HilbertError
from tune.archive import Archive
from tune.job import JobRecord

FIRST_JOBS = 8
"""Of these, half that fail alike end the sweep."""
OUTSIDE = (OSError, ImportError)
"""Exceptions that no configuration causes, beside those of a feature store."""


class SweepError(HilbertError):
    """The sweep can't go on."""


def ending(error: str) -> str:
    """What an error says at its end, by which failures are alike."""
    lines = error.strip().splitlines()
    return lines[-1] if lines else ""


class FailureGuard:
    """Ends a sweep whose first jobs fail alike: the fault is in the study, not in a job."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def look_at(self, record: JobRecord) -> None:
        """Takes in the next record.

        Raises:
            SweepError: half of the first jobs ended with the same error.
        """
        if len(self.ends) >= FIRST_JOBS:
            return
        last = ending(record.error)
        self.ends.append(last)
        if last and self.ends.count(last) >= FIRST_JOBS // 2:
            raise SweepError(
                f"{self.ends.count(last)} of the first {len(self.ends)} fold jobs failed alike, so that the sweep was "
                "stopped; once the cause is mended, the same command runs them again. The error:\n"
                f"{record.error.strip()}"
            )


class Again:
    """Which failed fold jobs of a study run again; see the module."""

    def __init__(self, archive: Archive) -> None:
        self.nothing_succeeded = not archive.has_results
        self.stopped_on = archive.stopped_on()

    def __call__(self, record: JobRecord) -> bool:
        """Whether the job of this record runs again."""
        alike = bool(self.stopped_on) and ending(record.error) == self.stopped_on
        return self.nothing_succeeded or alike or is_outside(record.error)


def is_outside(error: str) -> bool:
    """Whether a fold job failed for a reason outside of its configuration."""
    _, traceback, raised = error.rpartition("Traceback (most recent call last):")
    if not traceback:  # whoever raises nothing has died; or ran out of time, which may be the configuration's doing
        return "after the time limit of" not in ending(error)
    names = re.findall(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?=:|$)", raised, flags=re.MULTILINE)
    kinds = [getattr(builtins, name, None) for name in names]
    return "StoreError" in names or any(isinstance(kind, type) and issubclass(kind, OUTSIDE) for kind in kinds)

"""The states of long fold jobs, from which they go on after an interruption: files in the study's folder.

A job whose node is lost goes on elsewhere, so that its state must not lie there: a worker on another node than the
driver's sends it (`States` is what both do).
"""

import hashlib
import io
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from hilbert.files import write_bytes
from hilbert.reading import Damaged, Fault, content_of
from hilbert.trainer import State
from hilbert.training import Checkpoint

CHECKPOINT_EVERY = 60.0
"""Seconds between two states of a long fit: what a lost worker costs at most."""

LARGEST = 1 << 36
"""Bytes of a state, at most."""
SEAL = b"hilbert-state-1\n"
SEAL_LENGTH = len(SEAL) + 32


class States(Protocol):
    """Where states are kept, by the identity of the fold job."""

    def read(self, identity: str) -> bytes | None:
        """The state that was written last."""

    def write(self, identity: str, state: bytes) -> None:
        """Keeps a state in the place of the one before."""

    def forget(self, identity: str) -> None:
        """The job is done."""


class FileStates:
    """States as files, written beside and renamed.

    Args:
        folder: where they lie; it must be there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self, identity: str) -> bytes | None:
        """The state that was written last. What lies there and is no file is set aside: it would be in the way."""
        path = self._path(identity)
        try:
            return content_of(path, largest=LARGEST)
        except Damaged:
            path.replace(path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}"))
        except Fault:
            pass
        return None

    def write(self, identity: str, state: bytes) -> None:
        """Keeps a state in the place of the one before."""
        write_bytes(self._path(identity), state)

    def forget(self, identity: str) -> None:
        """The job is done."""
        self._path(identity).unlink(missing_ok=True)

    def _path(self, identity: str) -> Path:
        return self.folder / f"{identity}.pt"


class StateCheckpoint(Checkpoint):
    """Keeps the state of a fold job now and then; a damaged one, or one of an older version, counts as none.

    Args:
        states: where.
        identity: of the fold job.
        every: seconds that must have passed since the last state was kept, or since the fit began.
    """

    def __init__(self, states: States, identity: str, *, every: float = CHECKPOINT_EVERY) -> None:
        self.states, self.identity, self.every, self.written = states, identity, every, time.monotonic()

    def load(self) -> State | None:
        """The state that was kept last."""
        content = self.states.read(self.identity)
        if content is None or content[:SEAL_LENGTH] != self._seal(content[SEAL_LENGTH:]):
            return None
        try:
            state: State = torch.load(io.BytesIO(content[SEAL_LENGTH:]), weights_only=True)
        except Exception:  # whatever torch raises of what another version of it wrote
            return None
        return state

    def save(self, state: Callable[[], State]) -> None:
        """Keeps the state, if it is time to."""
        if time.monotonic() - self.written < self.every:
            return
        content = io.BytesIO()
        torch.save(state(), content)
        self.states.write(self.identity, self._seal(content.getvalue()) + content.getvalue())
        self.written = time.monotonic()

    def _seal(self, content: bytes) -> bytes:
        """What stands before a state, of its job and content: torch itself doesn't notice a changed bit of a tensor."""
        return SEAL + hashlib.sha256(self.identity.encode() + content).digest()

"""Temporary folders: private, of names that nobody can guess, and gone with their process, also where that was killed.

A process that has such a folder holds a lock on it, which the system takes back however the process ends. So whoever
makes a folder knows those that others have left behind, and removes them. Neither process ids are believed, which are
given again and mean something else in a container, nor times. Folders of other users are left alone, and so are those
of other computers, where several share a folder for temporary files.
"""

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hilbert.errors import HilbertError

if sys.platform != "win32":
    import fcntl

HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:4]
PREFIX = f"hilbert-{HOST}-"
_cleared = set[Path]()


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """An empty folder that only this user may enter, removed at the end; clears what killed processes have left.

    Args:
        parent: where; None: where the system has its temporary files.

    Raises:
        HilbertError: it can't be made.
    """
    parent = temporary_place() if parent is None else parent
    _clear_once(parent)
    folder, lock = _made(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _let_go(lock)


def temporary_place() -> Path:
    """The folder for temporary files: that of TMPDIR, where it can be written, else /tmp or the like.

    Raises:
        HilbertError: there is none.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        raise HilbertError(
            "no folder for temporary files can be written, be it full or forbidden: TMPDIR, /tmp, /var/tmp and this "
            "folder were tried; set TMPDIR to one with room"
        ) from None


def clear(parent: Path) -> None:
    """Removes the folders below `parent` that were made here, by this user, and whose process is gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it has just been removed, isn't a folder, is somebody else's, or in use
            if folder.lstat().st_uid == os.getuid():
                lock = _locked(folder, wait=False)
                try:
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    _let_go(lock)


def _clear_once(parent: Path) -> None:
    if parent not in _cleared and sys.platform != "win32":
        _cleared.add(parent)
        clear(parent)


def _made(parent: Path) -> tuple[Path, int | None]:
    """A new folder, and the lock on it."""
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            raise HilbertError(f"no temporary folder can be made in {parent} ({error.strerror}); see TMPDIR") from None
        lock = None
        with suppress(OSError):  # there is no such lock here: then nobody will take it for left behind, either
            lock = _locked(folder, wait=True)
        if folder.exists():  # else it was taken for one that was left behind, before it was locked
            return folder, lock
        _let_go(lock)


def _locked(folder: Path, *, wait: bool) -> int | None:
    """Locks a folder; returns what holds the lock.

    Raises:
        OSError: it is locked, or this file system knows no such locks.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _let_go(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)

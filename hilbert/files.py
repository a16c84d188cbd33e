"""Files that are whole or not there, and what they hold."""

import errno
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

NEW_FILE = 0o666
"""Mode of a new file, before the user's umask takes its part off."""
PRIVATE = 0o600
"""Mode of a file that only its owner may read."""


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unforeseen(path: Path) -> Path:
    """A name beside `path` for what becomes it when it is whole: nobody can guess it, hence no link can wait there."""
    return path.with_name(f".{secrets.token_hex(8)}.partial")


def make_real(folder: Path) -> None:
    """Makes a folder, unless it is there, for work that goes on later and needs a name that can be foreseen.

    Raises:
        OSError: a link waits there, which somebody else may have put there; or it can't be made.
    """
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "a link lies there, and no folder", str(folder))
    folder.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically, line ends as they are: see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, *, mode: int = NEW_FILE) -> None:
    """Writes a file atomically: a reader finds the old file or the new one, also after a crash or a power cut.

    The content goes to a new file in the same folder, see `unforeseen`. It is flushed to the disk and renamed, and so
    is the folder's entry.

    Args:
        path: the file; its folder must be there. A symbolic link is replaced, not followed.
        content: the bytes.
        mode: permissions, from before the first byte is written; the umask takes its part off.

    Raises:
        OSError: the disk is full or can't be written; nothing is left behind.
    """
    partial = unforeseen(path)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flushes a file, or a folder's entries, to the disk, so that no power cut leaves a name without contents."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

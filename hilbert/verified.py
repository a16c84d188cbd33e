"""Which large files are known to hold what a manifest says, so that none is read twice for it.

A file that was read and compared is known again by its path, device, inode, size and times of change: in this process,
in a small file of the user's cache (`HILBERT_CACHE`, else below `XDG_CACHE_HOME` or `~/.cache`), and in processes that
were told (`known`, `trust`). Where the cache can't be written, files are read again, and nothing else changes. A file
that was written within the last seconds isn't kept in mind: it could change once more within one tick of its clock.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hilbert.files import PRIVATE, write_bytes
from hilbert.reading import content_of, parse_json

Stamp = tuple[int, int, int, int, int]
"""Device, inode, bytes, and nanoseconds of the last change of contents (mtime) and of the inode (ctime)."""
Known = dict[str, tuple[Stamp, str]]
"""By path: the file's stamp when it was compared, and its SHA-256."""

NAME, FORMAT, VERSION = "verified.json", "hilbert-verified", 1
MOST = 1000
"""Files that the cache keeps in mind; the longest known are dropped."""
SETTLED = 2.0
"""Seconds that a file must have been left alone: the coarsest clock of a file system in use."""
PATIENCE = 600.0
"""Seconds to wait for another process that reads the same files."""

_here: Known = {}
_told: Known = {}
_before: set[tuple[str, Stamp, str]] = set()  # files that were replaced since, and may still be mapped


def cache_folder() -> Path:
    """Where the user's cache is: HILBERT_CACHE, else the folder `hilbert` below XDG_CACHE_HOME or ~/.cache.

    Raises:
        RuntimeError: the user has no home.
    """
    given = os.environ.get("HILBERT_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hilbert"


def stamp_of(path: Path) -> Stamp:
    """What a file is known again by.

    Raises:
        OSError: it can't be looked at.
    """
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def verify(folder: Path, files: Mapping[str, str], read: Callable[[str], None]) -> None:
    """Has those files read that aren't known; other processes of this node wait for it, and needn't read them too.

    Args:
        folder: where they lie.
        files: SHA-256 of each, by its name.
        read: called with the name of a file to read; raises where it isn't what it should be.
    """
    if not unknown(folder, files):
        return
    with _alone(folder):
        for name in unknown(folder, files):
            before = stamp_of(folder / name)
            read(name)
            remember({str(folder / name): (before, files[name])})


def unknown(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Names of the files that aren't known to be what they should be."""
    wanted = {name: (_stamp_or_none(folder / name), sha256) for name, sha256 in files.items()}
    left = {name: one for name, one in wanted.items() if one[0] is None or not is_known(folder / name, one[0], one[1])}
    kept = _kept() if left else {}
    found = {name: kept[str(folder / name)] for name, one in left.items() if kept.get(str(folder / name)) == one}
    _keep({str(folder / name): one for name, one in found.items()})
    return [name for name in left if name not in found]


def is_known(path: Path, stamp: Stamp, sha256: str) -> bool:
    """Whether this process knows that a file was what it should be when it had this stamp."""
    if _here.get(str(path)) == (stamp, sha256) or (str(path), stamp, sha256) in _before:
        return True
    told = _told.get(str(path))
    return told is not None and (told[0][1:], told[1]) == (stamp[1:], sha256)


def known() -> Known:
    """All that this process knows, to be passed to others by `trust`."""
    return _told | _here


def trust(told: Mapping[str, tuple[Stamp, str]]) -> None:
    """Takes another process's word for its files, as long as inode, size and times are the same.

    The device may differ, since a file that is shared has another one on every node.
    """
    _told.update(told)


def _stamp_or_none(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None


def remember(new: Known) -> None:
    """Keeps in mind what was compared, by stamps from before it was read: here, and in the user's cache if possible."""
    now = time.time_ns()
    settled = {path: one for path, one in new.items() if now - one[0][3] > SETTLED * 1e9}
    _keep(settled)
    if not settled:
        return
    with contextlib.suppress(OSError, RuntimeError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = {path: one for path, one in _kept().items() if path not in settled} | settled
        files = dict(list(kept.items())[-MOST:])
        content = {"format": FORMAT, "version": VERSION, "files": files}
        write_bytes(folder / NAME, json.dumps(content).encode(), mode=PRIVATE)


def _keep(new: Known) -> None:
    _before.update((path, *_here[path]) for path in new.keys() & _here.keys())
    _here.update(new)


def _kept() -> Known:
    """What the user's cache knows; nothing where it is missing, damaged or of another version."""
    try:
        content = parse_json(content_of(cache_folder() / NAME))
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            return {}
        found: Known = {str(path): (tuple(stamp), str(sha256)) for path, (stamp, sha256) in content["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return {}
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this user and node reads a folder's files, the others wait; without a lock where there is none."""
    import filelock  # here, since it is needed once a store

    mark = hashlib.sha256(os.fsencode(folder)).hexdigest()[0]  # sixteen locks are enough, and never more files
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, RuntimeError, filelock.Timeout, NotImplementedError):
            place = cache_folder()
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(filelock.FileLock(place / f"verified-{mark}.lock", timeout=PATIENCE))
        yield

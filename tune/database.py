"""The sqlite file that a tracking address names, and who may touch it first.

SQLAlchemy reads the path of an address with its `%XX` replaced, and ends it at the first `?`; MLflow makes the folders
of the path as it is written. Hence an address holds the path as it is; one that they read differently is refused.

MLflow sets up a new file's tables in many steps. Two processes that do so at once damage it: a lock beside the file
keeps them apart.
"""

import logging
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote

from filelock import FileLock, Timeout

from hilbert.errors import InputError
from tune.redaction import printable
from tune.terminal import tell

SQLITE = "sqlite:///"
PATIENCE, TELL_AFTER = 300.0, 5.0
"""Seconds that another process may take to set a database up, and after which it is said that it is waited for."""


def address(path: Path) -> str:
    """The address of a sqlite file.

    Raises:
        InputError: its path can't stand in an address.
    """
    text = str(path.absolute())
    found = re.search(r"\?|%[0-9A-Fa-f]{2}", text)
    if found:
        raise InputError(
            f"{path.absolute()}: MLflow can't keep its sqlite database in a folder whose name holds {found[0]!r}, which"
            " has a meaning of its own in database addresses: rename the folder, or name a database elsewhere with"
            " --tracking-uri sqlite:////folder/mlflow.db"
        )
    return SQLITE + text


def database(uri: str) -> Path | None:
    """The file that an address names; None where it is no sqlite file's."""
    if not uri.startswith(SQLITE):
        return None
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def whole_address(uri: str) -> str:
    """The address of a sqlite file with its whole path, for processes with another working folder; others as they are.

    Raises:
        InputError: the path can't stand in an address.
    """
    path = database(uri)
    if path is None:
        return uri
    _, mark, query = uri.partition("?")
    if "/" in query:
        raise InputError(
            f"--tracking-uri {printable(uri)}: what follows '?' are options, and no part of the path: MLflow can't keep"
            " its sqlite database in a folder whose name holds '?'; rename the folder, or name another one"
        )
    return address(path) + mark + query


@contextmanager
def first_touch(path: Path) -> Iterator[None]:
    """Keeps others from setting up the same database meanwhile; whoever ends in whatever way lets go.

    The lock lies beside the database. Where nothing can be written a database that is there is read without one.

    Raises:
        InputError: the folder can't be made or written and there is no database, or the lock is held for long.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(_unwritable(path, error)) from None
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        _acquire(lock, path)
    except OSError as error:
        if not path.exists():
            raise InputError(_unwritable(path, error)) from None
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path) -> None:
    logging.getLogger("filelock").setLevel(logging.WARNING)
    started = time.monotonic()
    try:
        lock.acquire(timeout=TELL_AFTER)
    except Timeout:
        tell(f"waiting for another process that is opening {path} ...")
    else:
        return
    try:
        lock.acquire(timeout=PATIENCE - TELL_AFTER)
    except Timeout:
        raise InputError(
            f"{path}: another process has been opening this database for {time.monotonic() - started:.0f} seconds; stop"
            f" it, or if there is none, remove {lock.lock_file}"
        ) from None


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"MLflow's database {path} isn't there, and its folder can't be written ({error.strerror or error}): run the"
        " command in a folder of yours, or name another place with --tracking-uri"
    )


def unusable(path: Path) -> str | None:
    """Why a file can't be MLflow's database, as a phrase; None where nothing speaks against it, or it isn't there.

    MLflow itself would try again for minutes.
    """
    if path.is_dir():
        return "is a folder"
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        tables = _tables(path)
    except sqlite3.Error as error:
        return f"is no sqlite database that can be read ({error})"
    if tables and not {"experiments", "alembic_version"} & tables.keys():
        return "is a database of something else"
    return None


def half_made(path: Path) -> bool:
    """Whether a database that MLflow can't use holds no run: its first start was interrupted, or two raced."""
    try:
        return not _tables(path).get("runs")
    except (sqlite3.Error, OSError):
        return False


def _tables(path: Path) -> dict[str, int]:
    """The tables of a database; of `runs` also the number of its rows."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
        tables = {name: 0 for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "runs" in tables:
            tables["runs"] = opened.execute("SELECT count(*) FROM runs").fetchone()[0]
    return tables

"""Whether a tracking server or a database of one can be reached, found out before MLflow tries for minutes."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hilbert.errors import InputError
from tune.database import SQLITE, TELL_AFTER
from tune.redaction import without_passwords
from tune.terminal import tell

LIMIT = 15
"""Seconds that a database server has to answer."""
TIMEOUTS = {"psycopg": "connect_timeout", "psycopg2": "connect_timeout", "pymysql": "connect_timeout"}
"""What drivers call the limit of a connection, in seconds."""


def check_credentials(uri: str) -> None:
    """Refuses an address whose user or password must be escaped: parts of it would be taken for host or path.

    Raises:
        InputError: with the character.
    """
    scheme, _, rest = uri.partition("://")
    if rest.startswith("/") or not re.match(r"[^:/?#@]*[:@]", rest) or re.match(r"[^:/?#@]*:\d+([/?#]|$)", rest):
        return
    first, at, after = rest.partition("@")
    user = (first + at + after.partition("?")[0]).rpartition("@")[0]
    reserved = r"[@/?#\s]" if scheme in {"http", "https"} else r"[@\s]"
    if found := re.search(reserved, user):
        escaped = f"%{ord(found[0]):02X}"
        raise InputError(
            f"--tracking-uri {without_passwords(uri)}: the user's name and password of an address are written with"
            f" {escaped} for {found[0]!r} (@ is %40, : %3A, / %2F, # %23, ? %3F, % %25)"
        )


@contextmanager
def told_after(message: str) -> Iterator[None]:
    """Says on standard error that something is waited for, where the block takes longer than `TELL_AFTER` seconds."""
    timer = threading.Timer(TELL_AFTER, tell, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def try_database(uri: str) -> None:
    """Connects to a database server once, where `uri` names one.

    Raises:
        Exception: of the driver's, within `LIMIT` seconds, where the driver knows a limit; it may repeat the address.
    """
    if re.match(r"https?://|file:|databricks|uc:", uri) or "://" not in uri or uri.startswith(SQLITE):
        return
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url

    try:
        url = make_url(uri)
        option = TIMEOUTS.get(url.get_driver_name())
        engine = create_engine(url, connect_args={option: LIMIT} if option and option not in url.query else {})
    except ModuleNotFoundError as error:
        raise InputError(
            f"--tracking-uri {without_passwords(uri)}: the package {error.name!r}, which speaks to such databases, is"
            " missing here; pip install 'hilbert[cluster]' brings psycopg, for PostgreSQL"
        ) from None
    try:
        with engine.connect():
            pass
    finally:
        engine.dispose()

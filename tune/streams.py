"""What goes to stdout and stderr where the locale, or PYTHONIOENCODING, has no UTF-8.

What programs read, CSV, paths and links, is UTF-8 whatever the locale: no name is ever replaced there. What people read
keeps the locale's encoding; what that lacks becomes the nearest ASCII, letters their codes.
"""

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

PLAIN = "hilbert.plain"
ASCII = {
    **{"±": "+-", "×": "x", "²": "^2", "→": "->", "…": "...", "·": "-", "•": "*", "≥": ">=", "≤": "<=", "≈": "~"},
    **dict.fromkeys("─━╸╺╴╶—–", "-"),
    **dict.fromkeys("│┃|", "|"),
    **dict.fromkeys("█▉▊▋▌▍▎▏▐", "#"),
    **dict.fromkeys("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "*"),
}
"""What tables, bars and progress are drawn with, in ASCII."""


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of `codecs`: see ASCII; names are escaped, so that two never become the same."""
    assert isinstance(error, UnicodeEncodeError)
    place = error.start
    if (found := ASCII.get(error.object[place])) is not None:
        return found, place + 1
    one = UnicodeEncodeError(error.encoding, error.object, place, place + 1, error.reason)
    return codecs.backslashreplace_errors(one)


codecs.register_error(PLAIN, _plain)


def for_people() -> None:
    """Neither stream fails for a character that its encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        _set(stream, errors=PLAIN)


@contextmanager
def for_programs() -> Iterator[None]:
    """Within the block what is written to stdout is UTF-8; paths come out as the file system has them."""
    before = sys.stdout.encoding, sys.stdout.errors
    _set(sys.stdout, encoding="utf-8", errors="surrogateescape")
    try:
        yield
    finally:
        _set(sys.stdout, encoding=before[0], errors=before[1])


def _set(stream: object, *, errors: str | None, encoding: str | None = None) -> None:
    """Sets a stream's encoding, where it has one: what a notebook or a test puts in its place may have none."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding=encoding, errors=errors)

"""What is said on the terminal: one way to print, through which no password and no control character of others passes.

Names, notes and errors come from servers, files and libraries: a text of theirs is shown as it is, and is never markup.
"""

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from tune.redaction import plain, printable

WIDE = 240
"""Columns of a table that goes into a file or a pipe: nothing is cut."""


class Terminal(Console):
    """A console of rich that shows texts only as `tune.redaction.printable` lets them through."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """A text that is to be printed, or a cell of a table."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Whatever is to be printed, in pieces; those that rich itself makes to move the cursor are left alone."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=plain(segment.text))


def console() -> Console:
    """Standard error: progress and messages."""
    return Terminal(stderr=True)


def results() -> Console:
    """Standard output: results."""
    found = Terminal()
    return found if found.is_terminal else Terminal(width=WIDE)


def tell(message: str) -> None:
    """A message to standard error."""
    print(printable(message), file=sys.stderr, flush=True)


def prepare_messages() -> None:
    """Lets what is said past this module through the same filter: log records, warnings, tracebacks."""
    logging.setLogRecordFactory(_record)
    warnings.formatwarning = _warning
    sys.excepthook = _hook
    threading.excepthook = lambda args: _hook(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)


_plain_record, _plain_warning = logging.getLogRecordFactory(), warnings.formatwarning


def _record(*arguments: Any, **options: Any) -> logging.LogRecord:
    record = _plain_record(*arguments, **options)
    try:
        record.msg, record.args = printable(record.getMessage()), ()
    except Exception:  # whoever logs it hears of it
        return record
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = printable("".join(traceback.format_exception(record.exc_info[1]))).rstrip("\n")
    return record


def _warning(*arguments: Any, **options: Any) -> str:
    return printable(_plain_warning(*arguments, **options))


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(printable("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)

"""CSV files that people open in a spreadsheet, which takes a cell that begins with `=`, `+`, `-` or `@` for a formula.

Such a cell, of ids, classes or names, gets a leading apostrophe (OWASP, "CSV injection"); numbers stay as they are.
What this program reads back loses it again. Parquet files hold cells as they are, and so does a feature store's own
documents.csv, which no spreadsheet may save again anyway.
"""

import re
from pathlib import Path

import pandas as pd

FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""What begins a cell that gets an apostrophe; those that begin with one get one too, so that it can be taken away."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def escaped(cell: object) -> object:
    """A cell as a spreadsheet shows it and doesn't compute it; anything but a text comes back as it is."""
    if isinstance(cell, str) and FORMULA.match(cell) and not NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def unescaped(cell: object) -> object:
    """The inverse of `escaped`."""
    if isinstance(cell, str) and cell.startswith("'") and escaped(cell[1:]) == cell:
        return cell[1:]
    return cell


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV for people, without its index; headers are escaped as cells are."""
    safe = frame.set_axis([escaped(name) for name in frame.columns], axis=1)
    for place, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe.isetitem(place, [escaped(cell) for cell in frame.iloc[:, place]])
    return str(safe.to_csv(index=False))


def read_csv(path: Path) -> pd.DataFrame:
    """What `csv_text` wrote, every cell a text; an empty cell is an empty one.

    Raises:
        ValueError, OSError: it can't be read.
    """
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return frame.map(unescaped).set_axis([unescaped(name) for name in frame.columns], axis=1)

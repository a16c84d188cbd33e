"""Small CSV tables, read so that every fault can be told with its line.

A table is a DataFrame of stripped strings (dtype object, None where the cell is empty). Its index is named `row`:
the line of the file on which the row begins, counting the header as line 1.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hilbert.cells import tidy
from hilbert.errors import shown
from hilbert.exports import more_headers, no_table, not_utf8, wrong_layout

_LONGEST_CELL = 2**31 - 1  # a whole transcript may stand in one cell; the csv module stops at 128 KiB unless told


@dataclass(frozen=True, eq=False)
class Table:
    """A CSV file as read, and what is wrong with it as a table.

    Attributes:
        frame: strings or None; index `row`, the line in the file. Empty where the file can't be read.
        faults: one line each, with file and row.
    """

    frame: pd.DataFrame
    faults: tuple[str, ...] = ()


def _decode(data: bytes, name: str) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark; a ValueError that says what it is otherwise."""
    if fault := no_table(data, name):
        raise ValueError(fault)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(data, error.start, name)) from None
    if fault := wrong_layout(text, name):
        raise ValueError(fault)
    return text


def _records(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """(line, stripped cells) of every record that isn't blank, the header first."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f'{name} row {line}: bad CSV ({error}); put cells that hold commas or quotes in "...", '
                'and write a quote inside them twice ("")'
            ) from None
        if any(cells):
            yield line, cells


def _header_faults(columns: list[str], name: str) -> list[str]:
    faults = [
        f"{name} row 1: column {shown(column)} appears {columns.count(column)} times; every column needs its own name"
        for column in dict.fromkeys(columns)
        if column and columns.count(column) > 1
    ]
    faults += [
        f"{name} row 1: column {number} has no name; name it or delete it"
        for number, column in enumerate(columns, start=1)
        if not column
    ]
    return faults


def read_table(path: Path) -> Table:
    """Read a CSV file: UTF-8 (a byte-order mark is fine), commas, a header, any line ends, blank lines skipped.

    Never raises on what the user wrote; what is wrong comes back in `faults`.
    """
    empty = pd.DataFrame()
    if not path.is_file():
        return Table(empty, (f"{path.name}: missing in {path.parent}",))
    try:
        records = list(_records(_decode(path.read_bytes(), path.name), path.name))
    except (ValueError, OSError) as error:
        return Table(empty, (str(error),))
    if not records:
        return Table(empty, (f"{path.name}: empty; its first row must name the columns",))
    if fault := more_headers(records, path.name):
        return Table(empty, (fault,))
    columns = [tidy(column) for column in records[0][1]]
    faults = _header_faults(columns, path.name)
    ragged = [(line, cells) for line, cells in records[1:] if len(cells) != len(columns)]
    faults += [
        f"{path.name} row {line}: {len(cells)} cells where the header has {len(columns)}; "
        'put cells that hold commas in "..."'
        for line, cells in ragged
    ]
    if faults:
        return Table(empty, tuple(faults))
    index = pd.Index([line for line, _ in records[1:]], name="row", dtype="int64")
    rows = [[cell or None for cell in cells] for _, cells in records[1:]]
    return Table(pd.DataFrame(rows, index=index, columns=columns, dtype=object))


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():  # a whole-number column that pandas made float for its gaps
        return str(int(value))
    return str(value).strip()


def table_text(frame: pd.DataFrame) -> str:
    """The table as CSV, the same bytes for the same cells: header, comma, LF, empty cell = missing."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows([_cell(value) for value in row] for row in frame.itertuples(index=False, name=None))
    return out.getvalue()

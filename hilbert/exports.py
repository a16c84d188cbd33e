"""What a table is that can't be read as CSV, or should not be: the program that wrote it, and how to save it rightly.

Excel, Qualtrics and others export files called .csv that are something else: workbooks, web pages, UTF-16, semicolons
with decimal commas, lines above and below the header. A refusal that names the cause saves an afternoon.
"""

import csv
import re
from collections.abc import Sequence

from hilbert.cells import tidy

RIGHT = "save it as 'CSV UTF-8 (comma delimited)'"

_SIGNATURES = {
    b"PK\x03\x04": ("a zip archive, such as an Excel workbook (.xlsx) or an OpenDocument table", "open it there and"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Excel workbook of the old kind (.xls)", "open it in Excel and"),
    b"%PDF": ("a PDF", "get the table from the program that made it, and"),
    b"{\\rtf": ("a rich text document (RTF)", "copy the table into a spreadsheet, and"),
    b"$FL2": ("an SPSS file (.sav)", "open it in SPSS and"),
    b"$FL3": ("an SPSS file (.zsav)", "open it in SPSS and"),
    b"<stata_dta>": ("a Stata file (.dta)", "use 'export delimited' in Stata, or"),
    b"PAR1": ("a Parquet file", "use pandas' to_csv, or"),
    b"\x1f\x8b": ("compressed (gzip), as R's .rds and .RData are too", "decompress it, or"),
    b"RDX": ("an R workspace (.RData)", "use R's write.csv, or"),
    b"SQLite format 3": ("an SQLite database", "export the table, or"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "run 'git lfs pull', or"),
}
_MARKUP = re.compile(rb"\s*<(?:!doctype|html|head|body|table|\?xml|meta|!--)", re.IGNORECASE)
_JSON = re.compile(rb'\s*(?:\{\s*"|\[\s*[{\[])')
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_DECIMAL_COMMA = re.compile(r"(?:^|[;\t|])\s*\"?-?\d+,\d+\"?\s*(?=[;\t|]|$)", re.MULTILINE)
_IMPORT_ID = re.compile(r"""\{\s*["']ImportId["']""")
_LOOKED_AT = 20  # lines


def no_table(data: bytes, name: str) -> str | None:
    """Why the bytes are no CSV file of UTF-8, and what to do; None where nothing speaks against it."""
    for signature, (what, how) in _SIGNATURES.items():
        if data.startswith(signature):
            return f"{name} row 1: the file is no CSV but {what}; {how} {RIGHT}"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or _is_wide(data):
        return f"{name} row 1: not UTF-8 but UTF-16, as Excel's 'Unicode Text' is; {RIGHT}"
    if _MARKUP.match(data.removeprefix(b"\xef\xbb\xbf")):
        return (
            f"{name} row 1: the file is no CSV but a web page (HTML or XML), as some programs export tables and as a "
            f"download without a login gives; open it in a spreadsheet and {RIGHT}, or download it again"
        )
    if _JSON.match(data.removeprefix(b"\xef\xbb\xbf")):
        return f"{name} row 1: the file is no CSV but JSON; use pandas' to_csv, or {RIGHT}"
    if b"\0" in data:
        return (
            f"{name} row {_line_of(data, data.index(0))}: holds NUL bytes, which no text has: the file is damaged (a"
            " full disk, an interrupted copy) or no text; get it again from where it came from"
        )
    return None


def _is_wide(data: bytes) -> bool:
    """UTF-16 without a byte-order mark: every other byte is NUL."""
    head = data[:200]
    halves = head[::2].count(0), head[1::2].count(0)
    return len(head) >= 8 and max(halves) > len(head) // 3 and min(halves) <= 1


def not_utf8(data: bytes, position: int, name: str) -> str:
    """What to say of a byte that is no UTF-8."""
    shown = data[position : position + 1].hex().upper()
    return (
        f"{name} row {_line_of(data, position)}: not UTF-8 (byte {shown}) but maybe Windows-1252 or Latin-1, as "
        f"Excel's plain 'CSV' is; {RIGHT}"
    )


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def wrong_layout(text: str, name: str) -> str | None:
    """Why a text is no table with commas under a single header, and what to do; None where nothing says so."""
    lines = [line for line in text[:100_000].splitlines()[:_LOOKED_AT] if line.strip()]
    if not lines:
        return None
    if re.match(r'"?sep\s*=', lines[0], re.IGNORECASE):
        return (
            f"{name} row 1: {lines[0].strip()[:20]!r} is a line for Excel alone, above the header; delete it (and see"
            " that ',' stands between the cells)"
        )
    header = _cells(lines[0], ",")
    if "document_id" in header:
        return None
    found = {what: _cells(lines[0], separator) for separator, what in _SEPARATORS.items()}
    what = max(found, key=lambda one: ("document_id" in found[one], len(found[one])))
    return _other_separator(text, name, what) if len(found[what]) > len(header) else None


def _other_separator(text: str, name: str, what: str) -> str:
    comma = bool(_DECIMAL_COMMA.search(text[:100_000]))
    return (
        f"{name} row 1: the cells are not separated by commas but by {what}"
        + (", and numbers have decimal commas" if comma else "")
        + ", as Excel and R's write.csv2 write them where the decimal sign is a comma; save the file with ',' between "
        + ("the cells and '.' in numbers" if comma else "the cells")
        + " (R: write.csv; pandas: read_csv(..., sep=None, decimal=',') and to_csv(index=False); Excel: change the "
        "region's separators, then 'CSV UTF-8')"
    )


def _cells(line: str, separator: str) -> list[str]:
    try:
        return [tidy(cell) for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]
    except csv.Error:
        return []


def more_headers(records: Sequence[tuple[int, list[str]]], name: str) -> str | None:
    """Why a table has rows that are no data around its header; None where nothing speaks for it.

    Args:
        records: (line, cells) of the records of a file, the header first.
        name: of the file.
    """
    first = records[1:5]
    for place, (line, cells) in enumerate(first):
        if any(_IMPORT_ID.match(cell) for cell in cells):
            rows = " and ".join(f"row {row}" for row, _ in first[: place + 1])
            return (
                f"{name} {rows}: more header rows of a Qualtrics export (questions, ImportId) under the header; delete"
                " them, people begin in the row below"
            )
        if "Open-Ended Response" in cells:
            return f"{name} row {line}: a second header row of a SurveyMonkey export; delete it"
    if "document_id" not in records[0][1]:
        for line, cells in records[1:_LOOKED_AT]:
            if "document_id" in cells:
                return f"{name} row {line}: the header stands here, and must be the first row; delete what is above"
    return None

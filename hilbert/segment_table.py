"""The table of segments as it is understood: numbers as numbers, codes for missing values as gaps, names of files.

What is understood is told in a note with its count; what can't be is a fault with its row.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from hilbert.cells import is_broken, is_missing, is_unspoken, may_be_unspoken, number, tidy, told_counts
from hilbert.errors import shown
from hilbert.people import missing_id_faults, tidied

SEGMENTS = "segments.csv"
KNOWN = ("document_id", "segment", "audio", "start", "end", "text")
_WHOLE = re.compile(
    r"[+-]?\d{1,18}(?:\.0*)?"
)  # 18 digits fit into int64; 1.0 is what pandas makes of a column with gaps
_TOO_BIG = re.compile(r"[+-]?\d{19,}")


def read_segments(raw: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Understands a table of segments.

    Args:
        raw: as read, with columns `document_id` and `segment`; index `row`, the line in the file.
        folder: the cohort's, where the names of sound files are looked up.

    Returns:
        The segments, columns of `KNOWN` first (a bad number becomes -1 or NaN); notes; faults.
    """
    frame, notes = tidied(raw, ["document_id"], SEGMENTS)
    frame = frame.assign(
        **{
            column: pd.Series([None] * len(frame), index=frame.index, dtype=object)
            for column in KNOWN
            if column not in frame.columns
        }
    )
    for column in ("audio", "start", "end", "text"):
        frame, told = _without_codes(frame, column, folder)
        notes += told
    frame, told = _found_on_disk(frame, folder)
    notes += told
    faults = missing_id_faults(frame, SEGMENTS)
    segments, bad = _segment_numbers(frame, faults, notes)
    seconds = {column: _seconds(frame, column, faults) for column in ("start", "end")}
    frame = frame.assign(segment=segments, **seconds)
    faults += _duplicate_faults(frame, bad)
    return frame[[*KNOWN, *(column for column in frame.columns if column not in KNOWN)]], notes, faults


def _without_codes(frame: pd.DataFrame, column: str, folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """A column with None in place of codes for missing values, and what was done."""
    counts = Counter(cell for cell in frame[column] if cell is not None)
    if column == "text":
        codes = {text: count for text, count in counts.items() if is_unspoken(text)}
        said = {text: count for text, count in counts.items() if may_be_unspoken(text)}
    else:
        gaps = (text for text in counts if is_missing(text) and not is_broken(text))
        codes, said = {text: counts[text] for text in gaps if not (folder / text).is_file()}, {}
    notes = []
    if said:
        notes.append(
            f"{SEGMENTS}: text: {told_counts(said)}: taken as spoken words; empty these cells if nothing is said"
        )
    if codes:
        what = "nothing is said there, the cells count as empty" if column == "text" else "the cells count as empty"
        notes.append(f"{SEGMENTS}: {column}: {told_counts(codes)}: {what}")
        kept = [None if cell in codes else cell for cell in frame[column]]
        frame = frame.assign(**{column: pd.Series(kept, index=frame.index, dtype=object)})
    return frame, notes


def _found_on_disk(frame: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Names of sound files in the Unicode form in which they lie on disk, where that is another one."""
    listings = dict[Path, Mapping[str, list[str]]]()
    names = [name for name in dict.fromkeys(frame["audio"].dropna()) if not (name.isascii() and name.isprintable())]
    renamed = {
        name: found for name in names if not (folder / name).exists() and (found := _on_disk(folder, name, listings))
    }
    if not renamed:
        return frame, []
    kept = [renamed.get(name, name) for name in frame["audio"]]
    told = f"{SEGMENTS}: audio: {len(renamed)} names are spelled in another Unicode form than the files: found so"
    return frame.assign(audio=pd.Series(kept, index=frame.index, dtype=object)), [told]


def _on_disk(folder: Path, name: str, listings: dict[Path, Mapping[str, list[str]]]) -> str | None:
    """The path below `folder` that is the same but for invisible characters and composed letters."""
    place = folder
    for part in PurePosixPath(name).parts:
        if part != ".." and not (place / part).exists():
            if place not in listings:
                listings[place] = _listing(place)
            alike = listings[place].get(tidy(part), [])
            if len(alike) != 1:
                return None
            part = alike[0]
        place = place / part
    return place.relative_to(folder).as_posix()


def _listing(place: Path) -> Mapping[str, list[str]]:
    found = dict[str, list[str]]()
    for entry in place.iterdir() if place.is_dir() else ():
        found.setdefault(tidy(entry.name), []).append(entry.name)
    return found


def _segment_numbers(frame: pd.DataFrame, faults: list[str], notes: list[str]) -> tuple["pd.Series[int]", set[int]]:
    """The segments' numbers, -1 where it is none, and the rows of these."""
    numbers, bad, decimal = list[int](), set[int](), 0
    for row, text in zip(frame.index, frame["segment"], strict=True):
        if text is not None and _WHOLE.fullmatch(text):
            numbers.append(int(text.partition(".")[0]))
            decimal += "." in text
            continue
        numbers.append(-1)
        bad.add(int(row))
        big = text is not None and _TOO_BIG.fullmatch(text)
        right = "18 digits at most: number the segments of a document 0, 1, 2" if big else "an integer: 0, 1, 2"
        faults.append(f"{SEGMENTS} row {row}: segment is {shown(text or 'empty')}; write the order as {right}")
    if decimal:
        notes.append(f"{SEGMENTS}: segment: {decimal} numbers are written like 1.0: the same as 1")
    return pd.Series(numbers, index=frame.index, dtype="int64"), bad


def _seconds(frame: pd.DataFrame, column: str, faults: list[str]) -> "pd.Series[float]":
    """Seconds as numbers, NaN for an empty cell."""
    seconds = list[float]()
    for row, text in zip(frame.index, frame[column], strict=True):
        value = math.nan if text is None else number(text)
        seconds.append(math.nan if value is None else value)
        if value is None:
            faults.append(f"{SEGMENTS} row {row}: {column} is {shown(text)}; write seconds as a number like 12.5")
    return pd.Series(seconds, index=frame.index, dtype="float64")


def _duplicate_faults(segments: pd.DataFrame, bad_number: set[int]) -> list[str]:
    faults, first_row = [], dict[tuple[str, int], int]()
    for row, document, order in zip(segments.index, segments["document_id"], segments["segment"], strict=True):
        if row in bad_number or document is None:
            continue
        if (document, order) in first_row:
            faults.append(
                f"{SEGMENTS} row {row}: segment {order} of document {shown(document)} stands already in row "
                f"{first_row[document, order]}; number the segments of a document 0, 1, 2, each once"
            )
        else:
            first_row[document, order] = int(row)
    return faults

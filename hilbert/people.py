"""The table of documents as people are told apart by it: ids, groups and column names in one spelling each.

What can be understood is, and is told in a note with its count; what only the user can know is a fault with its rows.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from hilbert.cells import ALIKE, is_broken, is_no_group, matches, number, suspected_codes, tidy, told_counts, twins
from hilbert.errors import shown
from hilbert.groups import read_groups, twin_groups

_TOLD = 5  # twins told by name


@dataclass
class People:
    """A table of documents as it is understood.

    Attributes:
        documents: the table: names, ids and groups in one spelling each, None where missing.
        notes: what was done to it, with counts.
        faults: what is wrong with it, with rows.
    """

    documents: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_people(documents: pd.DataFrame, *, name: str, missing: Sequence[str] = ()) -> People:
    """Understands a table of documents.

    Args:
        documents: [N rows] as read: `document_id`, optionally `group_id`, label columns; an index called `row` holds
            the lines of the file.
        name: of the file, for notes and faults.
        missing: further codes that stand for a missing value, in every column but `document_id`.
    """
    columns = [tidy(str(column)) for column in documents.columns]
    faults = column_faults(columns, ["group_id"], name)
    if len(set(columns)) < len(columns):
        return People(documents, faults=[*faults, *_same_columns(columns, name)])
    found = People(documents.set_axis(columns, axis=1), faults=faults)
    found.documents, found.notes = tidied(found.documents, columns, name)
    found.faults += missing_id_faults(found.documents, name) + twin_id_faults(found.documents, name)
    _take_out(found, [tidy(str(code)) for code in missing], name)
    if "group_id" in columns:
        _read_group_column(found, name)
    return found


def column_faults(columns: Sequence[str], ours: Iterable[str], name: str) -> list[str]:
    """Names of columns that may be one, and names that are nearly one of ours: their column would not be read."""
    faults = [
        f"{name} row 1: columns {' and '.join(map(shown, alike))} {ALIKE}; rename or delete one"
        for alike in twins(columns)
    ]
    bare = {re.sub(r"[\W_]", "", column.casefold()): column for column in columns}
    return faults + [
        f"{name} row 1: column {shown(bare[plain])} is not read: {known!r} is; rename it"
        for known in ours
        if known not in columns and (plain := known.replace("_", "")) in bare
    ]


def _same_columns(columns: Sequence[str], name: str) -> list[str]:
    twice = [column for column, count in Counter(columns).items() if count > 1]
    return [f"{name} row 1: column {shown(column)} appears twice; every column needs its own name" for column in twice]


def tidied(frame: pd.DataFrame, columns: Iterable[str], name: str) -> tuple[pd.DataFrame, list[str]]:
    """The table with the text cells of some columns tidied, and a note for each column where that made a difference."""
    notes, mended = [], {}
    for column in columns:
        before = frame[column].tolist()
        after = [(tidy(cell) or None) if isinstance(cell, str) else cell for cell in before]
        changed = [(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, str) and a.strip() != (b or "")]
        if changed:
            mended[column] = pd.Series(after, index=frame.index, dtype=object)
            gone = {sign for old, new in changed for sign in set(old) - set(new or "") if not sign.isalnum()}
            signs = sorted(f"U+{ord(sign):04X}" for sign in gone)
            told = f" ({', '.join(signs[:_TOLD])}{' ...' if len(signs) > _TOLD else ''})" if signs else ""
            notes.append(
                f"{name}: {column}: {_cells(len(changed))} held invisible or decomposed characters{told}: removed, or"
                " composed"
            )
    return (frame.assign(**mended) if mended else frame), notes


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def missing_id_faults(frame: pd.DataFrame, name: str) -> list[str]:
    """Ids that are codes for a missing value."""
    return [
        f"{name} row {row}: document_id is {shown(text)}, which stands for a missing value; every document needs a name"
        for text, rows in _rows_of_ids(frame).items()
        if is_no_group(text) or is_broken(text)
        for row in rows
    ]


def twin_id_faults(frame: pd.DataFrame, name: str) -> list[str]:
    """Ids that may be one person's."""
    rows_of = _rows_of_ids(frame)
    return [
        f"{name} row {rows_of[alike[-1]][0]}: document_id {shown(alike[-1])} and {shown(alike[0])} (row"
        f" {rows_of[alike[0]][0]}) {ALIKE}; if they are one person, give the "
        "person one row, else names that differ in more"
        for alike in twins(rows_of)
    ]


def _rows_of_ids(frame: pd.DataFrame) -> dict[str, list[int]]:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, text in zip(rows_of_file(frame), frame["document_id"], strict=True):
        if isinstance(text, str) and text:
            rows_of[text].append(row)
    return rows_of


def rows_of_file(frame: pd.DataFrame) -> list[int]:
    """The line of the file on which each row begins; counted from 1 where the table was not read from a file."""
    return [int(row) for row in (frame.index if frame.index.name == "row" else range(1, len(frame) + 1))]


def _take_out(found: People, codes: Collection[str], name: str) -> None:
    """Empties the cells that hold one of the codes that the user named."""
    if not codes:
        return
    for column in [column for column in found.documents.columns if column != "document_id"]:
        cells = found.documents[column].tolist()
        distinct = {cell for cell in cells if isinstance(cell, str)}
        hit = {text for text in distinct if matches(text, codes) is not None}
        if hit:
            counts = Counter(cell for cell in cells if isinstance(cell, str) and cell in hit)
            kept = [None if isinstance(cell, str) and cell in hit else cell for cell in cells]
            found.documents = found.documents.assign(
                **{column: pd.Series(kept, index=found.documents.index, dtype=object)}
            )
            found.notes.append(f"{name}: {column}: counted as missing, as told: {told_counts(counts)}")


def _read_group_column(found: People, name: str) -> None:
    cells = found.documents["group_id"].tolist()
    found.faults += [
        f"{name} row {row}: group_id is {shown(cell)}, a broken formula; mend it, or empty the cell where there "
        "is no group"
        for row, cell in zip(rows_of_file(found.documents), cells, strict=True)
        if isinstance(cell, str) and is_broken(cell)
    ]
    groups = read_groups(cells)
    if doubtful := twin_groups(cells):
        found.faults.append(f"{name}: group_id: {doubtful}")
    if groups.missing:
        found.notes.append(
            f"{name}: group_id: {told_counts(groups.missing)}: no group, each such document is one of its own; if that "
            "is the name of a group, give it another"
        )
    if groups.merged:
        found.notes.append(f"{name}: group_id: {told_counts(groups.merged)}: the same groups as the plain numbers")
    if groups.missing or groups.merged:
        found.documents = found.documents.assign(
            group_id=pd.Series(groups.names, index=found.documents.index, dtype=object)
        )


def group_suspicion(groups: Sequence[str | None]) -> str | None:
    """What to say of groups of several documents that are called by a number as -99; None where there are none."""
    counts = Counter(name for name in groups if name is not None)
    values = {name: number(name) for name in counts}
    if any(value is None for value in values.values()):
        return None
    codes = suspected_codes([value for value in values.values() if value is not None])
    found = {name: counts[name] for name, value in values.items() if value in codes and counts[name] > 1}
    if not found:
        return None
    return (
        f"group_id: {told_counts(found)}: looks like a code for a missing value, and keeps all these documents together"
        f" as one group; if it is one, name it: hilbert extract ... --missing {' '.join(found)}"
    )

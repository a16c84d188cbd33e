"""What stands in the columns of a table of documents, a line each: to be looked at before anything is encoded."""

import shlex
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from hilbert.cells import doubtful_labels, number, suspected_codes, told_counts, twins
from hilbert.errors import shown
from hilbert.label_cells import ReadLabels, read_labels
from hilbert.store_files import PRIVATE_COLUMNS

_FEW = 10  # distinct numbers that may be classes; more are a scale
_NAMES = 4  # texts of which none stands twice, and which may be names or notes
_MANY = 20  # distinct texts that may be classes; more are names or free text


def column_report(documents: pd.DataFrame) -> str:
    """A line for each label column, and one for the groups.

    Args:
        documents: as `Cohort.documents` holds them.

    Returns:
        Lines of the column's name, classes with their counts or the range, missing cells with their codes, and what
        looks odd: numbers that may be codes for a missing value, classes that may be one. Aligned, for a terminal.
    """
    rows = [_group_row(documents)] if "group_id" in documents.columns else []
    rows += [_label_row(str(column), documents[column].tolist()) for column in _label_columns(documents)]
    widths = [max(len(row[place]) for row in rows) for place in range(2)] if rows else []
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[2]]) for row in rows
    )


def _label_columns(documents: pd.DataFrame) -> list[str]:
    """All but those that stay out of a store: what was said is not to be shown."""
    return [
        column
        for column in documents.columns
        if column not in ("document_id", "group_id") and column.lower() not in PRIVATE_COLUMNS
    ]


def _group_row(documents: pd.DataFrame) -> tuple[str, str, str]:
    sizes = documents["group_id"].value_counts()
    several = int((sizes > 1).sum())
    alone = int(documents["group_id"].isna().sum())
    return "group_id", "groups", f"{len(sizes)} groups, {several} of several documents; {alone} documents without"


def _label_row(column: str, cells: Sequence[object]) -> tuple[str, str, str]:
    given = [None if cell is None or cell != cell else str(cell) for cell in cells]
    read = _as_numbers(given)
    numeric = read is not None
    read = read or read_labels(given)
    texts = [text for text in read.texts if text is not None]
    kind, told = _values(texts, numeric)
    gaps = f"missing {len(given) - len(texts)}" + (f" ({told_counts(read.missing)})" if read.missing else "")
    odd = [f"; WARNING: {remark}" for remark in _oddities(texts, read)]
    return shown(column)[1:-1], kind, f"{told}; {gaps}{''.join(odd)}"


def _as_numbers(given: Sequence[str | None]) -> ReadLabels | None:
    """The column as a regression would take it, where all that isn't missing are numbers, and more than a few."""
    read = read_labels(given, numeric=True)
    values = [number(text) for text in read.texts if text is not None]
    if None in values or len(set(values)) <= 1:
        return None
    whole = all(value is not None and value.is_integer() for value in values)
    return (
        read if not whole or len(set(values)) > _FEW or suspected_codes([v for v in values if v is not None]) else None
    )


def _values(texts: Sequence[str], numeric: bool) -> tuple[str, str]:
    """The kind of a column, as far as it can be guessed, and its values."""
    counts = Counter(texts)
    if not counts:
        return "empty", "no values"
    if numeric:
        values = [float(text) for text in texts]
        return "numbers", f"{min(values):g} to {max(values):g}, {len(counts)} distinct"
    if len(counts) > _MANY or len(counts) == len(texts) > _NAMES:
        return "text", f"{len(counts)} distinct values"
    return "classes", told_counts(counts)


def _oddities(texts: Sequence[str], read: ReadLabels) -> list[str]:
    counts = Counter(texts)
    remarks = []
    values = [number(text) for text in texts]
    codes = suspected_codes([value for value in values if value is not None]) if None not in values else {}
    if codes:
        told = told_counts({f"{code:g}": count for code, count in codes.items()})
        rest = [value for value in values if value is not None and value not in codes]
        named = " ".join(f"{code:g}" for code in codes)
        remarks.append(
            f"{told}: codes for a missing value? The others go from {min(rest):g} to {max(rest):g}; "
            f"if so: --missing {named}"
        )
    if len(counts) <= _MANY and (alike := [] if None not in values else twins(counts)):
        remarks.append(f"{told_counts({text: counts[text] for text in alike[0]})}: one class?")
    if read.merged:
        remarks.append(f"{told_counts(read.merged)}: the same class as the plain number")
    if len(counts) <= _MANY and (doubtful := doubtful_labels(counts)):
        named = shlex.join(sorted(doubtful))
        remarks.append(f"{', '.join(sorted(doubtful))}: a class, or missing? If missing: --missing {named}")
    strange = {text: counts[text] for text, value in zip(texts, values, strict=True) if value is None}
    if 2 * values.count(None) < len(values) and strange and len(set(values)) > _FEW:
        remarks.append(f"{told_counts(strange)}: no number, as the others are")
    return remarks

"""A label column as it is understood: which cells hold a label, and which spellings are one class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hilbert.cells import matches, missing_labels, number, same_number, tidy, told_counts


@dataclass(frozen=True)
class ReadLabels:
    """A label column.

    Attributes:
        texts: [N] the label of each document in one spelling a class; None where it is missing.
        missing: codes that count as missing, and how often each stands there.
        named: those of them that count because the user named them.
        merged: other spellings of a class's number, as 1.0 for 1, and how often each stands there.
        mended: cells that held invisible or decomposed characters.
    """

    texts: list[str | None]
    missing: dict[str, int]
    named: frozenset[str]
    merged: dict[str, int]
    mended: int

    def notes(self, name: str) -> list[str]:
        """What is to be told of the column `name`, but for its missing values."""
        notes = []
        if self.mended:
            notes.append(f"{name}: {self.mended} labels held invisible or decomposed characters: removed, or composed")
        if self.merged:
            notes.append(f"{name}: {told_counts(self.merged)}: the same class as the plain number")
        return notes


def read_labels(
    cells: Sequence[str | None],
    *,
    classes: Sequence[str] | None = None,
    numeric: bool = False,
    codes: Sequence[str] = (),
) -> ReadLabels:
    """Understands a label column.

    Args:
        cells: [N] texts; None or blank where there is no label.
        classes: the classes that the user has declared, tidied: a declared class is never a code for a missing value.
        numeric: the labels are a regression's.
        codes: further codes for a missing value, as the user named them, tidied.
    """
    texts = [None if cell is None else tidy(cell) or None for cell in cells]
    counts = Counter(text for text in texts if text is not None)
    declared = frozenset(classes or ())
    usual = missing_labels([text for text in counts if text not in declared], numeric=numeric)
    named = {text for text in counts if text not in usual | declared and matches(text, codes) is not None}
    missing = usual | named
    kept = [text for text in counts if text not in missing]
    same = {} if numeric else _same_class(kept, classes)
    return ReadLabels(
        texts=[None if text is None or text in missing else same.get(text, text) for text in texts],
        missing={text: count for text, count in counts.items() if text in missing},
        named=frozenset(named),
        merged={text: counts[text] for text in same},
        mended=sum(
            text is not None and cell is not None and cell.strip() != text
            for cell, text in zip(cells, texts, strict=True)
        ),
    )


def _same_class(found: Sequence[str], classes: Sequence[str] | None) -> dict[str, str]:
    """Spellings of a class's number -> the class."""
    if classes is None:
        return same_number(found)
    plainest = same_number([*classes, *found])
    class_of = {plainest.get(one, one): one for one in reversed(classes)}
    return {
        text: class_of[plainest.get(text, text)]
        for text in found
        if text not in classes and plainest.get(text, text) in class_of and number(text) is not None
    }

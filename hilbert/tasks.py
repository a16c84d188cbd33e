"""Label columns as numbers: which classes a task has, and which documents carry a label.

A task is one column of documents.csv and its kind. Classes are the distinct values found, in sorted order (as numbers
if all of them are), or the declared ones in the declared order. The second class of a binary task is the positive one.
How cells are understood, missing values above all, is told in `hilbert.cells`; what was done stands in `Labels`.
"""

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from hilbert.cells import ALIKE, doubtful_labels, matches, number, suspected_codes, tidy, told_counts, twins
from hilbert.errors import InputError, shown
from hilbert.label_cells import ReadLabels, read_labels

Kind = Literal["binary", "multiclass", "regression"]
KINDS: tuple[Kind, ...] = ("binary", "multiclass", "regression")
_NOT_TASKS = ("document_id", "group_id")


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    Attributes:
        name: the label column.
        kind: binary, multiclass or regression.
        classes: the classes' names by index; empty for a regression.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Width of the task's head: the number of classes, 1 for a regression."""
        return len(self.classes) or 1


@dataclass(frozen=True, eq=False)
class Labels:
    """One task's labels.

    Attributes:
        spec: the task.
        values: [N] float64: class index, or the number itself for a regression; NaN where the label is missing.
        missing: codes that count as a missing label, as NA, and how often each stands in the column.
        named: those of them that count because the user named them.
        notes: what else is to be told of the column: spellings that are one class, numbers that may be codes.
        literal: read cell by cell as they are, the column would give the same values.
    """

    spec: TaskSpec
    values: npt.NDArray[np.float64]
    missing: Mapping[str, int] = field(default_factory=dict)
    named: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    literal: bool = True

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """[N] True where there is a label."""
        return ~np.isnan(self.values)

    def counts(self) -> dict[str, int]:
        """Documents per class, in the classes' order; for a regression {"labelled": n}."""
        present = self.values[self.labelled]
        if self.spec.kind == "regression":
            return {"labelled": len(present)}
        found = np.bincount(present.astype(np.int64), minlength=len(self.spec.classes))
        return {name: int(number) for name, number in zip(self.spec.classes, found, strict=True)}


def encode_labels(
    documents: pd.DataFrame, tasks: Mapping[str, str | Mapping[str, Any]], *, source: str
) -> dict[str, Labels]:
    """Turn label columns into numbers.

    Args:
        documents: [N rows] as `Cohort.documents` or `FeatureStore.documents` hold them.
        tasks: column -> kind, or column -> {"kind": kind, "classes": [...], "missing_values": [...]}: the classes in
            order, and further codes for a missing label.
        source: the file the documents come from, for messages.

    Returns:
        Labels by task, in the order of `tasks`.

    Raises:
        InputError: every fault of every task at once: an unknown column or kind, a value that is no class or no
            number (with its row), classes that differ in case or leading zeros alone, fewer than two classes, a binary
            task with other than two, no label at all.
    """
    if not tasks:
        raise InputError(f"{source}: no tasks; name at least one label column, for example affect: binary")
    labels, faults = dict[str, Labels](), list[str]()
    for name, wanted in tasks.items():
        found = _encode(documents, name, wanted)
        if isinstance(found, Labels):
            labels[name] = found
        else:
            faults += found
    if faults:
        raise InputError("\n  ".join([f"{source}: the labels do not fit the tasks:", *faults]))
    return labels


def _encode(documents: pd.DataFrame, name: str, wanted: str | Mapping[str, Any]) -> Labels | list[str]:
    """One task's labels, or what is wrong with it."""
    column = _column(documents, name)
    if column is None:
        return [_unknown_column(documents, name)]
    declared = wanted if isinstance(wanted, Mapping) else {"kind": wanted}
    faults = _declaration_faults(name, declared)
    if faults:
        return faults
    classes = declared.get("classes")
    names = None if classes is None else tuple(tidy(str(one)) for one in classes)
    cells = _cells(documents, column)
    read = read_labels(
        [text for _, text in cells],
        classes=names,
        numeric=declared["kind"] == "regression",
        codes=[tidy(str(code)) for code in declared.get("missing_values") or ()],
    )
    if not any(text is not None for text in read.texts):
        told = f" ({told_counts(read.missing)})" if read.missing else ""
        return [f"task {shown(name)}: no document has a label{told}; fill in the column, or leave the task out"]
    if declared["kind"] == "regression":
        return _regression(name, cells, read)
    return _classification(name, cast("Kind", declared["kind"]), names, cells, read)


def _column(documents: pd.DataFrame, name: str) -> str | None:
    """The label column that is called so."""
    columns = {tidy(str(column)): column for column in documents.columns}
    columns |= {column: column for column in documents.columns}
    return None if tidy(name) in _NOT_TASKS else columns.get(name, columns.get(tidy(name)))


def _unknown_column(documents: pd.DataFrame, name: str) -> str:
    columns = [str(column) for column in documents.columns if column not in _NOT_TASKS]
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"did you mean {shown(near[0])}? " if near else ""
    return f"task {shown(name)}: no such label column; {hint}there are: {', '.join(columns) or 'none'}"


def _declaration_faults(name: str, declared: Mapping[str, Any]) -> list[str]:
    kind, classes = declared.get("kind"), declared.get("classes")
    faults = [
        f"task {shown(name)}: unknown key {shown(key)}; a task has kind and classes"
        for key in declared
        if key not in ("kind", "classes", "missing_values")
    ]
    codes = declared.get("missing_values")
    if codes is not None and (isinstance(codes, str) or not isinstance(codes, Sequence)):
        faults.append(f"task {shown(name)}: missing_values is {shown(codes)}; write a list: [-99, unknown]")
        codes = None
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        faults.append(
            f"task {shown(name)}: kind is {shown(kind)}; "
            + (f"did you mean {shown(near[0])}?" if near else _one_of(KINDS))
        )
    if classes is None:
        return faults
    if kind == "regression":
        return [*faults, f"task {shown(name)}: a regression has no classes; delete them"]
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        return [*faults, f"task {shown(name)}: classes is {shown(classes)}; write a list: [low, high]"]
    if any(isinstance(one, bool) for one in classes):  # YAML reads no, yes, on, off, true, false so
        return [*faults, f"task {shown(name)}: classes hold true or false; put quotes around them: ['no', 'yes']"]
    names = [tidy(str(one)) for one in classes]
    both = [one for one in names if matches(one, [tidy(str(code)) for code in codes or ()]) is not None]
    if both:
        faults.append(
            f"task {name!r}: {both[0]!r} is both a class and among missing_values; leave it out of one of them"
            " (missing_values may be given by task)"
        )
    if len(set(names)) < max(2, len(names)) or "" in names:
        faults.append(f"task {shown(name)}: classes are {shown(names)}; name at least two, each once")
    if kind == "binary" and len(names) != 2:
        faults.append(f"task {shown(name)}: binary with {len(names)} classes; name two, the positive one second")
    return faults


def _one_of(words: Sequence[str]) -> str:
    return f"give {', '.join(words[:-1])} or {words[-1]}"


def _cells(documents: pd.DataFrame, name: str) -> list[tuple[int, str | None]]:
    """(row in the file, label or None) of every document."""
    rows = documents.index if documents.index.name == "row" else range(2, len(documents) + 2)
    texts = [None if pd.isna(value) else str(value).strip() or None for value in documents[name]]
    return list(zip(map(int, rows), texts, strict=True))


def _finite(text: str) -> float | None:
    """The number by which a class is sorted."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _regression(name: str, cells: Sequence[tuple[int, str | None]], read: ReadLabels) -> Labels | list[str]:
    faults = [
        f"row {row}: {name} is {shown(text)}; a regression needs finite numbers, written like 3.5 (empty where missing,"
        " or the code named as missing_values)"
        for (row, _), text in zip(cells, read.texts, strict=True)
        if text is not None and number(text) is None
    ]
    if faults:
        return faults
    values = np.array([math.nan if text is None else float(text) for text in read.texts])
    distinct = np.unique(values[~np.isnan(values)])
    if len(distinct) < 2:
        return [
            f"task {shown(name)}: all labels are {distinct[0]:g}; a constant can't be predicted, leave the task out"
        ]
    literal = np.array([math.nan if text is None else _finite(text) or 0.0 for _, text in cells])
    notes = suspicions(name, [value for value in values.tolist() if not math.isnan(value)])
    same = np.array_equal(values, literal, equal_nan=True)
    return Labels(TaskSpec(name, "regression"), values, read.missing, read.named, (*read.notes(name), *notes), same)


def suspicions(name: str, values: Sequence[float]) -> list[str]:
    """A note on labels of a regression that look like codes for a missing value, if there are any."""
    codes = suspected_codes(values)
    if not codes:
        return []
    rest = [value for value in values if value not in codes]
    told = told_counts({f"{code:g}": count for code, count in codes.items()})
    listed = ", ".join(f"{code:g}" for code in codes)
    return [
        f"{name}: {min(rest):g} to {max(rest):g}, besides {told}, which look like codes for a missing value and are"
        f" taken as labels; if they are codes, name them in the study file: missing_values: [{listed}]"
    ]


def _sorted_classes(found: Mapping[str, str] | set[str]) -> tuple[str, ...]:
    """Classes in order: as numbers if all of them are; by how they are written in the file, where that is given."""
    written = found if isinstance(found, Mapping) else {one: one for one in found}
    if all(_finite(one) is not None for one in written.values()):
        return tuple(sorted(written, key=lambda one: (float(written[one]), written[one])))
    return tuple(sorted(written, key=lambda one: written[one]))


def _classification(
    name: str,
    kind: Kind,
    declared: tuple[str, ...] | None,
    cells: Sequence[tuple[int, str | None]],
    read: ReadLabels,
) -> Labels | list[str]:
    found = Counter(text for text in read.texts if text is not None)
    written = dict[str, str]()
    for (_, raw), text in zip(cells, read.texts, strict=True):
        if text is not None and raw is not None:
            written[text] = min(raw, written.get(text, raw))
    classes = declared or _sorted_classes(written)
    faults = [
        f"row {row}: {name} is {shown(text)}, which is none of its classes {', '.join(classes)}"
        for (row, _), text in zip(cells, read.texts, strict=True)
        if text is not None and text not in classes
    ]
    told = ", ".join(f"{one} ({found[one]})" for one in _sorted_classes(set(found))[:10])
    if not declared:
        faults += _twin_faults(name, found)
    if len(found) == 1:
        faults.append(f"task {shown(name)}: all labels are {told}; a task needs two classes or more, leave it out")
    elif kind == "binary" and len(found) != 2 and not faults:
        faults.append(
            f"task {shown(name)}: binary, but there are {len(found)} values: {told}; mend them, or use multiclass"
            + _hint(found)
        )
    if faults:
        return faults
    index = {one: number for number, one in enumerate(classes)}
    values = np.array([math.nan if text is None else float(index[text]) for text in read.texts])
    notes = [*read.notes(name), *_class_notes(name, found, declared)]
    literal = _is_literal(values, declared, [raw for _, raw in cells])
    return Labels(TaskSpec(name, kind, classes), values, read.missing, read.named, tuple(notes), literal)


def _twin_faults(name: str, found: Mapping[str, int]) -> list[str]:
    return [
        f"task {name!r}: {told_counts({text: found[text] for text in alike})}: classes that {ALIKE}; if they are one, "
        f"spell it in one way; if not, declare them: {{kind: ..., classes: [{', '.join(found)}]}}"
        for alike in twins(found)
    ]


def _hint(found: Mapping[str, int]) -> str:
    """Which of too many classes may be codes for a missing value."""
    codes = _codes_among(found)
    listed = ", ".join(codes)
    return f"; if {listed} stands for a missing label, name it: missing_values: [{listed}]" if codes else ""


def _codes_among(found: Mapping[str, int]) -> list[str]:
    """Classes that may be codes for a missing label."""
    values = {text: number(text) for text in found}
    numbers = [value for text, value in values.items() if value is not None for _ in range(found[text])]
    codes = suspected_codes(numbers) if None not in values.values() else {}
    return sorted(doubtful_labels(found)) + [text for text, value in values.items() if value in codes]


def _class_notes(name: str, found: Mapping[str, int], declared: Sequence[str] | None) -> list[str]:
    codes = [] if declared else _codes_among(found)
    if not codes:
        return []
    return [
        f"{name}: {told_counts({text: found[text] for text in codes})}: taken as {_classes(len(codes))}; if that"
        f" stands for a missing label, name it in the study file: missing_values: [{', '.join(codes)}]"
    ]


def _classes(count: int) -> str:
    return "a class" if count == 1 else "classes"


def _is_literal(values: npt.NDArray[np.float64], declared: Sequence[str] | None, raw: Sequence[str | None]) -> bool:
    """Whether these are the values that the cells as they are would give."""
    classes = tuple(declared or _sorted_classes({text for text in raw if text}))
    if any(text and text not in classes for text in raw):
        return False
    index = {one: float(number) for number, one in enumerate(classes)}
    plain = np.array([index[text] if text else math.nan for text in raw])
    return bool(np.array_equal(values, plain, equal_nan=True))

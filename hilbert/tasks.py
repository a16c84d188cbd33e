"""Label columns as numbers: which classes a task has, and which documents carry a label.

A task is one column of documents.csv and its kind. Classes are the distinct values found, in sorted order (as numbers
if all of them are), or the declared ones in the declared order. The second class of a binary task is the positive one.
"""

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from hilbert.errors import InputError

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
    """

    spec: TaskSpec
    values: npt.NDArray[np.float64]

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
        tasks: column -> kind, or column -> {"kind": kind, "classes": [...]}.
        source: the file the documents come from, for messages.

    Returns:
        Labels by task, in the order of `tasks`.

    Raises:
        InputError: every fault of every task at once: an unknown column or kind, a value that is no class or no
            number (with its row), fewer than two classes, a binary task with other than two, no label at all.
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
    if name in _NOT_TASKS or name not in documents.columns:
        return [_unknown_column(documents, name)]
    declared = wanted if isinstance(wanted, Mapping) else {"kind": wanted}
    kind, classes = declared.get("kind"), declared.get("classes")
    faults = _declaration_faults(name, declared)
    if faults:
        return faults
    cells = _cells(documents, name)
    if not any(text is not None for _, text in cells):
        return [f"task {name!r}: no document has a label; fill in the column, or leave the task out"]
    if kind == "regression":
        return _regression(name, cells)
    names = None if classes is None else tuple(str(one).strip() for one in classes)
    return _classification(name, cast("Kind", kind), names, cells)


def _unknown_column(documents: pd.DataFrame, name: str) -> str:
    columns = [str(column) for column in documents.columns if column not in _NOT_TASKS]
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"task {name!r}: no such label column; {hint}there are: {', '.join(columns) or 'none'}"


def _declaration_faults(name: str, declared: Mapping[str, Any]) -> list[str]:
    kind, classes = declared.get("kind"), declared.get("classes")
    faults = [
        f"task {name!r}: unknown key {key!r}; a task has kind and classes"
        for key in declared
        if key not in ("kind", "classes")
    ]
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        faults.append(f"task {name!r}: kind is {kind!r}; " + (f"did you mean {near[0]!r}?" if near else _one_of(KINDS)))
    if classes is None:
        return faults
    if kind == "regression":
        return [*faults, f"task {name!r}: a regression has no classes; delete them"]
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        return [*faults, f"task {name!r}: classes is {classes!r}; write a list: [low, high]"]
    if any(isinstance(one, bool) for one in classes):  # YAML reads no, yes, on, off, true, false so
        return [*faults, f"task {name!r}: classes hold true or false; put quotes around them: ['no', 'yes']"]
    names = [str(one).strip() for one in classes]
    if len(set(names)) < max(2, len(names)) or "" in names:
        faults.append(f"task {name!r}: classes are {names}; name at least two, each once")
    if kind == "binary" and len(names) != 2:
        faults.append(f"task {name!r}: binary with {len(names)} classes; name two, the positive one second")
    return faults


def _one_of(words: Sequence[str]) -> str:
    return f"give {', '.join(words[:-1])} or {words[-1]}"


def _cells(documents: pd.DataFrame, name: str) -> list[tuple[int, str | None]]:
    """(row in the file, label or None) of every document."""
    rows = documents.index if documents.index.name == "row" else range(2, len(documents) + 2)
    texts = [None if pd.isna(value) else str(value).strip() or None for value in documents[name]]
    return list(zip(map(int, rows), texts, strict=True))


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _regression(name: str, cells: Sequence[tuple[int, str | None]]) -> Labels | list[str]:
    faults = [
        f"row {row}: {name} is {text!r}; a regression needs finite numbers, written like 3.5 (empty where missing)"
        for row, text in cells
        if text is not None and _finite(text) is None
    ]
    if faults:
        return faults
    values = np.array([math.nan if text is None else float(text) for _, text in cells])
    distinct = np.unique(values[~np.isnan(values)])
    if len(distinct) < 2:
        return [f"task {name!r}: all labels are {distinct[0]:g}; a constant can't be predicted, leave the task out"]
    return Labels(TaskSpec(name, "regression"), values)


def _sorted_classes(found: set[str]) -> tuple[str, ...]:
    if all(_finite(one) is not None for one in found):
        return tuple(sorted(found, key=lambda one: (float(one), one)))
    return tuple(sorted(found))


def _classification(
    name: str, kind: Kind, declared: tuple[str, ...] | None, cells: Sequence[tuple[int, str | None]]
) -> Labels | list[str]:
    found = Counter(text for _, text in cells if text is not None)
    classes = declared or _sorted_classes(set(found))
    faults = [
        f"row {row}: {name} is {text!r}, which is none of its classes {', '.join(classes)}"
        for row, text in cells
        if text is not None and text not in classes
    ]
    told = ", ".join(f"{one} ({found[one]})" for one in _sorted_classes(set(found))[:10])
    if len(found) == 1:
        faults.append(f"task {name!r}: all labels are {told}; a task needs two classes or more, leave it out")
    elif kind == "binary" and len(found) != 2 and not faults:
        faults.append(f"task {name!r}: binary, but there are {len(found)} values: {told}; mend them, or use multiclass")
    if faults:
        return faults
    index = {one: number for number, one in enumerate(classes)}
    values = [math.nan if text is None else float(index[text]) for _, text in cells]
    return Labels(TaskSpec(name, kind, classes), np.array(values))

"""Folds for cross-validation: grouped, stratified on several tasks at once, and the same on every machine.

Each fold has three parts: train, inner validation (early stopping, choice of epoch) and held-out (the score). Every
document is held out exactly once per repeat, and no group is on both sides of any split.

Stratification is the iterative one of Sechidis et al. (2011), "On the stratification of multi-label data", over groups
in place of examples. A group is a row of counts: its documents, and its documents in each class of each task. A missing
label counts nowhere; a regression task is stratified on quintiles. The rarest class is dealt out first, largest group
first, each group to the part that has fewest of that class.

The folds are a function of document ids, labels, groups and seed: the order of the documents in the file, the order of
the tasks and the names of the groups have no influence. Notation: N documents, G groups, K class columns, P parts.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hilbert.cells import tidy
from hilbert.errors import InputError, shown
from hilbert.groups import group_codes, twin_groups

Rows = NDArray[np.int64]
Counts = NDArray[np.float64]

PARTS = ("train", "inner", "held_out")
QUANTILE_BINS = 5  # of a regression target
SMALLEST_INNER = 10  # documents: a cohort too small to give as many gives a quarter


class Spec(Protocol):
    """What a task is called a task for: ``kind`` is "binary", "multiclass" or "regression"."""

    @property
    def kind(self) -> str: ...  # noqa: D102


class Labels(Protocol):
    """One task's labels: ``values`` float [N], NaN where missing, and the task's kind in ``spec.kind``."""

    @property
    def values(self) -> NDArray[np.float64]: ...  # noqa: D102

    @property
    def spec(self) -> Spec: ...  # noqa: D102


Tasks = Mapping[str, Labels | tuple[ArrayLike, str]]
"""Labels by task; a pair (values, kind) will do."""


@dataclass(frozen=True, eq=False)
class Fold:
    """One (train, inner validation, held-out) split: sorted, read-only row numbers of the documents.

    ``index`` numbers the folds of all repeats from 0; ``repeat`` is the repeat it belongs to.
    """

    train: Rows
    inner: Rows
    held_out: Rows
    index: int = 0
    repeat: int = 0

    def __post_init__(self) -> None:
        for part in PARTS:
            rows = np.sort(np.asarray(getattr(self, part), dtype=np.int64))
            rows.flags.writeable = False
            object.__setattr__(self, part, rows)


def make_folds(
    documents: Sequence[str],
    tasks: Tasks,
    *,
    n_splits: int = 25,
    repeats: int = 1,
    seed: int = 0,
    groups: Sequence[object] | None = None,
    inner_fraction: float = 0.15,
) -> list[Fold]:
    """Split a cohort ``repeats`` times into ``n_splits`` folds.

    A class with fewer documents (or groups) than ``n_splits`` is missing from some held-out parts: that is no error,
    but an undefined AUC there; `class_counts` and `defined_folds` show it before anything is trained.

    Args:
        documents: the N document ids, unique.
        tasks: the labels to stratify on; may be empty.
        n_splits: 2 or more, and at most the number of groups (2 needs 4 groups).
        repeats: how often to deal the documents anew.
        seed: >= 0.
        groups: N group ids, or None; a document whose group is missing is a group of its own, see `group_codes`.
        inner_fraction: the share of the documents not held out that goes to inner validation, about (0.15: 1 in 7). A
            small cohort gives more: as much as makes ten documents, up to a quarter.

    Returns:
        ``repeats * n_splits`` folds, repeat by repeat.

    Raises:
        InputError: an argument is out of its range, ids repeat, lengths differ, groups differ in case alone, or there
            are too few of them.
    """
    documents = list(documents)
    _check_arguments(documents, n_splits, repeats, seed, inner_fraction)
    if doubtful := twin_groups(groups):
        raise InputError(f"groups: {doubtful}")
    order = np.array(sorted(range(len(documents)), key=documents.__getitem__), dtype=np.int64)
    codes = group_codes(groups, len(documents))[order]
    codes = group_codes(codes.tolist(), len(codes))  # numbered in the canonical order
    n_groups = len(np.unique(codes))
    fewest = 2 if n_splits == 2 else 1  # what is not held out must be split once more
    if n_groups < n_splits * fewest:
        raise InputError(
            f"each of the folds needs a group to hold out, or two where n_splits is 2: "
            f"n_splits is {n_splits}, the cohort has {n_groups} groups"
        )
    counts = _group_counts(codes, _class_columns(tasks, order))
    folds: list[Fold] = []
    for repeat in range(repeats):
        held_out_in = _stratify(counts, n_splits, _generator(seed, repeat, 0), fewest=fewest)
        for split in range(n_splits):
            rest = np.flatnonzero(held_out_in != split)
            part = np.full(n_groups, 2)
            part[rest] = _choose_inner(counts[rest], inner_fraction, _generator(seed, repeat, split + 1))
            train, inner, held_out = (order[part[codes] == number] for number in range(3))
            folds.append(Fold(train, inner, held_out, index=len(folds), repeat=repeat))
    check_folds(folds, groups)
    return folds


def check_folds(folds: Sequence[Fold], groups: Sequence[object] | None = None) -> None:
    """Make sure that a set of folds is a cross-validation; `make_folds` never returns one that is not.

    Args:
        folds: all folds of all repeats.
        groups: N group ids, or None, as in `make_folds`.

    Raises:
        InputError: a part is empty; the parts of a fold overlap or leave a document out; a group is on both sides of a
            split; a document is not held out exactly once per repeat.
    """
    n = sum(len(getattr(folds[0], part)) for part in PARTS) if folds else 0
    codes = group_codes(groups, n)
    held_out: dict[int, list[Rows]] = {}
    for fold in folds:
        parts = [getattr(fold, part) for part in PARTS]
        if not all(map(len, parts)):
            raise InputError(f"fold {fold.index}: a part is empty")
        if not np.array_equal(np.sort(np.concatenate(parts)), np.arange(n)):
            raise InputError(f"fold {fold.index}: its parts must hold each of the {n} documents exactly once")
        if sum(len(np.unique(codes[rows])) for rows in parts) != len(np.unique(codes)):
            raise InputError(f"fold {fold.index}: a group is on both sides of a split")
        held_out.setdefault(fold.repeat, []).append(fold.held_out)
    for repeat, rows in held_out.items():
        if not np.array_equal(np.sort(np.concatenate(rows)), np.arange(n)):
            raise InputError(f"repeat {repeat}: every document must be held out exactly once")


def class_counts(folds: Sequence[Fold], tasks: Tasks) -> pd.DataFrame:
    """How many labelled documents of each class are in each part of each fold: look at it before training.

    Returns:
        Columns fold, part, task, class, documents, one row for every combination, zeros included. ``class`` is the
        label's number as text; a regression task has the single class "labelled".
    """
    records = []
    for task, (values, kind) in _unpacked(tasks).items():
        members = {"labelled": ~np.isnan(values)} if kind == "regression" else _class_members(values)
        records += [
            (fold.index, part, task, name, int(is_member[getattr(fold, part)].sum()))
            for fold in folds
            for part in PARTS
            for name, is_member in members.items()
        ]
    frame = pd.DataFrame(records, columns=["fold", "part", "task", "class", "documents"])
    return frame.sort_values("fold", kind="stable", ignore_index=True)


class Defined(NamedTuple):
    """In which folds a task's numbers count, [F] each.

    Attributes:
        trained: the training part holds every class, so that the held-out predictions count.
        scored: the held-out part does too, so that the fold has an AUC.
    """

    trained: NDArray[np.bool_]
    scored: NDArray[np.bool_]


def defined_folds(values: ArrayLike, classes: int, folds: Sequence[Fold]) -> Defined:
    """Which folds count for a task. Labels and folds decide, hence it is the same for all configurations.

    A model that has never seen a class can't tell it from the others: its predictions are of no class at all, and an
    AUC of them is luck. The training part is `Fold.train` alone, with `train.refit` too: there a model of it chooses
    the epoch, and a rule that asked the configuration would compare configurations on different folds.

    Args:
        values: [N] the task's labels, NaN where missing.
        classes: how many classes it has; 0 for a regression, which needs two different values.
        folds: F of them.
    """
    labels = np.asarray(values, dtype=np.float64)
    trained = np.array([holds_every_class(labels[fold.train], classes) for fold in folds], dtype=np.bool_)
    held_out = np.array([holds_every_class(labels[fold.held_out], classes) for fold in folds], dtype=np.bool_)
    return Defined(trained, trained & held_out)


def holds_every_class(labels: NDArray[np.float64], classes: int) -> bool:
    """Whether labels [n], NaN where missing, hold each of the classes; for a regression, 0, two different values."""
    return len(np.unique(labels[~np.isnan(labels)])) >= (classes or 2)


def splits_hash(folds: Sequence[Fold], documents: Sequence[str]) -> str:
    """A SHA-256 of which document ids are in which part: equal for equal splits, in whatever order documents come."""
    documents = list(documents)
    parts = [[sorted(documents[row] for row in getattr(fold, part)) for part in PARTS] for fold in folds]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _check_arguments(documents: Sequence[str], n_splits: int, repeats: int, seed: int, inner_fraction: float) -> None:
    ids = pd.Series([tidy(one) if isinstance(one, str) else one for one in documents], dtype=object)
    if ids.duplicated().any():
        raise InputError(f"document ids must be unique; repeated: {', '.join(map(str, ids[ids.duplicated()][:5]))}")
    if n_splits < 2:
        raise InputError(f"n_splits must be 2 or more, not {n_splits}")
    if repeats < 1:
        raise InputError(f"repeats must be 1 or more, not {repeats}")
    if seed < 0:
        raise InputError(f"seed must be 0 or more, not {seed}")
    if not 0 < inner_fraction < 1:
        raise InputError(f"inner_fraction must be between 0 and 1, not {inner_fraction}")


def _unpacked(tasks: Tasks) -> dict[str, tuple[NDArray[np.float64], str]]:
    """(values, kind) by task, in alphabetical order."""
    pairs = {
        name: task if isinstance(task, tuple) else (task.values, task.spec.kind) for name, task in sorted(tasks.items())
    }
    return {name: (np.asarray(values, dtype=np.float64), kind) for name, (values, kind) in pairs.items()}


def _class_members(values: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Which documents are in each class: [N] by class number."""
    return {f"{number:g}": values == number for number in np.unique(values[~np.isnan(values)])}


def _class_columns(tasks: Tasks, order: Rows) -> Counts:
    """A column of ones, then ones for the members of every class of every task: [N, 1 + K], rows in ``order``."""
    columns: list[NDArray[np.generic]] = [np.ones(len(order))]
    for name, (values, kind) in _unpacked(tasks).items():
        if len(values) != len(order):
            raise InputError(f"task {shown(name)}: {len(values)} labels for {len(order)} documents")
        classes = _quantile_bins(values) if kind == "regression" else values
        columns += [is_member[order] for is_member in _class_members(classes).values()]
    return np.column_stack(columns).astype(np.float64)


def _quantile_bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Number of the quantile bin of each value, NaN where it is missing."""
    known = values[~np.isnan(values)]
    if not len(known):
        return values
    edges = np.unique(np.quantile(known, np.arange(1, QUANTILE_BINS) / QUANTILE_BINS))
    return np.where(np.isnan(values), np.nan, np.searchsorted(edges, values, side="right"))


def _group_counts(codes: Rows, columns: Counts) -> Counts:
    """Sum the documents' columns within each group: [G, 1 + K]."""
    counts = np.zeros((int(codes.max()) + 1, columns.shape[1]))
    np.add.at(counts, codes, columns)
    return counts


def _choose_inner(counts: Counts, inner_fraction: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which groups go to inner validation: h of m equal parts, h/m about the fraction, m small; [G]."""
    share = max(inner_fraction, min(0.25, SMALLEST_INNER / counts[:, 0].sum()))
    nearest = Fraction(share).limit_denominator(max(10, round(1 / share)))
    parts = min(nearest.denominator, len(counts))
    chosen = min(max(round(share * parts), 1), parts - 1)
    is_inner: NDArray[np.bool_] = _stratify(counts, parts, generator) < chosen
    return is_inner


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _stratify(counts: Counts, parts: int, generator: np.random.Generator, *, fewest: int = 1) -> Rows:
    """Deal groups to equal parts, so that every column is shared out equally.

    The rarest class goes first. A group goes to the part that has fewest documents of that class; among equals, to the
    one that has least of everything that is in the group, each class counted by its rarity; then chance decides.
    Sechidis et al. look at the number of documents second; looking at all classes leaves a fifth less deviation.

    Args:
        counts: [G, 1 + K], column 0 the groups' documents.
        parts: P.
        generator: decides between equals.
        fewest: groups in a part, at least; G >= P * fewest.

    Returns:
        The part of each group [G].
    """
    dealt = np.zeros((parts, counts.shape[1]))
    rarity = 1 / np.maximum(counts.sum(0), 1)
    jitter = generator.random(parts)
    order = np.lexsort((generator.random(len(counts)), -counts[:, 0]))
    part = np.full(len(counts), -1)
    while (left := order[part[order] < 0]).size:
        column = _rarest_column(counts[left])
        for group in left[counts[left, column] > 0]:
            of_all = (dealt @ (counts[group] * rarity)).round(9)
            chosen = np.lexsort((jitter, of_all, dealt[:, column]))[0]
            part[group] = chosen
            dealt[chosen] += counts[group]
    while (sizes := np.bincount(part, minlength=parts)).min() < fewest:
        donors = np.flatnonzero(part == sizes.argmax())
        part[donors[counts[donors, 0].argmin()]] = sizes.argmin()
    return part


def _rarest_column(counts: Counts) -> int:
    """The class with the fewest documents, but some; column 0, all documents, where no labelled ones are left."""
    documents = counts.sum(0)
    classes = np.where(documents[1:] > 0, documents[1:], np.inf)
    return 1 + int(classes.argmin()) if np.isfinite(classes).any() else 0

"""Held-out predictions, and the curves that are drawn of them.

Notation: N predictions of a task over all folds, C classes. With repeated cross-validation a document has one in each
repeat. What labels leave undefined is None.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from hilbert.folds import defined_folds
from hilbert.groups import group_codes
from hilbert.metrics import Kind, certainty, confusion_counts, pooled_interval, wilson_interval
from hilbert.metrics.ranking import weighted_auc
from hilbert.metrics.shapes import FEWEST_DEFINED
from tune.evidence import Evidence
from tune.notes import RESAMPLES
from tune.recount import fold_parts

Array = NDArray[np.float64]
GRID = np.linspace(0, 1, 101)
BINS = 10


@dataclass(frozen=True)
class Predicted:
    """Held-out predictions of one task.

    Attributes:
        kind: of the task.
        classes: names of its C classes; empty for regression.
        folds: [N], number of the fold.
        repeats: [N], from 0.
        labels: [N], class number or value, NaN where missing, or where the prediction doesn't count, since the fold's
            training part lacks a class.
        scores: [N, C] probabilities, or [N, 1] values.
        documents: N ids.
        groups: N groups, None for a document that is alone; None where they are not known.
    """

    kind: Kind
    classes: Sequence[str]
    documents: Sequence[str]
    folds: NDArray[np.int64]
    repeats: NDArray[np.int64]
    labels: Array
    scores: Array
    groups: Sequence[str | None] | None

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """[N], which have a label."""
        return ~np.isnan(self.labels)

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the pooled AUC that the trial's note has."""
        of = list(dict.fromkeys(zip(self.repeats.tolist(), self.folds.tolist(), strict=True)))
        rows = [np.flatnonzero((self.repeats == repeat) & (self.folds == fold)) for repeat, fold in of]
        return pooled_interval(
            [self.labels[fold] for fold in rows],
            [self.scores[fold] for fold in rows],
            self.kind,
            documents=[[self.documents[row] for row in fold.tolist()] for fold in rows],
            groups=None if self.groups is None else dict(zip(self.documents, self.groups, strict=True)),
            repeats=[repeat for repeat, _ in of],
            resamples=RESAMPLES,
        )


def by_task(table: pd.DataFrame, tasks: Sequence[str], groups: Mapping[str, str] | None) -> dict[str, Predicted]:
    """The table of `tune.predictions` taken apart; documents come in the same order in every repeat."""
    return {task: _predicted(table[table["task"] == task], groups) for task in tasks if (table["task"] == task).any()}


def _predicted(table: pd.DataFrame, groups: Mapping[str, str] | None) -> Predicted:
    classes = [str(name) for name in table["class"].unique() if name]
    wide = table.pivot(index=["document_id", "fold"], columns="class", values="score").sort_index()
    labels = table.drop_duplicates(["document_id", "fold"]).set_index(["document_id", "fold"])["label"]
    frame = wide.index.to_frame(index=False)
    numbers = {name: float(number) for number, name in enumerate(classes)}
    kind: Kind = "regression" if not classes else "binary" if len(classes) == 2 else "multiclass"
    known = groups is not None and set(frame["document_id"]) <= set(groups)
    return Predicted(
        kind=kind,
        classes=classes,
        documents=frame["document_id"].tolist(),
        folds=frame["fold"].to_numpy(dtype=np.int64),
        repeats=np.asarray(frame.groupby("document_id").cumcount(), dtype=np.int64),
        labels=np.array([_label(label, numbers) for label in labels.loc[wide.index]], dtype=np.float64),
        scores=wide[classes or [""]].to_numpy(dtype=np.float64),
        groups=[groups[name] or None for name in frame["document_id"]] if known and groups is not None else None,
    )


def of_trial(evidence: Evidence, trial: int) -> dict[str, Predicted]:
    """A configuration's predictions, as `by_task` has them.

    Raises:
        InputError: it has none.
    """
    row = evidence.row(trial)
    order = np.argsort(np.array(evidence.documents))
    documents = np.repeat(np.array(evidence.documents)[order], evidence.repeats)
    group = dict(zip(evidence.documents, evidence.groups, strict=True))
    found = {}
    for task, spec in evidence.tasks.items():
        scores = evidence.scores[task][row][:, order].swapaxes(0, 1).reshape(len(documents), -1)
        ran = ~np.isnan(scores).any(1)
        names = documents[ran].tolist()
        found[task] = Predicted(
            kind=spec.kind,
            classes=list(spec.classes),
            documents=names,
            folds=evidence.fold_of[:, order].T.ravel()[ran],
            repeats=np.tile(np.arange(evidence.repeats), len(order))[ran],
            labels=evidence.counted_labels(task)[:, order].T.ravel()[ran],
            scores=scores[ran],
            groups=[group[name] or None for name in names],
        )
    return found


def untrained_folds(found: Predicted, splits: pd.DataFrame) -> set[int]:
    """Numbers of the folds whose training part lacks a class, by the table of the splits; of a whole configuration."""
    of_document = dict(zip(found.documents, found.labels, strict=True))
    labels = np.array([of_document.get(name, np.nan) for name in splits["document_id"]], dtype=np.float64)
    numbers = np.unique(found.folds).tolist()
    parts = fold_parts(splits, max(numbers, default=-1) + 1)
    trained = defined_folds(labels, len(found.classes), parts).trained
    return {number for number in numbers if not trained[number]}


def without_folds(found: Predicted, folds: Collection[int]) -> Predicted:
    """The same, the predictions of some folds left out of all that is counted."""
    return replace(found, labels=np.where(np.isin(found.folds, list(folds)), np.nan, found.labels))


def _label(label: str | None, numbers: Mapping[str, float]) -> float:
    if label is None or pd.isna(label):
        return np.nan
    return numbers[label] if numbers else float(label)


def mean_interval(tasks: Sequence[Predicted]) -> tuple[float, float] | None:
    """The 95 % interval of the mean over tasks of their pooled AUCs, as `Predicted.interval` of one.

    A resample of the groups is the same in all tasks and repeats. None where an AUC is undefined in the cohort, or one
    of them in more than half of the resamples.
    """
    group = {
        name: None if task.groups is None else task.groups[row]
        for task in tasks
        for row, name in enumerate(task.documents)
    }
    names = sorted(group)
    code = dict(zip(names, group_codes([group[name] for name in names], len(names)).tolist(), strict=True))
    codes = [np.array([code[name] for name in task.documents], dtype=np.int64) for task in tasks]
    everyone = np.unique(np.concatenate([own[task.labelled] for task, own in zip(tasks, codes, strict=True)]))
    if not len(everyone):
        return None
    generator = np.random.Generator(np.random.PCG64(0))
    draws = generator.multinomial(len(everyone), np.full(len(everyone), 1 / len(everyone)), size=RESAMPLES)
    weights = np.zeros((1 + RESAMPLES, len(names)))
    weights[0] = 1  # the cohort itself
    weights[1:, everyone] = draws
    values = np.mean([_pooled(task, weights[:, own]) for task, own in zip(tasks, codes, strict=True)], axis=0)
    defined = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or len(defined) < FEWEST_DEFINED * RESAMPLES:
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _pooled(task: Predicted, weights: Array) -> Array:
    """Pooled AUC of each resample, mean over the repeats: weights [B, N] -> [B]."""
    scores = task.scores if task.kind == "multiclass" else task.scores[:, -1]
    found = []
    for repeat in np.unique(task.repeats):
        rows = task.labelled & (task.repeats == repeat)
        found.append(weighted_auc(task.labels[rows], scores[rows], task.kind, weights[:, rows]))
    mean: Array = np.mean(found, axis=0)
    return mean


# ---- curves ----------------------------------------------------------------------------------------------------------


class Roc(NamedTuple):
    """True positive rates at the false positive rates `GRID`, or along a curve of its own.

    Attributes:
        mean: over the folds that have every class, and over the classes; None without such a fold.
        deviation: over these folds.
        folds: how many they are.
        pooled: for each class (binary: the second alone) its name and the curve (x, y) of all predictions.
    """

    mean: Array | None
    deviation: Array | None
    folds: int
    pooled: list[tuple[str, Array, Array]]


def roc(predicted: Predicted) -> Roc:
    """ROC curves of a classification; of several classes each against the rest."""
    columns = [1] if predicted.kind == "binary" else list(range(len(predicted.classes)))
    curves = []
    for fold in np.unique(predicted.folds):
        rows = predicted.labelled & (predicted.folds == fold)
        if len(np.unique(predicted.labels[rows])) == len(predicted.classes):
            curves.append(np.mean([_on_grid(*_one_vs_rest(predicted, rows, column)) for column in columns], axis=0))
    pooled = []
    for column in columns:
        y, score = _one_vs_rest(predicted, predicted.labelled, column)
        if 0 < y.sum() < len(y):
            false, true, _ = roc_curve(y, score)
            pooled.append((predicted.classes[column], false, true))
    mean, deviation = (np.mean(curves, axis=0), np.std(curves, axis=0)) if curves else (None, None)
    return Roc(mean, deviation, len(curves), pooled)


def _one_vs_rest(predicted: Predicted, rows: NDArray[np.bool_], column: int) -> tuple[NDArray[np.int64], Array]:
    return (predicted.labels[rows] == column).astype(np.int64), predicted.scores[rows, column]


def _on_grid(y: NDArray[np.int64], score: Array) -> Array:
    false, true, _ = roc_curve(y, score)
    values: Array = np.interp(GRID, false, true)
    values[0] = 0.0
    return values


class Bin(NamedTuple):
    """Predictions of like confidence: their mean confidence, how often it came true with a 95 % interval, how many."""

    confidence: float
    frequency: float
    low: float
    high: float
    documents: int


def calibration(predicted: Predicted) -> list[Bin]:
    """Reliability in `BINS` bins of equal width; empty ones are left out.

    Binary: the second class's probability; several classes: the most probable class's, and how often it is right, as in
    `hilbert.metrics.expected_calibration_error`. The interval is Wilson's.
    """
    confidence, happened = certainty(predicted.labels, predicted.scores, predicted.kind)
    number = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    bins = []
    for index in np.unique(number):
        rows = number == index
        low, high = wilson_interval(int(happened[rows].sum()), n := int(rows.sum()))
        bins.append(Bin(float(confidence[rows].mean()), float(happened[rows].mean()), low, high, n))
    return bins


def confusion(predicted: Predicted) -> NDArray[np.int64]:
    """[C, C] counts, row = label, column = most probable class."""
    return confusion_counts(predicted.labels, predicted.scores)

"""ROC and precision-recall curves: the mean over folds with a band of one deviation, and all folds pooled.

A binary task has one panel (its second class is the positive one), a multiclass task one for each class against the
rest. Only folds whose held-out documents have both sides are averaged.

Notation: P members and N others of a class; TP and FP of them score at least the threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.plots.held_out import HeldOut
from tune.plots.style import (
    BLUE,
    FAINT,
    VERMILION,
    WIDTH,
    Array,
    band,
    labels,
    legend,
    name,
    panels,
    plural,
    say,
    sentence,
    spread,
    title,
    unit_square,
)

GRID: Array = np.linspace(0, 1, 201)
MOST_CLASSES = 12
"""Panels of one picture; of more classes the most frequent are drawn."""


@dataclass(frozen=True)
class Curve:
    """A curve and the area under it: `x` and `y` [K], both from 0 to 1."""

    x: Array
    y: Array
    area: float

    def on_grid(self) -> Array:
        """ROC: the true positive rate at the false positive rates of `GRID`, from 0 at 0."""
        values: Array = np.interp(GRID, self.x, self.y)
        values[0] = 0.0
        return values


@dataclass(frozen=True)
class Steps(Curve):
    """A precision-recall curve: no straight line joins two of its points (Davis and Goadrich 2006)."""

    def on_grid(self) -> Array:
        """The precision at the highest threshold whose recall reaches each recall of `GRID`."""
        at: Array = self.y[np.searchsorted(self.x, GRID - 1e-9)]
        return at


@dataclass(frozen=True)
class Band:
    """Mean and deviation over the folds that have both sides.

    Attributes:
        mean: of the curves on `GRID`.
        deviation: of the curves on `GRID`.
        areas: under the curves of these folds.
        pooled: the curve of all folds' predictions together; None where one side is empty.
    """

    mean: Array
    deviation: Array
    areas: Array
    pooled: Curve | None


def _counts(y: Array, score: Array) -> tuple[Array, Array]:
    """TP and FP at every threshold, highest first."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(y) - 1)
    true: Array = np.cumsum(y[order])[last]
    return true, last + 1 - true


def roc(y: Array, score: Array) -> Curve:
    """True positive rate TP/P over false positive rate FP/N; needs both sides."""
    true, false = _counts(y, score)
    x, up = np.append(0, false) / false[-1], np.append(0, true) / true[-1]
    return Curve(x, up, float(np.trapezoid(up, x)))


def precision_recall(y: Array, score: Array) -> Curve:
    """Precision TP/(TP+FP) over recall TP/P; its area is the average precision; needs both sides.

    It begins at recall 0 with the precision of the first threshold that a member reaches.
    """
    true, false = _counts(y, score)
    recall, precision = (true / true[-1])[true > 0], (true / (true + false))[true > 0]
    area = float(np.sum(np.diff(recall, prepend=0) * precision))
    return Steps(np.append(0, recall), np.append(precision[0], precision), area)


def over_folds(held: HeldOut, column: int, curve: Callable[[Array, Array], Curve]) -> Band:
    """The band of one class against the rest."""
    members = held.against_rest(column)
    found = [curve(y, score) for y, score in members if 0 < y.sum() < len(y)]
    grid = np.array([one.on_grid() for one in found]).reshape(len(found), len(GRID))
    y, score = (np.concatenate(parts) for parts in zip(*members, strict=True))
    pooled = curve(y, score) if 0 < y.sum() < len(y) else None
    mean, deviation = (grid.mean(0), grid.std(0)) if len(found) else (GRID[:0], GRID[:0])
    return Band(mean, deviation, np.array([one.area for one in found]), pooled)


def roc_figure(held: HeldOut) -> Figure:
    """ROC curves of a classification task."""
    return _figure(held, roc, "ROC", "AUC", ("false positive rate", "true positive rate"))


def pr_figure(held: HeldOut) -> Figure:
    """Precision-recall curves of a classification task, with the share of the class: what chance attains."""
    return _figure(held, precision_recall, "Precision and recall", "AP", ("recall", "precision"))


def _figure(
    held: HeldOut, curve: Callable[[Array, Array], Curve], kind: str, area: str, axes: tuple[str, str]
) -> Figure:
    y, _ = held.pooled
    heading = f"{kind} of {name(held.task)}"
    if len(np.unique(y)) < 2:
        return sentence(heading, nothing(held))
    columns = _most_frequent(held)
    wide = 2 if len(columns) == 4 else min(len(columns), 3)
    width = WIDTH if wide > 1 else 5.5
    figure, found = panels(len(columns), columns=wide, height=width / wide, width=width, sharex=True, sharey=True)
    left_out = len(held.columns) - len(columns)
    if len(held.columns) > 1:
        heading += f", {len(columns)} most frequent classes" if left_out else ", each class"
        heading += " against the rest"
    figure.suptitle(heading, fontsize=11)
    drawn: dict[str, object] = {}
    for number, (ax, column) in enumerate(zip(found, columns, strict=True)):
        drawn |= _panel(ax, held, column, over_folds(held, column, curve), area)
        labels(ax, axes[0] if number + wide >= len(columns) else "", "" if number % wide else axes[1])
    legend(figure, list(drawn.values()), list(drawn), columns=2 if wide == 1 else 3)
    return figure


def nothing(held: HeldOut) -> str:
    """Why no curve of this task can be drawn."""
    y, _ = held.pooled
    if not len(y) and any(map(len, held.labels)):
        return "In every fold that holds out labelled documents the training part lacks a class: no score counts."
    if not len(y):
        return f"None of {plural(sum(held.missing), 'held-out document')} has a label for this task."
    only = name(held.spec.classes[int(y[0])])
    return f"All {plural(len(y), 'labelled held-out document')} are of class {only}: there is nothing to tell apart."


def _most_frequent(held: HeldOut) -> list[int]:
    if len(held.columns) <= MOST_CLASSES:
        return held.columns
    sizes = np.bincount(held.pooled[0].astype(int), minlength=len(held.columns))
    return sorted(np.argsort(-sizes, kind="stable")[:MOST_CLASSES].tolist())


def _panel(ax: Axes, held: HeldOut, column: int, found: Band, area: str) -> dict[str, object]:
    """Draws one class; returns what the legend shows."""
    y, _ = held.pooled
    members = int((y == column).sum())
    drawn: dict[str, object] = {}
    who = name(held.spec.classes[column], 22)
    if found.pooled is None:
        title(ax, f"{who}: {members} of {len(y)}")
        say(ax, "No held-out document is of this class.")
        return drawn
    chance = ([0, 1], [0, 1]) if area == "AUC" else ([0, 1], [members / len(y)] * 2)
    (line,) = ax.plot(*chance, color=FAINT, linestyle=":", linewidth=1.5)
    drawn["chance" if area == "AUC" else "chance: share of the class"] = line
    pooled, steps = found.pooled, area != "AUC"
    remark = [f"{pooled.area:.2f} pooled"]
    if len(found.areas):
        drawn["mean over folds, one deviation"] = band(ax, GRID, found.mean, found.deviation, BLUE, low=0, high=1)
        remark.insert(0, f"{spread(found.areas)} in {plural(len(found.areas), 'fold')}")
    drawstyle = "steps-pre" if steps else "default"
    (line,) = ax.plot(pooled.x, pooled.y, color=VERMILION, linewidth=1, drawstyle=drawstyle)
    drawn["all folds pooled"] = line
    unit_square(ax)
    positive = "positive class " if held.spec.kind == "binary" else ""
    title(ax, f"{positive}{who}: {members} of {len(y)}", f"{area} {', '.join(remark)}")
    return drawn

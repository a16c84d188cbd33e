"""Pictures of held-out predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from tune.job import JobRecord

GRID = np.linspace(0, 1, 201)


def one_vs_rest(record: JobRecord, task: str, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Membership of class `column` (0 or 1) and its score, for the labelled held-out documents of a fold."""
    labels = np.array(record.labels[task], dtype=np.float64)
    known = ~np.isnan(labels)
    scores = np.array(record.scores[task], dtype=np.float64)
    return (labels[known] == column).astype(int), scores[known, column]


def roc_plot(records: Sequence[JobRecord], task: str, classes: Sequence[str], path: Path) -> None:
    """ROC curves of a task as PNG: the mean over folds with a band of one standard deviation, and all folds pooled.

    A binary task has one panel (its second class is the positive one), a multiclass task one for each class against
    the rest. Only folds whose held-out documents have both sides are drawn and counted.
    """
    columns = [1] if len(classes) == 2 else list(range(len(classes)))
    wide = min(len(columns), 3)
    rows = -(-len(columns) // wide)
    figure = Figure(figsize=(4.2 * wide, 4.4 * rows), layout="constrained", dpi=100)
    axes = figure.subplots(rows, wide, squeeze=False).ravel()
    for ax, column in zip(axes, columns, strict=False):
        _panel(ax, records, task, column)
        ax.set_title(f"{task}: {classes[column]}" + ("" if len(columns) == 1 else " against the rest"))
    for ax in axes[len(columns) :]:
        ax.set_axis_off()
    figure.savefig(path)


def _panel(ax: Axes, records: Sequence[JobRecord], task: str, column: int) -> None:
    members = [one_vs_rest(record, task, column) for record in records]
    curves = [_on_grid(y, score) for y, score in members if 0 < y.sum() < len(y)]
    ax.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1)
    if curves:
        mean, deviation = np.mean(curves, axis=0), np.std(curves, axis=0)
        ax.fill_between(GRID, (mean - deviation).clip(0, 1), (mean + deviation).clip(0, 1), color="C0", alpha=0.2)
        ax.plot(GRID, mean, color="C0", label=f"mean and deviation of {len(curves)} folds")
    y, score = np.concatenate([m[0] for m in members]), np.concatenate([m[1] for m in members])
    if 0 < y.sum() < len(y):
        false, true, _ = roc_curve(y, score)
        ax.plot(false, true, color="C1", linewidth=1, label=f"pooled, {y.sum()} of {len(y)} documents")
    ax.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.set_aspect("equal")
    ax.legend(loc="lower right", fontsize=8)


def _on_grid(y: np.ndarray, score: np.ndarray) -> np.ndarray:
    """True positive rate at the false positive rates of the grid."""
    false, true, _ = roc_curve(y, score)
    values: np.ndarray = np.interp(GRID, false, true)
    values[0] = 0.0
    return values

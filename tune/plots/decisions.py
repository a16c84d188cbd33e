"""What the model decides, and how sure it is: confusion matrix, calibration, and for regression predicted against true.

All are of the pooled held-out predictions. The predicted class is the most probable one.

Shapes: N labelled held-out predictions, C classes, B bins.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hilbert.metrics import (
    balanced_accuracy,
    certainty,
    confusion_counts,
    expected_calibration_error,
    mean_and_se,
    wilson_interval,
)
from tune.plots.curves import nothing
from tune.plots.held_out import HeldOut
from tune.plots.style import (
    BLUE,
    FAINT,
    SHARES,
    SMALL,
    VERMILION,
    WIDTH,
    Array,
    labels,
    legend,
    name,
    panels,
    plural,
    sentence,
    title,
    unit_square,
)

MOST_WRITTEN = 16
"""Classes: of more, the confusion matrix is a heat map without numbers."""
BINS = 10
FEWEST_IN_BIN = 10


def confusion(held: HeldOut) -> np.ndarray:
    """How many documents of each class (row) are predicted as each class (column), [C, C]."""
    return confusion_counts(*held.pooled)


def confusion_figure(held: HeldOut) -> Figure:
    """The confusion matrix: counts, and shares of the true class, which are also the colours."""
    counts = confusion(held)
    heading = f"Confusion matrix of {name(held.task)}"
    if not counts.sum():
        return sentence(heading, nothing(held))
    size = len(counts)
    rows = counts.sum(1, keepdims=True)
    share = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    width = min(5.0 + 0.4 * size, WIDTH)
    figure, (ax,) = panels(1, columns=1, height=min(2.6 + 0.6 * size, 9.0), width=width)
    ax.imshow(share, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    if size <= MOST_WRITTEN:
        _write(ax, counts, share)
    names = [name(one, 18) for one in held.spec.classes]
    ax.set_xticks(range(size), names, rotation=0 if size < 4 else 45, ha="center" if size < 4 else "right")
    ax.set_yticks(range(size), [f"{one} ({count})" for one, count in zip(names, rows[:, 0], strict=True)])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    labels(ax, "predicted class", "true class (documents)")
    accuracy = balanced_accuracy(*held.pooled, held.spec.kind)
    found = "" if accuracy is None else f"; balanced accuracy {accuracy:.2f}, chance {1 / size:.2f}"
    title(ax, heading, f"{plural(int(counts.sum()), 'held-out prediction')}{found}")
    return figure


def _write(ax: Axes, counts: np.ndarray, share: Array) -> None:
    small = len(counts) > 8
    for (row, column), count in np.ndenumerate(counts):
        if count or not small:
            text = f"{count}" if small else f"{count}\n{share[row, column]:.0%}"
            colour = "white" if share[row, column] > 0.7 else "black"
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=SMALL if small else 10)


@dataclass(frozen=True)
class Bins:
    """Predictions in bins of equal counts, from unsure to sure.

    Attributes:
        confidence: mean predicted probability [B].
        frequency: how often it came true [B].
        count: predictions in the bin [B].
        interval: 95% Wilson interval of the frequency [2, B].
    """

    confidence: Array
    frequency: Array
    count: Array
    interval: Array


def reliability(confidence: Array, happened: Array) -> Bins:
    """Bins of `confidence` [N] in [0, 1] and of whether it `happened` [N], 0 or 1; at least ten a bin if there are."""
    bins = max(1, min(BINS, len(confidence) // FEWEST_IN_BIN))
    order = np.argsort(confidence, kind="stable")
    starts = np.linspace(0, len(order), bins, endpoint=False).astype(int)
    count = np.diff(starts, append=len(order)).astype(np.float64)
    mean = np.add.reduceat(confidence[order], starts) / count
    frequency = np.add.reduceat(happened[order], starts) / count
    intervals = [wilson_interval(round(share * n), int(n)) for share, n in zip(frequency, count, strict=True)]
    return Bins(mean, frequency, count, np.array(intervals).T)


def calibration_figure(held: HeldOut) -> Figure:
    """Left, how often what is predicted with a probability comes true; right, which probabilities are predicted."""
    confidence, happened = certainty(*held.pooled, held.spec.kind)
    heading = f"Calibration of {name(held.task, 24)}"
    if not len(confidence):
        return sentence(heading, nothing(held))
    figure, (left, right) = panels(2, columns=2, height=4.4)
    error = expected_calibration_error(*held.pooled, held.spec.kind)
    binary = held.spec.kind == "binary"
    positive = name(held.spec.classes[1], 20) if binary else "the top class"
    what = f"probability of {positive}"
    found = reliability(confidence, happened.astype(np.float64))
    _reliability(left, found)
    labels(left, f"predicted {what}", f"share that is {positive}" if binary else "share that is right")
    title(left, f"{heading}: error {error:.3f}", _bins(found.count))
    sides = (1, 0), (name(held.spec.classes[1], 20), name(held.spec.classes[0], 20)) if binary else ("right", "wrong")
    edges = np.linspace(0, 1, 21)
    for side, label, colour in zip(*sides, (VERMILION, BLUE), strict=True):
        counts = np.histogram(confidence[happened == side], edges)[0]
        right.stairs(counts, edges, fill=True, color=colour, alpha=0.45, label=f"{label} ({counts.sum()})")
    right.set_xlim(0, 1)
    labels(right, f"predicted {what}", "held-out predictions")
    title(right, "Predicted probabilities", "by true class" if binary else "by whether the top class is the true one")
    shown = [ax.get_legend_handles_labels() for ax in (left, right)]
    legend(figure, *map(sum, zip(*shown, strict=True), ([], [])), columns=5)
    return figure


def _reliability(ax: Axes, bins: Bins) -> None:
    ax.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1.5, label="perfect calibration")
    ax.vlines(bins.confidence, *bins.interval, color=BLUE, linewidth=1, label="95% interval")
    ax.plot(bins.confidence, bins.frequency, "o-", color=BLUE, markersize=5, linewidth=1.2, label="bins")
    unit_square(ax)


def _bins(count: Array) -> str:
    low, high = int(count.min()), int(count.max())
    sizes = f"{low}" if low == high else f"{low} or {high}"
    return f"{plural(len(count), 'bin')} of {sizes} held-out predictions"


def scatter_figure(held: HeldOut) -> Figure:
    """Predicted against true numbers of a regression task."""
    y, scores = held.pooled
    heading = f"{name(held.task)}: predicted against true"
    if not len(y):
        return sentence(heading, nothing(held))
    figure, (ax,) = panels(1, columns=1, height=5.2, width=6.0)
    ends = [min(y.min(), scores.min()), max(y.max(), scores.max())]
    ax.plot(ends, ends, color=FAINT, linestyle=":", linewidth=1.5, label="predicted = true")
    size = float(np.clip(40 / np.sqrt(len(y)), 2, 5))
    ax.plot(y, scores[:, 0], "o", color=BLUE, alpha=0.5, markersize=size, markeredgewidth=0)
    ax.legend(fontsize=SMALL, frameon=False, loc="upper left")
    labels(ax, "true", "predicted")
    mean, _, folds = mean_and_se(held.auc)
    concordance = "" if mean is None else f", concordance {mean:.2f} in {plural(folds, 'fold')}"
    error = np.abs(scores[:, 0] - y).mean()
    title(ax, heading, f"{plural(len(y), 'prediction')}, mean absolute error {error:.3g}{concordance}")
    return figure

"""The folds: the score of each, and what its held-out documents are labelled."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hilbert.metrics import mean_and_se
from tune.plots.curves import MOST_CLASSES
from tune.plots.held_out import HeldOut
from tune.plots.style import BLACK, BLUE, FAINT, SMALL, Array, colours, labels, name, panels, plural, title


def folds_figure(tasks: Sequence[HeldOut]) -> Figure:
    """AUC of every fold and task as a dot, with mean and standard error; a row a task, its folds from top to bottom."""
    figure, (ax,) = panels(1, columns=1, height=1.3 + 0.75 * len(tasks))
    names = [name(held.task) for held in tasks]
    for row, held in enumerate(tasks):
        _row(ax, row, held)
    ax.axvline(0.5, color=FAINT, linestyle=":", linewidth=1.5, zorder=0)
    ax.set_yticks(range(len(tasks)), names)
    ax.set_ylim(len(tasks) - 0.4, -0.6)
    ax.margins(x=0.03)
    labels(ax, "AUC on held-out documents (regression: concordance index); 0.5 is chance")
    title(
        ax,
        "Score of every fold",
        "in a row the first fold is on top; diamond: mean and standard error",
    )
    return figure


def _row(ax: Axes, row: int, held: HeldOut) -> None:
    places = row + np.linspace(-0.36, 0.12, len(held.auc))
    values = np.array(held.auc, dtype=np.float64)
    ax.plot(values, places, "o", color=BLUE, alpha=0.6, markersize=4.5, markeredgewidth=0)
    mean, error, counted = mean_and_se(held.auc)
    if mean is None:
        found = f"undefined in all {plural(len(held.auc), 'fold')}"
    else:
        reach = None if error is None else [[min(error, mean)], [min(error, 1 - mean)]]  # an AUC ends at 0 and at 1
        ax.errorbar(mean, row + 0.28, xerr=reach, fmt="D", color=BLACK, markersize=6, capsize=4, linewidth=1.5)
        found = (
            f"{mean:.3f}"
            + ("" if error is None else f" ± {error:.3f}")
            + f"\n{counted} of {plural(len(held.auc), 'fold')}"
        )
    where = ax.get_yaxis_transform()
    ax.text(1.01, row, found, va="center", fontsize=SMALL, transform=where)


def class_counts(held: HeldOut) -> Array:
    """Held-out documents of each class in each fold [classes + 1, folds]; regression: one row; the last are missing."""
    size = max(len(held.spec.classes), 1)
    number = [y.astype(int) if held.spec.classes else np.zeros(len(y), dtype=int) for y in held.labels]
    counts = [np.bincount(one, minlength=size) for one in number]
    return np.vstack([np.array(counts).T, held.missing]).astype(np.float64)


def classes_figure(tasks: Sequence[HeldOut]) -> Figure:
    """Held-out documents of every fold and task by class, as stacked bars."""
    stacks = [_stack(held) for held in tasks]
    heights = [max(1.6, 0.5 + 0.19 * len(stack)) for stack in stacks]
    figure, axes = panels(
        len(tasks),
        columns=1,
        height=0.3 + float(np.mean(heights)),
        sharex=True,
        gridspec_kw={"height_ratios": heights},
    )
    for ax, held, stack in zip(axes, tasks, stacks, strict=True):
        base = np.zeros(len(held.folds))
        for colour, (label, counts) in zip([*colours(len(stack) - 1), FAINT], stack, strict=True):
            if counts is not stack[-1][1] or counts.any():
                _bars(ax, held.folds, base, counts, colour, f"{label} ({counts.sum():.0f})")
            base = base + counts
        found = (part[::-1] for part in ax.get_legend_handles_labels())
        ax.legend(*found, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=SMALL, frameon=False)
        labels(ax, y="documents")
        title(ax, name(held.task))
    folds = tasks[0].folds
    axes[-1].set_xticks(folds[:: 1 + len(folds) // 26])
    labels(axes[-1], "fold")
    figure.suptitle("Held-out documents by class", fontsize=11)
    return figure


def _stack(held: HeldOut) -> list[tuple[str, Array]]:
    """The bars' parts from below: names, and documents in each fold. Rare classes are one part, the last is missing."""
    counts = class_counts(held)
    classes, missing = counts[:-1], counts[-1]
    shown = np.sort(np.argsort(-classes.sum(1), kind="stable")[:MOST_CLASSES])
    names = held.spec.classes or ("labelled",)
    parts = [(name(names[row], 24), classes[row]) for row in shown]
    if len(classes) > len(shown):
        parts.append((f"{len(classes) - len(shown)} rarer classes", classes.sum(0) - classes[shown].sum(0)))
    return [*parts, ("without label", missing)]


def _bars(ax: Axes, folds: Sequence[int], base: Array, heights: Array, colour: object, label: str) -> None:
    """Bars side by side as one shape: drawing one a fold takes ten times as long."""
    edges = np.ravel([(fold - 0.4, fold + 0.4) for fold in folds])
    gaps = np.full(2 * len(folds) - 1, np.nan)
    tops, bottoms = gaps.copy(), gaps.copy()
    tops[::2], bottoms[::2] = base + heights, base
    ax.stairs(tops, edges, baseline=bottoms, fill=True, color=colour, label=label)

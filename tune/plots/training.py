"""How training went: loss terms, inner validation, the balance of the modalities, and the use of the experts.

Folds that stopped early have fewer epochs than others: the mean is over the folds that still trained, drawn dotted
where these are fewer than half.

Shapes: F folds, T epochs of the longest, E experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hilbert.config import TaskConfig
from tune.job import JobRecord
from tune.plots.style import (
    BLACK,
    BLUE,
    FAINT,
    NOTE,
    SMALL,
    VERMILION,
    Array,
    band,
    colours,
    epochs,
    labels,
    legend,
    name,
    panels,
    plural,
    sentence,
    spread,
    title,
)

TERMS = {
    "contrastive": "Contrastive loss",
    "cka": "CKA loss",
    "mi": "Information balance (nats²)",
    "moe": "Gates' load balance",
}
INNER_AUC = "Inner validation AUC"


@dataclass(frozen=True)
class Course:
    """A measure over the epochs: mean and deviation [T] over the folds that have it, `folds` [T] of them."""

    epoch: Array
    mean: Array
    deviation: Array
    folds: NDArray[np.int_]


def by_epoch(records: Sequence[JobRecord], measure: str) -> Array:
    """A measure of every fold and epoch [F, T], NaN where it is missing; T = 0 where no fold has it."""
    rows = [np.array(record.epochs.get(measure, []), dtype=np.float64) for record in records]
    found = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
    return found


def course(values: Array) -> Course | None:
    """Sums up [F, T]; epochs without a value are left out; None where there is none."""
    known = ~np.isnan(values)
    folds = known.sum(0)
    some = folds > 0
    if not some.any():
        return None
    mean: Array = np.where(known, values, 0.0).sum(0)[some] / folds[some]
    squares = np.where(known[:, some], values[:, some] - mean, 0) ** 2
    deviation: Array = np.sqrt(squares.sum(0) / folds[some])
    return Course(np.flatnonzero(some).astype(np.float64) + 1, mean, deviation, folds[some])


def _draw(ax: Axes, found: Course, colour: object, **limits: float) -> tuple[object, object]:
    """A course; dotted where fewer than half of the folds have it. `limits`: of its band, `low` and `high`."""
    many = found.folds >= found.folds.max() / 2
    line, area = band(ax, found.epoch, np.where(many, found.mean, np.nan), found.deviation, colour, **limits)
    if not many.all():
        few = ~many | np.append(~many[1:], False)  # joined to the last point of the full line
        ax.plot(found.epoch, np.where(few, found.mean, np.nan), color=colour, linewidth=1.2, linestyle=":")
    return line, area


def _contents(tasks: Mapping[str, TaskConfig]) -> dict[str, dict[str, str]]:
    """Panels with the measures in them, and what these are called in the legend."""
    total = {"train_total": ""}
    by_task = {f"train_task_{task}": task for task in tasks}
    terms = {heading: {f"train_{term}": ""} for term, heading in TERMS.items()}
    inner = {"Inner validation loss": {"inner_loss": ""}}
    inner |= {INNER_AUC: {f"inner_{task}_auc": task for task in tasks}}
    shown = {"Total loss": total, "Task losses": by_task, **terms, **inner}
    return shown | {"Learned temperature": {"temperature": ""}}


def training_figure(records: Sequence[JobRecord], tasks: Mapping[str, TaskConfig]) -> Figure:
    """Every loss term while training, unweighted, and inner validation, over the epochs."""
    measured = {
        heading: {label: c for measure, label in measures.items() if (c := course(by_epoch(records, measure)))}
        for heading, measures in _contents(tasks).items()
    }
    shown = {heading: found for heading, found in measured.items() if found}
    if not shown:
        return sentence("Training", "No epoch was recorded.")
    columns = 4 if len(shown) in {4, 7, 8} else min(len(shown), 3)
    figure, axes = panels(len(shown), columns=columns, height=2.5 if len(shown) > columns else 3.2, sharex=True)
    longest = max(len(record.epochs["epoch"]) for record in records)
    colour = dict(zip(tasks, colours(len(tasks)), strict=True)) | {"": NOTE}
    drawn: dict[str, object] = {}
    for ax, (heading, found) in zip(axes, shown.items(), strict=True):
        for label, one in found.items():
            drawn[label] = _draw(ax, one, colour[label], **({"low": 0, "high": 1} if heading == INNER_AUC else {}))
        title(ax, heading)
        kept = _kept(ax, records)
        if ax in axes[-columns:]:
            ax.tick_params(labelbottom=True)
            epochs(ax, longest)
    figure.suptitle(_heading(records, shown), fontsize=11)
    drawn.pop("", None)
    legend(figure, [*drawn.values(), kept], [*map(name, drawn), "kept epochs of the folds"], columns=4)
    return figure


def _heading(records: Sequence[JobRecord], shown: Mapping[str, object]) -> str:
    lengths = [len(next(iter(record.epochs.values()), [])) for record in records]
    fewer = f"{min(lengths)} to " if min(lengths) < max(lengths) else ""
    found = f"Training: mean and deviation of {plural(len(records), 'fold')}, {fewer}{plural(max(lengths), 'epoch')}"
    if sum(length == max(lengths) for length in lengths) < len(lengths) / 2:
        found += " (dotted: fewer than half still train)"
    inner = "" if any("Inner" in heading for heading in shown) else ", no inner validation"
    off = [heading for heading in TERMS.values() if heading not in shown]
    return f"{found}{inner}" + (f"\nnot computed: {', '.join(off)}" if off else "")


def _kept(ax: Axes, records: Sequence[JobRecord]) -> object:
    """Marks the epochs whose weights were kept, on the lower edge, and their median as a line."""
    best = np.array([record.best_epoch for record in records])
    ax.axvline(float(np.median(best)), color=FAINT, linewidth=1, zorder=0)
    (marks,) = ax.plot(
        best, np.zeros(len(best)), "|", color=BLACK, markersize=7, transform=ax.get_xaxis_transform(), clip_on=False
    )
    return marks


def balance_figure(records: Sequence[JobRecord]) -> Figure:
    """The information bounds of the two modalities with the joint embedding, and their difference."""
    values = {side: by_epoch(records, f"train_information_{side}") for side in ("audio", "text")}
    found = {side: course(value) for side, value in values.items()}
    heading = "Balance of the modalities"
    if not all(found.values()) or values["audio"].shape != values["text"].shape:
        why = (
            "The information bounds were not computed: loss.contrastive and loss.mi are 0, or no batch held enough"
            " documents with both modalities."
        )
        return sentence(heading, why)
    figure, (left, right) = panels(2, columns=2, height=3.6)
    for (side, one), colour in zip(found.items(), (BLUE, VERMILION), strict=True):
        if one is not None:
            _draw(left, one, colour)[0].set_label(f"{side} and joint")  # type: ignore[attr-defined]
    left.legend(fontsize=SMALL, frameon=False)
    title(left, heading, "information shared with the joint embedding, while training")
    if difference := course(values["audio"] - values["text"]):
        _draw(right, difference, BLACK)
    right.axhline(0, color=FAINT, linestyle=":", linewidth=1.5)
    title(right, "Audio minus text", "above 0 audio dominates the joint embedding, below 0 text")
    for ax in (left, right):
        epochs(ax, values["audio"].shape[1])
        labels(ax, y="nats")
    return figure


def ranked_usage(records: Sequence[JobRecord], tasks: Sequence[str]) -> Array:
    """Usage of every fold, task and expert [F, tasks, E], each fold's experts from most to least used by all tasks.

    The numbers of the experts mean nothing across folds, for their initial weights differ: a mean by number would
    always be near 1/E. Their ranks do.
    """
    used = np.array([[record.usage[task] for task in tasks] for record in records], dtype=np.float64)
    order = np.argsort(-used.mean(1), axis=1, kind="stable")
    ranked: Array = np.take_along_axis(used, order[:, None, :], axis=2)
    return ranked


def effective_experts(usage: Array) -> Array:
    """exp(entropy) of usage [..., E]: E where all experts are used alike, 1 where one is used alone."""
    entropy = -(usage * np.log(np.where(usage > 0, usage, 1))).sum(-1)
    effective: Array = np.exp(entropy)
    return effective


def experts_figure(records: Sequence[JobRecord], tasks: Sequence[str]) -> Figure:
    """How much each task uses the experts: mean gate weight on held-out documents, mean and deviation over folds."""
    known = [record for record in records if all(sum(record.usage.get(task, [])) > 0 for task in tasks)]
    heading = "Use of the experts"
    if not known:
        return sentence(heading, "These fold jobs were recorded without the use of the experts.")
    used = ranked_usage(known, tasks)
    experts = used.shape[2]
    if experts == 1:
        return sentence(heading, "The model has one expert (model.experts: 1): every task uses it for every document.")
    figure, (ax,) = panels(1, columns=1, height=3.8)
    width, rank = 0.8 / len(tasks), np.arange(1, experts + 1)
    for number, (task, colour) in enumerate(zip(tasks, colours(len(tasks)), strict=True)):
        effective = effective_experts(used[:, number])
        mean, deviation = used[:, number].mean(0), used[:, number].std(0)
        label = f"{name(task)}: uses {spread(effective, 1)} experts"
        middle = rank + (number - (len(tasks) - 1) / 2) * width
        ax.bar(middle, mean, 0.9 * width, color=colour, alpha=0.85, label=label)
        ax.vlines(middle, (mean - deviation).clip(0), mean + deviation, color=NOTE, linewidth=1.2)
    ax.axhline(1 / experts, color=NOTE, linestyle=":", linewidth=1.2, label=f"all alike: 1/{experts}")
    ax.set_xticks(rank)
    ax.set_ylim(0)
    labels(ax, "expert, from most to least used within each fold", "mean gate weight")
    title(
        ax,
        heading,
        f"mean and deviation over {plural(len(known), 'fold')}; how many are used: exp(entropy)",
    )
    legend(figure, *ax.get_legend_handles_labels(), columns=3)
    return figure

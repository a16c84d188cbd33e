"""`hilbert compare STUDY A B`: two configurations, what they differ in, and how they do on the same folds.

A difference is the first one's AUC less the second one's: above 0, and to the right, the first is better.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hilbert.errors import InputError, shown
from hilbert.files import unforeseen
from tune.contest import LEVEL, Compared, Pair, failed_trials
from tune.evidence import Evidence, named, trial_number
from tune.formats import with_error
from tune.output import check_file
from tune.plots import style

OBJECTIVE, ALL_TASKS = "objective", "all tasks"
NARROWEST, WIDEST = 25, 61
"""Columns of a plot of differences: where there is less room, those of single tasks are left out."""
LONGEST = 40
"""Characters of a parameter's value, and of a task's name."""


def two(evidence: Evidence, texts: Sequence[str]) -> tuple[int, int]:
    """The numbers of the two configurations that a user has named, as in 14 or t014.

    Raises:
        InputError: these aren't two different configurations that can be compared; the message names those that can.
    """
    if len(texts) != 2:
        raise InputError(f"two configurations are compared, as in 'hilbert compare STUDY 14 3', not {len(texts)}")
    a, b = (_one(evidence, text) for text in texts)
    if a == b:
        raise InputError(f"{texts[0]} and {texts[1]} are one configuration; name two")
    return a, b


def _one(evidence: Evidence, text: str) -> int:
    number, failed = trial_number(text), failed_trials(evidence)
    usable = [trial for trial in evidence.trials if trial not in failed]
    if number is not None and number in usable:
        return number
    everyone = set(evidence.study.trials["trial"])
    if number is None or number not in everyone:
        why = f"study {shown(evidence.study.name)} has no configuration {shown(text)}"
    elif number in failed:
        why = f"t{number:03d} has failed folds"
    elif number in evidence.missing:
        why = f"the predictions of t{number:03d} can't be had ({evidence.missing[number]})"
    else:
        why = f"t{number:03d} has not ended yet"
    raise InputError(f"{why}; these can be compared: {named(usable)}")


# ---- as a table ------------------------------------------------------------------------------------------------------


def fold_table(pair: Pair) -> pd.DataFrame:
    """One row a fold: `fold`, then of the objective and of each task both AUCs and their difference."""
    columns: dict[str, Any] = {"fold": range(len(pair.objective.a))}
    for name, found in {OBJECTIVE: pair.objective, **pair.tasks}.items():
        parts = {f"t{pair.a:03d}": found.a, f"t{pair.b:03d}": found.b, "difference": found.tested.differences}
        columns |= {f"{name}/{part}": np.array(values, dtype=np.float64) for part, values in parts.items()}
    return pd.DataFrame(columns)


# ---- on the terminal -------------------------------------------------------------------------------------------------


def show_pair(pair: Pair, evidence: Evidence, console: Console) -> None:
    """Prints parameters that differ, the table by task, the differences fold by fold, and the tests in words."""
    console.print(f"{evidence.study.name}: t{pair.a:03d} and t{pair.b:03d}", style="italic", highlight=False)
    _parameters(pair, console)
    _by_task(pair, evidence, console)
    _by_fold(pair, evidence, console)
    for line in in_words(pair, evidence):
        console.print(line, highlight=False, markup=False)


def _parameters(pair: Pair, console: Console) -> None:
    if not pair.parameters:
        console.print("They don't differ in any parameter.")
        return
    table = Table(box=SIMPLE)
    table.add_column("parameters that differ", overflow="fold")
    for trial in (pair.a, pair.b):
        table.add_column(f"t{trial:03d}", justify="right", overflow="fold")
    for name, values in pair.parameters.items():
        table.add_row(Text(name), *(Text(_value(value)) for value in values))
    console.print(table)


def _value(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _measures(pair: Pair, evidence: Evidence) -> dict[str, Compared]:
    """What is compared, by name: the mean over all tasks if that is the objective, and each task."""
    single = evidence.study.objective in pair.tasks or len(pair.tasks) == 1
    return dict(pair.tasks) if single else {ALL_TASKS: pair.objective, **pair.tasks}


def _by_task(pair: Pair, evidence: Evidence, console: Console) -> None:
    """Two rows a task: the mean over the folds that both ran, and the predictions pooled."""
    table = Table(box=SIMPLE, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    table.add_column("AUC", overflow="ellipsis", no_wrap=True)
    for name in ("", f"t{pair.a:03d}", f"t{pair.b:03d}", "apart", "95 % interval", "p", "Wilcoxon"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in _measures(pair, evidence).items():
        tested, test, delong = found.tested, found.tested.test, found.delong
        both = [(x, y) for x, y in zip(found.a, found.b, strict=True) if x is not None and y is not None]
        means = [f"{np.mean(side):.4f}" for side in zip(*both, strict=True)] or ["undefined", "undefined"]
        interval = _interval(test.interval) if test else ""
        tests = [_p(test.p) if test else "", _p(tested.wilcoxon)]
        count = style.plural(tested.folds, "fold")
        table.add_row(Text(name[:LONGEST]), count, *means, _signed(tested.mean), interval, *tests)
        a, b = found.pooled
        apart = None if a is None or b is None else a - b
        tests = [_p(delong.p) if delong else "", ""]
        interval = _interval(delong.interval) if delong else ""
        table.add_row("", "pooled", with_error(a, None), with_error(b, None), _signed(apart), interval, *tests)
    console.print(table)
    console.print()


def _by_fold(pair: Pair, evidence: Evidence, console: Console) -> None:
    """Bars left and right of zero, a line a fold; of single tasks too where there is room."""
    measures = _measures(pair, evidence)
    first = next(name for name, found in measures.items() if found is pair.objective)
    room = console.width - 8
    if room // len(measures) < NARROWEST + 10:
        measures = {first: measures[first]}
    width = min(WIDEST, room // len(measures) - 10)
    width -= 1 - width % 2  # the zero stands in the middle
    largest = max((abs(d) for found in measures.values() for d in found.tested.differences if d is not None), default=0)
    table = Table(box=None, padding=(0, 1))
    table.add_column("fold", justify="right")
    for name in measures:
        table.add_column("", justify="right", no_wrap=True)
        table.add_column(_heading(name, pair, width), no_wrap=True, width=width)
    for fold in range(len(pair.objective.a)):
        cells: list[str | Text] = []
        for found in measures.values():
            value = found.tested.differences[fold]
            reason = "undefined" if fold in pair.common else "not run by both"
            cells += [_signed(value), bar(value, largest, width, ascii_only=console.options.ascii_only, instead=reason)]
        table.add_row(str(fold), *cells)
    console.print(table)
    console.print()


def _heading(name: str, pair: Pair, width: int) -> Text:
    half = width // 2
    left, right = f"t{pair.b:03d} better", f"t{pair.a:03d} better"
    title = Text(name[:width].center(width).rstrip() + "\n", style="bold")
    return title + Text(f"{left:>{half - 1}}   {right}"[:width], style="dim")


def bar(value: float | None, largest: float, width: int, *, ascii_only: bool = False, instead: str = "") -> Text:
    """A bar from the middle of `width` columns, to the right for a positive value; `largest` fills one side."""
    half, axis = width // 2, "|" if ascii_only else "│"
    if value is None:
        return Text(f"{instead[: half - 1]:>{half - 1}} {axis}", style="dim")
    halves = round(2 * half * abs(value) / largest) if largest else 0
    full, rest = divmod(halves, 2)
    block, edge = ("#", "") if ascii_only else ("█", ("▌" if value > 0 else "▐") * rest)
    if value > 0:
        return Text.assemble(" " * half, (axis, "dim"), (block * full + edge, "blue"))
    return Text.assemble((f"{edge}{block * full}".rjust(half), "red"), (axis, "dim"))


def in_words(pair: Pair, evidence: Evidence) -> list[str]:
    """What the tests say, in sentences."""
    tested, a, b = pair.objective.tested, f"t{pair.a:03d}", f"t{pair.b:03d}"
    if tested.test is None or tested.mean is None:
        why = "too few for a test" if tested.folds < 2 else "with the same difference on each: no test"
        return [f"{a} and {b} can be compared on {style.plural(tested.folds, 'fold')}, {why}."]
    test = tested.test
    side = "as good as" if not tested.mean else "ahead of" if tested.mean > 0 else "behind"
    by = f" by {abs(tested.mean):.4f}" if tested.mean else ""
    verdict = "They can't be told apart." if test.p >= LEVEL else f"That is a difference at {LEVEL:g}."
    low, high = test.interval
    lines = [
        f"By {evidence.study.objective} {a} is {side} {b}{by} on average over {style.plural(tested.folds, 'fold')},"
        f" 95 % interval {low:+.4f} to {high:+.4f}: corrected resampled t-test p = {_p(test.p)},"
        f" Wilcoxon {_p(tested.wilcoxon)}. {verdict}"
    ]
    partly = any(found.tested.folds < tested.folds for found in pair.tasks.values())
    if partly and pair.objective not in pair.tasks.values():
        lines.append("All tasks: on each fold the mean over those whose AUC is defined there.")
    if any(found.delong for found in pair.tasks.values()):
        lines.append("p of pooled AUCs is DeLong's: of new documents, given these predictions.")
    if len(pair.common) < evidence.folds:
        lines.append(f"Only the {len(pair.common)} of {evidence.folds} folds that both ran are compared.")
    lines.append("All p-values hold for two configurations that were named before their results were seen.")
    return lines


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _interval(found: tuple[float, float]) -> str:
    return f"{found[0]:+.3f} to {found[1]:+.3f}"


def _p(p: float | None) -> str:
    return "undefined" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


# ---- as a picture ----------------------------------------------------------------------------------------------------


def check_picture(path: Path) -> None:
    """Checks that the picture can be written there.

    Raises:
        InputError: it can't.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the picture is a PNG; --output names a file that ends in .png")
    check_file(path)


def draw(pair: Pair, evidence: Evidence, path: Path) -> None:
    """Writes the picture, a PNG: a panel a measure, a bar a fold; an older one is replaced when the new one is whole.

    Raises:
        InputError: it can't be written there.
    """
    check_picture(path)
    beside = unforeseen(path)
    try:
        style.save(_figure(pair, evidence), beside)
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}; --output names another place") from None
    finally:
        beside.unlink(missing_ok=True)


def _figure(pair: Pair, evidence: Evidence) -> Any:
    measures = _measures(pair, evidence)
    figure, axes = style.panels(len(measures), columns=min(2, len(measures)), height=2.6, sharey=True)
    a, b = f"t{pair.a:03d}", f"t{pair.b:03d}"
    reach = _reach(list(measures.values()))
    for number, (ax, (name, found)) in enumerate(zip(axes, measures.items(), strict=True)):
        _panel(ax, name, found)
        ax.set_ylim(-reach, reach)
        y = f"AUC of {a} less {b}" if number % 2 == 0 else ""
        style.labels(ax, "fold" if number >= len(measures) - 2 else "", y)
    handles: list[Any] = [Patch(color=style.BLUE), Patch(color=style.VERMILION), Patch(color=style.FAINT, alpha=0.5)]
    style.legend(figure, handles, [f"{a} better", f"{b} better", "mean and its 95 % interval"])
    return figure


def _reach(measures: Sequence[Compared]) -> float:
    """Where the axes of all panels end: an interval of few folds may be too wide to be drawn whole."""
    tests = [found.tested.test for found in measures]
    largest = max((abs(d) for found in measures for d in found.tested.differences if d is not None), default=0)
    ends = max((abs(end) for test in tests if test for end in test.interval), default=0)
    return 1.1 * max(largest, min(ends, 3 * largest)) or 0.01


def _panel(ax: Axes, name: str, found: Compared) -> None:
    values = found.tested.differences
    folds = [fold for fold, value in enumerate(values) if value is not None]
    heights = [value for value in values if value is not None]
    ax.axhline(0, color=style.NOTE, linewidth=0.8)
    ax.bar(folds, heights, 0.8, color=[style.BLUE if value >= 0 else style.VERMILION for value in heights])
    absent = [fold for fold, value in enumerate(values) if value is None]
    ax.plot(absent, [0] * len(absent), "x", color=style.NOTE, markersize=5)
    if found.tested.mean is not None:
        ax.axhline(found.tested.mean, color=style.BLACK, linewidth=1, linestyle="--")
    test = found.tested.test
    if test:
        ax.axhspan(*test.interval, color=style.FAINT, alpha=0.35, linewidth=0, zorder=0)
    ax.set_xlim(-0.7, len(values) - 0.3)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    said = f"{found.tested.mean:+.4f} on average, p = {_p(test.p)}" if test else "no test"
    missing = f"; × undefined or not run: {len(absent)}" if absent else ""
    style.title(ax, style.name(name), said + missing)

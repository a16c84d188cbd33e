"""How the pictures look: one palette that colour-blind readers can tell apart, sizes, and how names are written.

No picture touches matplotlib's global state (`pyplot`, `rcParams`): they are drawn in a thread of the driver.
"""

import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

Array = NDArray[np.float64]

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Okabe and Ito (2008), without yellow, which is too pale for lines on white."""
FAINT, NOTE = "0.75", "0.35"
"""Greys: of reference lines and missing values, and of remarks."""
SHARES = LinearSegmentedColormap.from_list("shares", ["white", BLUE])
"""Of heat maps, for 0 to 1."""

DPI = 100
WIDTH = 9.0
"""Inches; with `DPI` as wide as MLflow's artifact viewer shows a picture."""
SMALL, TITLE = 8.5, 10.0
"""Points: of ticks, labels and remarks, and of titles."""


def colours(n: int) -> list[Any]:
    """`n` colours that can be told apart; many are taken from viridis, in its order."""
    return list(PALETTE[:n]) if n <= len(PALETTE) else list(colormaps["viridis"](np.linspace(0, 0.95, n)))


def panels(
    count: int, *, columns: int, height: float, width: float = WIDTH, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`, each `height` inches high."""
    rows = -(-count // columns)
    figure = Figure(figsize=(width, rows * height), layout="constrained", dpi=DPI)
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for ax in axes[:count]:
        ax.tick_params(labelsize=SMALL, length=2)
        ax.locator_params(nbins=4)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[count:]:
        ax.remove()
    return figure, list(axes[:count])


def title(ax: Axes, first: str, second: str = "") -> None:
    """A panel's title, and a remark under it; both are plain text."""
    ax.set_title(first, fontsize=TITLE, loc="left", pad=17 if second else 6, y=1.0)
    if second:
        remark = ax.annotate(second, (0, 1), (0, 4), "axes fraction", textcoords="offset points")
        remark.set(fontsize=SMALL, color=NOTE, in_layout=False)


def labels(ax: Axes, x: str = "", y: str = "") -> None:
    """Labels of the axes; an empty one stays away."""
    if x:
        ax.set_xlabel(x, fontsize=SMALL)
    if y:
        ax.set_ylabel(y, fontsize=SMALL)


def legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], *, columns: int = 3) -> None:
    """One legend for all panels, below them."""
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False)


def band(ax: Axes, x: Array, mean: Array, deviation: Array, colour: Any, **limits: float) -> tuple[Any, Any]:
    """A mean as a line, with a band of one deviation; returns both for the legend."""
    low, high = mean - deviation, mean + deviation
    if limits:
        low, high = low.clip(limits["low"], limits["high"]), high.clip(limits["low"], limits["high"])
    area = ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    (line,) = ax.plot(x, mean, color=colour, linewidth=1.5, marker="o" if len(x) == 1 else None, markersize=4)
    return line, area


def unit_square(ax: Axes) -> None:
    """Both axes from 0 to 1."""
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0, 0.5, 1], ["0", "0.5", "1"])


def epochs(ax: Axes, last: int) -> None:
    """An axis of whole epochs."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, last) if last / step <= 5)
    ax.set_xticks(range(step, last + 1, step) if last > step else [last])
    labels(ax, "epoch")


def say(ax: Axes, why: str) -> None:
    """A sentence in the place of a panel in which nothing can be drawn."""
    ax.set_axis_off()
    ax.text(
        0.5, 0.5, textwrap.fill(why, 40), ha="center", va="center", fontsize=SMALL, color=NOTE, transform=ax.transAxes
    )


def sentence(heading: str, why: str) -> Figure:
    """A sentence in the place of a picture of which nothing can be drawn."""
    figure = Figure(figsize=(WIDTH, 1.2), dpi=DPI)
    figure.text(0.02, 0.85, heading, fontsize=TITLE, va="top")
    figure.text(0.02, 0.5, textwrap.fill(why, 120), fontsize=TITLE, va="top", color=NOTE)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG: laid out once and compressed lightly, which saves a third of the time of `savefig`."""
    canvas = FigureCanvasAgg(figure)
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    canvas.print_png(path, pil_kwargs={"compress_level": 1})


def name(text: str, longest: int = 32) -> str:
    """A name from the user's data as plain text of one line: no formulas, no missing glyphs, its middle cut out."""
    known = _glyphs()
    text = "".join(c if ord(c) in known else "\N{WHITE SQUARE}" for c in " ".join(text.split()))
    if len(text) > longest:
        head = (longest - 1) // 2
        text = f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[head + 1 - longest :]}"
    text = text.replace("$", r"\$")
    return f"\N{WORD JOINER}{text}" if text.startswith("_") else text  # legends hide what begins with an underscore


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(size=SMALL))).get_charmap())


def spread(values: Array, digits: int = 2) -> str:
    """Mean and deviation: `0.71 ± 0.08`, or of one value `0.71`."""
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std():.{digits}f}" if len(values) > 1 else mean


def plural(n: int, one: str) -> str:
    """`1 fold`, `2 folds`."""
    return f"{n} {one}" if n == 1 else f"{n} {one}s"

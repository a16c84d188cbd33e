"""The report's plots, as plain Plotly figures: dictionaries of `data` and `layout`.

Plotly reads a few HTML tags in its labels: every text that comes from a user goes through `label`. Categories are
placed by number, so that no text is taken for a number or a date.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tune.report.material import Material
from tune.report.predicted import GRID, Bin, Predicted, calibration, confusion, roc
from tune.space import Choices, Parameter, Value

Figure = dict[str, Any]
BLUE, ORANGE, GREY, INK, PALE = "#2f5d8c", "#c4581b", "#8b929b", "#1d2530", "rgba(47,93,140,0.16)"
COLOURS = (BLUE, ORANGE, "#3d7a55", "#7c4f8f", "#a88b1f", "#4a9aa8", "#a13d52", "#5f6b7a")
SCALE = [[0, "#fbeccb"], [0.5, "#79b5a9"], [1, "#1f4e79"]]
BLUES = [[0, "#f4f7fa"], [1, BLUE]]
NOT_RUN, FAILED = "#e4e6e9", "#e3a79b"
MOST_WRITTEN = 10
"""Folds up to which the heat map's cells hold their numbers."""


def label(text: object) -> str:
    """A user's text as Plotly shows it letter by letter."""
    return html.escape(str(text), quote=False)


def shorter(text: str, most: int = 18) -> str:
    """For an axis: the end is cut; what points at it has the whole text."""
    return text if len(text) <= most else text[: most - 1] + "…"


def figure(data: Sequence[Mapping[str, Any]], *, height: int, x: Figure, y: Figure, **layout: Any) -> Figure:
    """A figure in the report's style."""
    axis = {"zeroline": False, "gridcolor": "#e9ebee", "linecolor": "#b9bfc6", "ticks": "outside", "fixedrange": True}
    axis |= {"tickcolor": "#b9bfc6", "automargin": True}
    style = {
        "height": height,
        "margin": {"l": 52, "r": 12, "t": 10, "b": 46},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "dragmode": False,
        "hovermode": "closest",
        "showlegend": False,
        "xaxis": axis | x,
        "yaxis": axis | y,
    }
    return {"data": list(data), "layout": style | layout}


def title(text: str) -> Figure:
    """An axis title."""
    return {"title": {"text": text, "standoff": 8}}


def categories(names: Sequence[str]) -> Figure:
    """An axis of names at 0, 1, 2, ..."""
    shown = [label(shorter(name)) for name in names]
    return {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": shown, "showgrid": False}


# ---- configurations --------------------------------------------------------------------------------------------------


def heat_maps(material: Material) -> dict[str, Figure]:
    """AUC of every configuration on every fold: the mean over the tasks first, then each task.

    The mean is over the tasks that are defined in the fold, as the series `fold/auc`: the same for all configurations.
    """
    tasks = list(material.study.tasks)
    names = [f"{task}/auc" for task in tasks]
    jobs = material.jobs.assign(mean=material.jobs[names].mean(axis=1))
    views = {"mean over the tasks": "mean"} if len(tasks) > 1 else {}
    return {
        name: _heat_map(material, jobs, column)
        for name, column in (views | dict(zip(tasks, names, strict=True))).items()
    }


def _heat_map(material: Material, jobs: pd.DataFrame, column: str) -> Figure:
    trials, folds = list(material.ranking["trial"]), material.folds
    values = {(row.trial, row.fold): value for row, value in zip(jobs.itertuples(), jobs[column], strict=True)}
    failed = set(jobs.loc[jobs["status"] == "FAILED", ["trial", "fold"]].itertuples(index=False, name=None))
    done = set(jobs.loc[jobs["status"] == "FINISHED", ["trial", "fold"]].itertuples(index=False, name=None))
    z, state, hover = [], [], []
    for trial in trials:
        cells = [(trial, fold) for fold in folds]
        row = [values[cell] if cell in done and pd.notna(values[cell]) else None for cell in cells]
        z.append(row)
        state.append([1 if cell in failed else None if cell in done else 0 for cell in cells])
        words = ["undefined" if cell in done else "failed" if cell in failed else "not run" for cell in cells]
        hover.append(
            [
                f"t{trial:03d}, fold {fold}: {word if value is None else f'{value:.4f}'}"
                for fold, value, word in zip(folds, row, words, strict=True)
            ]
        )
    common = {"type": "heatmap", "x": folds, "y": list(range(len(trials))), "xgap": 1, "ygap": 1}
    ground = {"z": state, "zmin": 0, "zmax": 1, "colorscale": [[0, NOT_RUN], [1, FAILED]], "showscale": False}
    main: Figure = {"z": z, "colorscale": SCALE, "hovertext": hover, "hoverinfo": "text"}
    main["colorbar"] = {"thickness": 10, "len": 1, "outlinewidth": 0, "tickformat": ".2f", "title": {"text": "AUC"}}
    if len(folds) <= MOST_WRITTEN:
        written = [["" if value is None else f"{value:.3f}".lstrip("0") for value in row] for row in z]
        main |= {"text": written, "texttemplate": "%{text}", "textfont": {"size": 11}}
    row_height = min(22, max(7, 1100 // max(len(trials), 1)))
    rows = categories([f"t{trial:03d}" for trial in trials]) | {"autorange": "reversed"}
    if row_height < 14:
        every = -(-14 // row_height)
        rows |= {"tickvals": rows["tickvals"][::every], "ticktext": rows["ticktext"][::every]}
    return figure(
        [common | ground | {"hoverinfo": "skip"}, common | main],
        height=90 + row_height * max(len(trials), 5),
        x=title("fold") | {"showgrid": False, "tickmode": "auto" if len(folds) > 30 else "linear", "dtick": 1},
        y=rows,
    )


def importance_bars(shares: Mapping[str, float]) -> Figure:
    """Share of the objective's variance by parameter, largest on top."""
    names = list(shares)
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [round(shares[name], 4) for name in names],
        "y": list(range(len(names))),
        "text": [f"{shares[name]:.2f}" for name in names],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [f"{label(name)}: {shares[name]:.3f}" for name in names],
        "hoverinfo": "text",
        "marker": {"color": BLUE},
        "width": 0.62,
    }
    x = title("share of the variance") | {"range": [0, 1.08 * max(shares.values())]}
    rows = categories(names) | {"autorange": "reversed", "ticktext": [label(shorter(name, 28)) for name in names]}
    return figure([bars], height=80 + 30 * len(names), x=x, y=rows | {"ticks": ""})


def slices(material: Material) -> dict[str, Figure]:
    """Each searched parameter against the objective."""
    found = material.values()
    rows = [row for row, _, _ in found]
    scores = [score for _, _, score in found]
    return {
        name: _slice(parameter, [values[name] for _, values, _ in found], scores, rows)
        for name, parameter in material.space.items()
        if found
    }


def _slice(
    parameter: Parameter, values: Sequence[Value], scores: Sequence[float], rows: Sequence["pd.Series[Any]"]
) -> Figure:
    x: Figure = {}
    places: list[Any] = list(values)
    if isinstance(parameter, Choices):
        names = [str(choice) for choice in parameter.choices]
        places = [names.index(str(value)) if str(value) in names else None for value in values]
        x = categories([shorter(name, 14) for name in names]) | {"range": [-0.5, len(names) - 0.5]}
    elif parameter.log:
        x = {"type": "log"} | _log_ticks(parameter.low, parameter.high)
    hover = [
        f"t{row['trial']:03d}: {label(value)}<br>{'about ' if row['abandoned'] else ''}{score:.4f}"
        for row, value, score in zip(rows, values, scores, strict=True)
    ]
    kinds = [0 if row["abandoned"] else 2 if row["rank"] == 1 else 1 for row in rows]
    markers = [
        {"color": "rgba(0,0,0,0)", "size": 8, "line": {"color": GREY, "width": 1.5}},
        {"color": BLUE, "size": 8, "opacity": 0.8},
        {"color": ORANGE, "size": 13, "symbol": "star"},
    ]
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [place for place, kind in zip(places, kinds, strict=True) if kind == number],
            "y": [score for score, kind in zip(scores, kinds, strict=True) if kind == number],
            "hovertext": [text for text, kind in zip(hover, kinds, strict=True) if kind == number],
            "hoverinfo": "text",
            "marker": marker,
        }
        for number, marker in enumerate(markers)
    ]
    return figure(traces, height=230, x=x, y={"tickformat": ".3f", "nticks": 6})


def _log_ticks(low: float, high: float, most: int = 5) -> Figure:
    """Ticks at 1, 2 and 5 times powers of ten, or at fewer of these."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            digit * 10.0**power
            for power in powers
            for digit in digits
            if 0.9 * low <= digit * 10.0**power <= 1.1 * high
        ]
        if len(ticks) <= most:
            break
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


# ---- the winner ------------------------------------------------------------------------------------------------------


def roc_figure(predicted: Predicted) -> Figure:
    """Mean over the folds with a band, and all predictions pooled, of each class where there are several."""
    curves = roc(predicted)
    several = predicted.kind == "multiclass"
    traces = [_diagonal([0, 1])]
    if curves.mean is not None and curves.deviation is not None:
        high, low = np.clip([curves.mean + curves.deviation, curves.mean - curves.deviation], 0, 1)
        edge: Figure = {"hoverinfo": "skip", "width": 0}
        traces.append(_line(GRID, high, color=BLUE, **edge))
        traces.append(_line(GRID, low, color=BLUE, **edge) | {"fill": "tonexty", "fillcolor": PALE})
        name = f"mean of {curves.folds} folds" + (" and all classes" if several else "")
        traces.append(_line(GRID, curves.mean, color=BLUE, name=name, width=2.5, hoverinfo="x+y"))
    for number, (name, false, true) in enumerate(curves.pooled):
        shown = f"pooled, {name}" if several else "all predictions pooled"
        colour = COLOURS[(number + 1) % len(COLOURS)]
        traces.append(_line(false, true, color=colour, name=shown, width=1.3, hoverinfo="skip"))
    return _square("false positive rate", "true positive rate", traces)


def _line(x: Any, y: Any, *, color: str, dash: str = "solid", width: float = 1, **more: Any) -> Figure:
    points = {"x": np.round(x, 5).tolist(), "y": np.round(y, 5).tolist()}
    line = {"color": color, "dash": dash, "width": width}
    return {"type": "scatter", "mode": "lines", "line": line} | points | more


def _diagonal(ends: Sequence[float]) -> Figure:
    return _line(ends, ends, color="#b9bfc6", dash="dot", hoverinfo="skip")


def _square(x: str, y: str, traces: Sequence[Figure]) -> Figure:
    """Both axes from 0 to 1; `legend`, names and colours, is written below by the page."""
    unit = {"range": [-0.01, 1.01], "constrain": "domain", "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    legend = [(trace["name"], trace["line"]["color"]) for trace in traces if "name" in trace]
    square = figure(traces, height=330, x=title(x) | unit, y=title(y) | unit | {"scaleanchor": "x"})
    return square | {"legend": legend}


def calibration_figure(predicted: Predicted, calibrated: Predicted | None = None) -> Figure:
    """How often what was predicted with some confidence came true; `calibrated`: the same predictions, calibrated."""
    bins = calibration(predicted)
    errors = {
        "type": "data",
        "symmetric": False,
        "array": [found.high - found.frequency for found in bins],
        "arrayminus": [found.frequency - found.low for found in bins],
        "color": GREY,
        "thickness": 1,
        "width": 3,
    }
    traces = [_diagonal([0, 1]), _reliability(bins, color=BLUE, error_y=errors)]
    if calibrated is not None:
        traces[1]["name"] = "as predicted"
        traces.append(_reliability(calibration(calibrated), color=ORANGE, name="calibrated, cross-fitted"))
    binary = predicted.kind == "binary"
    name = label(shorter(predicted.classes[1], 13)) if binary else ""
    x = f"predicted probability of {name}" if binary else "probability of the predicted class"
    return _square(x, f"share that is {name}" if binary else "share that is right", traces)


def _reliability(bins: Sequence[Bin], *, color: str, **more: Any) -> Figure:
    """Points of the bins, larger where there are more documents."""
    most = max((found.documents for found in bins), default=1)
    points = {
        "type": "scatter",
        "mode": "markers+lines",
        "x": [found.confidence for found in bins],
        "y": [found.frequency for found in bins],
        "hovertext": [f"{b.confidence:.2f} predicted, {b.frequency:.2f} came true<br>n = {b.documents}" for b in bins],
        "hoverinfo": "text",
        "marker": {"color": color, "size": [5 + 9 * (b.documents / most) ** 0.5 for b in bins], "opacity": 1},
        "line": {"color": color, "width": 1.3},
    }
    return points | more


def confusion_figure(predicted: Predicted) -> Figure:
    """Labels against the most probable class: counts, coloured by the share of the label's row."""
    counts = confusion(predicted)
    n, totals = len(predicted.classes), counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    hover = [
        [
            f"{label(true)} as {label(guess)}: {counts[i, j]} of {totals[i, 0]}"
            for j, guess in enumerate(predicted.classes)
        ]
        for i, true in enumerate(predicted.classes)
    ]
    cells = {
        "type": "heatmap",
        "z": np.round(shares, 4).tolist(),
        "x": list(range(n)),
        "y": list(range(n)),
        "zmin": 0,
        "zmax": 1,
        "colorscale": BLUES,
        "showscale": False,
        "text": [[str(count) for count in row] for row in counts],
        "texttemplate": "%{text}",
        "hovertext": hover,
        "hoverinfo": "text",
        "xgap": 1,
        "ygap": 1,
    }
    names = categories([shorter(name, 11) for name in predicted.classes]) | {"ticks": "", "constrain": "domain"}
    slanted = {"tickangle": -45 if max(map(len, predicted.classes)) > 5 else 0}
    upright = names | {"autorange": "reversed", "scaleanchor": "x"}
    return figure([cells], height=330, x=title("predicted") | names | slanted, y=title("label") | upright)


def regression_figure(predicted: Predicted) -> Figure:
    """Predicted values against the labels."""
    known = predicted.labelled
    x, y = predicted.labels[known], predicted.scores[known, 0]
    ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))] if len(x) else [0.0, 1.0]
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": np.round(x, 4).tolist(),
        "y": np.round(y, 4).tolist(),
        "hoverinfo": "x+y",
        "marker": {"color": BLUE, "size": 6, "opacity": 0.6},
    }
    return figure([_diagonal(ends), points], height=330, x=title("label"), y=title("prediction"))

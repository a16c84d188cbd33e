"""The page: sections in their order, and the template with its figures."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped,unused-ignore]

from hilbert import __version__
from tune.comparison import ALL_TASKS
from tune.importance import NoImportance, importances
from tune.redaction import without_passwords
from tune.report import data, figures, tables, verdict, words
from tune.report.calibrated import Calibrated, all_calibrated
from tune.report.material import Material
from tune.report.predicted import Predicted, mean_interval

FEW = 30
"""Configurations below which the importances are called a hint."""


def render(material: Material, *, now: datetime | None = None) -> str:
    """The whole HTML file as text. `now` is the date that it bears."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = embedded
    template = environment.get_template("report.html.j2")
    return template.render(plotly=Markup(get_plotlyjs()), **content(material, now=now or datetime.now(UTC)))


def embedded(value: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def content(material: Material, *, now: datetime) -> dict[str, Any]:
    """All that the template shows."""
    intervals = {task: found.interval() for task, found in material.predicted.items()}
    if material.predicted.keys() == set(material.study.tasks):
        intervals[ALL_TASKS] = mean_interval(list(material.predicted.values()))
    winner, judged = material.winner, verdict.judge(material)
    worth = verdict.worth(material, judged, intervals)
    calibrated = all_calibrated(material.predicted)
    return {
        "version": __version__,
        "name": material.study.name,
        "objective": words.objective_words(material.study.objective),
        "date": f"{now:%Y-%m-%d}",
        "period": _period(material),
        "summary": tables.summary(material),
        "caution": verdict.caution(material, judged, worth),
        "worth": tables.worth_table(judged, worth) if worth else None,
        "corrected": tables.is_corrected(judged),
        "why_not": judged.why_not,
        "notes": verdict.notes(material, judged),
        "leaderboard": tables.leaderboard(material, judged),
        "rivalry": verdict.rivalry(judged),
        "selection": verdict.selection(material),
        "heat_maps": figures.heat_maps(material) if len(material.jobs) else {},
        "importance": _importance(material),
        "slices": figures.slices(material) if material.space else {},
        "searched": bool(material.space),
        "winner": None if winner is None else words.trial_name(winner["trial"]),
        "configuration": material.configuration,
        "curves": {task: _curves(found, calibrated.get(task)) for task, found in material.predicted.items()},
        "calibration": tables.calibration_table(calibrated),
        "task_table": tables.task_table(material, judged, worth) if worth else None,
        "measures": tables.measure_table(material),
        "parameters": tables.winner_parameters(material),
        "grouped": all(found.groups is not None for found in material.predicted.values()),
        "repeated": any(found.repeats.max(initial=0) > 0 for found in material.predicted.values()),
        "cost": {"words": tables.cost_words(material), "table": tables.cost_table(material)},
        "excluded": {
            "failures": data.failures(material),
            "given_up": data.given_up(material),
            "unfinished": data.unfinished(material),
            "undefined": data.undefined_folds(material),
            "missing": data.missing_labels(material),
        },
        "data": {
            "classes": data.class_table(material),
            "stores": data.store_table(material),
            "splits": data.split_words(material),
        },
        "versions": _versions(material),
        "study_file": None if material.files.text is None else without_passwords(material.files.text),
    }


def _period(material: Material) -> str:
    if not len(material.jobs):
        return ""
    ends = [datetime.fromtimestamp(t, UTC) for t in (material.jobs["started"].min(), material.jobs["ended"].max())]
    return f"{ends[0]:%Y-%m-%d %H:%M} to {ends[1]:%Y-%m-%d %H:%M} UTC"


def _importance(material: Material) -> dict[str, Any]:
    """The figure, or why there is none."""
    found = [(values, score) for _, values, score in material.values()]
    try:
        shares = importances(found, material.space)
    except NoImportance as reason:
        return {"figure": None, "reason": str(reason)}
    estimated = int(material.ranking["abandoned"].ne("").sum())
    return {
        "figure": figures.importance_bars(shares),
        "configurations": len(found),
        "estimated": estimated,
        "few": len(found) < FEW,
    }


def _curves(found: Predicted, calibrated: Calibrated | None) -> Mapping[str, Any]:
    """The plots of a task, by what they show."""
    if found.kind == "regression":
        return {"regression": figures.regression_figure(found)}
    return {
        "roc": figures.roc_figure(found),
        "calibration": figures.calibration_figure(found, calibrated.predicted if calibrated else None),
        "confusion": figures.confusion_figure(found),
    }


def _versions(material: Material) -> dict[str, Any] | None:
    found = material.files.versions
    if found is None:
        return None
    return {
        "command": without_passwords(str(found.get("command", ""))),
        "facts": {
            "Python": str(found.get("python", words.UNKNOWN)),
            "machine": str(found.get("platform", words.UNKNOWN)),
            "git commit": str(found.get("git") or words.UNKNOWN),
        },
        "packages": {
            str(name): str(version or "not installed") for name, version in dict(found.get("packages", {})).items()
        },
    }

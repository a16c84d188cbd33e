"""The report's tables and sentences, section by section, as plain values: the template escapes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hilbert import metrics
from tune.comparison import PARAMS, cells, headings, parameter, parameter_columns
from tune.formats import duration, with_error
from tune.report.material import Material
from tune.selection import MEAN_AUC, POOLED_AUC, is_whole, objective_metric

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        columns: headings.
        rows: cells; a line break within a cell is kept.
        marked: number of the row that stands out.
        total: a last row.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None
    total: Sequence[str] | None = None


def trial_name(number: int) -> str:
    """As everywhere: t007."""
    return f"t{number:03d}"


def counted(number: int, thing: str, things: str | None = None) -> str:
    """1 fold, 2 folds."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def objective_words(objective: str) -> str:
    """What is maximised, in words."""
    if objective == MEAN_AUC:
        return "mean AUC over tasks and folds"
    return "pooled AUC, mean over the tasks" if objective == POOLED_AUC else f"mean AUC of {objective} over the folds"


# ---- summary ---------------------------------------------------------------------------------------------------------


def summary(material: Material, intervals: Mapping[str, tuple[float, float] | None]) -> list[str]:
    """The study in a paragraph of plain words, a sentence each."""
    found = [_what_was_tried(material), _what_became(material)]
    winner = material.winner
    if winner is None:
        return [*found, "No configuration has run on every fold yet: nothing is ranked."]
    column = objective_metric(material.study.objective)
    error = None if material.study.objective == POOLED_AUC else winner[_error_column(material.study.objective)]
    value = with_error(known(winner[column]), known(error))
    found.append(f"The best is {trial_name(winner['trial'])}: {objective_words(material.study.objective)} {value}.")
    tasks = [
        f"{task} {pooled:.4f}" + (f" (95 % interval {_interval(intervals[task])})" if intervals.get(task) else "")
        for task in material.study.tasks
        if (pooled := known(winner[f"{task}/auc_pooled"])) is not None
    ]
    if tasks:
        found.append(f"AUC of all its held-out predictions together: {', '.join(tasks)}.")
    return found


def _error_column(objective: str) -> str:
    return "cv/auc_se" if objective == MEAN_AUC else f"{objective}/auc_se"


def caution(material: Material) -> str:
    """The honest sentence."""
    whole = material.ranking[material.ranking["rank"].notna()]
    if material.winner is None:
        return ""
    if len(material.ranking) == 1:
        return "A single configuration was tried: its numbers were not used to choose it among others."
    text = (
        "The best of many looks better than it is: these same numbers were used to pick it. "
        "Don't read them as the AUC to expect of new people."
    )
    column = objective_metric(material.study.objective)
    if len(whole) > 2:
        text += f" The median of the {len(whole)} complete configurations has {whole[column].median():.4f}."
    return text


def _what_was_tried(material: Material) -> str:
    data, tasks = material.files.data, material.study.tasks
    tried, folds = len(material.ranking), len(material.folds)
    text = f"{counted(tried, 'configuration')} {'was' if tried == 1 else 'were'} tried"
    if data is not None:
        text += f" on {counted(data['documents'], 'document')} of {counted(data['groups'], 'group')}"
    kinds = {task: found.kind for task, found in material.predicted.items()}
    if data is not None:
        kinds = {task: found["kind"] for task, found in data["tasks"].items()}
    names = ", ".join(f"{task} ({kinds[task]})" if task in kinds else task for task in tasks)
    return f"{text}, by cross-validation over {counted(folds, 'fold')}, for {counted(len(tasks), 'task')}: {names}."


def _what_became(material: Material) -> str:
    frame = material.ranking
    whole = int(is_whole(frame).sum())
    if len(frame) == 1:
        return "It ran on every fold." if whole else "It has not run on every fold."
    others = {
        "given up by racing": int(frame["abandoned"].ne("").sum()),
        "left out because a fold failed": int(frame["status"].eq("FAILED").sum()),
    }
    others["not finished"] = len(frame) - whole - sum(others.values())
    told = [f"{number} {'was' if number == 1 else 'were'} {word}" for word, number in others.items() if number > 0]
    return ", ".join([f"{whole} of them ran on every fold", *told]) + "."


def winner_parameters(material: Material) -> str:
    """The searched values of the winner, in a line."""
    row, names = material.winner, parameter_columns(material.ranking)
    return "" if row is None else ", ".join(f"{name.removeprefix(PARAMS)} {parameter(row[name])}" for name in names)


# ---- leaderboard -----------------------------------------------------------------------------------------------------


def leaderboard(material: Material) -> Table:
    """The ranking as `hilbert compare` prints it, with a column for each parameter."""
    names = parameter_columns(material.ranking)
    rows = [
        [*cells(row, material.study), *(parameter(row[name]) for name in names)]
        for _, row in material.ranking.iterrows()
    ]
    columns = [*headings(material.study), *(name.removeprefix(PARAMS) for name in names)]
    return Table(columns, rows, marked=None if material.winner is None else 0)


# ---- the winner ------------------------------------------------------------------------------------------------------


def task_table(material: Material, intervals: Mapping[str, tuple[float, float] | None]) -> Table:
    """The winner's AUC by task."""
    winner = material.winner
    assert winner is not None
    rows = []
    for task in material.study.tasks:
        mean, error, pooled, folds = (winner[f"{task}/auc_{part}"] for part in ("mean", "se", "pooled", "folds"))
        found = material.predicted.get(task)
        counts = "0" if pd.isna(folds) else str(folds)
        rows.append(
            [
                task,
                found.kind if found else UNKNOWN,
                with_error(known(mean), known(error)),
                f"{counts} of {len(material.folds)}",
                with_error(known(pooled), None),
                _interval(intervals.get(task)) if found else UNKNOWN,
                str(int((found.labelled & (found.repeats == 0)).sum())) if found else UNKNOWN,
            ]
        )
    return Table(
        ["task", "kind", "AUC, mean ± SE", "folds counted", "AUC, pooled", "its 95 % interval", "labelled documents"],
        rows,
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return "undefined" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def measure_table(material: Material) -> Table:
    """What else the winner's held-out predictions say of its classifications, all of a task together."""
    functions = (
        metrics.average_precision,
        metrics.balanced_accuracy,
        metrics.brier,
        metrics.expected_calibration_error,
    )
    rows = []
    for task, found in material.predicted.items():
        if found.kind != "regression":
            values = [function(found.labels, found.scores, found.kind) for function in functions]
            rows.append([task, *(with_error(value, None) for value in values)])
    return Table(["task", "average precision", "balanced accuracy", "Brier score", "calibration error"], rows)


# ---- cost ------------------------------------------------------------------------------------------------------------


def cost_table(material: Material) -> Table:
    """Fold jobs and seconds of every configuration, and in all."""
    jobs = material.jobs
    rows = []
    for _, row in material.ranking.iterrows():
        mine = jobs[jobs["trial"] == row["trial"]]
        rows.append([trial_name(row["trial"]), str(len(mine)), *_times(mine)])
    return Table(
        ["configuration", "fold jobs", "seconds", "GPU seconds"], rows, total=["all", str(len(jobs)), *_times(jobs)]
    )


def _times(jobs: pd.DataFrame) -> list[str]:
    return [f"{jobs[name].sum():,.1f}" if jobs[name].notna().any() else UNKNOWN for name in ("seconds", "gpu_seconds")]


def cost_words(material: Material) -> list[str]:
    """What it cost, and what racing saved."""
    jobs, frame, folds = material.jobs, material.ranking, len(material.folds)
    seconds, gpu = jobs["seconds"].sum(), jobs["gpu_seconds"]
    text = f"{counted(len(jobs), 'fold job')} ran, {duration(seconds)} of computing in all"
    if len(jobs):
        text += f" (median {jobs['seconds'].median():.1f} s a job)"
    found = [f"{text}." if gpu.isna().all() else f"{text}; {duration(gpu.sum())} on GPUs."]
    given_up = frame[frame["abandoned"].ne("")]
    if len(given_up):
        saved = int((folds - given_up["cv/folds_done"].fillna(0)).sum())
        share = saved / max(len(frame) * folds, 1)
        found.append(
            f"Racing gave {counted(len(given_up), 'configuration')} up and saved {counted(saved, 'fold job')}"
            f" of {len(frame) * folds} ({share:.0%})."
        )
    elif material.files.study is not None:
        racing = material.files.study.racing
        found.append(
            "No racing: every configuration was to run on every fold." if racing == "none" else "Racing gave none up."
        )
    return found


def known(value: Any) -> float | None:
    """None for what is missing."""
    return None if pd.isna(value) else float(value)

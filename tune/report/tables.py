"""The report's tables and sentences, section by section, as plain values: the template escapes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hilbert import metrics
from tune.comparison import PARAMS, cells, headings, parameter, parameter_columns
from tune.contest import Rival
from tune.formats import duration, with_error
from tune.report.calibrated import Calibrated
from tune.report.material import Material
from tune.report.verdict import Verdict, Worth, chosen_in_short
from tune.report.words import UNKNOWN, Interval, counted, ends, known, objective_words, trial_name
from tune.selection import MEAN_AUC, POOLED_AUC, is_whole, objective_metric

BEHIND = ("behind the\nwinner (folds)", "p, Holm")


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


# ---- summary ---------------------------------------------------------------------------------------------------------


def summary(material: Material) -> list[str]:
    """The study in a paragraph of plain words, a sentence each."""
    found = [_what_was_tried(material), _what_became(material)]
    winner = material.winner
    if winner is None:
        return [*found, "No configuration has run on every fold yet: nothing is ranked."]
    column = objective_metric(material.study.objective)
    error = None if material.study.objective == POOLED_AUC else winner[_error_column(material.study.objective)]
    value = with_error(known(winner[column]), known(error))
    found.append(f"The best is {trial_name(winner['trial'])}: {objective_words(material.study.objective)} {value}.")
    return [*found, chosen] if (chosen := chosen_in_short(material)) else found


def _error_column(objective: str) -> str:
    return "cv/auc_se" if objective == MEAN_AUC else f"{objective}/auc_se"


def worth_table(verdict: Verdict, found: Sequence[Worth]) -> Table:
    """The winner's AUCs of pooled predictions, as they are and without the luck of the choice."""
    corrected = is_corrected(verdict)
    rows = [[row.name, *_pooled(row, corrected)] for row in found]
    return Table(["AUC", "pooled", *(["bias-corrected"] if corrected else [])], rows, marked=_marked(found))


def _marked(found: Sequence[Worth]) -> int | None:
    """The row by which the winner was chosen, where there are others."""
    return next((number for number, row in enumerate(found) if row.chosen_by and len(found) > 1), None)


def is_corrected(verdict: Verdict) -> bool:
    """Whether there was a choice, and its luck could be taken out."""
    return verdict.corrected is not None and verdict.of.choices > 1


def _pooled(row: Worth, corrected: bool) -> list[str]:
    """The pooled AUC over its interval, and the same corrected, if that is to be shown."""
    found = row.corrected
    second = "undefined" if found is None else _over(found.corrected, found.interval)
    return [_over(row.raw, row.interval), *([second] if corrected else [])]


def _over(value: float | None, interval: Interval) -> str:
    return with_error(value, None) + ("" if interval is None else f"\n{ends(interval)}")


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
    again = len(material.study.trials) - tried
    repeats = f" {counted(again, 'trial')} more only repeated one of these." if again else ""
    text += f", by cross-validation over {counted(folds, 'fold')}, for {counted(len(tasks), 'task')}: {names}."
    return text + repeats


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


def leaderboard(material: Material, verdict: Verdict) -> Table:
    """The ranking as `hilbert compare` prints it, its test against the winner, and a column for each parameter."""
    names = parameter_columns(material.ranking)
    tested, rivals = BEHIND if verdict.rivals else (), verdict.rivals
    rows = [
        [
            *cells(row, material.study),
            *(_behind(rivals.get(row["trial"])) if tested else ()),
            *(parameter(row[name]) for name in names),
        ]
        for _, row in material.ranking.iterrows()
    ]
    columns = [*headings(material.study), *tested, *(name.removeprefix(PARAMS) for name in names)]
    return Table(columns, rows, marked=None if material.winner is None else 0)


def _behind(rival: Rival | None) -> tuple[str, str]:
    """How far behind the winner, on how many folds, and the adjusted p."""
    if rival is None or rival.difference is None:
        return "", ""
    p = "no test" if rival.holm is None else "< 0.001" if rival.holm < 0.001 else f"{rival.holm:.3f}"
    return f"{rival.difference:.4f}\n({rival.folds})", p


# ---- the winner ------------------------------------------------------------------------------------------------------


def task_table(material: Material, verdict: Verdict, worths: Sequence[Worth]) -> Table:
    """The winner's AUC by task."""
    winner = material.winner
    assert winner is not None
    corrected = is_corrected(verdict)
    rows = []
    for row in worths:
        everything = row.name not in material.study.tasks
        prefix = "cv" if everything else row.name
        found = material.predicted.get(row.name)
        folds = "" if everything else f"{known(winner[f'{row.name}/auc_folds']) or 0:.0f} of {len(material.folds)}"
        labelled = str(int((found.labelled & (found.repeats == 0)).sum())) if found else UNKNOWN
        rows.append(
            [
                row.name,
                *(["", ""] if everything else [found.kind if found else UNKNOWN, labelled]),
                with_error(known(winner[f"{prefix}/auc_mean"]), known(winner[f"{prefix}/auc_se"])),
                folds,
                *_pooled(row, corrected),
            ]
        )
    columns = ["task", "kind", "labelled\ndocuments", "AUC\nmean ± SE", "folds\ncounted", "AUC, pooled\n95 % interval"]
    return Table(
        [*columns, *(["AUC, bias-corrected\n95 % interval"] if corrected else [])], rows, marked=_marked(worths)
    )


def measure_table(material: Material) -> Table:
    """What else the winner's held-out predictions say of its classifications, all of a task together."""
    functions = (metrics.average_precision, metrics.balanced_accuracy)
    rows = []
    for task, found in material.predicted.items():
        if found.kind != "regression":
            values = [function(found.labels, found.scores, found.kind) for function in functions]
            rows.append([task, *(with_error(value, None) for value in values)])
    return Table(["task", "average precision", "balanced accuracy"], rows)


def calibration_table(found: Mapping[str, Calibrated | None]) -> Table:
    """How good the winner's probabilities are as they are and calibrated, cross-fitted."""
    rows = [[task, *_gain(one)] for task, one in found.items()]
    return Table(["task", "method", "Brier score", "calibration error", "log loss", "log loss by method"], rows)


def _gain(found: Calibrated | None) -> list[str]:
    if found is None:
        return ["undefined: no labels", "", "", "", ""]
    gain = found.choice.gains[found.choice.method]
    pairs = [
        (getattr(gain.before, name), getattr(gain.after, name)) for name in ("brier", "calibration_error", "log_loss")
    ]
    told = [f"{before:.4f}" if found.predicted is None else f"{before:.4f} → {after:.4f}" for before, after in pairs]
    by_method = ", ".join(f"{method} {tried.after.log_loss:.4f}" for method, tried in found.choice.gains.items())
    return [found.choice.method, *told, by_method]


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

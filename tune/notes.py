"""The note of a trial: what MLflow shows on top of its page, Markdown.

Its first line, the rank, changes while the study goes on; the rest does not.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hilbert.folds import Fold
from hilbert.metrics import Kind, pooled_interval
from tune.formats import with_error
from tune.job import JobRecord
from tune.selection import Summary, objective_metric

RESAMPLES = 1000
"""Of an interval: a trial has one for every task."""
Interval = tuple[float, float] | None


def rank_line(summary: Summary, objective: str, rank: int | None, of: int) -> str:
    """Where the trial stands, or why it has no rank."""
    if summary.abandoned:
        return "**Given up** by racing before all folds had run; not ranked."
    if summary.failed:
        return f"**Not ranked**: {_folds(summary.failed)} failed; see `error.txt` of their runs."
    if rank is None:
        return f"**Not ranked**: `{objective_metric(objective)}` is undefined."
    return f"**Rank {rank} of {of}** by `{objective_metric(objective)}`, {summary.objective:.4f}."


def trial_body(
    records: Sequence[JobRecord],
    summary: Summary,
    intervals: Mapping[str, Interval],
    *,
    folds: int,
    given_up: str = "",
) -> str:
    """The rest of the note.

    Args:
        records: the trial's fold jobs.
        summary: of them.
        intervals: of each task's pooled AUC.
        folds: how many folds there are.
        given_up: why racing gave the trial up.
    """
    lines = [
        "| task | AUC, mean over folds ± standard error | folds that counted | AUC, pooled [95 % interval] |",
        "|---|---|---|---|",
        *(_row(task, summary, interval, records) for task, interval in intervals.items()),
        "",
        f"{len(records) - len(summary.failed)} of {folds} fold jobs done, {summary.metrics['cost/seconds']:.0f}"
        " seconds. A fold counts where it holds out every class, and trains on every class.",
    ]
    lines += _untrained(records, intervals)
    if given_up:
        lines += ["", f"Given up {given_up}."]
    errors = {record.fold: record.error.strip().splitlines()[-1] for record in records if record.error}
    lines += ["", *(f"- fold {fold} failed: `{error[:300]}`" for fold, error in sorted(errors.items()))]
    lines += [
        "",
        "Intervals resample groups of documents: they speak of new people, given these predictions. The best of many "
        "configurations looks better than it is. Pictures lie in the artifacts, `plots/`.",
    ]
    return "\n".join(lines)


def _untrained(records: Sequence[JobRecord], tasks: Iterable[str]) -> list[str]:
    """Of each task, whose predictions don't count, and how many of the labelled ones do."""
    lines = []
    for task in tasks:
        done = [record for record in records if not record.error]
        left_out = sorted(record.fold for record in done if task in record.untrained)
        counted, labelled = (
            sum(int((~np.isnan(labels)).sum()) for labels in found)
            for found in ([r.truth(task) for r in done], [np.array(r.labels[task], dtype=float) for r in done])
        )
        if left_out:
            lines += [
                "",
                f"{cell(task)}: the training part of {_folds(left_out)} lacks a class, so that {counted} of {labelled}"
                " labelled predictions count.",
            ]
    return lines


def cell(text: str) -> str:
    """A user's text within a table."""
    return text.replace("|", "\\|")


def pooled_intervals(
    records: Sequence[JobRecord], kinds: Mapping[str, Kind], folds: Sequence[Fold], groups: Mapping[str, str]
) -> dict[str, Interval]:
    """95 % intervals of each task's pooled AUC, resampling groups; None where it is undefined."""
    if not records:
        return dict.fromkeys(kinds)
    return {
        task: pooled_interval(
            [record.truth(task) for record in records],
            [np.array(record.scores[task], dtype=np.float64) for record in records],
            kind,
            documents=[record.document_ids for record in records],
            groups=groups,
            repeats=[folds[record.fold].repeat for record in records],
            resamples=RESAMPLES,
        )
        for task, kind in kinds.items()
    }


def _row(task: str, summary: Summary, interval: Interval, records: Sequence[JobRecord]) -> str:
    metrics = summary.metrics
    mean = with_error(metrics.get(f"{task}/auc_mean"), metrics.get(f"{task}/auc_se"))
    pooled = with_error(metrics.get(f"{task}/auc_pooled"), None)
    shown = "" if interval is None or pooled == "undefined" else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
    counted = sum(not record.error and record.auc.get(task) is not None for record in records)
    return f"| {cell(task)} | {mean} | {counted} | {pooled}{shown} |"


def _folds(numbers: Sequence[int]) -> str:
    return f"fold{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"

"""What a configuration's folds say of it: the numbers that configurations are compared by.

Names are those of the MLflow metrics. A fold's undefined AUC is left out of every mean, and the number of folds that
counted stands beside it; a fold that failed makes the configuration incomplete, never a mean over the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hilbert.folds import Fold
from hilbert.metrics import Kind, mean_and_se, pooled_auc
from tune.job import JobRecord

MEAN_AUC, POOLED_AUC = "mean_auc", "pooled_auc"


def objective_metric(objective: str) -> str:
    """Name of the metric that a study maximises."""
    return {MEAN_AUC: "cv/auc_mean", POOLED_AUC: "cv/auc_pooled"}.get(objective, f"{objective}/auc_mean")


@dataclass(frozen=True)
class Summary:
    """One configuration over its folds.

    Attributes:
        metrics: `cv/auc_mean`, `cv/auc_se`, `cv/auc_pooled`, `cv/folds_done`; for each task `<task>/auc_mean`,
            `<task>/auc_se`, `<task>/auc_pooled`, `<task>/auc_folds`; `cost/seconds`. What is undefined is not there.
        folds: for each fold that is done, and in which every task's AUC is defined, their mean: the series `fold/auc`.
        failed: numbers of the folds whose job failed.
        objective: what the search maximises; None where a fold failed or the objective is undefined.
    """

    metrics: Mapping[str, float]
    folds: Mapping[int, float]
    failed: Sequence[int]
    objective: float | None


def summarise(
    records: Sequence[JobRecord], kinds: Mapping[str, Kind], folds: Sequence[Fold], objective: str = MEAN_AUC
) -> Summary:
    """Sums up the fold jobs of one configuration.

    `cv/auc_mean` is the mean over the tasks of `<task>/auc_mean`, the mean over the folds in which the task's AUC is
    defined. `cv/auc_se` is the standard error of the series `fold/auc`. `<task>/auc_pooled` is the AUC of all
    held-out predictions together, see `hilbert.metrics.pooled_auc`.
    """
    done = sorted((record for record in records if not record.error), key=lambda record: record.fold)
    metrics: dict[str, float | None] = {"cv/folds_done": len(done), "cost/seconds": sum(r.seconds for r in records)}
    for task, kind in kinds.items():
        mean, error, counted = mean_and_se([record.auc[task] for record in done])
        metrics |= {f"{task}/auc_mean": mean, f"{task}/auc_se": error, f"{task}/auc_folds": counted}
        metrics[f"{task}/auc_pooled"] = _pooled(done, task, kind, folds)
    series = {
        record.fold: float(np.mean([value for value in record.auc.values() if value is not None]))
        for record in done
        if all(record.auc[task] is not None for task in kinds)
    }
    for part in ("mean", "pooled"):
        metrics[f"cv/auc_{part}"] = _mean_if_whole([metrics[f"{task}/auc_{part}"] for task in kinds])
    metrics["cv/auc_se"] = mean_and_se(list(series.values())).standard_error
    target = metrics[objective_metric(objective)]
    failed = sorted(record.fold for record in records if record.error)
    whole = len(done) == len(folds)
    defined = {name: float(value) for name, value in metrics.items() if value is not None}
    return Summary(defined, series, failed, target if whole else None)


def _mean_if_whole(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None


def _pooled(done: Sequence[JobRecord], task: str, kind: Kind, folds: Sequence[Fold]) -> float | None:
    """Pooled AUC of a task; None unless all folds are done."""
    if len(done) < len(folds):
        return None
    labels = [np.array(record.labels[task], dtype=np.float64) for record in done]
    scores = [np.array(record.scores[task], dtype=np.float64) for record in done]
    return pooled_auc(labels, scores, kind, repeats=[folds[record.fold].repeat for record in done])


def undefined_tasks(kinds: Mapping[str, Kind], labels: Mapping[str, np.ndarray], folds: Sequence[Fold]) -> list[str]:
    """Tasks whose AUC is undefined in every fold, as the labels alone decide."""
    return [
        task
        for task, kind in kinds.items()
        if not any(_is_defined(labels[task][fold.held_out], labels[task], kind) for fold in folds)
    ]


def _is_defined(part: np.ndarray, cohort: np.ndarray, kind: Kind) -> bool:
    present = len(np.unique(part[~np.isnan(part)]))
    return present >= (2 if kind == "regression" else len(np.unique(cohort[~np.isnan(cohort)])))


def rank(trials: pd.DataFrame, objective: str = MEAN_AUC) -> pd.DataFrame:
    """Trials best first by the objective; those without one, because a fold failed, come last.

    Args:
        trials: one row a trial, columns named like the MLflow metrics, `trial`, `status`, and parameters.
        objective: `mean_auc`, `pooled_auc` or a task.
    """
    column = objective_metric(objective)
    frame = trials.assign(**{column: trials.get(column, np.nan)})
    complete = frame["status"].eq("FINISHED") & frame[column].notna()
    order = frame.assign(_complete=complete).sort_values(
        ["_complete", column, "trial"], ascending=[False, False, True], kind="stable"
    )
    return order.drop(columns="_complete").reset_index(drop=True)

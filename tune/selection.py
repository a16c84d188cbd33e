"""What a configuration's folds say of it: the numbers that configurations are compared by.

Names are those of the MLflow metrics. A fold's undefined AUC is left out of every mean, and the number of folds that
counted stands beside it; a fold that failed makes the configuration incomplete, never a mean over the others. Which
folds count is said by `hilbert.folds.defined_folds`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hilbert.folds import Fold, defined_folds, holds_every_class
from hilbert.metrics import Kind, mean_and_se, pooled_auc
from hilbert.tasks import Labels
from tune.job import JobRecord

MEAN_AUC, POOLED_AUC = "mean_auc", "pooled_auc"
MEANS = ("auc_mean", "auc_se", "auc_folds", "auc_pooled")
"""Metrics of a whole configuration, of each task and of `cv`."""


def objective_metric(objective: str) -> str:
    """Name of the metric that a study maximises."""
    return {MEAN_AUC: "cv/auc_mean", POOLED_AUC: "cv/auc_pooled"}.get(objective, f"{objective}/auc_mean")


@dataclass(frozen=True)
class Summary:
    """One configuration over its folds.

    Attributes:
        metrics: `cv/folds_done`, `cost/seconds` and `cost/gpu_seconds` always. Of a whole configuration `cv/auc_mean`,
            `cv/auc_se`, `cv/auc_pooled`, and for each task `<task>/auc_mean`, `<task>/auc_se`, `<task>/auc_pooled` and
            `<task>/auc_folds`; what is undefined is not there. Of an abandoned one `cv/auc_corrected`.
        series: values by fold, of the folds that are done: `fold/<task>_auc`, and `fold/auc`, the mean over the tasks
            whose AUC is defined in the fold.
        failed: numbers of the folds whose job failed.
        objective: what the search is told; None where a fold failed or the objective is undefined.
        abandoned: whether racing has given the configuration up.
    """

    metrics: Mapping[str, float]
    series: Mapping[str, Mapping[int, float]]
    failed: Sequence[int]
    objective: float | None
    abandoned: bool = False


def fold_score(record: JobRecord, objective: str) -> float | None:
    """What racing compares on one fold: the task's AUC, or the mean over the tasks whose AUC is defined there.

    Which tasks are defined depends on labels and folds alone, hence is the same for all configurations.
    """
    if objective in record.auc:
        return record.auc[objective]
    defined = [value for value in record.auc.values() if value is not None]
    return float(np.mean(defined)) if defined else None


def pooled_objective(records: Sequence[JobRecord], kinds: Mapping[str, Kind], folds: Sequence[Fold]) -> float | None:
    """Mean over the tasks of the AUC of these fold jobs' predictions together; of the tasks that are defined there."""
    pooled = [_pooled(records, task, kind, folds) for task, kind in kinds.items()]
    defined = [value for value in pooled if value is not None]
    return float(np.mean(defined)) if defined else None


def summarise(
    records: Sequence[JobRecord],
    kinds: Mapping[str, Kind],
    folds: Sequence[Fold],
    objective: str = MEAN_AUC,
    *,
    corrected: float | None = None,
) -> Summary:
    """Sums up the fold jobs of one configuration. Means are given only where no fold is missing and none failed.

    `cv/auc_mean` is the mean over the tasks of `<task>/auc_mean`, the mean over the folds in which the task's AUC is
    defined. `cv/auc_se` is the standard error of the series `fold/auc`. `<task>/auc_pooled` is the AUC of the held-out
    predictions together, of the folds whose training part holds every class, see `hilbert.metrics.pooled_auc`.

    Args:
        records: fold jobs, failed ones too.
        kinds: the tasks.
        folds: all folds.
        objective: what the study maximises.
        corrected: of an abandoned configuration, the estimate of its mean that the search is told.
    """
    done = sorted((record for record in records if not record.error), key=lambda record: record.fold)
    failed = sorted(record.fold for record in records if record.error)
    metrics: dict[str, float | None] = {
        "cv/folds_done": len(done),
        "cost/seconds": sum(r.seconds for r in records),
        "cost/gpu_seconds": sum(r.seconds * r.gpus for r in records),
    }
    series = _series(done, kinds)
    target = corrected
    if corrected is not None:
        metrics["cv/auc_corrected"] = corrected
    elif len(done) == len(folds):
        aucs = {task: [record.auc[task] for record in done] for task in kinds}
        metrics |= means_over_folds(aucs, {task: _pooled(done, task, kind, folds) for task, kind in kinds.items()})
        target = metrics[objective_metric(objective)]
    defined = {name: float(value) for name, value in metrics.items() if value is not None}
    return Summary(defined, series, failed, target, abandoned=corrected is not None)


def _series(done: Sequence[JobRecord], kinds: Mapping[str, Kind]) -> dict[str, dict[int, float]]:
    """`fold/<task>_auc` and `fold/auc` by fold."""
    found = {"fold/auc": {r.fold: score for r in done if (score := fold_score(r, MEAN_AUC)) is not None}}
    for task in kinds:
        found[f"fold/{task}_auc"] = {r.fold: value for r in done if (value := r.auc[task]) is not None}
    return found


def means_over_folds(
    aucs: Mapping[str, Sequence[float | None]], pooled: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Means and standard errors over the folds, and pooled AUCs, of each task and over all tasks, as in `Summary`.

    Args:
        aucs: of each task, of every fold; None where it doesn't count.
        pooled: of each task, the AUC of all predictions that count.
    """
    metrics: dict[str, float | None] = {}
    for task, values in aucs.items():
        mean, error, counted = mean_and_se(values)
        metrics |= {f"{task}/auc_mean": mean, f"{task}/auc_se": error, f"{task}/auc_folds": counted}
        metrics[f"{task}/auc_pooled"] = pooled[task]
    for part in ("mean", "pooled"):
        metrics[f"cv/auc_{part}"] = mean_if_whole([metrics[f"{task}/auc_{part}"] for task in aucs])
    by_fold = [mean_if_whole(values) for values in zip(*aucs.values(), strict=True)]
    return metrics | {"cv/auc_se": mean_and_se(by_fold).standard_error}


def mean_if_whole(values: Sequence[float | None]) -> float | None:
    """Their mean; None where one of them is undefined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None


def _pooled(done: Sequence[JobRecord], task: str, kind: Kind, folds: Sequence[Fold]) -> float | None:
    labels = [record.truth(task) for record in done]
    scores = [np.array(record.scores[task], dtype=np.float64) for record in done]
    return pooled_auc(labels, scores, kind, repeats=[folds[record.fold].repeat for record in done])


def undefined_tasks(labels: Mapping[str, Labels], folds: Sequence[Fold], objective: str) -> list[str]:
    """Tasks of which an objective has no value, whatever the configuration: labels and folds alone decide.

    A mean over folds needs a fold that counts; the AUC of pooled predictions needs every class, in every repeat, among
    the documents that are held out where the training part holds every class.
    """
    wanted = [objective] if objective in labels else list(labels)
    has_value = _is_pooled if objective == POOLED_AUC else _is_scored
    return [task for task in wanted if not has_value(labels[task], folds)]


def _is_scored(labels: Labels, folds: Sequence[Fold]) -> bool:
    return bool(defined_folds(labels.values, len(labels.spec.classes), folds).scored.any())


def _is_pooled(labels: Labels, folds: Sequence[Fold]) -> bool:
    classes = len(labels.spec.classes)
    trained = defined_folds(labels.values, classes, folds).trained
    repeats = {fold.repeat: [np.empty(0, np.int64)] for fold in folds}
    for fold, counts in zip(folds, trained, strict=True):
        repeats[fold.repeat] += [fold.held_out] if counts else []
    return all(holds_every_class(labels.values[np.concatenate(rows)], classes) for rows in repeats.values())


def is_whole(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Which trials were evaluated on every fold, but those that repeat another one's configuration."""
    whole = ran_on_every_fold(trials)
    return whole & trials["repeats"].isna() if "repeats" in trials else whole


def ran_on_every_fold(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Which trials were evaluated on every fold."""
    return trials["status"].eq("FINISHED") & trials["abandoned"].eq("")


def repeated(trials: pd.DataFrame) -> "pd.Series[int]":
    """Of each trial the number of the one whose configuration it repeats, missing where it counts itself.

    Older versions proposed configurations of small searches again and again. Of equal ones the one that counts is that
    which came furthest: on every fold, else given up late, else unfinished, else failed; the first of these.

    Args:
        trials: `trial`, `configuration` (its hash, empty where unknown), `status`, `abandoned` and `cv/folds_done`.
    """
    whole, given_up = ran_on_every_fold(trials), trials["abandoned"].ne("")
    state = np.select([whole, given_up, trials["status"].ne("FAILED")], [0, 1, 2], 3)
    done = trials["cv/folds_done"] if "cv/folds_done" in trials else pd.Series(0.0, trials.index)
    order = trials.assign(_state=state, _left=-done.fillna(0)).sort_values(["_state", "_left", "trial"], kind="stable")
    known = order[order["configuration"].ne("")]
    first = known.groupby("configuration")["trial"].transform("first")
    return first.where(first.ne(known["trial"])).reindex(trials.index).astype("Int64")


def rank(trials: pd.DataFrame, objective: str = MEAN_AUC) -> pd.DataFrame:
    """Trials best first by the objective; those that racing gave up, or in which a fold failed, come last.

    Args:
        trials: one row a trial, columns named like the MLflow metrics, `trial`, `status`, `abandoned`, and parameters.
        objective: `mean_auc`, `pooled_auc` or a task.
    """
    column = objective_metric(objective)
    frame = trials.assign(**{column: trials.get(column, np.nan)})
    complete = is_whole(frame) & frame[column].notna()
    order = frame.assign(_complete=complete).sort_values(
        ["_complete", column, "trial"], ascending=[False, False, True], kind="stable"
    )
    return order.drop(columns="_complete").reset_index(drop=True)

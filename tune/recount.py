"""Which recorded predictions count, and the means over folds of what counts.

An older version counted AUCs of models that had never seen a class, see `hilbert.folds.defined_folds`. Its records are
read with the present rule: what it says of such folds counts nowhere.

Notation: R repeats of cross-validation, F folds, N documents.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilbert.config import TaskConfig
from hilbert.folds import Fold, defined_folds
from hilbert.metrics import Array
from tune.entries import DIGITS
from tune.selection import MEANS, means_over_folds, ran_on_every_fold
from tune.tracking import ESTIMATE

Flags = NDArray[np.bool_]
FoldAucs = Mapping[str, Sequence[float | None]]


def counted_predictions(
    tasks: Mapping[str, TaskConfig],
    labels: Mapping[str, Array],
    folds: Sequence[Fold],
    fold_of: NDArray[np.int64],
    *,
    seen: Flags,
    totals: Mapping[str, Mapping[str, int]],
) -> dict[str, Flags]:
    """Of each task [R, N], whether a held-out prediction is of a model that was trained on every class.

    Args:
        tasks: the tasks with their classes.
        labels: of each task [N], NaN where missing, or not known yet.
        folds: F of them.
        fold_of: [R, N], the fold in which a document is held out.
        seen: [N], whose labels are known; those of documents that no configuration has held out yet are not.
        totals: documents of each class in the cohort, of the tasks that have classes.
    """
    found = {}
    for task, spec in tasks.items():
        trained = defined_folds(labels[task], len(spec.classes), folds).trained
        if not seen.all():
            counts = [totals.get(task, {}).get(name, 0) for name in spec.classes]
            hidden = [_may_be_trained(labels[task], fold, counts, seen) for fold in folds]
            trained = trained | np.array(hidden, dtype=np.bool_)
        found[task] = trained[fold_of]
    return found


def _may_be_trained(labels: Array, fold: Fold, totals: Sequence[int], seen: Flags) -> bool:
    """Whether documents of unknown labels may make the training part hold every class."""
    if seen[fold.train].all():
        return False
    elsewhere = labels[np.concatenate([fold.inner, fold.held_out])]
    return all(total > np.count_nonzero(elsewhere == number) for number, total in enumerate(totals))


def fold_parts(splits: pd.DataFrame, folds: int) -> list[Fold]:
    """The folds of `study/splits.csv`; what is neither held out nor inner validation trains."""
    columns = [splits[f"fold_{fold}"].to_numpy() for fold in range(folds)]
    return [
        Fold(
            np.flatnonzero((column != "inner") & (column != "held_out")),
            np.flatnonzero(column == "inner"),
            np.flatnonzero(column == "held_out"),
            index=index,
        )
        for index, column in enumerate(columns)
    ]


def recounted(
    trials: pd.DataFrame, aucs: Mapping[int, FoldAucs], pooled: Mapping[int, Mapping[str, float | None]]
) -> pd.DataFrame:
    """The trials with the means of what counts, if an older version recorded others; else as they are.

    Args:
        trials: as `tune.tracking.ReadStudy` has them.
        aucs: by trial and task, of every fold, None where it doesn't count; of the trials that ran on every fold.
        pooled: by trial and task, the AUC of the predictions that count.

    Returns:
        Where anything differs, numbers that can't be told anew are missing: estimates of the configurations that were
        given up, and means of those without predictions.
    """
    frame = trials.set_index("trial", drop=False)
    whole = ran_on_every_fold(frame)
    anew = {trial: _rounded(means_over_folds(found, pooled[trial])) for trial, found in aucs.items() if whole[trial]}
    names = [name for name in frame.columns if _is_mean(str(name))]
    rows = {int(row["trial"]): row for row in trials.to_dict("records")}
    if all(_same(rows[trial], found) for trial, found in anew.items()):
        return trials
    means = pd.DataFrame.from_dict(anew, orient="index", dtype="float64").reindex(frame.index)
    kept = frame.drop(columns=[*names, *({ESTIMATE} & set(frame.columns))])
    return pd.concat([kept, means], axis=1).reset_index(drop=True)


def _is_mean(name: str) -> bool:
    return not name.startswith("params.") and name.rpartition("/")[2] in MEANS


def _rounded(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: np.nan if value is None else round(value, DIGITS) for name, value in metrics.items()}


def _same(row: Mapping[Hashable, Any], metrics: Mapping[str, float]) -> bool:
    """Whether a trial's recorded means, as far as there are any, are these up to the last digit."""
    before = np.array([row.get(name, np.nan) for name in metrics], dtype=np.float64)
    differences = np.abs(before - np.array(list(metrics.values())))
    return not ((differences > 1.5 * 10**-DIGITS) | (np.isnan(differences) & ~np.isnan(before))).any()

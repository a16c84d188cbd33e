"""What MLflow is told of fold jobs and trials: metrics and parameters by the names of the contract. Pure functions.

An entry is (name, value, step).
"""

import math
from collections.abc import Collection, Mapping

import numpy as np

from hilbert.config import TaskConfig
from hilbert.metrics import average_precision, balanced_accuracy, brier, expected_calibration_error
from tune.formats import log_name
from tune.job import JobRecord
from tune.search import Proposal
from tune.selection import Summary
from tune.space import Parameters, Value

Entry = tuple[str, float, int]

OF_CLASSES = {
    "average_precision": average_precision,
    "balanced_accuracy": balanced_accuracy,
    "brier": brier,
    "calibration_error": expected_calibration_error,
}
"""Metrics of one fold's held-out documents beside the AUC, of binary and multiclass tasks."""
DIGITS = 4
"""Of a trial's metrics: MLflow's table shows every digit that it has."""


def fold_entries(record: JobRecord, tasks: Mapping[str, TaskConfig]) -> list[Entry]:
    """`<task>/auc` and the other metrics, `cost/seconds`, `best_epoch`, and `epoch/<measure>` with step = epoch."""
    found: list[Entry] = [("cost/seconds", record.seconds, 0)]
    if record.error:
        return found
    found.append(("best_epoch", record.best_epoch, 0))
    found += [(f"{task}/auc", value, 0) for task, value in record.auc.items() if value is not None]
    for task, spec in tasks.items():
        if spec.kind != "regression" and task not in record.untrained:
            found += _of_classes(record, task, spec)
    for name, values in record.epochs.items():
        if name != "epoch":
            found += [(f"epoch/{name}", v, epoch) for epoch, v in enumerate(values, start=1) if v is not None]
    return found


def _of_classes(record: JobRecord, task: str, spec: TaskConfig) -> list[Entry]:
    labels = np.array(record.labels[task], dtype=np.float64)
    scores = np.array(record.scores[task], dtype=np.float64)
    values = {name: metric(labels, scores, spec.kind) for name, metric in OF_CLASSES.items()}
    return [(f"{task}/{name}", value, 0) for name, value in values.items() if value is not None]


def trial_entries(summary: Summary) -> list[Entry]:
    """The summary's metrics, and its series with step = fold."""
    found: list[Entry] = [(name, round(value, DIGITS), 0) for name, value in summary.metrics.items()]
    for name, series in summary.series.items():
        found += [(name, round(value, DIGITS), fold) for fold, value in sorted(series.items())]
    return found


def parameter_texts(parameters: Parameters, logarithmic: Collection[str] = ()) -> dict[str, str]:
    """The searched parameters; those searched on a log scale also as `<name>.log10`, for plots without a log axis.

    Numbers have six digits, as many as a table can show; the trial's `configuration.json` has all.
    """
    logs = {log_name(name): f"{math.log10(float(parameters[name])):.6g}" for name in parameters if name in logarithmic}
    return {name: parameter_text(value) for name, value in parameters.items()} | logs


def parameter_text(value: Value) -> str:
    """One of them."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def proposal_key(proposal: Proposal) -> str:
    """Identity of a trial within its study."""
    return f"{proposal.number}:{proposal.configuration}"


def trial_key(tags: Mapping[str, str]) -> str:
    """The same, of a trial that is recorded."""
    return f"{tags['hilbert.trial']}:{tags['hilbert.config']}"


def configuration_of(key: str) -> str:
    """Hash of a trial's configuration, of its `proposal_key`."""
    return key.partition(":")[2]

"""Pictures of a trial, from the records of its fold jobs.

Every function that ends in `_figure` returns a matplotlib `Figure`. Where nothing can be drawn the picture says why.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from hilbert.config import TaskConfig
from tune.job import JobRecord
from tune.plots.curves import pr_figure, roc_figure
from tune.plots.decisions import calibration_figure, confusion_figure, scatter_figure
from tune.plots.folds import classes_figure, folds_figure
from tune.plots.held_out import HeldOut
from tune.plots.style import save
from tune.plots.training import balance_figure, experts_figure, training_figure

__all__ = ["draw_trial", "file_name", "trial_figures"]

logger = logging.getLogger(__name__)

CLASSIFICATION: Mapping[str, Callable[[HeldOut], Figure]] = {
    "roc": roc_figure,
    "pr": pr_figure,
    "confusion": confusion_figure,
    "calibration": calibration_figure,
}
REGRESSION: Mapping[str, Callable[[HeldOut], Figure]] = {"scatter": scatter_figure}
LONGEST_NAME = 80


def draw_trial(records: Sequence[JobRecord], tasks: Mapping[str, TaskConfig], folder: Path) -> None:
    """Writes all pictures of one trial as PNG into `folder`.

    `roc_<task>`, `pr_<task>`, `confusion_<task>` and `calibration_<task>`, for regression `scatter_<task>`; and
    `training`, `balance`, `experts`, `folds` and `classes`. A picture that can't be drawn is left out with a warning:
    it must not cost the record of the trial.

    Args:
        records: fold jobs of one configuration; those that failed or were called off are ignored. Without any that is
            done nothing is written.
        tasks: the tasks with their classes.
        folder: exists.
    """
    for name, figure in trial_figures(records, tasks).items():
        try:
            save(figure(), folder / f"{name}.png")
        except Exception:
            logger.warning("the picture %s.png could not be drawn", name, exc_info=True)


def trial_figures(records: Sequence[JobRecord], tasks: Mapping[str, TaskConfig]) -> dict[str, Callable[[], Figure]]:
    """What `draw_trial` draws: names of the files without their ending, and what makes each picture."""
    done = sorted((one for one in records if not one.error and not one.stopped), key=lambda record: record.fold)
    if not done:
        return {}
    held = [HeldOut.of(done, task, spec) for task, spec in tasks.items()]
    found: dict[str, Callable[[], Figure]] = {}
    for one in held:
        kinds = REGRESSION if one.spec.kind == "regression" else CLASSIFICATION
        found |= {f"{kind}_{file_name(one.task)}": partial(figure, one) for kind, figure in kinds.items()}
    return found | {
        "training": partial(training_figure, done, tasks),
        "balance": partial(balance_figure, done),
        "experts": partial(experts_figure, done, list(tasks)),
        "folds": partial(folds_figure, held),
        "classes": partial(classes_figure, held),
    }


def file_name(task: str) -> str:
    """A task's name as part of a file name: what is odd becomes `_`, with a hash that keeps two tasks apart."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", task)[:LONGEST_NAME]
    return safe if safe == task else f"{safe}-{hashlib.sha256(task.encode()).hexdigest()[:6]}"

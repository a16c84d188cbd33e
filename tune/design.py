"""What is the same for all configurations of a study, read from its files in MLflow: documents, tasks, folds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilbert.config import TaskConfig
from hilbert.errors import InputError, shown
from hilbert.folds import Fold
from hilbert.spreadsheets import read_csv
from hilbert.temporary import temporary_folder
from tune.recorded import read_data
from tune.recount import fold_parts
from tune.tracking import ReadStudy, first_line, study_files

Client = Any
"""An `mlflow.MlflowClient`; MLflow itself is not imported here."""
T = TypeVar("T")
Numbers = NDArray[np.int64]
HELD_OUT = "held_out"


@dataclass(frozen=True)
class Design:
    """Documents, tasks and folds: what is the same for all configurations.

    Attributes:
        tasks: kind and classes.
        documents: N ids, as recorded.
        groups: N groups.
        folds: F.
        fold_of: [R, N], number of the fold in which a document is held out.
        parts: the F folds.
        totals: of each task, documents of each class; nothing of a regression.
    """

    tasks: Mapping[str, TaskConfig]
    documents: Sequence[str]
    groups: Sequence[str]
    folds: int
    fold_of: Numbers
    parts: Sequence[Fold]
    totals: Mapping[str, Mapping[str, int]]


def read_design(client: Client, study: ReadStudy) -> Design:
    """Reads the files of a study as a whole.

    Raises:
        InputError: they can't be had, or don't fit each other.
    """
    with temporary_folder() as beside:
        folder = study_files(client, study.name, beside)
        if folder is None:
            raise InputError(_without_files(client, study))
        data = _file(folder / "data.json", read_data, client, study)
        splits = _file(folder / "splits.csv", read_csv, client, study)
    try:
        tasks = {
            task: TaskConfig(kind=data["tasks"][task]["kind"], classes=tuple(data["tasks"][task].get("classes", {})))
            for task in study.tasks
        }
        fold_of = _fold_of(splits, data["folds"]["n_splits"], data["folds"]["repeats"])
        ids, groups = splits["document_id"].tolist(), splits["group_id"].tolist()
        folds = int(fold_of.max()) + 1
        totals = {task: data["tasks"][task].get("classes", {}) for task in study.tasks}
        return Design(tasks, ids, groups, folds, fold_of, fold_parts(splits, folds), totals)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"study {shown(study.name)}: its files data.json and splits.csv in MLflow don't fit each other ({error});"
            f" 'hilbert sync {study.name}' writes them anew"
        ) from None


def _file(path: Path, read: Callable[[Path], T], client: Client, study: ReadStudy) -> T:
    try:
        return read(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{_without_files(client, study)} ({path.name}: {first_line(error)})") from None


def _without_files(client: Client, study: ReadStudy) -> str:
    where = client.get_experiment_by_name(study.name).artifact_location
    return (
        f"study {study.name!r}: its files, study/splits.csv and study/data.json, can't be had from {where}; an older "
        f"version didn't record them: 'hilbert sync {study.name}' does, where the sweep ran"
    )


def _fold_of(splits: pd.DataFrame, n_splits: int, repeats: int) -> Numbers:
    """[R, N], in which fold each document is held out.

    Raises:
        KeyError: a fold isn't there.
        ValueError: a document stands there twice, or isn't held out once in a repeat.
    """
    if splits["document_id"].duplicated().any():
        raise ValueError("a document stands there twice")
    columns = [splits[f"fold_{fold}"] for fold in range(n_splits * repeats)]
    held_out = np.array([column.eq(HELD_OUT) for column in columns]).reshape(repeats, n_splits, len(splits))
    if not len(splits) or (held_out.sum(1) != 1).any():
        raise ValueError("each document must be held out once in every repeat")
    found: Numbers = np.arange(repeats)[:, None] * n_splits + held_out.argmax(1)
    return found

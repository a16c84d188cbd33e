"""`hilbert fit`: one configuration on one fold, in this process, without Ray and without MLflow."""

import time
from pathlib import Path

import pandas as pd
from rich.console import Console

from hilbert.config import TaskConfig
from hilbert.errors import StudyError
from hilbert.files import write_text
from hilbert.spreadsheets import csv_text
from hilbert.training import EpochReport, FoldResult, fit
from tune.bars import counted
from tune.job import open_store, prepare_worker, record
from tune.plan import label_report, make_plan
from tune.predictions import predictions
from tune.space import Study


def fit_fold(study: Study, number: int, *, output: Path | None, console: Console) -> int:
    """Trains the study file's own values on fold `number`; prints a line for each task to stdout.

    Raises:
        InputError: there is no such fold, or the study doesn't fit its data.
    """
    plan = make_plan(study)
    if not 0 <= number < len(plan.data.folds):
        raise StudyError(f"--fold {number}: the study has folds 0 to {len(plan.data.folds) - 1}")
    console.print(label_report(plan), highlight=False, markup=False, soft_wrap=True)
    fold, name = plan.data.folds[number], study.store({})
    config = study.configuration({})
    prepare_worker()
    with counted(console, "epochs", config.train.epochs) as bar:

        def report(epoch: EpochReport) -> None:
            bar(int(epoch["epoch"]), words=f"epochs, {losses(epoch)}")

        store = open_store(plan.data.stores[name], plan.data.fingerprints[name])
        result = fit(config, store, fold, report=report)
    sizes = f"{len(fold.train)} train, {len(fold.inner)} inner validation, {len(fold.held_out)} held-out documents"
    console.print(f"fold {number}: {sizes}; epoch {result.best_epoch} of {len(result.epochs)}, {result.seconds:.1f} s")
    for untrained in result.untrained:
        console.print(f"{untrained}: no AUC, since the training part lacks a class", highlight=False, markup=False)
    rows = [
        (task, "" if value is None else f"{value:.4f}", int((~pd.isna(result.labels[task])).sum()))
        for task, value in result.auc.items()
    ]
    print(csv_text(pd.DataFrame(rows, columns=["task", "auc", "labelled_held_out"])), end="")
    if output is not None:
        _save(result, plan.task_configs(), output)
        console.print(f"model, predictions and epochs: {output}")
    return 0


def losses(epoch: EpochReport) -> str:
    """The losses of an epoch in words; there is no inner one where inner validation holds no label."""
    inner = f"inner {epoch['inner_loss']:.3f}" if "inner_loss" in epoch else "no inner validation"
    return f"loss {epoch['train_total']:.3f}, {inner}"


def _save(result: FoldResult, tasks: dict[str, TaskConfig], output: Path) -> None:
    result.model.save_pretrained(output)
    held_out = predictions([record("", result, time.time())], tasks)
    write_text(output / "predictions.csv", csv_text(held_out))
    write_text(output / "epochs.csv", csv_text(pd.DataFrame(result.epochs)))

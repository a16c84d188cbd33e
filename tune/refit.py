"""Training what is released: one configuration on all documents, or again on every fold, without Ray.

A fold's fit depends on data, configuration, fold and seed alone: trained again it is the model whose held-out
predictions the sweep recorded. Fold fits run beside each other in processes of one thread each.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

import torch

from hilbert.config import FitConfig
from hilbert.folds import Fold
from hilbert.model import Hilbert
from hilbert.training import fit, fit_all
from hilbert.verified import Known, known, trust
from tune.job import JobRecord, open_store, prepare_worker, record


@dataclass(frozen=True)
class Material:
    """What is trained: a configuration on a feature store (its folder or URL, and what must be in it)."""

    config: FitConfig
    folder: str
    fingerprint: str


def refit(material: Material, *, epochs: int, stream: int, report: Callable[[int], None]) -> Hilbert:
    """One model of all documents: see `hilbert.training.fit_all`; `report` gets the number of every epoch."""
    store = open_store(material.folder, material.fingerprint)
    with _one_thread():
        return fit_all(
            material.config, store, epochs=epochs, stream=stream, report=lambda epoch: report(int(epoch["epoch"]))
        )


def fit_folds(
    material: Material, folds: Sequence[Fold], *, models: Path | None = None, report: Callable[[int], None]
) -> list[JobRecord]:
    """Trains on every fold; returns what a sweep would have recorded, in the folds' order.

    Args:
        material: what is trained.
        folds: all folds.
        models: folder in which each fold's model is kept, in a folder called by its number; None keeps none.
        report: called with the number of folds done.
    """
    workers = max(1, min(len(folds), os.cpu_count() or 1))
    context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
    with ProcessPoolExecutor(workers, context, _begin_worker, (known(),)) as pool:
        jobs = [pool.submit(_fit_fold, material, fold, models) for fold in folds]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                report(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [job.result() for job in jobs]


def member_folder(models: Path, fold: int) -> Path:
    """Where a fold's model lies."""
    return models / str(fold)


def _begin_worker(verified: Known) -> None:
    prepare_worker()
    trust(verified)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()  # else a killed command leaves its workers


def _fit_fold(material: Material, fold: Fold, models: Path | None) -> JobRecord:
    started = time.time()
    result = fit(material.config, open_store(material.folder, material.fingerprint), fold)
    if models is not None:
        result.model.save_pretrained(member_folder(models, fold.index))
    return record("", result, started)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As a fold job computes, so that the same fit gives the same model."""
    threads = torch.get_num_threads()
    prepare_worker()
    try:
        yield
    finally:
        torch.set_num_threads(threads)

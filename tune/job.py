"""A fold job: one configuration trained on one fold. What a worker runs, and what it sends back.

The identity of a fold job is a hash of all that its result depends on, so that a finished one is never run again.
"""

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from hilbert.config import FitConfig
from hilbert.errors import StoreError
from hilbert.features import FeatureStore
from hilbert.folds import Fold
from hilbert.metrics import Array
from hilbert.repeatable import prepare_cuda
from hilbert.training import EpochReport, FoldResult, fit
from hilbert.verified import Known, trust
from tune.checkpoints import StateCheckpoint, States
from tune.gpu_memory import Meter, cuda_meter, is_out_of_memory
from tune.redaction import without_passwords
from tune.space import identity_of
from tune.stores import local_folder

RESULTS_VERSION = 1
"""Part of every fold job's identity: raised when a change of the model or of training changes results."""


@dataclass(frozen=True)
class StudyData:
    """What all fold jobs of a study share; sent to every worker once.

    Attributes:
        stores: absolute folder, or URL, of each feature store by its name in the study file.
        fingerprints: what is in these stores.
        folds: all folds.
        splits: hash of the folds.
        verified: the stores' files as they were when the plan was made, see `hilbert.verified`.
    """

    stores: Mapping[str, str]
    fingerprints: Mapping[str, str]
    folds: Sequence[Fold]
    splits: str
    verified: Known = field(default_factory=dict)

    def open(self, store: str) -> FeatureStore:
        """Opens a store by its name, without reading what whoever made the plan has read and is there unchanged."""
        trust(self.verified)
        return open_store(self.stores[store], self.fingerprints[store])


@dataclass(frozen=True)
class FoldJob:
    """One configuration on one fold.

    Attributes:
        trial: number of the trial.
        fold: number of the fold.
        config: the configuration.
        store: name of its feature store.
        identity: hash of all that the result depends on.
    """

    trial: int
    fold: int
    config: FitConfig
    store: str
    identity: str


@dataclass(frozen=True)
class JobRecord:
    """A finished fold job, as it is kept on disk: JSON, no pickle.

    Attributes:
        identity: which fold job.
        fold: number of the fold.
        started: when, in seconds since 1970.
        seconds: wall-clock time.
        error: traceback of a job that failed, empty for one that is done.
        stopped: the job was called off, because racing had given its configuration up.
        best_epoch: epoch whose weights were kept, from 1.
        epochs: each measure of the epochs, as a list.
        document_ids: held-out documents.
        labels: for each task a label per document, None where it is missing.
        scores: for each task a list of scores per document.
        auc: for each task the AUC of this fold, None where it is undefined.
        untrained: tasks of which the training part lacks a class: their scores count nowhere. The driver fills it in
            for older records, see `tune.plan.Plan.counted`.
        usage: for each task the mean weight of every expert over the held-out documents; older records have none.
        gpus: how many it occupied.
        gpu_memory: the most that it took of its GPU's memory, in bytes, see `tune.gpu_memory`; 0 without a GPU.
        gpu_total: the memory of that GPU.
        out_of_memory: it failed because the GPU's memory was exhausted.
    """

    identity: str
    fold: int
    started: float
    seconds: float
    error: str = ""
    stopped: bool = False
    best_epoch: int = 0
    epochs: dict[str, list[float | None]] = field(default_factory=dict)
    document_ids: list[str] = field(default_factory=list)
    labels: dict[str, list[float | None]] = field(default_factory=dict)
    scores: dict[str, list[list[float]]] = field(default_factory=dict)
    auc: dict[str, float | None] = field(default_factory=dict)
    untrained: list[str] = field(default_factory=list)
    usage: dict[str, list[float]] = field(default_factory=dict)
    gpus: float = 0.0
    gpu_memory: int = 0
    gpu_total: int = 0
    out_of_memory: bool = False

    def to_json(self) -> bytes:
        """As JSON; every number comes back exactly."""
        return json.dumps(asdict(self), allow_nan=False).encode()

    def truth(self, task: str) -> Array:
        """A task's labels to score by, [n]: NaN where missing, and throughout where its scores don't count."""
        labels = np.array(self.labels[task], dtype=np.float64)
        return np.full(len(labels), np.nan) if task in self.untrained else labels

    def without_curves(self) -> "JobRecord":
        """Without the measures of the epochs, which are most of it."""
        return replace(self, epochs={})

    @classmethod
    def from_json(cls, content: bytes) -> "JobRecord":
        """The inverse of `to_json`."""
        return cls(**json.loads(content))


def job_identity(config: FitConfig, fold: int, *, fingerprint: str, splits: str) -> str:
    """Hash of (features and labels, splits, configuration with its seed, fold, version of the results)."""
    content = [fingerprint, splits, identity_of(config), fold, RESULTS_VERSION]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


class CalledOff(Exception):  # noqa: N818 (nothing went wrong)
    """The job's configuration has been given up."""


def run_job(
    job: FoldJob,
    data: StudyData,
    *,
    states: States | None = None,
    called_off: Callable[[], bool] = lambda: False,
    meter: Meter = cuda_meter,
) -> JobRecord:
    """Runs a fold job in this process. A job that raises gives a record of its traceback.

    Args:
        job: the fold job.
        data: what the jobs of the study share.
        states: where it keeps its state, and finds that of an earlier attempt; None: nowhere.
        called_off: asked after every epoch whether the job shall stop.
        meter: measures the memory that it takes of a GPU.
    """
    started = time.time()
    try:
        with meter() as memory:
            found = _run(job, data, states, called_off)
            return replace(found, gpu_memory=memory().peak, gpu_total=memory().total)
    except Exception as error:  # of the meter: a GPU that failed refuses all that comes after
        return _raised(job, error, started)


def _run(job: FoldJob, data: StudyData, states: States | None, called_off: Callable[[], bool]) -> JobRecord:
    started = time.time()

    def report(_: EpochReport) -> None:
        if called_off():
            raise CalledOff

    try:
        store = data.open(job.store)
        checkpoint = None if states is None else StateCheckpoint(states, job.identity)
        result = fit(job.config, store, data.folds[job.fold], report=report, checkpoint=checkpoint)
        if states is not None:
            states.forget(job.identity)
        return record(job.identity, result, started)
    except CalledOff:
        return replace(failed(job, "", started), stopped=True)
    except Exception as error:
        return _raised(job, error, started)


def failed(job: FoldJob, error: str, started: float) -> JobRecord:
    """The record of a job that did not end well; `error` is kept without the passwords of addresses."""
    return JobRecord(
        identity=job.identity,
        fold=job.fold,
        started=started,
        seconds=time.time() - started,
        error=without_passwords(error),
    )


def _raised(job: FoldJob, error: Exception, started: float) -> JobRecord:
    told = "".join(traceback.format_exception(error))
    return replace(failed(job, told, started), out_of_memory=is_out_of_memory(error))


def record(identity: str, result: FoldResult, started: float) -> JobRecord:
    """The record of a job that is done."""
    names = list(dict.fromkeys(name for epoch in result.epochs for name in epoch))
    return JobRecord(
        identity=identity,
        fold=result.fold,
        started=started,
        seconds=result.seconds,
        best_epoch=result.best_epoch,
        epochs={name: [epoch.get(name) for epoch in result.epochs] for name in names},
        document_ids=result.document_ids,
        labels={
            task: [None if value != value else value for value in values.tolist()]  # NaN differs from itself
            for task, values in result.labels.items()
        },
        scores={task: values.tolist() for task, values in result.scores.items()},
        auc=result.auc,
        untrained=result.untrained,
        usage={task: values.tolist() for task, values in result.usage.items()},
    )


@lru_cache(maxsize=8)
def open_store(location: str, fingerprint: str) -> FeatureStore:
    """Opens a feature store once a process; its arrays are memory-mapped, hence in memory once a node.

    Raises:
        StoreError: it can't be had (see `tune.stores.local_folder`), isn't what its manifest says, or is not the one
            that the study began with.
    """
    store = FeatureStore.open(local_folder(location, fingerprint))
    if store.fingerprint != fingerprint:
        raise StoreError(f"{location}: the feature store changed while the study ran")
    store.verify()
    return store


def prepare_worker() -> None:
    """Sets a worker process up: one thread, so that jobs beside each other neither slow nor change one another.

    To be called before this process uses a GPU.
    """
    torch.set_num_threads(1)
    prepare_cuda()

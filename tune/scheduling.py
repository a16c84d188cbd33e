"""Fold jobs on Ray Tune: every fold job is a Tune trial, on a worker that is used again for the next one.

Measured settings: actors are reused (25 times cheaper a job than a new one), one report a job carries the epoch
curves, Tune's own loggers are off, and its pickled snapshots are not used: what is finished lies in the study's own
folder as soon as it is done, and the search in its own journal.
"""

import faulthandler
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
import ray.autoscaler.sdk
import ray.tune
from ray.tune.search import Searcher

from hilbert.config import FitConfig
from hilbert.errors import StudyError
from tune.job import FoldJob, JobRecord, StudyData, failed, prepare_worker, run_job
from tune.ledger import Ledger
from tune.room import Room
from tune.space import ResourcesConfig

logger = logging.getLogger(__name__)

FINISHED: str = Searcher.FINISHED
MOST_AT_ONCE = 100_000
"""Tune's own limit of packs that are out; the searcher's follows the cluster."""
ASK_EVERY = 2.0
"""Seconds between a job's questions whether it has been called off."""

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@ray.remote(num_cpus=0)
class Board:
    """What all workers can read: which configurations have been given up."""

    def __init__(self) -> None:
        self.abandoned: set[int] = set()

    def abandon(self, trial: int) -> None:
        """Calls the jobs of a trial off."""
        self.abandoned.add(trial)

    def is_abandoned(self, trial: int) -> bool:
        """Whether a trial's jobs are called off."""
        return trial in self.abandoned


def new_board() -> Any:
    """Puts up a board; Ray takes it down with the sweep."""
    return Board.remote()  # type: ignore[attr-defined]


class FoldWorker(ray.tune.Trainable):  # type: ignore[misc]
    """A worker process: takes a pack of fold jobs, returns their records, waits for the next pack."""

    def setup(self, config: dict[str, Any], data: StudyData, board: Any, limit: float | None) -> None:
        """Called once a process; `data` lies in shared memory, `limit` is in seconds."""
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a job that asked for no GPU shall not find one
        prepare_worker()
        self.data, self.board, self.limit = data, board, limit
        self.asked = 0.0
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next pack."""
        self.jobs = [_unpack(job) for job in new_config["jobs"]]
        return True

    def step(self) -> dict[str, Any]:
        """Runs the pack."""
        return {"records": [zlib.compress(self._run(job).to_json()) for job in self.jobs], "done": True}

    def _run(self, job: FoldJob) -> JobRecord:
        with time_limit(self.limit, trace_of(job)):
            return run_job(job, self.data, called_off=lambda: self._called_off(job.trial))

    def _called_off(self, trial: int) -> bool:
        """Asks the board, now and then."""
        if self.board is None or time.monotonic() - self.asked < ASK_EVERY:
            return False
        self.asked = time.monotonic()
        return bool(ray.get(self.board.is_abandoned.remote(trial)))


@contextmanager
def time_limit(seconds: float | None, trace: Path) -> Iterator[None]:
    """Ends this process after so many seconds, whatever it hangs in, and leaves its stacks in the file `trace`.

    The watch is kept by a thread outside of Python, which a hanging extension can't stop.
    """
    if seconds is None:
        yield
        return
    with trace.open("w") as file:
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    trace.unlink(missing_ok=True)


def trace_of(job: FoldJob) -> Path:
    """Where a job that was ended leaves its stacks, on its own machine."""
    return Path(tempfile.gettempdir()) / f"hilbert-{job.identity}.trace"


def _why_it_died(job: FoldJob, limit: float | None) -> str:
    """What can be said of a job whose worker is gone."""
    trace = trace_of(job)
    stacks = trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else ""
    trace.unlink(missing_ok=True)
    if stacks:
        return f"{stacks}\nended after the time limit of {(limit or 0) / 60:g} minutes (resources.minutes_per_job)"
    return "the worker process died: out of memory, killed, or its machine was lost"


class FoldSearcher(Searcher):  # type: ignore[misc]
    """Hands the ledger's fold jobs to Tune as packs, and the workers' records back to the ledger."""

    def __init__(self, ledger: Ledger, limit: float | None, gpus: float, room: Room, left: Callable[[], int]) -> None:
        super().__init__()
        self.ledger, self.limit, self.gpus, self.room, self.left = ledger, limit, gpus, room, left
        self.out: dict[str, tuple[list[FoldJob], float]] = {}
        self.fault: Exception | None = None

    def set_max_concurrency(self, max_concurrent: int) -> bool:  # noqa: ARG002
        """Tune leaves it to `suggest` how many packs are out: nodes come and go."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack; None when nothing can be handed out now, FINISHED when nothing is left."""
        if self.fault:
            return FINISHED
        try:
            self.room.want(self.left())
            if len(self.out) >= self.room.slots:  # not before there is room: what a job is depends on those before it
                return FINISHED if self.ledger.finished else None
            job = self.ledger.next()
        except Exception as error:
            self.fault = error
            return FINISHED
        if job is None:
            return FINISHED if self.ledger.finished else None
        self.out[trial_id] = ([job], time.time())
        return {"jobs": [_pack(job)]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Takes in a pack's records; a worker that died gives none."""
        if trial_id not in self.out:
            return
        jobs, started = self.out.pop(trial_id)
        try:
            for number, job in enumerate(jobs):
                self.ledger.take(job, self._record(job, number, result, started, error))
        except Exception as fault:  # an exception here would end Tune without a word of which job it was
            self.fault = self.fault or fault

    def _record(
        self, job: FoldJob, number: int, result: dict[str, Any] | None, started: float, error: bool
    ) -> JobRecord:
        if error or result is None or "records" not in result:
            record = failed(job, _why_it_died(job, self.limit), started)
        else:
            record = JobRecord.from_json(zlib.decompress(result["records"][number]))
        return replace(record, gpus=self.gpus)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher at the start; nobody reads it: the study's folder holds the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's folder holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


def _pack(job: FoldJob) -> dict[str, Any]:
    return asdict(job) | {"config": job.config.model_dump(mode="json")}


def _unpack(content: dict[str, Any]) -> FoldJob:
    return FoldJob(**content | {"config": FitConfig.model_validate(content["config"])})


@contextmanager
def ray_cluster(resources: ResourcesConfig) -> Iterator[Room]:
    """Joins the cluster that `ray start` began here or that RAY_ADDRESS names; starts a local one if there is none.

    What it joined or started it leaves again; a connection that this process had before is used and kept.

    Yields:
        The room that the cluster has, which changes as nodes come and go.

    Raises:
        StudyError: the cluster that is named doesn't answer.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    if ray.is_initialized():
        yield from _room(resources, ours=False)
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ours = True
    try:  # never address="auto": it also joins the local cluster of another sweep, and dies with it
        ray.init(include_dashboard=False, num_cpus=resources.workers or os.cpu_count(), **options)
    except ValueError:  # a cluster was started here or is named by RAY_ADDRESS: its size is not ours to choose
        ray.init(**options)
        ours = False
    except ConnectionError as error:
        raise StudyError(f"no Ray cluster answers ({error}); 'ray stop' forgets one that has died") from None
    try:
        yield from _room(resources, ours=ours)
    finally:
        ray.shutdown()


def _room(resources: ResourcesConfig, *, ours: bool) -> Iterator[Room]:
    """The room of the cluster; what its autoscaler was told is taken back. A cluster of our own has none to tell."""
    room = Room(resources, _nodes, None if ours else _ask)
    try:
        yield room
    finally:
        with suppress(Exception):  # the cluster may be gone
            room.want(0)


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _ask(bundles: list[dict[str, float]]) -> None:
    ray.autoscaler.sdk.request_resources(bundles=bundles)


def run_ledger(
    ledger: Ledger,
    data: StudyData,
    resources: ResourcesConfig,
    room: Room,
    board: Any,
    *,
    left: Callable[[], int],
) -> None:
    """Runs fold jobs until the ledger has no more, or until Ctrl-C; what is done by then is in the ledger.

    Args:
        ledger: hands out fold jobs.
        data: what they share.
        resources: what each occupies.
        room: of the cluster.
        board: see `new_board`; None without racing.
        left: how many fold jobs are left, those that run included.

    Raises:
        Exception: what the ledger's callables raised.
    """
    limit = None if resources.minutes_per_job is None else 60 * resources.minutes_per_job
    searcher = FoldSearcher(ledger, limit, resources.gpus_per_job, room, left)
    trainable = ray.tune.with_resources(
        ray.tune.with_parameters(FoldWorker, data=data, board=board, limit=limit),
        {"cpu": resources.cpus_per_job, "gpu": resources.gpus_per_job},
    )
    folder = tempfile.mkdtemp(prefix="hilbert-ray-")
    tune_config = ray.tune.TuneConfig(
        search_alg=searcher, num_samples=-1, reuse_actors=True, max_concurrent_trials=MOST_AT_ONCE
    )
    run_config = ray.tune.RunConfig(
        name="sweep",
        storage_path=folder,
        verbose=0,
        checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed jobs are told by the ledger
    try:
        ray.tune.Tuner(trainable, tune_config=tune_config, run_config=run_config).fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if searcher.fault:
        raise searcher.fault

"""A worker: the process that runs fold jobs, one after the other; and the board that workers and driver share."""

import faulthandler
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hilbert.config import FitConfig
from tune.gpu_memory import Meter
from tune.job import FoldJob, JobRecord, StudyData, prepare_worker, run_job

ASK_EVERY = 2.0
"""Seconds between a job's questions whether it has been called off."""


@ray.remote(num_cpus=0)
class Board:
    """What all workers read and write: which configurations have been given up, and on which node each worker is."""

    def __init__(self) -> None:
        self.abandoned: set[int] = set()
        self.nodes: dict[str, str] = {}

    def abandon(self, trial: int) -> None:
        """Calls the jobs of a trial off."""
        self.abandoned.add(trial)

    def is_abandoned(self, trial: int) -> bool:
        """Whether a trial's jobs are called off."""
        return trial in self.abandoned

    def enter(self, worker: str, node: str) -> None:
        """A worker says where it is."""
        self.nodes[worker] = node

    def node_of(self, worker: str) -> str:
        """The node of a worker; empty if it never said."""
        return self.nodes.get(worker, "")


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    """What puts a task or an actor on a node, and on no other."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def this_node() -> str:
    """Identity of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def new_board() -> Any:
    """Puts up a board beside this process, with which alone it may be lost; Ray takes it down with the sweep."""
    return Board.options(scheduling_strategy=on_node(this_node())).remote()  # type: ignore[attr-defined]


class FoldWorker(ray.tune.Trainable):  # type: ignore[misc]
    """A worker process: takes a pack of fold jobs, returns their records, waits for the next pack."""

    def setup(self, config: dict[str, Any], data: StudyData, board: Any, limit: float | None, meter: Meter) -> None:
        """Called once a process; `data` lies in shared memory, `limit` is in seconds."""
        board.enter.remote(ray.get_runtime_context().get_actor_id(), this_node())
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a job that asked for no GPU shall not find one
        prepare_worker()
        self.data, self.board, self.limit, self.meter = data, board, limit, meter
        self.asked = 0.0
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next pack."""
        self.jobs = [unpack(job) for job in new_config["jobs"]]
        return True

    def step(self) -> dict[str, Any]:
        """Runs the pack."""
        return {"records": [zlib.compress(self._run(job).to_json()) for job in self.jobs], "done": True}

    def _run(self, job: FoldJob) -> JobRecord:
        with time_limit(self.limit, trace_of(job)):
            return run_job(job, self.data, called_off=lambda: self._called_off(job.trial), meter=self.meter)

    def _called_off(self, trial: int) -> bool:
        """Asks the board, now and then."""
        if time.monotonic() - self.asked < ASK_EVERY:
            return False
        self.asked = time.monotonic()
        return bool(ray.get(self.board.is_abandoned.remote(trial)))


def fold_worker(data: StudyData, board: Any, limit: float | None, meter: Meter) -> Any:
    """What Tune starts: a `FoldWorker`, with what all of them share in shared memory."""
    return ray.tune.with_parameters(FoldWorker, data=data, board=board, limit=limit, meter=meter)


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


def stacks_of(job: FoldJob) -> str:
    """The stacks of a job that was ended on this machine; empty if it wasn't."""
    trace = trace_of(job)
    stacks = trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else ""
    trace.unlink(missing_ok=True)
    return stacks


def pack(job: FoldJob) -> dict[str, Any]:
    """A fold job as Tune carries it."""
    return asdict(job) | {"config": job.config.model_dump(mode="json")}


def unpack(content: dict[str, Any]) -> FoldJob:
    """The inverse of `pack`."""
    return FoldJob(**content | {"config": FitConfig.model_validate(content["config"])})

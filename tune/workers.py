"""A worker: the process that runs fold jobs, one after the other; and the board that workers and driver share."""

import faulthandler
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hilbert.config import FitConfig
from tune.checkpoints import FileStates, States
from tune.gpu_memory import Meter
from tune.job import FoldJob, JobRecord, StudyData, prepare_worker, run_job

ASK_EVERY = 2.0
"""Seconds between a job's questions whether it has been called off."""


@ray.remote(num_cpus=0)
class Board:
    """What all workers read and write: configurations that were given up, nodes of workers, states of long fold jobs.

    Args:
        states: folder for these, on the board's node.
    """

    def __init__(self, states: str) -> None:
        self.home, self.states = (this_node(), states), FileStates(states)
        self.abandoned: set[int] = set()
        self.nodes: dict[str, str] = {}

    def where(self) -> tuple[str, str]:
        """The board's node, and the folder of the states there."""
        return self.home

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

    def read_state(self, identity: str) -> bytes | None:
        """See `tune.checkpoints.States`."""
        return self.states.read(identity)

    def write_state(self, identity: str, state: bytes) -> None:
        """See `tune.checkpoints.States`."""
        self.states.write(identity, state)

    def forget_state(self, identity: str) -> None:
        """See `tune.checkpoints.States`."""
        self.states.forget(identity)


class BoardStates:
    """States that are sent to the board: of jobs on other nodes than it. Nobody waits until they are written."""

    def __init__(self, board: Any) -> None:
        self.board = board

    def read(self, identity: str) -> bytes | None:
        """The state that was written last."""
        state: bytes | None = ray.get(self.board.read_state.remote(identity))
        return state

    def write(self, identity: str, state: bytes) -> None:
        """Keeps a state in the place of the one before."""
        self.board.write_state.remote(identity, state)

    def forget(self, identity: str) -> None:
        """The job is done."""
        self.board.forget_state.remote(identity)


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    """What puts a task or an actor on a node, and on no other."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def this_node() -> str:
    """Identity of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def new_board(states: Path) -> Any:
    """Puts up a board beside this process, with which alone it may be lost; Ray takes it down with the sweep.

    Args:
        states: folder for the states of long fold jobs; it must be there.
    """
    beside = Board.options(scheduling_strategy=on_node(this_node()))  # type: ignore[attr-defined]
    return beside.remote(str(states.absolute()))


@dataclass(frozen=True)
class TimeLimit:
    """How long a fold job may take, and where one that is ended leaves its stacks.

    Attributes:
        seconds: None: as long as it likes.
        folder: for the stacks, on the driver's computer and for its user alone; other nodes keep none.
    """

    seconds: float | None
    folder: str

    @contextmanager
    def over(self, job: FoldJob) -> Iterator[None]:
        """Ends this process when the time is over, whatever it hangs in.

        The watch is kept by a thread outside of Python, which a hanging extension can't stop.
        """
        if self.seconds is None:
            yield
            return
        trace = self._trace(job)
        with (
            trace.open("w", encoding="utf-8")
            if trace.parent.is_dir()
            else Path(os.devnull).open("w", encoding="utf-8") as file
        ):
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=file)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
        trace.unlink(missing_ok=True)

    def stacks(self, job: FoldJob) -> str:
        """The stacks of a job that was ended on this computer; empty if it wasn't."""
        trace = self._trace(job)
        stacks = trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else ""
        trace.unlink(missing_ok=True)
        return stacks

    def _trace(self, job: FoldJob) -> Path:
        return Path(self.folder) / f"{job.identity}.trace"


class FoldWorker(ray.tune.Trainable):  # type: ignore[misc]
    """A worker process: takes a pack of fold jobs, returns their records, waits for the next pack."""

    def setup(self, config: dict[str, Any], data: StudyData, board: Any, limit: TimeLimit, meter: Meter) -> None:
        """Called once a process; `data` lies in shared memory."""
        board.enter.remote(ray.get_runtime_context().get_actor_id(), this_node())
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a job that asked for no GPU shall not find one
        prepare_worker()
        self.data, self.board, self.limit, self.meter = data, board, limit, meter
        home, folder = ray.get(board.where.remote())
        self.states: States = FileStates(folder) if home == this_node() else BoardStates(board)
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
        with suppress(Exception):  # the time limit isn't for downloads; what is wrong is told by the job
            self.data.open(job.store)

        def called_off() -> bool:
            return self._called_off(job.trial)

        with self.limit.over(job):
            return run_job(job, self.data, states=self.states, called_off=called_off, meter=self.meter)

    def _called_off(self, trial: int) -> bool:
        """Asks the board, now and then."""
        if time.monotonic() - self.asked < ASK_EVERY:
            return False
        self.asked = time.monotonic()
        return bool(ray.get(self.board.is_abandoned.remote(trial)))


def fold_worker(data: StudyData, board: Any, limit: TimeLimit, meter: Meter) -> Any:
    """What Tune starts: a `FoldWorker`, with what all of them share in shared memory."""
    return ray.tune.with_parameters(FoldWorker, data=data, board=board, limit=limit, meter=meter)


def pack(job: FoldJob) -> dict[str, Any]:
    """A fold job as Tune carries it."""
    return asdict(job) | {"config": job.config.model_dump(mode="json")}


def unpack(content: dict[str, Any]) -> FoldJob:
    """The inverse of `pack`."""
    return FoldJob(**content | {"config": FitConfig.model_validate(content["config"])})

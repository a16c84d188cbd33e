"""Between the ledger and Tune: fold jobs out, records in, and what becomes of jobs that come back without one.

What a job can't be blamed for doesn't count as an attempt (`resources.retries`): its node was lost (`tune.lost`), or it
ran out of the memory of a GPU that too many shared (`tune.packing`). It is put back and goes out again.
"""

import math
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray.cloudpickle
import ray.tune
from ray.exceptions import RayActorError
from ray.tune.search import Searcher

from tune.job import FoldJob, JobRecord, failed
from tune.ledger import Ledger
from tune.lost import MOST_LOSSES, Gone, Missing, tell
from tune.room import Room
from tune.workers import TimeLimit, pack, this_node

FINISHED: str = Searcher.FINISHED
DIED = "the worker process died on a node that lives: out of memory, a crash of a library, or killed"
LOST = f"its node was lost {MOST_LOSSES + 1} times or more: it may be this fold job that brings nodes down"
NO_MORE_ROOM = "out of GPU memory with a GPU to itself: lower train.batch_size, model.width or model.experts\n"
GIB = 2**30


@dataclass(frozen=True)
class Pack:
    """What a Tune trial carries: fold jobs, since when (seconds since 1970), and the GPUs that each occupies."""

    jobs: list[FoldJob]
    started: float
    gpus: float


class FoldSearcher(Searcher):  # type: ignore[misc]
    """Hands the ledger's fold jobs to Tune as packs, and the workers' records back to the ledger.

    Args:
        ledger: the books.
        room: how many jobs fit, and what each occupies.
        missing: where jobs wait whose worker is gone.
        limit: the time that a job may take.
        left: how many fold jobs are left.
        node_of: the node of a worker.
        say: hears what the user should know.
    """

    def __init__(
        self,
        ledger: Ledger,
        room: Room,
        missing: Missing,
        *,
        limit: TimeLimit,
        left: Callable[[], int],
        node_of: Callable[[str], str],
        say: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.ledger, self.room, self.missing, self.limit = ledger, room, missing, limit
        self.left, self.node_of, self.say = left, node_of, say
        self.out: dict[str, Pack] = {}
        self.dying: dict[str, list[Gone]] = {}
        self.fault: Exception | None = None

    def set_max_concurrency(self, max_concurrent: int) -> bool:  # noqa: ARG002
        """Tune leaves it to `suggest` how many packs are out: nodes come and go."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack; None when nothing can be handed out now, FINISHED when nothing is left."""
        if self.fault:
            return FINISHED
        try:
            self._settle()
            self.room.want(self.left())
            if self._occupied >= self.room.slots:  # not before there is room: what a job is depends on those before it
                return FINISHED if self.ledger.finished else None
            job = self.ledger.next()
        except Exception as error:
            self.fault = error
            return FINISHED
        if job is None:
            return FINISHED if self.ledger.finished else None
        self.out[trial_id] = Pack([job], time.time(), self.room.job.get("GPU", 0.0))
        return {"jobs": [pack(job)], "gpus": self.out[trial_id].gpus}

    @property
    def _occupied(self) -> int:
        """Slots that are taken: a job that began with more of a GPU than it would be given now takes several."""
        now = self.room.job.get("GPU", 0.0)
        each = (max(1, round(found.gpus / now)) if now else 1 for found in self.out.values())
        return sum(each)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Takes in a pack's records; of a worker that died there are none, and Tune calls `on_trial_error` next."""
        if trial_id not in self.out:
            return
        found = self.out.pop(trial_id)
        try:
            if error or result is None or "records" not in result:
                self.dying[trial_id] = [self._gone(job, found, died=not error) for job in found.jobs]
                return
            for job, content in zip(found.jobs, result["records"], strict=True):
                self._take(job, replace(JobRecord.from_json(zlib.decompress(content)), gpus=found.gpus))
        except Exception as fault:  # an exception here would end Tune without a word of which job it was
            self.fault = self.fault or fault

    def on_trial_error(self, trial_id: str, error: Exception | None) -> None:
        """Takes in what the worker of a pack died of."""
        try:
            for gone in self.dying.pop(trial_id, ()):
                self.missing.add(gone if gone.died else self._judged(gone, error))
        except Exception as fault:
            self.fault = self.fault or fault

    def _gone(self, job: FoldJob, found: Pack, *, died: bool) -> Gone:
        """A job whose worker is gone; it is missing from now on, whatever comes next."""
        stacks = self.limit.stacks(job)
        told = f"ended after the time limit of {(self.limit.seconds or 0) / 60:g} minutes (resources.minutes_per_job)"
        why = f"{stacks}\n{told}" if stacks else DIED
        gone = Gone(job, found.started, found.gpus, why, died=died or bool(stacks))
        self.missing.add(gone)
        return gone

    def _judged(self, gone: Gone, error: Exception | None) -> Gone:
        """With what the worker's error tells."""
        if error is None:
            return gone
        if not isinstance(error, RayActorError) or error.actor_init_failed:  # Ray killed it to save the node, or so
            return replace(gone, why=str(error), died=True)
        node = self.node_of(error.actor_id) if error.actor_id else ""
        lost = error.preempted or "node has died" in str(error)
        return replace(gone, node=node, lost=lost, died=not lost and node == this_node())  # for that one is alive

    def _settle(self) -> None:
        """Puts the jobs back whose node was lost, and lets those fail whose worker died."""
        lost, died = self.missing.settled()
        again: Counter[str] = Counter()
        for gone, name in lost:
            if self.missing.lose(gone.job):
                again[name] += self.ledger.put_back(gone.job)
            else:
                self._fail(gone, LOST)
        for gone in died:
            self._fail(gone, gone.why)
        for line in tell(again):
            self.say(line)

    def _fail(self, gone: Gone, why: str) -> None:
        self._take(gone.job, replace(failed(gone.job, why, gone.started), gpus=gone.gpus))

    def _take(self, job: FoldJob, record: JobRecord) -> None:
        packing, before = self.room.packing, self.room.packing.fitting
        packing.measured(record.gpu_memory, record.gpu_total)
        crowded = record.out_of_memory and packing.ran_out(record.gpus)
        if packing.auto and packing.fitting != before:
            self.say(self._packed(record))
        if crowded:
            self.ledger.put_back(job)
        else:
            alone = packing.auto and record.out_of_memory
            self.ledger.take(job, replace(record, error=NO_MORE_ROOM + record.error) if alone else record)

    def _packed(self, record: JobRecord) -> str:
        jobs = math.floor(1 / self.room.job["GPU"])
        why = "ran out of GPU memory" if record.out_of_memory else f"took {record.gpu_memory / GIB:.2f} GiB"
        return (
            f"fold jobs on a GPU from now on: {jobs} (one {why}; the GPU has {record.gpu_total / GIB:.1f} GiB;"
            " resources.gpus_per_job: auto)"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher at the start; nobody reads it: the study's folder holds the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's folder holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


class Messenger(ray.tune.Callback):  # type: ignore[misc]
    """Tells the searcher what a worker died of. Tune itself tells a searcher no more than that it did."""

    def __init__(self, told: Callable[[str, Exception | None], None] | None) -> None:
        self.told = told

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called by Tune, right after the searcher's `on_trial_complete`."""
        if self.told is not None:
            self.told(trial.trial_id, _error_of(trial))

    def __reduce__(self) -> tuple[type["Messenger"], tuple[None]]:
        """Tune pickles its callbacks at the start; nobody reads them."""
        return Messenger, (None,)


def _error_of(trial: Any) -> Exception | None:
    """What Tune has just written beside the trial, on this machine; None where it can't be read."""
    path = trial.pickled_error_file
    try:
        error = ray.cloudpickle.loads(Path(path).read_bytes()) if path else None
    except Exception:  # whatever an exception of somebody's library raises when it is made anew
        return None
    return error if isinstance(error, Exception) else None

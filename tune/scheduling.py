"""Fold jobs on Ray Tune: every fold job is a Tune trial, on a worker that is used again for the next one.

Measured settings: actors are reused (25 times cheaper a job than a new one), one report a job carries the epoch
curves, Tune's own loggers are off, and its pickled snapshots are not used: what is finished lies in the study's own
folder as soon as it is done, and the search in its own journal.
"""

import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import ray
import ray.autoscaler.sdk
import ray.job_config
import ray.tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from hilbert.errors import StudyError, shown
from hilbert.temporary import temporary_folder
from tune.gpu_memory import Meter, cuda_meter
from tune.job import StudyData
from tune.ledger import Ledger
from tune.lost import Missing, Node
from tune.own_ray import own_ray
from tune.room import Room
from tune.searcher import FoldSearcher, Messenger
from tune.shadowing import packages_path
from tune.space import ResourcesConfig
from tune.tokens import private_token
from tune.workers import TimeLimit, fold_worker, on_node

MOST_AT_ONCE = 100_000
"""Tune's own limit of packs that are out; the searcher's follows the cluster."""

ANSWERS_WITHIN = 10.0
"""Seconds that a cluster has to answer."""

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


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
    with redirect_stdout(sys.stderr):  # Ray tells of lost nodes on stdout, which is for results
        if ray.is_initialized():
            yield from _room(resources, ours=False)
        else:
            yield from _joined_or_started(resources)


def _joined_or_started(resources: ResourcesConfig) -> Iterator[Room]:
    """A cluster that is named or was started here; a Ray of our own where there is none.

    Never address="auto": it also joins the local cluster of another sweep, and dies with it.
    """
    address, options = _named_cluster(), dict[str, Any](log_to_driver=False, logging_level=logging.ERROR)
    if not address.startswith("ray://"):
        options["job_config"] = InstalledFirst()
    if not address:
        private_token()
        with own_ray(options | {"num_cpus": resources.workers or os.cpu_count()}, leave=_leave):
            yield from _room(resources, ours=True)
        return
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise StudyError(f"no Ray cluster answers ({error}); 'ray stop' forgets one that has died") from None
    except ValueError as error:
        raise StudyError(f"RAY_ADDRESS={shown(address)}: no address of a Ray cluster ({error})") from None
    try:
        yield from _room(resources, ours=False)
    finally:
        _leave()


class InstalledFirst(ray.job_config.JobConfig):  # type: ignore[misc]
    """Workers import what is installed on their node.

    Ray would put the folder that the command runs in, and that of its script, first on their path, where a user's own
    `tune.py` or `select.py` hides what is meant. It doesn't where a job has brought a folder of its own.
    """

    def __init__(self) -> None:
        super().__init__(_py_driver_sys_path=packages_path())

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def _leave() -> None:
    """Leaves the cluster, while no other thread collects garbage.

    A reference to one of Ray's objects that is freed while Ray shuts down ends the process at once, with exit code 1;
    the recorder's thread, which is at work then, would be the one to free them.
    """
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collects:
            gc.enable()


def _named_cluster() -> str:
    """The address of the cluster that RAY_ADDRESS or a note of `ray start` names; empty where there is none.

    `ray.init` would look for a cluster that is gone for many minutes: so it is tried whether somebody listens.

    Raises:
        StudyError: nobody does.
    """
    temporary = os.environ.get("RAY_TMPDIR") or (sys.platform == "linux" and os.environ.get("TMPDIR")) or "/tmp"
    note, named = Path(temporary, "ray", "ray_current_cluster"), os.environ.get("RAY_ADDRESS", "")
    address = named or (note.read_text(encoding="utf-8").strip() if note.exists() else "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):  # none, "local", "auto", or something that Ray has a word on
        return "" if address == "local" else address
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as error:
        advice = "RAY_ADDRESS names it" if named else f"'ray start' noted it in {note}; 'ray stop' forgets it"
        raise StudyError(f"no Ray cluster answers at {address} ({error}): {advice}") from None
    return address


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


def _past_and_present() -> Mapping[str, Node]:
    """All nodes of the cluster, those that are lost too."""
    return {
        node["NodeID"]: Node(f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", node["Alive"])
        for node in ray.nodes()
    }


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _here() -> None:
    """Answers."""


class Asked:
    """Whether nodes answer: each is sent a task that does nothing, once, and nobody waits for it."""

    def __init__(self) -> None:
        self.tasks: dict[str, Any] = {}

    def __call__(self, node: str) -> bool:
        """Whether the node has answered since it was asked."""
        if node not in self.tasks:
            self.tasks[node] = _here.options(scheduling_strategy=on_node(node)).remote()
        ready, _ = ray.wait([self.tasks[node]], timeout=0)
        if not ready:
            return False
        try:
            ray.get(self.tasks.pop(node))
        except ray.exceptions.RayError:
            return False
        return True


class FirstCome(FIFOScheduler):  # type: ignore[misc]
    """First come, first served. Tune's own looks at all trials that there ever were, twice a fold job."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first of those that wait."""
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status == Trial.PENDING]
        return min(waiting, key=lambda trial: trial.trial_id, default=None)  # ids are numbered


def run_ledger(
    ledger: Ledger,
    data: StudyData,
    resources: ResourcesConfig,
    room: Room,
    board: Any,
    *,
    left: Callable[[], int],
    say: Callable[[str], None] = lambda _: None,
    meter: Meter = cuda_meter,
) -> None:
    """Runs fold jobs until the ledger has no more, or until Ctrl-C; what is done by then is in the ledger.

    Args:
        ledger: hands out fold jobs.
        data: what they share.
        resources: what each occupies.
        room: of the cluster.
        board: see `tune.workers.new_board`.
        left: how many fold jobs are left, those that run included.
        say: hears of lost nodes and of how many jobs share a GPU, a line each.
        meter: measures the memory that a job takes of a GPU, in the worker.

    Raises:
        Exception: what the ledger's callables raised.
    """

    def node_of(worker: str) -> str:
        return str(ray.get(board.node_of.remote(worker)))

    def occupied(config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
        return ray.tune.PlacementGroupFactory([{"CPU": resources.cpus_per_job, "GPU": config["gpus"]}])

    missing = Missing(_past_and_present, Asked())
    seconds = None if resources.minutes_per_job is None else 60 * resources.minutes_per_job
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failed jobs are told by the ledger
    with temporary_folder() as folder:
        limit = TimeLimit(seconds, str(folder))
        searcher = FoldSearcher(ledger, room, missing, limit=limit, left=left, node_of=node_of, say=say)
        trainable = ray.tune.with_resources(fold_worker(data, board, limit, meter), occupied)
        tune_config = ray.tune.TuneConfig(
            search_alg=searcher,
            scheduler=FirstCome(),
            num_samples=-1,
            reuse_actors=True,
            max_concurrent_trials=MOST_AT_ONCE,
        )
        run_config = ray.tune.RunConfig(
            name="sweep",
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[Messenger(searcher.on_trial_error)],
        )
        ray.tune.Tuner(trainable, tune_config=tune_config, run_config=run_config).fit()
    if searcher.fault:
        raise searcher.fault

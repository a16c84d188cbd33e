"""`hilbert extract` by several encoders at once: Ray Data, with a pool of actors that hold the encoders.

    this process     plans, writes every finished shard to STORE.partial, assembles: the folder need not be shared
    an actor         loads the encoders once; takes a shard's description, reads the cohort's files, returns its vectors

What goes to an actor is a shard's description, what comes back its vectors: sound stays where it is read. An actor has
two shards at most, results wait in a bounded space, and this process takes them one by one. An actor that dies is
replaced, and its shards are encoded again. The store is that of `hilbert.extraction.extract`, to the last byte where
the encoders compute on the same kind of processor.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray
import ray.data
import ray.exceptions

from hilbert import extraction
from hilbert.cohort import Cohort
from hilbert.encoders import Encoder, Modality
from hilbert.errors import EncoderError, HilbertError, InputError
from hilbert.features import FeatureStore
from hilbert.shards import Encoded, Shard, Work
from tune.encoding import DIED, LIVES, Attempts, Encoders, Order, Row, decoded, describe
from tune.room import Room
from tune.scheduling import ray_cluster
from tune.space import ResourcesConfig
from tune.workers import on_node, this_node

ALL: Literal["all"] = "all"
AHEAD = 2
"""Shards that an actor has at once: one that it encodes, one that waits."""
WAITING = 8
"""Results that wait for this process; then the actors do."""
PATIENCE = 20 * 60.0
"""Seconds that a cluster without a fitting node is given to get one."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Elsewhere:
    """An encoder that is loaded in other processes: here it is known by its description alone."""

    description: Mapping[str, Any]

    @property
    def dim(self) -> int:
        """Features per segment."""
        return int(self.description["dim"])

    def encode(self, segments: Sequence[Any]) -> Any:  # noqa: ARG002
        """Nothing: the shards go to the actors."""
        raise AssertionError("shards are encoded by the actors")


def extract(
    cohort: Cohort,
    store_folder: str | Path,
    *,
    audio: str | None = None,
    text: str | None = None,
    workers: int | Literal["all"] = ALL,
    gpus: float | None = None,
    device: str = "auto",
    batch_size: int = 16,
    say: Say = lambda _: None,
    **options: Any,
) -> FeatureStore:
    """Encode a cohort with several encoders at once, on the cluster that is there, else on this machine.

    Args:
        cohort: the cohort; its files must be the same, at the same place, on all nodes.
        store_folder: where the store shall lie; only this process writes there.
        audio: the audio encoder's name; None leaves audio out.
        text: the text encoder's name; None leaves text out.
        workers: encoder processes at most; "all": as many as fit.
        gpus: of each encoder process; None: one where the cluster has any and `device` allows it, else none.
        device: of the encoders: auto, cpu, cuda, mps.
        batch_size: segments at once on the device.
        say: told what the user has to wait for.
        options: the others of `hilbert.extraction.extract`.

    Raises:
        InputError: as `hilbert.extraction.extract`; or no node has room, an encoder can't be loaded on a node or is
            another one there, or a node doesn't see the cohort's files as they are here.
        HilbertError: actors died again and again.
    """
    given: tuple[tuple[Modality, str | None], ...] = (("audio", audio), ("text", text))
    names = {modality: name for modality, name in given if name is not None}
    with ray_cluster(ResourcesConfig(workers=None if workers == ALL else workers)) as found:
        gpus = _checked(_gpus(found, device) if gpus is None else gpus)
        order = Order(names, device, batch_size, str(Path.cwd()), str(cohort.folder.absolute()), gpus, {})
        room = Room(ResourcesConfig(gpus_per_job=gpus, workers=found.resources.workers), found.there, found.ask)
        order = replace(order, descriptions=_describe(order, room, say))
        there: dict[str, Encoder] = {name: Elsewhere(each) for name, each in order.descriptions.items()}

        def encode(_: Path, work: Work, places: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
            most = len(places) if workers == ALL else min(workers, len(places))
            yield from _encode(order, work, places, most, room.slots)

        return extraction.extract(
            cohort, store_folder, audio=there.get("audio"), text=there.get("text"), encode=encode, **options
        )


def _gpus(room: Room, device: str) -> float:
    """One GPU an encoder where there are any, unless the device is another one."""
    return float(device.startswith(("auto", "cuda")) and any(node.get("GPU", 0) >= 1 for node in room.there()))


def _checked(gpus: float) -> float:
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise InputError(f"--gpus-per-encoder {gpus:g}: give a share of one GPU, such as 0.5, or a whole number")
    return gpus


# --- before the first shard ------------------------------------------------------------------------------------------


def _describe(order: Order, room: Room, say: Say) -> Mapping[Modality, Mapping[str, Any]]:
    """The encoders' descriptions, from a node that has room for them: what they compute with is part of it.

    Raises:
        InputError: no node has room, or an encoder can't be loaded.
    """
    if not room.slots and room.ask is None:
        raise InputError(_too_little(order, room))
    task = ray.remote(num_cpus=1, num_gpus=order.gpus, max_retries=LIVES - 1)(describe)
    asked = task.remote(order)
    if not room.slots:  # the task that waits is what an autoscaler sees
        say(f"{_too_little(order, room)}; waiting up to {PATIENCE / 60:g} minutes for one")
        if not ray.wait([asked], timeout=PATIENCE)[0]:
            raise InputError(_too_little(order, room))
    try:
        found, fault = ray.get(asked)
    except ray.exceptions.WorkerCrashedError:
        raise HilbertError(DIED) from None
    if fault:
        raise EncoderError(fault)
    return dict(found)


def _too_little(order: Order, room: Room) -> str:
    wanted = "1 CPU and " + f"{order.gpus:g} GPU" if order.gpus else "1 CPU"
    there = "; ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in room.there()[:5])
    return (
        f"an encoder asks for {wanted}, and no node has that ({there or 'there is none'}): give another "
        "--gpus-per-encoder, or add a node"
    )


# --- shards ----------------------------------------------------------------------------------------------------------


def _encode(order: Order, work: Work, places: Sequence[int], most: int, slots: int) -> Iterator[tuple[int, Encoded]]:
    """Results of shards, as they come in from at most so many actors.

    Ray Data runs in a process beside this one, whose words go to Ray's logs: from the core they can't be silenced.
    """
    shards = {place: work.shards[place] for place in places}
    pipeline = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_node(this_node()))(_pipeline)
    rows = pipeline.options(num_returns="streaming", _generator_backpressure_num_objects=WAITING)
    for row in map(ray.get, rows.remote(order, shards, most, min(most, slots))):
        if row["fault"]:
            raise HilbertError(row["fault"]) if row["died"] else InputError(row["fault"])
        shard = shards[row["place"]]
        yield row["place"], decoded(row, shard, work.encoders[shard.modality].dim)


def _pipeline(order: Order, shards: Mapping[int, Shard], most: int, first: int) -> Iterator[Row]:
    """Rows from a pool of at most `most` actors that begins with `first`."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"place": place, "shard": shard} for place, shard in shards.items()]
    attempts = ray.remote(num_cpus=0, scheduling_strategy=on_node(this_node()))(Attempts).remote()
    encoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Encoders,  # Ray Data restarts actors that died, and gives their shards out again, without an end
        fn_constructor_args=(order, attempts),
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=most, initial_size=max(1, first), max_tasks_in_flight_per_actor=AHEAD
        ),
        num_cpus=1,
        num_gpus=order.gpus,
    )
    yield from encoded.iter_rows()

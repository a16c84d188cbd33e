"""What the nodes of a cluster do in an extraction: hold encoders, and encode one shard after the other.

`tune.extract` sends an `Order` and shards' descriptions, and gets rows of plain values. What the user can put right
comes back as a row's `fault`: raised, Ray would wrap it into pages of its own. Imports little, since every process on
a node imports it.
"""

import json
import os
import socket
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from hilbert.encoders import Encoder, Modality, load_encoder
from hilbert.errors import EncoderError, InputError
from hilbert.files import digest
from hilbert.shards import Encoded, Shard, Stretch, encode_shard

Row = dict[str, Any]
"""`place` of the shard, `values` [kept items, D] as bytes, `failures` and `notes` as JSON; or a `fault`, and if actors
`died`."""

LIVES = 4
"""How many actors a shard may cost before it is given up."""
DIED = (
    f"encoder processes died {LIVES} times on the same work, which is out of memory or a fault in a library: fewer "
    "--workers and a smaller --batch-size need less memory; what is done is kept"
)


@dataclass(frozen=True)
class Order:
    """What an actor has to know.

    Attributes:
        names: the encoders' names by modality.
        device: of the encoders.
        batch_size: segments at once on the device.
        here: the folder that the command runs in, which relative names start from.
        cohort: the cohort's folder, absolute.
        gpus: that the actor has.
        descriptions: what the encoders must be like by modality; a node of other make is refused.
    """

    names: Mapping[Modality, str]
    device: str
    batch_size: int
    here: str
    cohort: str
    gpus: float
    descriptions: Mapping[Modality, Mapping[str, Any]]


def describe(order: Order) -> tuple[dict[Modality, Mapping[str, Any]], str]:
    """What the encoders are like on this node, or why one can't be loaded."""
    encoders = Encoders(order)
    try:
        return {modality: encoders.loaded(modality).description for modality in order.names}, ""
    except InputError as error:
        return {}, f"{error} (on node {socket.gethostname()})"


class Attempts:
    """An actor: counts how often each shard was begun. Ray's own limit also counts waiting for a node that is lost."""

    def __init__(self) -> None:
        self.counts = Counter[int]()

    def begin(self, place: int) -> int:
        """Counts; returns the number of the attempt."""
        self.counts[place] += 1
        return self.counts[place]


class Encoders:
    """An actor: encodes one shard after the other, with encoders that it loads when the first shard needs them.

    Args:
        order: what to load, and where the cohort lies.
        attempts: handle of the `Attempts`; None: nothing is counted.
    """

    def __init__(self, order: Order, attempts: Any = None) -> None:
        self.order, self.attempts, self.encoders = order, attempts, dict[Modality, Encoder]()
        if not order.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # an encoder that asked for no GPU shall not find one
        with suppress(OSError):  # names of folders mean what they mean to the command, where the folder is there
            os.chdir(order.here)

    def __call__(self, row: Row) -> Row:
        """A shard's vectors."""
        place = row["place"]
        if self.attempts is not None and ray.get(self.attempts.begin.remote(place)) > LIVES:
            return _fault(place, DIED, died=True)
        try:
            encoded = self._encode(row["shard"])
        except InputError as error:
            return _fault(place, f"{error} (on node {socket.gethostname()})")
        told = {
            "failures": json.dumps(dict(encoded.failures)),
            "notes": json.dumps({position: dict(notes) for position, notes in encoded.notes.items()}),
        }
        return {"place": place, "values": encoded.values.tobytes(), **told, "fault": "", "died": False}

    def _encode(self, shard: Shard) -> Encoded:
        encoder = self.loaded(shard.modality)
        wanted = self.order.descriptions[shard.modality]
        if dict(encoder.description) != dict(wanted):
            raise EncoderError(
                f"encoder {self.order.names[shard.modality]!r}: the nodes differ, {dict(encoder.description)} instead "
                f"of {dict(wanted)}; install the same versions and models on all of them"
            )
        _check_sound(shard, Path(self.order.cohort))
        return encode_shard(shard, encoder, Path(self.order.cohort))

    def loaded(self, modality: Modality) -> Encoder:
        """The encoder for a modality.

        Raises:
            EncoderError: it can't be loaded here.
        """
        if modality not in self.encoders:
            self.encoders[modality] = load_encoder(
                self.order.names[modality],
                modality=modality,
                device=self.order.device,
                batch_size=self.order.batch_size,
            )
        return self.encoders[modality]


def _fault(place: int, fault: str, *, died: bool = False) -> Row:
    return {"place": place, "values": b"", "failures": "{}", "notes": "{}", "fault": fault, "died": died}


def _check_sound(shard: Shard, cohort: Path) -> None:
    """Refuses a node whose files are not those that the command saw: they would be skipped, or give other vectors.

    Raises:
        InputError: naming the first one.
    """
    planned = {item.content.path: item.content.digest for item in shard.items if isinstance(item.content, Stretch)}
    for name, wanted in planned.items():
        try:
            found = digest(cohort / name)
        except OSError as error:
            found = f"unreadable: {error.strerror}"  # as the cohort says it of its own
        if found != wanted:
            state = found if found.startswith("unreadable") else "another file"
            raise InputError(
                f"{cohort / name}: {state} on this node; the cohort's folder must be the same, at the same "
                "place, on all nodes: on storage that they share, or copied to each"
            )


def decoded(row: Row, shard: Shard, dim: int) -> Encoded:
    """A shard's result from its row."""
    failures = {int(place): str(why) for place, why in json.loads(row["failures"]).items()}
    notes = {int(place): dict(found) for place, found in json.loads(row["notes"]).items()}
    values = np.frombuffer(row["values"], np.float32)
    return Encoded(values.reshape(len(shard.items) - len(failures), dim), failures, notes)

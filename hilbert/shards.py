"""The work of an extraction, cut into shards that can be encoded anywhere and kept on disk.

    plan            Cohort -> Work           shards of one modality, whole documents each
    encode_shard    Shard, Encoder -> Encoded    pure: arguments and the cohort's files alone decide the result
    save, saved     Encoded <-> work folder, under the hash of all that determines it

D = features per segment.
"""

import hashlib
import io
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter

from hilbert.audio import SAMPLE_RATE, listen, was_misread, windows
from hilbert.cohort import Cohort
from hilbert.encoders import Encoder, Modality
from hilbert.errors import CohortError, EncoderError, shown
from hilbert.files import digest, write_bytes, write_text
from hilbert.reading import Content, Fault, checked, content_of, parse_json, read_array
from hilbert.recordings import Recording, examine
from hilbert.store_files import Dtype

Features = npt.NDArray[np.float32]
Notes = Mapping[int, Mapping[str, str]]
_SCHEME = 1  # part of every shard's key: raise it when all input gives other numbers, else see Stretch.anew
_SECONDS_AT_ONCE = 600  # audio held in memory at once


@dataclass(frozen=True)
class Stretch:
    """Seconds [start, end) of a sound file.

    Attributes:
        path: as in segments.csv.
        start: seconds.
        end: seconds; None: to the file's end.
        digest: SHA-256 of the file.
        anew: earlier versions read other samples here (`hilbert.audio.was_misread`): their results are not taken up.
    """

    path: str
    start: float
    end: float | None
    digest: str
    anew: bool = False


@dataclass(frozen=True)
class Item:
    """What becomes one row of the store.

    Attributes:
        document: position in the cohort.
        segment: the segment's number.
        row: its line in segments.csv.
        content: a stretch of audio, or a text.
    """

    document: int
    segment: int
    row: int
    content: Stretch | str


@dataclass(frozen=True)
class Shard:
    """A piece of work: items of one modality, whole documents, in order."""

    modality: Modality
    items: tuple[Item, ...]

    def key(self, description: Mapping[str, Any]) -> str:
        """SHA-256 of all that determines the result."""
        contents = [
            item.content
            if isinstance(item.content, str)
            else [item.content.digest, item.content.start, item.content.end, *(["anew"] if item.content.anew else [])]
            for item in self.items
        ]
        return _hash([_SCHEME, dict(description), contents])


@dataclass(frozen=True, eq=False)
class Encoded:
    """A shard's result.

    Attributes:
        values: [kept items, D] float32.
        failures: position in the shard -> why this item could not be read.
        notes: position in the shard -> what is odd about its sound, by kind (`hilbert.levels.KINDS`).
    """

    values: Features
    failures: Mapping[int, str]
    notes: Notes = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """The plan of an extraction, and the hash of what determines the store's features."""

    encoders: Mapping[Modality, Encoder]
    shards: tuple[Shard, ...]
    window: float | None
    dtype: Dtype
    documents: int

    @property
    def total(self) -> int:
        """Segments (after windowing) of both modalities."""
        return sum(len(shard.items) for shard in self.shards)

    def key(self, names: Sequence[str], *, unnoted: Collection[str] = ()) -> str:
        """The same for the same documents, contents, encoders, windows and dtype; shard size doesn't matter.

        Args:
            names: of the documents.
            unnoted: modalities whose encoder's revision counts as not known, as earlier versions had it of the hub's.
        """
        whole = [
            Shard(modality, tuple(item for shard in self.shards if shard.modality == modality for item in shard.items))
            for modality in self.encoders
        ]
        places = [[(item.document, item.segment) for item in shard.items] for shard in whole]
        described = {
            name: dict(encoder.description) | ({"revision": None} if name in unnoted else {})
            for name, encoder in self.encoders.items()
        }
        keys = [shard.key(described[shard.modality]) for shard in whole]
        return _hash([list(names), self.dtype, keys, places])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


# --- plan ------------------------------------------------------------------------------------------------------------


def plan(
    cohort: Cohort,
    encoders: Mapping[Modality, Encoder],
    *,
    window: float | None = None,
    dtype: Dtype = "float32",
    shard_segments: int = 128,
) -> Work:
    """Cut a cohort into shards.

    Args:
        cohort: the cohort.
        encoders: by modality; a modality without one is left out.
        window: seconds; audio stretches longer than this are cut into equal windows no longer than it.
        dtype: of the store.
        shard_segments: a shard ends with the first document that reaches this many segments.
    """
    shards: list[Shard] = []
    for modality in encoders:
        items = _audio_items(cohort, window) if modality == "audio" else _text_items(cohort)
        pending: list[Item] = []
        for _, document in groupby(items, key=lambda item: item.document):
            pending += document
            if len(pending) >= shard_segments:
                shards.append(Shard(modality, tuple(pending)))
                pending = []
        if pending:
            shards.append(Shard(modality, tuple(pending)))
    return Work(dict(encoders), tuple(shards), window, dtype, len(cohort))


def _text_items(cohort: Cohort) -> list[Item]:
    position = {name: number for number, name in enumerate(cohort.document_ids)}
    rows = cohort.segments[cohort.segments["text"].notna()]
    return [
        Item(position[document], int(segment), int(row), text)
        for row, document, segment, text in zip(
            rows.index, rows["document_id"], rows["segment"], rows["text"], strict=True
        )
    ]


def _audio_items(cohort: Cohort, window: float | None) -> list[Item]:
    position = {name: number for number, name in enumerate(cohort.document_ids)}
    rows = cohort.segments[cohort.segments["audio"].notna()]
    digests = cohort.audio_digests
    names = list(dict.fromkeys(rows["audio"]))
    with ThreadPoolExecutor(4) as pool:
        known = dict(zip(names, pool.map(lambda name: _known(cohort.folder / name), names), strict=True))
    return [
        Item(position[document], int(segment), int(row), _stretch(path, start, end, digests[path], known[path]))
        for row, document, segment, path, first, last in zip(
            rows.index, rows["document_id"], rows["segment"], rows["audio"], rows["start"], rows["end"], strict=True
        )
        for start, end in _stretches(first, last, known[path], window)
    ]


def _known(path: Path) -> Recording | None:
    """What is known of a file; None where it can't be read as it should be, which encoding will tell."""
    try:
        found = examine(path)
    except CohortError:
        return None
    return None if found.fault else found


def _stretch(path: str, start: float, end: float | None, sha256: str, known: Recording | None) -> Stretch:
    return Stretch(path, start, end, sha256, known is not None and was_misread(known, start, end))


def _stretches(
    first: float, last: float, known: Recording | None, window: float | None
) -> list[tuple[float, float | None]]:
    """The stretches of one row, NaN meaning the file's beginning or end."""
    start, end = (0.0 if math.isnan(first) else float(first)), (None if math.isnan(last) else float(last))
    if window is None or known is None:
        return [(start, end)]
    stop = known.seconds if end is None else min(end, known.seconds)
    cut = windows(start, stop, window)
    if len(cut) == 1:  # as written: the same key, and the same samples, with and without windows
        return [(start, end)]
    return [(begin, finish) for begin, finish in cut]


# --- encode ----------------------------------------------------------------------------------------------------------


def encode_shard(shard: Shard, encoder: Encoder, folder: Path) -> Encoded:
    """Encode one shard. Depends on its arguments and the cohort's files alone.

    Args:
        shard: what to encode.
        encoder: for the shard's modality.
        folder: the cohort's folder.

    Returns:
        One row per item that could be read, in order, and why the others could not.
    """
    failures, notes = dict[int, str](), dict[int, Mapping[str, str]]()
    parts = [np.empty((0, encoder.dim), np.float32)]
    for group in _contents(shard, folder, failures, notes):
        values = encoder.encode(group)
        if values.shape != (len(group), encoder.dim) or not np.isfinite(values).all():
            what = f"encoder {shown(encoder.description.get('name'))}"
            raise EncoderError(f"{what}: gave {list(values.shape)} for {len(group)} segments, or values not finite")
        parts.append(values)
    return Encoded(np.concatenate(parts), failures, notes)


def check_shard(shard: Shard, folder: Path) -> Encoded:
    """What `encode_shard` finds out about a shard's sound, and no features."""
    failures, notes = dict[int, str](), dict[int, Mapping[str, str]]()
    for _ in _contents(shard, folder, failures, notes):
        pass
    return Encoded(np.empty((0, 0), np.float32), failures, notes)


def _contents(
    shard: Shard, folder: Path, failures: dict[int, str], notes: dict[int, Mapping[str, str]]
) -> Iterator[list[Any]]:
    """Texts at once; waveforms in groups that fit into memory. Fills `failures` and `notes`."""
    if shard.modality == "text":
        yield [item.content for item in shard.items]
        return
    group: list[npt.NDArray[np.float32]] = []
    for position, item in enumerate(shard.items):
        assert isinstance(item.content, Stretch)
        path = folder / item.content.path
        try:
            sound = listen(path, item.content.start, item.content.end)
            group.append(sound.wave)
            if sound.notes:
                notes[position] = sound.notes
        except CohortError as error:
            # Without the path, which is another one for the same content, and on another computer.
            failures[position] = str(error).removeprefix(f"{path}: ").replace(f"Error opening {str(path)!r}: ", "")
        if sum(map(len, group)) > _SECONDS_AT_ONCE * SAMPLE_RATE:
            yield group
            group = []
    if group:
        yield group


# --- finished shards on disk -----------------------------------------------------------------------------------------


def save(folder: Path, key: str, encoded: Encoded) -> None:
    """Write a shard, each file whole or not at all. The .json comes last, knows the array's SHA-256, and counts."""
    array = io.BytesIO()
    np.save(array, encoded.values, allow_pickle=False)
    content = {
        "failures": dict(encoded.failures),
        "notes": {place: dict(notes) for place, notes in encoded.notes.items()},
        "sha256": hashlib.sha256(array.getbuffer()).hexdigest(),
    }
    write_bytes(folder / f"{key}.npy", array.getvalue())
    write_text(folder / f"{key}.json", json.dumps(content))


_Place = Annotated[int, Field(strict=False, ge=0)]


class _Saved(Content):
    failures: dict[_Place, str]
    notes: dict[_Place, dict[str, str]] | None = None
    sha256: str | None = None


_SAVED = TypeAdapter(_Saved)


def saved(folder: Path, key: str, shard: Shard, dim: int, cohort: Path) -> Encoded | None:
    """A finished shard, or None where there is none or it is damaged.

    Those of older versions are failures alone: their sound, in the cohort's folder, is looked at now.
    """
    try:
        content = parse_json(content_of(folder / f"{key}.json"))
        found = checked(content if "sha256" in content else {"failures": content}, _SAVED)
        values = read_array(folder / f"{key}.npy", mapped=True)
        whole = found.sha256 is None or digest(folder / f"{key}.npy") == found.sha256
    except (Fault, OSError, TypeError):
        return None
    fits = values.shape == (len(shard.items) - len(found.failures), dim) and values.dtype == np.float32
    known = {*found.failures, *(found.notes or {})} <= set(range(len(shard.items)))
    if not (whole and fits and known):
        return None
    if found.notes is not None:
        return Encoded(values, found.failures, found.notes)
    now = check_shard(shard, cohort)
    return Encoded(values, found.failures, now.notes) if now.failures.keys() == found.failures.keys() else None

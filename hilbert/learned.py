"""Whom a release has learned from, so that nobody takes how well it predicts them for how well it predicts new people.

A release keeps keyed hashes of its documents' segments (`learned_from.json`). A document is known again by them:

- By its **audio**. A segment's features are practically unique: a person is known by two segments that are those of one
  document, or by the only one, where there is but one on either side. So a subset of a person's segments is enough, and
  another transcript, other labels or another id don't hide anybody.
- By its **text alone** where it has no audio. "Yes" sounds different from everyone, but reads the same: text counts
  where half of a document's segments, and three at least (or all), are those of one document. Of documents that have
  audio it is a hint: other people may have read the same words.
- Segments of zeros, and those that three documents or more have in common (silence, a shared sentence), say nothing.

What is hashed is a segment's place in a coarse grid: its features, standardised as the first model does it, in
`PROJECTIONS` random directions, in cells of a tenth of the spread. So last digits that differ by processor, batch or
half precision mostly don't hide anybody either. **Not recognised** are people whose audio was recorded, resampled, cut
into other windows or encoded anew by something that changes more than digits; a single segment of a recording among
others; a few segments of a recording that has many more than the `MOST` that are kept. Document and group ids are
hashed too, and give hints.

The key is random, and lies beside the hashes. It keeps apart what two releases have in common: from their files alone
nobody sees that they share people. It doesn't keep a release from telling who is in it: whoever has the folder can test
a recording that they have (by its features), or guess ids.

Shapes: N documents, total = segments of all of them, D = features, P = projections.
"""

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from hilbert.batches import Features, IntArray, RaggedArray, modality, segment_rows
from hilbert.encoders.base import Modality
from hilbert.errors import InputError
from hilbert.model import Hilbert
from hilbert.reading import Content, explained, read_json

FORMAT, VERSION = "hilbert-learned", 1
NAME = "learned_from.json"
PROJECTIONS = 10
CELL = 0.1
"""Width of a cell of the grid, in standard deviations of a projection; with fewer features than projections less."""
MOST: Mapping[Modality, int] = {"audio": 128, "text": 64}
"""Segments of a document that are kept: those of the smallest hashes, which are a random choice."""
COMMON = 3
"""Documents that have a segment in common from which on it says nothing."""
BLOCK = 1 << 22
"""Numbers in memory at once."""
LARGEST = 1 << 28
"""Bytes of the file, at most."""

Hashes = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a release knows of N documents.

    Attributes:
        known: the model has learned from this very document.
        words: it has not, but from one with the same text and other audio.
        ids: it has not, but from one of the same document_id.
        groups: it has not, but from one of the same group_id.
    """

    known: Bools
    words: Bools
    ids: Bools
    groups: Bools


@dataclass(frozen=True, eq=False)
class Traces:
    """What is kept of one modality.

    Attributes:
        scale: spread of each projection over the segments [P].
        hashes: of the segments that are kept, document after document.
        counts: of these, in each document [N].
        common: hashes of segments that say nothing.
    """

    scale: Array
    hashes: Hashes
    counts: IntArray
    common: Hashes

    @cached_property
    def _sorted(self) -> tuple[Hashes, IntArray]:
        """All hashes in order, and whose they are."""
        owners = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.argsort(self.hashes, kind="stable")
        return self.hashes[order], owners[order]

    def match(self, hashes: Hashes) -> "Match":
        """A document's hashes against those of every document that is kept."""
        telling = np.setdiff1d(hashes, self.common)
        there, owners = self._sorted
        first, last = np.searchsorted(there, telling, "left"), np.searchsorted(there, telling, "right")
        found = [owners[a:b] for a, b in zip(first, last, strict=True) if b > a]
        shared = np.bincount(np.concatenate([np.empty(0, np.int64), *found]), minlength=len(self.counts))
        whole = (shared > 0) & (shared == self.counts)
        return Match(len(telling), int(shared.max(initial=0)), bool(whole.any()))


class Match(NamedTuple):
    """How much a document has in common with those that are kept.

    Attributes:
        telling: how many of its segments say something.
        shared: how many of these one and the same document has, at most.
        whole: it has all that is kept of some document.
    """

    telling: int
    shared: int
    whole: bool

    @property
    def by_audio(self) -> bool:
        """By two segments, or by the only one that it has or that is kept."""
        return self.whole or (self.telling > 0 and self.shared >= min(2, self.telling))

    @property
    def by_text(self) -> bool:
        """By half of its segments, and three at least, or all."""
        return self.telling > 0 and self.shared >= max(min(3, self.telling), self.telling / 2)


@dataclass(frozen=True, eq=False)
class LearnedFrom:
    """Whom a release has learned from. Make it with `of`, read it with `load`.

    Attributes:
        key: of the hashes.
        traces: of each modality.
        ids: hashes of document ids, in order.
        groups: hashes of group ids, in order.
    """

    key: bytes
    traces: Mapping[Modality, Traces]
    ids: Hashes
    groups: Hashes

    @classmethod
    def of(
        cls,
        model: Hilbert,
        features: Features,
        *,
        names: Sequence[str],
        groups: Sequence[str | None] | None = None,
        key: bytes | None = None,
    ) -> Self:
        """All documents of `features`.

        Args:
            model: the release's first, whose standardisation is used.
            features: what it has learned from.
            names: of the documents [N]; none, where guessing must not tell who is among them.
            groups: of the documents [N], None where there is none.
            key: 32 random bytes; fresh ones by default.
        """
        key = key or secrets.token_bytes(32)
        given = sorted({group for group in groups or () if group is not None})
        traces = {name: _traces(model, modality(features, name), name, key) for name in MOST}
        return cls(key, traces, _of_texts(key, "document_id", names), _of_texts(key, "group_id", given))

    def seen(
        self,
        model: Hilbert,
        features: Features,
        rows: IntArray,
        *,
        names: Sequence[str],
        groups: Sequence[str | None] | None = None,
    ) -> Seen:
        """Which documents `rows` of `features` the release has learned from; other arguments as `of`."""
        found = {name: self._matches(model, features, name, rows) for name in MOST}
        by_audio = np.array([match.by_audio for match in found["audio"]], dtype=bool)
        by_text = np.array([match.by_text for match in found["text"]], dtype=bool)
        silent = np.diff(modality(features, "audio").offsets)[rows] == 0
        known = by_audio | (by_text & silent)
        given = np.array([group is not None for group in groups or [None] * len(rows)], dtype=bool)
        texts = [group or "" for group in groups or [None] * len(rows)]
        ids = np.isin(_of_texts(self.key, "document_id", names, in_order=False), self.ids)
        kin = np.isin(_of_texts(self.key, "group_id", texts, in_order=False), self.groups) & given
        return Seen(known, by_text & ~known, ids & ~known, kin & ~known)

    def _matches(self, model: Hilbert, features: Features, name: Modality, rows: IntArray) -> list[Match]:
        source, traces = modality(features, name), self.traces[name]
        places, lengths = segment_rows(source.offsets, rows)
        cells = _cells(_projected(model, source, name, self.key, places), traces.scale, source.values.shape[1])
        hashes = _of_cells(self.key, name, cells, _is_telling(source, places))
        return [traces.match(np.unique(one)) for one in _split(hashes, lengths)]

    # ---- on disk -----------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """What `load` reads."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "key": self.key.hex(),
            "document_ids": _encoded(self.ids),
            "group_ids": _encoded(self.groups),
            **{
                name: {
                    "scale": traces.scale.tolist(),
                    "segments": traces.counts.tolist(),
                    "hashes": _encoded(traces.hashes),
                    "common": _encoded(traces.common),
                }
                for name, traces in self.traces.items()
            },
        }

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file that holds what `to_json` gave.

        Raises:
            InputError: it is missing, damaged or of another version.
        """
        with explained(path, InputError, "copy the whole release again"):
            found = read_json(path, _FILE, largest=LARGEST)
        traces = {name: _checked_traces(getattr(found, name), path, name) for name in MOST}
        key = bytes.fromhex(found.key)
        return cls(key, traces, _decoded(found.document_ids, path), _decoded(found.group_ids, path))


# ---- segments --------------------------------------------------------------------------------------------------------


def _traces(model: Hilbert, source: RaggedArray, name: Modality, key: bytes) -> Traces:
    places = np.arange(len(source.values))
    projected, telling = _projected(model, source, name, key, places), _is_telling(source, places)
    scale = _spread(projected[telling])
    hashes = _of_cells(key, name, _cells(projected, scale, source.values.shape[1]), telling)
    by_document = [np.unique(one) for one in _split(hashes, np.diff(source.offsets))]
    every, owners = np.unique(np.concatenate([np.empty(0, np.uint64), *by_document]), return_counts=True)
    common = every[owners >= COMMON]
    kept = [np.setdiff1d(one, common)[: MOST[name]] for one in by_document]
    counts = np.array([len(one) for one in kept], dtype=np.int64)
    return Traces(scale, np.concatenate([np.empty(0, np.uint64), *kept]), counts, common)


def _projected(model: Hilbert, source: RaggedArray, name: Modality, key: bytes, places: IntArray) -> Array:
    """Standardised segments in random directions, [places, P]."""
    dims = source.values.shape[1]
    directions = torch.from_numpy(_directions(key, name, dims)).to(torch.float32)
    standardise = (model.audio_encoder if name == "audio" else model.text_encoder).standardise
    found, at_once = np.empty((len(places), PROJECTIONS)), max(1, BLOCK // dims)
    with torch.inference_mode():
        for start in range(0, len(places), at_once):
            part = places[start : start + at_once]
            values = torch.from_numpy(np.ascontiguousarray(source.values[part], dtype=np.float32))
            found[start : start + at_once] = (standardise(values).to(torch.float32) @ directions).numpy()
    return found


def _directions(key: bytes, name: Modality, dims: int) -> Array:
    """Signs [D, P], which the key alone decides."""
    bits = hashlib.shake_256(key + name.encode()).digest(-(-dims * PROJECTIONS // 8))
    signs = np.unpackbits(np.frombuffer(bits, np.uint8))[: dims * PROJECTIONS].reshape(dims, PROJECTIONS)
    return signs.astype(np.float64) * 2 - 1


def _spread(projected: Array) -> Array:
    """Robust standard deviation of each projection, so that a few wild segments don't put all others into one cell."""
    if not len(projected):
        return np.ones(PROJECTIONS)
    low, high = np.quantile(projected, [0.25, 0.75], axis=0)
    spread = np.where(high > low, (high - low) / 1.349, projected.std(axis=0))
    found: Array = np.where(spread > 0, spread, 1.0).astype(np.float64)
    return found


def _cells(projected: Array, scale: Array, dims: int) -> NDArray[np.int64]:
    """Places in the grid [places, P]; few features need a finer one to tell segments apart."""
    width = CELL ** (PROJECTIONS / min(dims, PROJECTIONS))
    places: NDArray[np.int64] = np.floor(projected / (scale * width)).astype(np.int64)
    return places


def _is_telling(source: RaggedArray, places: IntArray) -> Bools:
    """Which segments aren't zeros throughout, as made-up features of what is missing are."""
    at_once = max(1, BLOCK // source.values.shape[1])
    parts = [source.values[places[start : start + at_once]].any(axis=1) for start in range(0, len(places), at_once)]
    return np.concatenate([np.empty(0, bool), *parts])


NOTHING = np.uint64(0)
"""Hash of a segment that says nothing."""


def _of_cells(key: bytes, name: Modality, cells: NDArray[np.int64], telling: Bools) -> Hashes:
    rows = np.ascontiguousarray(cells, dtype="<i8")
    known = name.encode()
    return np.array(
        [_hash(key, known + row.tobytes()) if says else NOTHING for row, says in zip(rows, telling, strict=True)],
        dtype=np.uint64,
    )


def _split(hashes: Hashes, lengths: IntArray) -> list[Hashes]:
    """Each document's hashes, without those that say nothing."""
    return [one[one != NOTHING] for one in np.split(hashes, np.cumsum(lengths)[:-1])] if len(lengths) else []


def _of_texts(key: bytes, what: str, texts: Sequence[str], *, in_order: bool = True) -> Hashes:
    found = np.array([_hash(key, f"{what}:{text}".encode()) for text in texts], dtype=np.uint64)
    return np.sort(found) if in_order else found


def _hash(key: bytes, content: bytes) -> int:
    """Keyed BLAKE2b, a MAC by itself and four times as fast as HMAC-SHA256 on so few bytes."""
    return int.from_bytes(hashlib.blake2b(content, key=key, digest_size=8).digest(), "little")


# ---- on disk ---------------------------------------------------------------------------------------------------------


Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Modality(Content):
    scale: Annotated[list[Spread], Field(min_length=PROJECTIONS, max_length=PROJECTIONS)]
    segments: list[Annotated[int, Field(ge=0, le=MOST["audio"])]]
    hashes: str
    common: str


class _File(Content):
    format: Literal["hilbert-learned"]
    version: Literal[1]
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    document_ids: str
    group_ids: str
    audio: _Modality
    text: _Modality


_FILE = TypeAdapter(_File)


def _checked_traces(found: _Modality, path: Path, name: str) -> Traces:
    hashes, counts = _decoded(found.hashes, path), np.array(found.segments, dtype=np.int64)
    if counts.sum() != len(hashes):
        raise InputError(f"{path}: damaged, {name}: {len(hashes)} hashes of {counts.sum()} segments")
    return Traces(np.array(found.scale), hashes, counts, _decoded(found.common, path))


def _encoded(hashes: Hashes) -> str:
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode()


def _decoded(text: str, path: Path) -> Hashes:
    try:
        content = base64.b64decode(text, validate=True)
        return np.frombuffer(content, "<u8").astype(np.uint64)
    except ValueError:
        raise InputError(f"{path}: damaged, hashes of 8 bytes in base64 are needed; copy the release again") from None

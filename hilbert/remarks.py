"""What an extraction says about sound that it used although it is odd: lines with file and row, counts, a summary."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hilbert.cohort import Cohort
from hilbert.errors import shown
from hilbert.levels import KINDS
from hilbert.shards import Encoded, Item, Stretch, Work

SHOWN = 20
"""Lines of one kind that are told; the others are counted."""


def place_of(cohort: Cohort, item: Item) -> str:
    """Where a segment stands, and its file."""
    assert isinstance(item.content, Stretch)
    document, path = shown(cohort.document_ids[item.document]), shown(item.content.path)
    return f"segments.csv row {item.row}: document {document}, segment {item.segment}, {path}"


def counts(work: Work, results: Sequence[Encoded]) -> dict[str, int]:
    """How many audio segments (after windowing) were `read`, and how many of them are of each kind."""
    found = {"read": 0, **dict.fromkeys(KINDS, 0)}
    for shard, result in zip(work.shards, results, strict=True):
        if shard.modality == "audio":
            found["read"] += len(shard.items) - len(result.failures)
        for notes in result.notes.values():
            for kind in notes:
                found[kind] = found.get(kind, 0) + 1
    return found


def lines(cohort: Cohort, work: Work, results: Sequence[Encoded]) -> Iterator[str]:
    """One line a row of segments.csv and kind, in the cohort's order; of each kind the first ones, and a count."""
    rows = dict[tuple[int, str], tuple[str, int]]()
    items = dict[int, int]()
    for shard, result in zip(work.shards, results, strict=True):
        for position, item in enumerate(shard.items if shard.modality == "audio" else ()):
            items[item.row] = items.get(item.row, 0) + 1
            for kind, text in result.notes.get(position, {}).items():
                told, count = rows.get((item.row, kind), (f"{place_of(cohort, item)} {text}", 0))
                rows[item.row, kind] = (told, count + 1)
    for kind in KINDS:
        of_kind = [
            told if items[row] == 1 else f"{told} ({count} of its {items[row]} windows)"
            for (row, name), (told, count) in rows.items()
            if name == kind
        ]
        yield from of_kind[:SHOWN]
        if len(of_kind) > SHOWN:
            yield f"... and {len(of_kind) - SHOWN} more rows: {KINDS[kind]}"


def summary(extraction: Mapping[str, Any]) -> str | None:
    """One line on a store's sound, from its manifest's `extraction`; None where nothing is known of it."""
    sound = extraction.get("sound")
    if not sound:
        return None
    parts = [f"{sound[kind]} {words}" for kind, words in KINDS.items() if sound.get(kind)]
    if left_out := extraction.get("skipped", {}).get("audio"):
        parts.append(f"{left_out} left out")
    return f"sound: {sound['read']} segments read, {', '.join(parts) or 'nothing odd about them'}"

"""The search's journal on disk: a JSON object a line, only ever appended to. What can be saved of a damaged one.

Optuna counts: the n-th line that makes a proposal is proposal n, and what became of it is told by that number. So a
line that tells can be lost, since the study's records tell it again; and so can proposals that nothing comes after,
which are made again. A proposal that is lost between others would shift the numbers of all that follow.

Every line carries a checksum, and each proposal its number; the lines of older versions have neither.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hilbert.errors import shown
from hilbert.reading import Damaged, parse_json

LARGEST = 1 << 30
"""Bytes of a journal, at most."""
CREATE_STUDY, CREATE_TRIAL = 0, 4
"""Optuna's codes of the operations that count something."""
CHECKSUM, NUMBER = "checksum", "number"


def sealed(entry: Mapping[str, Any], *, number: int | None = None) -> dict[str, Any]:
    """A line's content with its checksum, and of a proposal with its number."""
    content = dict(entry) if number is None else {**entry, NUMBER: number}
    return {**content, CHECKSUM: _checksum(content)}


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def damaged_lines(content: bytes) -> tuple[list[bytes], list[bytes]]:
    """The lines of a journal that count, and those that are damaged; a last line without an end is one of these.

    Raises:
        Damaged: without the damaged lines it isn't the same search any more.
    """
    lines = list(io.BytesIO(content))
    entries = [_entry(line) for line in lines]
    _check_order(entries)
    good = [line for line, entry in zip(lines, entries, strict=True) if entry is not None]
    bad = [line for line, entry in zip(lines, entries, strict=True) if entry is None]
    return good, bad


def _entry(line: bytes) -> Mapping[str, Any] | None:
    """A line's content; None where it is damaged."""
    try:
        entry = parse_json(line)
    except Damaged:
        return None
    if not line.endswith(b"\n") or not isinstance(entry, dict) or type(entry.get("op_code")) is not int:
        return None
    content = {name: value for name, value in entry.items() if name != CHECKSUM}
    return None if CHECKSUM in entry and entry[CHECKSUM] != _checksum(content) else content


def _check_order(entries: Sequence[Mapping[str, Any] | None]) -> None:
    """Whether these lines, without the damaged ones, are the search that they were; None stands for a damaged one."""
    made = [place for place, entry in enumerate(entries) if entry is not None and entry["op_code"] == CREATE_TRIAL]
    numbers = [(entries[place] or {}).get(NUMBER) for place in made]
    if made and numbers[-1] is None and None in entries[: made[-1]]:
        raise Damaged("a line before the last proposal can't be read, and what stood there isn't known")
    if any(number not in {None, count} for count, number in enumerate(numbers)):
        raise Damaged("the line of a proposal between others can't be read")
    known = [entry for entry in entries if entry is not None]
    if known and known[0]["op_code"] != CREATE_STUDY:
        raise Damaged("its first line can't be read")
    proposals = 0
    for entry in known:
        proposals += entry["op_code"] == CREATE_TRIAL
        told = entry.get("trial_id", -1)
        if type(told) is not int or told >= proposals:
            raise Damaged(f"it tells of proposal {shown(told)}, which it doesn't have")

"""A cohort on disk: `documents.csv`, `segments.csv` and the sound files, checked as a whole.

    documents.csv   document_id, optional group_id, one column per task (an empty cell is a missing label)
    segments.csv    document_id, segment (integer, the order), audio (path relative to the folder, may be empty),
                    optional start, end (seconds inside the file), text (may be empty)

A document may lack one modality, a segment too. Columns with other names are left alone.
"""

import difflib
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn, Self

import pandas as pd

from hilbert import audio
from hilbert.errors import CohortError
from hilbert.files import digest
from hilbert.people import column_faults, group_suspicion, read_people
from hilbert.segment_table import KNOWN, SEGMENTS, read_segments
from hilbert.tables import read_table, table_text

__all__ = ["DOCUMENTS", "SEGMENTS", "Cohort", "raise_faults"]

log = logging.getLogger(__name__)

DOCUMENTS = "documents.csv"
_SHOWN = 50  # faults printed; all of them are kept in CohortError.faults
_SLACK = 0.01  # seconds of rounding forgiven at a file's end


def raise_faults(message: str, faults: Sequence[str]) -> NoReturn:
    """Raise one CohortError that prints the first faults and keeps all of them."""
    more = len(faults) - _SHOWN
    error = CohortError(message, [*faults[:_SHOWN], *([f"... and {more} more"] if more > 0 else [])])
    error.faults = tuple(faults)
    raise error


@dataclass(frozen=True, eq=False)
class Cohort:
    """Documents, their segments and where the sound lies.

    Attributes:
        folder: the cohort's folder.
        documents: one row per document, as in the file: strings, None where missing; index `row`, the line in the file.
        segments: one row per segment, in the order of the documents and then of `segment`; index `row`; columns
            document_id (str), segment (int), audio (str or None), start, end (float seconds, NaN where not given),
            text (str or None), then whatever else the file holds.
        missing: further codes that count as a missing value in the documents, as they were named.
    """

    folder: Path
    documents: pd.DataFrame
    segments: pd.DataFrame
    missing: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: str | Path, *, check_audio: bool = True, missing: Sequence[str] = ()) -> Self:
        """Read and check a cohort. What its cells were understood to say is logged as warnings, with counts.

        Args:
            folder: the folder with documents.csv and segments.csv.
            check_audio: look into every sound file: whether it is whole, and as long as its header says. Without it
                only their presence is checked.
            missing: further codes that stand for a missing label or group, such as "-99". A label column keeps the
                usual ones, as NA, until a task says what its classes are.

        Raises:
            CohortError: every fault of the cohort at once, with file and row, and what would be right.
        """
        folder = Path(folder)
        message = f"{folder} is not a cohort (documents.csv, segments.csv and audio files) that can be used:"
        if not folder.is_dir():
            raise CohortError(f"{folder}: no such folder; give the folder that holds documents.csv and segments.csv")
        tables = [read_table(folder / DOCUMENTS), read_table(folder / SEGMENTS)]
        documents, segments = (table.frame for table in tables)
        faults = [fault for table in tables for fault in table.faults]
        if not tables[0].faults:
            documents, found = _read_documents(documents, missing)
            faults += found
        if not tables[1].faults:
            faults += _column_faults(segments, ["document_id", "segment"], ["audio", "text"], SEGMENTS)
            faults += column_faults(list(segments.columns), KNOWN[2:], SEGMENTS)
        if faults:  # a table that can't be trusted would only make more, misleading faults
            raise_faults(message, faults)
        segments, notes, faults = read_segments(segments, folder)
        _tell(notes)
        faults += _reference_faults(documents, segments)
        faults += _audio_faults(folder, segments, check_audio)
        if faults:
            raise_faults(message, sorted(faults, key=_row_of_fault))
        return cls(folder, documents, _ordered(documents, segments), tuple(missing))

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def document_ids(self) -> list[str]:
        """The documents' names, in the order of documents.csv."""
        return list(self.documents["document_id"])

    def segments_of(self, document_id: str) -> pd.DataFrame:
        """The segments of one document, in order."""
        return self.segments[self.segments["document_id"] == document_id]

    @cached_property
    def audio_digests(self) -> dict[str, str]:
        """SHA-256 of every sound file, by the path written in segments.csv. Reads all of them, once."""
        names = sorted(set(self.segments["audio"].dropna()))
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(names, pool.map(lambda name: _digest(self.folder / name), names), strict=True))

    def fingerprint(self) -> str:
        """SHA-256 over labels, segments and the bytes of every sound file; the same wherever the folder lies."""
        known = ["document_id", "segment", "audio", "start", "end", "text"]
        parts = [table_text(self.documents), table_text(self.segments[known]), json.dumps(self.audio_digests)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except OSError as error:  # reading its sound will fail too, and tell the segments
        return f"unreadable: {error.strerror}"


def _row_of_fault(fault: str) -> tuple[bool, int]:
    """Faults of documents.csv first, each file's by row; the sort is stable."""
    name, _, rest = fault.partition(" row ")
    number = rest.partition(":")[0]
    return name != DOCUMENTS, int(number) if number.isdigit() else 0


def _column_faults(frame: pd.DataFrame, needed: list[str], either: list[str], name: str) -> list[str]:
    faults = []
    for column in needed:
        if column not in frame.columns:
            near = difflib.get_close_matches(column, list(frame.columns), n=1)
            hint = f"; rename {near[0]!r}?" if near else f"; it has {', '.join(map(repr, frame.columns))}"
            faults.append(f"{name} row 1: column {column!r} is missing{hint}")
    if either and not any(column in frame.columns for column in either):
        faults.append(f"{name} row 1: needs a column {' or '.join(map(repr, either))}, or both")
    if frame.empty:
        faults.append(f"{name}: no rows below the header; a cohort needs at least one")
    return faults


def _read_documents(raw: pd.DataFrame, missing: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The documents as they are understood, and what is wrong with them."""
    if faults := _column_faults(raw, ["document_id"], [], DOCUMENTS):
        return raw, faults
    people = read_people(raw, name=DOCUMENTS, missing=missing)
    suspicion = group_suspicion(people.documents.get("group_id", pd.Series(dtype=object)).tolist())
    _tell([*people.notes, *([f"{DOCUMENTS}: {suspicion}"] if suspicion else [])])
    return people.documents, [*people.faults, *_unique_faults(people.documents, people.documents["document_id"])]


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        log.warning("%s", note)


def _unique_faults(documents: pd.DataFrame, names: Iterable[str | None]) -> list[str]:
    faults, first_row = [], dict[str, int]()
    for row, name in zip(documents.index, names, strict=True):
        if name is None:
            faults.append(f"{DOCUMENTS} row {row}: document_id is empty; every document needs a name of its own")
        elif name in first_row:
            faults.append(
                f"{DOCUMENTS} row {row}: document_id {name!r} stands already in row {first_row[name]}; "
                "give every document one row"
            )
        else:
            first_row[name] = int(row)
    return faults


def _reference_faults(documents: pd.DataFrame, segments: pd.DataFrame) -> list[str]:
    """Segments of nobody, segments without content, documents without segments."""
    faults, known = [], set(documents["document_id"])
    for row, document, sound, text in zip(
        segments.index, segments["document_id"], segments["audio"], segments["text"], strict=True
    ):
        if document is None:
            faults.append(f"{SEGMENTS} row {row}: document_id is empty; name the document the segment belongs to")
        elif document not in known:
            near = difflib.get_close_matches(document, sorted(known), n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"add it to {DOCUMENTS} or delete the row"
            faults.append(f"{SEGMENTS} row {row}: document {document!r} is not in {DOCUMENTS}; {hint}")
        if sound is None and text is None:
            faults.append(f"{SEGMENTS} row {row}: neither audio nor text; fill one in or delete the row")
    filled = set(segments.loc[segments["audio"].notna() | segments["text"].notna(), "document_id"])
    faults += [
        f"{DOCUMENTS} row {row}: document {document!r} has neither audio nor text in {SEGMENTS}; "
        "add a segment or delete the row"
        for row, document in documents["document_id"].items()
        if document not in filled
    ]
    return faults


def _path_fault(folder: Path, name: str) -> str | None:
    """What is wrong with a path as written, if anything. Links are followed: audio may lie on another disk."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
        return "is absolute; write the path relative to the cohort's folder"
    depth = 0
    for part in PurePosixPath(name).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return "leaves the cohort's folder; keep the audio inside it (a link to another disk is fine)"
    path = folder / name
    if path.is_dir():
        return "is a folder; name a sound file"
    if not path.is_file():
        return "does not exist" + ("; separate folders with '/'" if "\\" in name else "; check the name, its case too")
    return None


def _length(path: Path) -> float | str:
    """Seconds, or what is wrong with the file."""
    try:
        seconds = audio.duration(path)
    except CohortError as error:
        return str(error).removeprefix(f"{path}: ")
    return seconds if seconds > 0 else "holds no sound; replace the file or delete the row"


def _audio_faults(folder: Path, segments: pd.DataFrame, check_audio: bool) -> list[str]:
    names = list(dict.fromkeys(segments["audio"].dropna()))
    path_faults = {name: fault for name in names if (fault := _path_fault(folder, name))}
    sound = [name for name in names if name not in path_faults] if check_audio else []
    with ThreadPoolExecutor(4) as pool:
        lengths = dict(zip(sound, pool.map(lambda name: _length(folder / name), sound), strict=True))
    faults = []
    for row, name, start, end in zip(
        segments.index, segments["audio"], segments["start"], segments["end"], strict=True
    ):
        length = lengths.get(name, math.inf)
        fault = path_faults.get(name) or (length if isinstance(length, str) else None)
        if fault:
            faults.append(f"{SEGMENTS} row {row}: audio {name!r} {fault}")
        faults += [f"{SEGMENTS} row {row}: {fault}" for fault in _time_faults(start, end, length)]
    return faults


def _time_faults(start: float, end: float, length: float | str) -> list[str]:
    """What is wrong with [start, end) seconds; NaN means not given."""
    faults = []
    if start < 0:
        faults.append(f"start is {start:g}; seconds are counted from 0, the file's beginning")
    if end <= (0.0 if math.isnan(start) else start):
        faults.append(f"end is {end:g}, start {0.0 if math.isnan(start) else start:g}; end must lie after start")
    if isinstance(length, float) and start >= length - _SLACK:
        faults.append(f"start is {start:g}, but the file lasts only {length:.2f} s; start must lie within it")
    elif isinstance(length, float) and end > length + audio.OVERHANG:
        faults.append(f"end is {end:g}, but the file lasts only {length:.2f} s; end must lie within it")
    return faults


def _ordered(documents: pd.DataFrame, segments: pd.DataFrame) -> pd.DataFrame:
    rank = {document: position for position, document in enumerate(documents["document_id"])}
    key = segments["document_id"].map(rank)
    return segments.assign(_rank=key).sort_values(["_rank", "segment"], kind="stable").drop(columns="_rank")

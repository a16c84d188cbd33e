"""Every wrong cohort, store and encoder's name that we could think of, with what the one message must say.

`COHORTS` and `STORES` hold (name, make, expected): make(folder) writes the wrong thing at `folder`, and every string of
`expected` must stand in the message. `ENCODERS` holds (encoder's name, modality, expected).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from cohorts import DOCUMENTS, SEGMENTS, edit, write_cohort, write_wave

from hilbert.features import FeatureStore
from hilbert.files import digest


class Case(NamedTuple):
    """A wrong input."""

    name: str
    make: Callable[[Path], object]
    expected: Sequence[str]


def _documents(row: int, line: str | None) -> Callable[[Path], object]:
    return lambda folder: write_cohort(folder, documents=edit(DOCUMENTS, row, line))


def _segments(row: int, line: str | None) -> Callable[[Path], object]:
    return lambda folder: write_cohort(folder, segments=edit(SEGMENTS, row, line))


def _file(name: str, data: bytes | None) -> Callable[[Path], object]:
    """A right cohort in which one file holds other bytes, or is gone."""

    def make(folder: Path) -> None:
        write_cohort(folder)
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)

    return make


def _short_wave(folder: Path) -> None:
    write_cohort(folder)
    write_wave(folder / "one.wav", 0.4)


def _silent_wave(folder: Path) -> None:
    write_cohort(folder)
    write_wave(folder / "sub" / "two.wav", 0.0)


LATIN = DOCUMENTS.replace("high", "höch").encode("latin-1")

COHORTS = [
    Case("no folder", lambda folder: None, ["no such folder", "documents.csv"]),
    Case("no documents.csv", _file("documents.csv", None), ["documents.csv: missing"]),
    Case("no segments.csv", _file("segments.csv", None), ["segments.csv: missing"]),
    Case("empty documents.csv", _file("documents.csv", b""), ["documents.csv: empty", "name the columns"]),
    Case("header only", _file("documents.csv", b"document_id,affect\n"), ["documents.csv: no rows", "at least one"]),
    Case(
        "no id column", _documents(1, "docment_id,group_id,affect"), ["row 1", "'document_id'", "rename 'docment_id'?"]
    ),
    Case(
        "semicolons",
        _file("documents.csv", b"document_id;affect\na;low\n"),
        ["row 1", "not separated by commas", "','"],
    ),
    Case("column twice", _documents(1, "document_id,affect,affect"), ["row 1", "'affect' appears 2 times"]),
    Case("column without name", _documents(1, "document_id,,affect"), ["row 1", "column 2 has no name"]),
    Case("not UTF-8", _file("documents.csv", LATIN), ["documents.csv row 4", "UTF-8"]),
    Case("UTF-16", _file("documents.csv", DOCUMENTS.encode("utf-16")), ["documents.csv row 1", "UTF-8"]),
    Case("ragged row", _documents(3, "b,g"), ["documents.csv row 3", "2 cells where the header has 3"]),
    Case("open quote", _segments(3, 'a,1,one.wav,0.5,1.0,"so'), ["segments.csv row 3", "bad CSV", "quote"]),
    Case("empty id", _documents(3, ",g,low"), ["documents.csv row 3", "document_id is empty"]),
    Case("id twice", _documents(3, "a,g,low"), ["documents.csv row 3", "'a'", "row 2"]),
    Case("no audio and no text column", _segments(1, "document_id,segment,x,start,end,y"), ["'audio' or 'text'"]),
    Case("segment no integer", _segments(3, "a,1.5,one.wav,0.5,1.0,"), ["segments.csv row 3", "'1.5'", "0, 1, 2"]),
    Case("segment empty", _segments(3, "a,,one.wav,0.5,1.0,"), ["segments.csv row 3", "'empty'", "integer"]),
    Case("segment twice", _segments(3, "a,0,one.wav,0.5,1.0,"), ["segments.csv row 3", "segment 0", "row 2"]),
    Case("unknown document", _segments(5, "bb,1,,,,more"), ["segments.csv row 5", "'bb'", "nearest is 'b'"]),
    Case("segment of nobody", _segments(5, ",1,,,,more"), ["segments.csv row 5", "name the document"]),
    Case("document without segments", _segments(6, None), ["documents.csv row 4", "'c'", "add a segment"]),
    Case("row without content", _segments(5, "b,1,,,,"), ["segments.csv row 5", "neither audio nor text"]),
    Case(
        "audio missing", _segments(6, "c,0,sub/too.wav,,,"), ["segments.csv row 6", "'sub/too.wav'", "does not exist"]
    ),
    Case("backslashes", _segments(6, "c,0,sub\\two.wav,,,"), ["segments.csv row 6", "separate folders with '/'"]),
    Case("absolute path", _segments(6, "c,0,/etc/two.wav,,,"), ["segments.csv row 6", "absolute", "relative"]),
    Case("path outside", _segments(6, "c,0,../two.wav,,,"), ["segments.csv row 6", "leaves the cohort's folder"]),
    Case("path is a folder", _segments(6, "c,0,sub,,,"), ["segments.csv row 6", "is a folder"]),
    Case("not audio", _file("sub/two.wav", b"no sound at all"), ["segments.csv row 6", "can't be read as audio"]),
    Case("empty audio", _silent_wave, ["segments.csv row 6", "holds no sound"]),
    Case("start no number", _segments(2, "a,0,one.wav,0:00,0.5,x"), ["segments.csv row 2", "start is '0:00'", "12.5"]),
    Case("end not finite", _segments(2, "a,0,one.wav,0,inf,x"), ["segments.csv row 2", "end is 'inf'"]),
    Case("start negative", _segments(2, "a,0,one.wav,-1,0.5,x"), ["segments.csv row 2", "start is -1", "from 0"]),
    Case("end before start", _segments(3, "a,1,one.wav,0.5,0.5,"), ["segments.csv row 3", "end must lie after start"]),
    Case("end beyond the file", _segments(2, "a,0,one.wav,0,9,x"), ["segments.csv row 2", "end is 9", "1.00 s"]),
    Case("start beyond the file", _short_wave, ["segments.csv row 3", "start is 0.5", "0.40 s"]),
]


def write_store(folder: Path) -> FeatureStore:
    """A right store of three documents."""
    audio = [np.full((length, 2), length, np.float32) for length in (2, 0, 1)]
    text = [np.full((length, 3), 1.0, np.float32) for length in (1, 1, 2)]
    documents = pd.DataFrame({"document_id": ["a", "b", "c"], "affect": ["low", None, "high"]})
    return FeatureStore.write(folder, documents=documents, audio=audio, text=text)


def _store(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        change(write_store(folder).folder)

    return make


def _manifest(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))

    return _store(change)


def _forged(name: str, array: object, *, pickled: bool = False) -> Callable[[Path], object]:
    """A store in which one array was replaced, and the manifest made to agree about its size."""

    def change(folder: Path) -> None:
        np.save(folder / name, np.asarray(array, dtype=object if pickled else None), allow_pickle=pickled)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name]["bytes"] = (folder / name).stat().st_size
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return _store(change)


def _cut(name: str) -> Callable[[Path], object]:
    return _store(lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-4]))


def _longer_documents(folder: Path) -> None:
    path = folder / "documents.csv"
    path.write_text(path.read_text() + "d,low\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["documents.csv"] = {"bytes": path.stat().st_size, "sha256": digest(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


NO_HASH = "0" * 64

STORES = [
    Case("no folder", lambda folder: None, ["no such feature store", "hilbert extract"]),
    Case("not a store", lambda folder: folder.mkdir(), ["manifest.json: missing", "not a feature store"]),
    Case(
        "manifest no JSON", _store(lambda folder: (folder / "manifest.json").write_text("{")), ["manifest.json", "JSON"]
    ),
    Case("foreign", _manifest(format="other"), ["manifest.json", "hilbert-features"]),
    Case("version of tomorrow", _manifest(version=2), ["manifest.json", "version 2", "reads 1"]),
    Case("manifest without files", _manifest(files={}), ["manifest.json: damaged", "must list ['audio.npy'"]),
    Case(
        "manifest with a path", _manifest(files={"../x": {"bytes": 1, "sha256": "0" * 64}}), ["manifest.json", "'../x'"]
    ),
    Case("file missing", _store(lambda folder: (folder / "text.npy").unlink()), ["text.npy: missing", "again"]),
    Case("features truncated", _cut("audio.npy"), ["audio.npy: truncated", "bytes instead of"]),
    Case("documents truncated", _cut("documents.csv"), ["documents.csv: isn't the table", "'hilbert extract' again"]),
    Case("pickled objects", _forged("audio.npy", [[1, "x"]], pickled=True), ["audio.npy", "not a plain NumPy array"]),
    Case(
        "wrong shape", _forged("audio.npy", np.zeros((3, 5), np.float32)), ["audio.npy", "[3, 5] instead of", "[3, 2]"]
    ),
    Case("wrong type", _forged("audio.npy", np.zeros((3, 2))), ["audio.npy", "float64", "instead of float32"]),
    Case(
        "offsets fall",
        _forged("audio_offsets.npy", [0, 2, 1, 3]),
        ["audio_offsets.npy", "must rise from 0 to the 3 rows"],
    ),
    Case("offsets end early", _forged("text_offsets.npy", [0, 1, 2, 3]), ["text_offsets.npy", "to the 4 rows"]),
    Case("offsets for fewer", _forged("text_offsets.npy", [0, 2, 4]), ["text_offsets.npy", "3 documents", "int64 [4]"]),
    Case("more documents", _store(_longer_documents), ["documents.csv", "audio_offsets.npy", "4 documents"]),
    Case("segment numbers", _forged("audio_segments.npy", [0, 1]), ["audio_segments.npy", "instead of int64 [3]"]),
]

ENCODERS = [
    ("opensmle:eGeMAPSv02", "audio", ["unknown scheme 'opensmle'", "did you mean 'opensmile'?"]),
    ("opensmile:egemaps", "audio", ["unknown feature set", "did you mean 'eGeMAPS'?"]),
    ("opensmile:eGeMAPSv02", "text", ["openSMILE hears, it can't read"]),
    ("roberta-base", "text", ["scheme:what", "hf:"]),
    ("hf:./no/such/model", "audio", ["no such folder", "config.json"]),
    ("hf:./no/such/model?layr=1", "audio", ["unknown option 'layr'", "did you mean 'layer'?"]),
    ("hf:./no/such/model?pooling=avg", "text", ["unknown pooling 'avg'", "mean"]),
]

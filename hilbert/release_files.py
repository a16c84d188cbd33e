"""The files of a release, read: see `hilbert.release` for what they are.

A release may come from anybody. Nothing is read that lies outside of its folder, every file that is read is listed in
`release.json` with its SHA-256, and what isn't listed is ignored. `release.json` has a checksum of its own, which older
ones lack.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from hilbert.config import TaskConfig
from hilbert.encoders.base import Modality
from hilbert.errors import InputError, shown
from hilbert.files import write_text
from hilbert.reading import Content, Damaged, checked, content_of, explained, open_regular, parse_json

FORMAT, VERSION = "hilbert-release", 1
MANIFEST, PREPROCESSING, CALIBRATION, CARD = "release.json", "preprocessing.json", "calibration.json", "model_card.md"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
REMEDY = "copy the whole release again"
LARGEST = 1 << 34
"""Bytes of a file of a release, at most."""
CHECKSUM = "checksum"


class _Made(Content):
    study: str | None = None
    trial: Annotated[int, Field(ge=0)] | None = None
    run: str | None = None
    configuration: dict[str, Any] | None = None
    fingerprint: str | None = None
    cohort: str | None = None


class _Manifest(Content):
    name: Annotated[str, Field(min_length=1)]
    members: Annotated[list[str], Field(min_length=1)]
    made: _Made
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]


class _Encoder(Content):
    name: str | None = None


class _Part(Content):
    encoder: _Encoder
    dim: Annotated[int, Field(ge=1)]


class _Preprocessing(Content):
    window: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    dtype: Literal["float16", "float32"]
    audio: _Part
    text: _Part


_MANIFEST, _PREPROCESSING = TypeAdapter(_Manifest), TypeAdapter(_Preprocessing)
_OBJECT = TypeAdapter(dict[str, Any])


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as people can read it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a release.json with its checksum."""
    return {**manifest, CHECKSUM: _checksum(manifest)}


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of a release.json, whose members and files lie within the folder and are all listed.

    Raises:
        InputError: it is missing, damaged, foreign or of another version.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise InputError(f"{folder}: not a release, it lacks {MANIFEST}; 'hilbert release' makes one")
    with explained(path, InputError, REMEDY):
        manifest = checked(parse_json(content_of(path), constants=True), _OBJECT)
    if manifest.get("format") != FORMAT:
        raise InputError(f'{path}: not of a release ("format" must be "{FORMAT}")')
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{path}: version {shown(manifest.get('version'))} of the format, this hilbert reads {VERSION}; install the"
            " hilbert that wrote it, or release the model again"
        )
    with explained(path, InputError, REMEDY):
        checked(manifest, _MANIFEST)
        known = manifest.pop(CHECKSUM, None)
        if known not in {None, _checksum(manifest)}:
            raise Damaged("changed since the release was made: its checksum is another one")
        _check_places(folder, manifest["members"], manifest["files"])
    return manifest


def _check_places(folder: Path, members: Sequence[str], files: Mapping[str, str]) -> None:
    needed = {PREPROCESSING, CALIBRATION}
    needed |= {(PurePosixPath(member) / name).as_posix() for member in members for name in (CONFIG, WEIGHTS)}
    for name in (*members, *files):
        if not _is_inside(folder, name):
            raise Damaged(f"{shown(name)} leads outside of the release")
    unlisted = sorted(needed - files.keys())
    if unlisted:
        raise Damaged(f"its files lack {shown(unlisted[0])}, which could then be anything")


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a path, its links followed, stays in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not name:
        return False
    try:
        return (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a ring of links, a name too long
        return False


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Every file is there, and is what it was when the release was made.

    Raises:
        InputError: one isn't.
    """
    for name, expected in files.items():
        path = folder / name
        with explained(path, InputError, REMEDY), open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise Damaged(f"more than {LARGEST:,} bytes")
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise InputError(f"{path}: changed since the release was made; {REMEDY}")


def read_preprocessing(folder: Path, dims: Mapping[Modality, int]) -> dict[str, Any]:
    """The content of preprocessing.json, which must be for a model of these dimensions.

    Raises:
        InputError: it is missing, damaged, or for another model.
    """
    path = folder / PREPROCESSING
    with explained(path, InputError, REMEDY):
        found = checked(parse_json(content_of(path)), _OBJECT)
        checked(found, _PREPROCESSING)
        for name, dim in dims.items():
            if found[name]["dim"] != dim:
                raise Damaged(f"{name} has {found[name]['dim']} dimensions, and the model {dim}")
    return found


def read_calibration(folder: Path, tasks: Mapping[str, TaskConfig]) -> dict[str, Any]:
    """The content of calibration.json: an entry for each task that has classes, and no other.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / CALIBRATION
    with explained(path, InputError, REMEDY):
        found = checked(parse_json(content_of(path)), _OBJECT)
    if found.keys() != {task for task, spec in tasks.items() if spec.kind != "regression"}:
        raise InputError(f"{path}: must hold the tasks {', '.join(tasks)}, but regressions")
    return found

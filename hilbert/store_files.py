"""How a feature store gets onto the disk: checked, flushed, and renamed into place whole. And what its manifest says.

The format is told in `hilbert.features`. What writes does so into a fresh folder beside the store; `commit` adds the
manifest and swaps the folder in, so that a crash leaves the old store or the new one, and never half of either.
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, TypeAdapter, model_validator

from hilbert import __version__
from hilbert.cells import tidy
from hilbert.errors import StoreError, shown
from hilbert.files import digest, sync
from hilbert.people import read_people
from hilbert.plausible import LARGEST, is_plausible
from hilbert.reading import (
    LARGEST_JSON,
    Content,
    Damaged,
    Fault,
    checked,
    content_of,
    explained,
    parse_json,
    read_array,
)

log = logging.getLogger(__name__)

FORMAT, VERSION = "hilbert-features", 1
MANIFEST, DOCUMENTS = "manifest.json", "documents.csv"
MODALITIES = ("audio", "text")
# Columns of documents.csv that would carry transcripts or names of recordings into the store.
PRIVATE_COLUMNS = frozenset({"audio", "text", "transcript", "transcripts", "path", "file", "filename"})

Array = npt.NDArray[Any]
Dtype = Literal["float32", "float16"]

log = logging.getLogger(__name__)


def files_of(modality: str) -> tuple[str, str, str]:
    """Names of a modality's files: values, offsets, segment numbers."""
    return f"{modality}.npy", f"{modality}_offsets.npy", f"{modality}_segments.npy"


def encoder_description(encoder: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """What the manifest says of an encoder that may be no more than a name."""
    return dict(encoder) if isinstance(encoder, Mapping) else {"name": encoder}


def clean_documents(documents: pd.DataFrame) -> pd.DataFrame:
    """The columns that may stand in a store, checked to survive being written and read.

    Names, ids, groups and labels are in one spelling each; codes for a missing group are gaps, which is logged.
    """
    columns = [tidy(str(column)) for column in documents.columns]
    if "document_id" not in columns or documents.empty:
        raise StoreError("documents: needs a column 'document_id' and at least one row")
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise StoreError(f"documents: {shown(twice)} appears twice; every document and column needs a name of its own")
    table = documents.set_axis(columns, axis=1)
    names = ["" if pd.isna(name) else tidy(str(name)) for name in table["document_id"]]
    if "" in names:
        raise StoreError(f"documents: row {names.index('') + 1} has no document_id")
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise StoreError(f"documents: {shown(twice)} appears twice; every document and column needs a name of its own")
    kept = table.loc[:, [column.lower() not in PRIVATE_COLUMNS for column in columns]].assign(document_id=names)
    people = read_people(kept, name="documents")
    if people.faults:
        raise StoreError("\n  ".join(people.faults[:20]))
    for note in people.notes:
        log.warning("%s", note)
    return people.documents


def write_modality(
    folder: Path,
    modality: str,
    arrays: Sequence[Array],
    numbers: Sequence[Sequence[int] | Array] | None,
    names: Sequence[str],
    dtype: Dtype,
) -> dict[str, Any]:
    """Write one modality's three files, one document at a time; its entry for the manifest, without the encoder."""
    if dtype not in ("float32", "float16"):
        raise StoreError(f"dtype {shown(dtype)}: a feature store holds float32 or float16")
    dim = _common_dim(modality, arrays, names)
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int64)
    values_file, offsets_file, segments_file = (folder / file for file in files_of(modality))
    with values_file.open("wb") as file:
        header = {
            "descr": np.dtype(dtype).newbyteorder("<").str,
            "fortran_order": False,
            "shape": (int(offsets[-1]), dim),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for name, array in zip(names, arrays, strict=True):
            file.write(_as_stored(array, dtype, f"{modality} of document {shown(name)}").tobytes())
    np.save(offsets_file, offsets, allow_pickle=False)
    np.save(segments_file, _segment_numbers(modality, numbers, arrays, names), allow_pickle=False)
    return {"dim": dim, "dtype": dtype, "segments": int(offsets[-1])}


def _common_dim(modality: str, arrays: Sequence[Array], names: Sequence[str]) -> int:
    if len(arrays) != len(names):
        raise StoreError(
            f"{modality}: {len(arrays)} arrays for {len(names)} documents; give one [S_i, D] array for each"
        )
    dims = dict[int, str]()
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiu":
            shape = f"{array.dtype} {list(array.shape)}"
            raise StoreError(f"{modality} of document {shown(name)}: {shape}; an array of numbers [S_i, D] is needed")
        dims.setdefault(int(array.shape[1]), name)
    if len(dims) > 1:
        told = ", ".join(f"{dim} in {shown(name)}" for dim, name in list(dims.items())[:3])
        raise StoreError(f"{modality}: the number of features differs between documents ({told}); all need the same")
    return next(iter(dims))


def _as_stored(array: Array, dtype: Dtype, what: str) -> Array:
    if not np.isfinite(array).all():
        raise StoreError(f"{what}: holds values that are not finite numbers; mend the features before storing them")
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=np.dtype(dtype).newbyteorder("<"))
    if not np.isfinite(stored).all():
        largest = float(np.abs(array).max())
        raise StoreError(f"{what}: {largest:g} does not fit into {dtype}; store these features as float32")
    if not is_plausible(stored):
        largest = float(np.abs(stored).max())
        raise StoreError(f"{what}: holds {largest:g}; features must be below {LARGEST:g} in magnitude, mend them first")
    return stored


def _segment_numbers(
    modality: str, numbers: Sequence[Sequence[int] | Array] | None, arrays: Sequence[Array], names: Sequence[str]
) -> npt.NDArray[np.int64]:
    given: Iterable[Sequence[int] | Array] = numbers if numbers is not None else (range(len(array)) for array in arrays)
    flat = [np.asarray(one, dtype=np.int64).reshape(-1) for one in given]
    if len(flat) != len(arrays):
        raise StoreError(f"{modality}: segment numbers for {len(flat)} of {len(arrays)} documents")
    for name, one, array in zip(names, flat, arrays, strict=True):
        if len(one) != len(array):
            raise StoreError(
                f"{modality} of document {shown(name)}: {len(one)} segment numbers for {len(array)} segments"
            )
    return np.concatenate(flat)


def check_covered(folder: Path, modalities: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse documents without a single segment in any modality."""
    if not modalities:
        raise StoreError("nothing to store: give audio, text or both")
    lengths = [np.diff(read_array(folder / files_of(name)[1], mapped=False)) for name in modalities]
    bare = [name for name, total in zip(names, np.sum(lengths, axis=0), strict=True) if total == 0]
    if bare:
        raise StoreError(
            f"{len(bare)} document(s) with neither audio nor text features: {', '.join(bare[:10])}; leave them out"
        )


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder`, gone at the end unless it was renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=folder.parent))
    new.chmod(0o777 & ~_umask())  # mkdtemp makes it private; a store is as readable as any other folder
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def check_target(folder: Path) -> None:
    """Refuse a place that holds something other than a store: it is never ours to replace."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; name a folder for the feature store")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise StoreError(f"{folder}: holds other files and is not a feature store; name another folder")


def commit(
    new: Path,
    folder: Path,
    modalities: Mapping[str, Any],
    *,
    cohort: Mapping[str, Any] | None,
    extraction: Mapping[str, Any] | None,
    overwrite: bool,
    compared: Mapping[str, Any] | None = None,
) -> None:
    """Complete the store in `new` with its manifest and put it at `folder`, unless other contents lie there.

    Of the files in `compared` the manifest's entries are known, so that they aren't read.
    """
    files = {
        path.name: (compared or {}).get(path.name) or {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in sorted(new.iterdir())
        if path.name != MANIFEST
    }
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "created_with": {"hilbert": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "cohort": dict(cohort or {}),
        "extraction": dict(extraction or {}),
        "modalities": modalities,
        "files": files,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (new / MANIFEST).write_text(text, encoding="utf-8", newline="")
    if (folder / MANIFEST).is_file() and not overwrite:
        if not _same_contents(folder, manifest):
            raise StoreError(
                f"{folder}: a store with other contents lies there; name another folder, or overwrite it on purpose "
                "(--overwrite, or overwrite=True)"
            )
        changed = [name for name, entry in files.items() if not _is(folder / name, entry["sha256"])]
        if not changed:
            return
        log.warning("%s: damaged, or edited in place; the store is written again", folder / changed[0])
    for path in new.iterdir():
        sync(path)
    sync(new)
    _swap(new, folder)


def _same_contents(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """The store that lies there says the same of itself, whichever versions wrote it."""
    try:
        there = parse_json(content_of(folder / MANIFEST))
        return all(there[key] == manifest[key] for key in manifest if key != "created_with")
    except (Fault, TypeError, KeyError):
        return False


def _is(path: Path, sha256: str) -> bool:
    try:
        return digest(path) == sha256
    except OSError:
        return False


def _swap(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`. What lay there is moved away first, and put back should the second rename fail."""
    if not folder.exists():
        new.rename(folder)
    else:
        old = new.with_suffix(".old")
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync(folder.parent)


def fingerprint_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the contents of all files of the store that has this manifest."""
    files = manifest["files"]
    parts = [f"{name} {files[name]['sha256']}" for name in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def parse_manifest(content: bytes, path: Path | str) -> dict[str, Any]:
    """Checks the content of a manifest.json; `path` names it in messages.

    Raises:
        StoreError: it is damaged, foreign or of another version.
    """
    with explained(path, StoreError, "extract the features again"):
        if len(content) > LARGEST_JSON:
            raise Damaged(f"more than {LARGEST_JSON:,} bytes")
        manifest = parse_json(content)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f'{path}: not of a feature store ("format" must be "{FORMAT}")')
    if manifest.get("version") != VERSION:
        raise StoreError(
            f"{path}: version {shown(manifest.get('version'))} of the format, this hilbert ({__version__}) reads "
            f"{VERSION}; extract the features again, or install the hilbert that wrote them"
        )
    with explained(path, StoreError, "extract the features again"):
        checked(manifest, MANIFEST_SCHEMA)
    return manifest


class _File(Content):
    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Encoder(Content):
    name: str | None = None


class _Modality(Content):
    encoder: _Encoder
    dim: Annotated[int, Field(ge=1, lt=2**31)]
    dtype: Literal["float16", "float32"]
    segments: Annotated[int, Field(ge=0, lt=2**48)]


class _Extraction(Content):
    window: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class _Cohort(Content):
    fingerprint: str | None = None


class _Manifest(Content):
    cohort: _Cohort | None
    extraction: _Extraction | None
    modalities: Annotated[dict[Literal["audio", "text"], _Modality], Field(min_length=1)]
    files: dict[str, _File]

    @model_validator(mode="after")
    def _all_files_and_no_other(self) -> Self:
        expected = {DOCUMENTS, *(file for name in self.modalities for file in files_of(name))}
        if self.files.keys() != expected:
            raise ValueError(f"it lists the files {shown(sorted(self.files))}, and must list {sorted(expected)}")
        return self


MANIFEST_SCHEMA = TypeAdapter(_Manifest)

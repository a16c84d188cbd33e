"""Whether the files of a feature store are those that its manifest tells of.

Sizes and every byte of documents.csv are compared whenever a store is opened, the features before they are used: read
once on a computer, and then known again, see `hilbert.verified`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hilbert import verified
from hilbert.errors import LabelsChangedError, StoreError
from hilbert.files import digest
from hilbert.store_files import DOCUMENTS
from hilbert.tables import read_table
from hilbert.verified import Known, Stamp

Manifest = Mapping[str, Any]
Stamps = Mapping[str, Stamp]


def check_files(folder: Path, manifest: Manifest) -> None:
    """Whether all files are there, with the right sizes; what is in documents.csv `check_labels` says.

    Raises:
        StoreError: naming the file.
    """
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{path}: missing; extract the features again")
        size = path.stat().st_size
        if size != entry["bytes"] and name != DOCUMENTS:
            state = "truncated" if size < entry["bytes"] else "not the file that was written"
            raise StoreError(f"{path}: {state}, {size} bytes instead of {entry['bytes']}; extract the features again")


def check_labels(folder: Path, manifest: Manifest) -> None:
    """Whether documents.csv is the table that was written.

    Raises:
        LabelsChangedError: it isn't.
    """
    path, entry = folder / DOCUMENTS, manifest["files"][DOCUMENTS]
    if path.stat().st_size != entry["bytes"] or digest(path) != entry["sha256"]:
        raise LabelsChangedError(
            f"{path}: isn't the table that was written with these features (its SHA-256 isn't the manifest's), and"
            " results of other labels would pass for results of these. Put new labels into the cohort's documents.csv"
            " and run 'hilbert extract' again, which then rewrites the labels alone, in no time; or restore this file"
            " and use FeatureStore.with_documents"
        )


def read_documents(path: Path) -> pd.DataFrame:
    """The table of documents [N rows], of strings, None where missing.

    Raises:
        StoreError: it is damaged.
    """
    table = read_table(path)
    if table.faults:
        raise StoreError(f"{path}: damaged; {table.faults[0]}")
    documents = table.frame.reset_index(drop=True)
    if "document_id" not in documents.columns or documents.empty:
        raise StoreError(f"{path}: needs a column 'document_id' and at least one row")
    names = documents["document_id"]
    if names.isna().any() or names.duplicated().any():
        raise StoreError(f"{path}: every document needs a document_id of its own")
    return documents


def stamps_of(folder: Path, manifest: Manifest) -> dict[str, Stamp]:
    """What each file of features is known by now."""
    return {name: verified.stamp_of(folder / name) for name in manifest["files"] if name != DOCUMENTS}


def verify_features(folder: Path, manifest: Manifest, stamps: Stamps, check: Callable[[str], None]) -> None:
    """Compares files of features that aren't known with the manifest.

    A file that was replaced since it was opened stays what it was to whoever has mapped it: if it was verified before,
    all is well.

    Args:
        folder: the store's folder.
        manifest: its manifest.
        stamps: of the files, when they were opened.
        check: called with the name of a file whose contents are right, to look at its values.

    Raises:
        StoreError: a file isn't the one that was written, or can't be read.
    """
    files = _digests(manifest, stamps)
    replaced = [name for name, stamp in stamps.items() if _place(folder / name) != stamp[:2]]
    for name in replaced:
        if not verified.is_known(folder / name, stamps[name], files[name]):
            raise StoreError(f"{folder / name}: was replaced since the store was opened; open it again")
    there = {name: sha256 for name, sha256 in files.items() if name not in replaced}

    def read(name: str) -> None:
        compare(folder, manifest, name)
        check(name)

    try:
        verified.verify(folder, there, read)
    except OSError as error:
        raise StoreError(f"{folder}: can't be read ({error.strerror or error})") from None


def unknown_files(folder: Path, manifest: Manifest, stamps: Stamps) -> list[str]:
    """Names of the files that `verify_features` would have to read."""
    return verified.unknown(folder, _digests(manifest, stamps))


def compare(folder: Path, manifest: Manifest, name: str) -> None:
    """Compares a file of features with the manifest.

    Raises:
        StoreError: it isn't the file that was written.
    """
    path = folder / name
    if digest(path) != manifest["files"][name]["sha256"]:
        raise StoreError(
            f"{path}: its contents have changed since it was written (its SHA-256 isn't the manifest's), and results of"
            " it would pass for results of what it was; extract the features again, or copy the store again"
        )


def known(folder: Path, manifest: Manifest, stamps: Stamps) -> Known:
    """What other processes can be told of these files: those that this one knows."""
    found = entries(folder, manifest, stamps)
    return {path: one for path, one in found.items() if verified.is_known(Path(path), *one)}


def entries(folder: Path, manifest: Manifest, stamps: Stamps) -> Known:
    """Files as `hilbert.verified` keeps them in mind: for whoever has compared them all."""
    return {str(folder / name): (stamps[name], sha256) for name, sha256 in _digests(manifest, stamps).items()}


def _digests(manifest: Manifest, stamps: Stamps) -> dict[str, str]:
    return {name: manifest["files"][name]["sha256"] for name in stamps}


def _place(path: Path) -> tuple[int, int] | None:
    """Device and inode."""
    try:
        return verified.stamp_of(path)[:2]
    except OSError:
        return None

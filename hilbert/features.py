"""The feature store: what the frozen encoders made of a cohort, on disk, opened by memory-mapping.

A folder, without a pickle, without transcripts, and without paths of recordings:

    manifest.json                       format, version, encoders, cohort's fingerprint, size and SHA-256 of every file
    documents.csv                       document_id, group_id if there is one, and the label columns as in the cohort
    audio.npy          [total, D_a]     float16 or float32: one row per audio segment, document after document
    audio_offsets.npy  [N + 1]          int64: rows offsets[i]:offsets[i + 1] belong to document i
    audio_segments.npy [total]          int64: the segment's number in the cohort (repeated if windows cut it)
    text.npy, text_offsets.npy, text_segments.npy       the same for text

N = documents, D = features, total = segments of all documents. A modality that was not extracted has no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from hilbert import verified
from hilbert.errors import StoreError
from hilbert.groups import read_groups
from hilbert.plausible import check_plausible
from hilbert.reading import content_of, explained, read_array
from hilbert.store_checks import (
    check_files,
    check_labels,
    compare,
    entries,
    known,
    read_documents,
    stamps_of,
    unknown_files,
    verify_features,
)
from hilbert.store_files import (
    DOCUMENTS,
    MANIFEST,
    PRIVATE_COLUMNS,
    Array,
    Dtype,
    check_covered,
    check_target,
    clean_documents,
    commit,
    encoder_description,
    files_of,
    fingerprint_of,
    link,
    parse_manifest,
    staging,
    write_modality,
)
from hilbert.tables import table_text

__all__ = ["PRIVATE_COLUMNS", "Dtype", "FeatureStore", "Ragged"]

Matrix = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Ragged:
    """One modality of all documents: `ragged[i]` is document i's features [S_i, D], in segment order.

    Attributes:
        values: [total, D], memory-mapped and read-only.
        offsets: [N + 1] int64.
        segments: [total] int64, the segments' numbers in the cohort.
    """

    values: Matrix
    offsets: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> Matrix:
        document = range(len(self))[document]
        return self.values[self.offsets[document] : self.offsets[document + 1]]

    @property
    def dim(self) -> int:
        """Features per segment."""
        return int(self.values.shape[1])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[N] segments per document."""
        return np.diff(self.offsets)


@dataclass(frozen=True, eq=False, repr=False)
class FeatureStore:
    """Features and labels of a cohort. Open it with `FeatureStore.open`, make one with `write` or `hilbert extract`.

    Pickles as its path: a worker process that receives it opens the same files, and fails if they have changed.

    Attributes:
        folder: absolute path of the store.
        manifest: the content of manifest.json.
        documents: [N rows] document_id, group_id if there is one, label columns; strings, None where missing.
        audio: audio features, or None where the store has none.
        text: text features, or None where the store has none.
        stamps: what each file of features was known by when it was opened, see `hilbert.verified`.
    """

    folder: Path
    manifest: Mapping[str, Any]
    documents: pd.DataFrame
    audio: Ragged | None
    text: Ragged | None
    stamps: Mapping[str, verified.Stamp] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.documents)

    def __repr__(self) -> str:
        sizes = f"{len(self)} documents, audio {self.audio_dim}, text {self.text_dim} features"
        return f"FeatureStore({str(self.folder)!r}: {sizes})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.folder), self.fingerprint, self.known)

    @property
    def document_ids(self) -> list[str]:
        """The documents' names, in the store's order."""
        return list(self.documents["document_id"])

    @property
    def groups(self) -> list[str]:
        """[N] group of every document; one without `group_id`, or with a code such as NA, is a group of its own."""
        given = read_groups(self.documents.get("group_id", pd.Series([None] * len(self), dtype=object)).tolist()).names
        mark = "alone: "
        while any(group is not None and group.startswith(mark) for group in given):
            mark = f"({mark})"  # never equal to a group that somebody named
        return [
            f"{mark}{name}" if group is None else group for name, group in zip(self.document_ids, given, strict=True)
        ]

    @property
    def audio_dim(self) -> int:
        """Features per audio segment; 0 without audio."""
        return self.audio.dim if self.audio is not None else 0

    @property
    def text_dim(self) -> int:
        """Features per text segment; 0 without text."""
        return self.text.dim if self.text is not None else 0

    @property
    def encoders(self) -> dict[str, Any]:
        """The encoders' descriptions by modality; `{"name": None}` for features of unknown origin."""
        return {name: modality["encoder"] for name, modality in self.manifest["modalities"].items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the contents of all files: labels and features, and nothing else."""
        return fingerprint_of(self.manifest)

    @classmethod
    def open(cls, folder: str | Path, *, verify: Literal["size", "sha256"] = "size") -> Self:
        """Open a store.

        Args:
            folder: the store's folder.
            verify: "size" compares the files' sizes, shapes and types with the manifest, and of documents.csv every
                byte, in no time; features are compared before they are used, see `verify`. "sha256" reads everything
                at once.

        Raises:
            LabelsChangedError: documents.csv isn't what was written.
            StoreError: the store is missing, damaged, foreign or of another version; the message names the file.
        """
        folder = Path(folder).absolute()
        manifest = _read_manifest(folder)
        if verify not in ("size", "sha256"):
            raise ValueError(f"verify is 'size' or 'sha256', not {verify!r}")
        check_files(folder, manifest)
        check_labels(folder, manifest)
        stamps = stamps_of(folder, manifest)
        if verify == "sha256":
            for name in stamps:
                compare(folder, manifest, name)
        store = cls._assembled(folder, manifest, read_documents(folder / DOCUMENTS), stamps)
        if verify == "sha256":
            for name in stamps:
                store._check_values(name)
            verified.remember(entries(folder, manifest, stamps))
        return store

    @classmethod
    def _assembled(
        cls, folder: Path, manifest: Mapping[str, Any], documents: pd.DataFrame, stamps: Mapping[str, verified.Stamp]
    ) -> Self:
        parts = {
            name: _open_modality(folder, name, entry, len(documents)) for name, entry in manifest["modalities"].items()
        }
        return cls(folder, manifest, documents, parts.get("audio"), parts.get("text"), stamps)

    @property
    def known(self) -> verified.Known:
        """The files that were verified, as other processes can be told of them: see `hilbert.verified.trust`."""
        return known(self.folder, self.manifest, self.stamps)

    @property
    def unverified(self) -> list[str]:
        """Names of the files that `verify` would have to read."""
        return unknown_files(self.folder, self.manifest, self.stamps)

    def verify(self) -> None:
        """Compare the features with the manifest by their SHA-256, and look for values that are no features.

        Every file is read once on a computer, see `hilbert.verified`. A sweep, `fit`, a release and a prediction begin
        with this.

        Raises:
            StoreError: a file isn't the one that was written, or holds a value that isn't finite or larger than any
                feature; the message names the file, and for a value document and segment.
        """
        verify_features(self.folder, self.manifest, self.stamps, self._check_values)

    def _check_values(self, name: str) -> None:
        part: Ragged | None = getattr(self, modality := name.removesuffix(".npy"), None)
        if part is not None:
            where = f"{self.folder / name}: "
            check_plausible(modality, part, names=self.document_ids, where=where, error=StoreError)

    @classmethod
    def write(
        cls,
        folder: str | Path,
        *,
        documents: pd.DataFrame,
        audio: Sequence[Array] | None = None,
        text: Sequence[Array] | None = None,
        audio_encoder: Mapping[str, Any] | str | None = None,
        text_encoder: Mapping[str, Any] | str | None = None,
        audio_segments: Sequence[Sequence[int] | Array] | None = None,
        text_segments: Sequence[Sequence[int] | Array] | None = None,
        dtype: Dtype = "float32",
        cohort: Mapping[str, Any] | None = None,
        extraction: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Write features, from `hilbert extract` or of your own making, as a store: whole, or not at all.

        Args:
            folder: where the store shall lie.
            documents: [N rows] with `document_id`, optionally `group_id`, and labels. Columns named like transcripts
                or paths (`PRIVATE_COLUMNS`) stay out of the store.
            audio, text: N arrays [S_i, D], one per document in the same order; S_i may be 0, D is the same for all.
            audio_encoder, text_encoder: where the features come from: a name, or a JSON-able description.
            audio_segments, text_segments: N sequences of S_i segment numbers; 0, 1, 2, ... by default.
            dtype: "float32", or "float16" to halve the size.
            cohort: {"fingerprint": ..., ...} of the cohort the features come from.
            extraction: how they were extracted, for the manifest.
            overwrite: replace a store with other contents that already lies there.

        Raises:
            StoreError: the arrays don't fit each other or the documents, hold values that are not finite (or too big
                for float16), or the folder holds something else.
        """
        folder = Path(folder).absolute()
        check_target(folder)
        documents = clean_documents(documents)
        sources = {"audio": (audio, audio_segments, audio_encoder), "text": (text, text_segments, text_encoder)}
        with staging(folder) as new:
            (new / DOCUMENTS).write_text(table_text(documents), encoding="utf-8", newline="")
            names = documents["document_id"].tolist()
            modalities = {
                name: write_modality(new, name, arrays, numbers, names, dtype)
                | {"encoder": encoder_description(encoder)}
                for name, (arrays, numbers, encoder) in sources.items()
                if arrays is not None
            }
            check_covered(new, modalities, names)
            commit(new, folder, modalities, cohort=cohort, extraction=extraction, overwrite=overwrite)
        return cls._written(folder)

    @classmethod
    def _written(cls, folder: Path) -> Self:
        """Opens what was written, and compared, just now."""
        store = cls.open(folder)
        verified.remember(entries(folder, store.manifest, store.stamps))
        return store

    def write_part(self, folder: str | Path, documents: Sequence[int], *, overwrite: bool = False) -> Self:
        """Write some documents, by their row numbers, as a store of their own: to keep people apart for later, say.

        Raises:
            StoreError: as `write` and `verify`.
        """
        self.verify()
        parts: dict[str, Any] = {}
        for name in self.manifest["modalities"]:
            whole: Ragged = getattr(self, name)
            parts[name] = [whole[row] for row in documents]
            parts[f"{name}_encoder"] = self.encoders[name]
            parts[f"{name}_segments"] = [
                whole.segments[whole.offsets[row] : whole.offsets[row + 1]] for row in documents
            ]
        dtype = next(iter(self.manifest["modalities"].values()))["dtype"]
        table, extraction = self.documents.iloc[list(documents)], self.manifest["extraction"]
        return self.write(folder, documents=table, dtype=dtype, extraction=extraction, overwrite=overwrite, **parts)

    def with_documents(self, documents: pd.DataFrame, **about: Mapping[str, Any]) -> Self:
        """Replace the labels, and nothing else, of this store on disk; features that were verified aren't read again.

        Args:
            documents: the same documents in the same order, with other columns.
            about: the manifest's entries `cohort` and `extraction`; as before by default.

        Raises:
            StoreError: the documents are others, or the features have changed since they were written.
        """
        documents = clean_documents(documents)
        if documents["document_id"].tolist() != self.document_ids:
            raise StoreError(f"{self.folder}: new labels must be for the same documents, in the same order")
        self.verify()
        features = {name: entry for name, entry in self.manifest["files"].items() if name != DOCUMENTS}
        with staging(self.folder) as new:
            for name in features:
                link(self.folder / name, new / name)
            (new / DOCUMENTS).write_text(table_text(documents), encoding="utf-8", newline="")
            about = {name: self.manifest[name] for name in ("cohort", "extraction")} | about
            commit(new, self.folder, self.manifest["modalities"], compared=features, overwrite=True, **about)
        return self._written(self.folder)


def open_for_labels(folder: Path, documents: pd.DataFrame) -> FeatureStore:
    """Opens a store whose documents.csv was edited in place, so that `with_documents` can write it again.

    Args:
        folder: the store's folder.
        documents: the store's documents in its order, as whoever extracted them knows them.

    Raises:
        StoreError: as `FeatureStore.open`, but for documents.csv, which isn't looked at.
    """
    manifest = _read_manifest(folder)
    check_files(folder, manifest)
    return FeatureStore._assembled(folder, manifest, documents, stamps_of(folder, manifest))


def _reopen(folder: str, fingerprint: str, known: verified.Known) -> FeatureStore:
    verified.trust(known)
    store = FeatureStore.open(folder)
    if store.fingerprint != fingerprint:
        raise StoreError(f"{folder}: the store has changed since this work began; start again with the new one")
    return store


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such feature store; make one with 'hilbert extract COHORT {folder}'")
    if not path.is_file():
        raise StoreError(f"{path}: missing; {folder} is not a feature store (hilbert extract makes one)")
    with explained(path, StoreError, "extract the features again"):
        content = content_of(path)
    return parse_manifest(content, path)


def _load_array(path: Path, *, mapped: bool) -> Array:
    with explained(path, StoreError, "extract the features again"):
        return read_array(path, mapped=mapped)


def _open_modality(folder: Path, name: str, entry: Mapping[str, Any], documents: int) -> Ragged:
    values_file, offsets_file, segments_file = (folder / file for file in files_of(name))
    shape, dtype = (entry["segments"], entry["dim"]), entry["dtype"]
    values = _load_array(values_file, mapped=bool(entry["segments"]))
    if values.shape != shape or values.dtype != np.dtype(dtype) or not values.flags.c_contiguous:
        raise StoreError(f"{values_file}: {values.dtype} {list(values.shape)} instead of {dtype} {list(shape)}")
    offsets, segments = _load_array(offsets_file, mapped=False), _load_array(segments_file, mapped=False)
    if offsets.dtype != np.int64 or offsets.shape != (documents + 1,):
        raise StoreError(
            f"{offsets_file}: {offsets.dtype} {list(offsets.shape)}, but {documents} documents in {DOCUMENTS} "
            f"need int64 [{documents + 1}]"
        )
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise StoreError(f"{offsets_file}: must rise from 0 to the {len(values)} rows of {values_file.name}")
    if segments.dtype != np.int64 or segments.shape != (len(values),):
        raise StoreError(f"{segments_file}: {segments.dtype} {list(segments.shape)} instead of int64 [{len(values)}]")
    return Ragged(values, offsets, segments)

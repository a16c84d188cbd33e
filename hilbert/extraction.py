"""From a cohort to a feature store: frozen encoders over every segment, once, resumable.

    plan      Cohort -> Work                 shards: whole documents, one modality each        (`hilbert.shards`)
    encode    Shard, Encoder -> Encoded      pure; may run anywhere that sees the cohort's files: here one by one,
                                             or wherever the caller's `Encode` takes it, in any order
    assemble  Work, Encodeds -> store        in the cohort's order, whatever the order of encoding

Finished shards lie in `STORE.partial/` until the store is complete, named by a hash of what determines them: the bytes
of the audio files, the stretches, the texts and the encoder's description. A rerun therefore takes up exactly what is
still valid, also after a damaged file was replaced or one of the two encoders changed.
"""

import contextlib
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np
import numpy.typing as npt

from hilbert.cohort import Cohort, raise_faults
from hilbert.encoders import Encoder, Modality, load_encoder
from hilbert.errors import InputError, LabelsChangedError, StoreError, shown
from hilbert.features import FeatureStore, open_for_labels
from hilbert.files import make_real
from hilbert.remarks import counts, lines, place_of
from hilbert.shards import Encoded, Features, Shard, Stretch, Work, check_shard, encode_shard, plan, save, saved
from hilbert.store_files import DOCUMENTS, MANIFEST, Dtype, check_target

__all__ = ["Encode", "Progress", "assemble", "encode_here", "encode_shard", "extract", "plan"]

Progress = Callable[[int, int], None]
"""Called with (segments done, segments in all)."""

Encode = Callable[[Path, Work, Sequence[int]], Iterable[tuple[int, Encoded]]]
"""(the cohort's folder, the plan, which of its shards are to do) -> each one's number and result, in any order."""

log = logging.getLogger(__name__)


def extract(
    cohort: Cohort,
    store_folder: str | Path,
    *,
    audio: str | Encoder | None = None,
    text: str | Encoder | None = None,
    window: float | None = None,
    device: str = "auto",
    batch_size: int = 16,
    dtype: Dtype = "float32",
    on_error: Literal["fail", "skip"] = "fail",
    overwrite: bool = False,
    progress: Progress | None = None,
    encode: Encode | None = None,
) -> FeatureStore:
    """Encode a cohort and write the feature store; interrupted, it goes on where it stopped.

    Args:
        cohort: the cohort.
        store_folder: where the store shall lie. A store of the same contents is recognised, and nothing is done; if
            labels alone have changed, labels alone are rewritten.
        audio: the audio encoder, or its name; None leaves audio out.
        text: the text encoder, or its name; None leaves text out.
        window: seconds; longer audio stretches are cut into equal windows no longer than this. Text stays as it is.
        device: auto, cpu, cuda, mps.
        batch_size: segments at once on the device.
        dtype: "float32" or "float16".
        on_error: what to do with audio that can't be decoded: "fail" lists all of it after everything else has been
            encoded and kept; "skip" leaves these segments out, logs their names and counts them in the manifest.
        overwrite: replace a store with other contents.
        progress: called after every shard.
        encode: who encodes the shards that are not done yet, None being `encode_here`; the store is the same.

    Raises:
        InputError: nothing to encode, a wrong argument, an unknown encoder, damaged audio, a document left without
            features, a place that is taken, or another process at work there.
    """
    folder = Path(store_folder).absolute()
    _check_arguments(cohort, audio, text, window, dtype, on_error)
    check_target(folder)
    work = plan(cohort, _load_encoders(audio, text, device, batch_size), window=window, dtype=dtype)
    partial = folder.with_name(folder.name + ".partial")
    with _only_one(partial):
        done = _finished(cohort, folder, work, on_error, overwrite)
        if done is None:
            results = _encode_all(cohort, work, partial, on_error, progress, encode or encode_here)
            done = assemble(cohort, folder, work, results, overwrite=overwrite)
        elif progress is not None:
            progress(work.total, work.total)
        shutil.rmtree(partial, ignore_errors=True)
    return done


def _load_encoders(
    audio: str | Encoder | None, text: str | Encoder | None, device: str, batch_size: int
) -> dict[Modality, Encoder]:
    wanted: tuple[tuple[Modality, str | Encoder | None], ...] = (("audio", audio), ("text", text))
    return {
        modality: load_encoder(given, modality=modality, device=device, batch_size=batch_size)
        if isinstance(given, str)
        else given
        for modality, given in wanted
        if given is not None
    }


def _check_arguments(
    cohort: Cohort,
    audio: str | Encoder | None,
    text: str | Encoder | None,
    window: float | None,
    dtype: str,
    on_error: str,
) -> None:
    if audio is None and text is None:
        raise InputError("nothing to extract: give an audio encoder, a text encoder, or both (--audio, --text)")
    if window is not None and not (window > 0 and math.isfinite(window)):
        raise InputError(f"window is {window:g}; give a number of seconds above 0")
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype {shown(dtype)}: a feature store holds float32 or float16")
    if on_error not in ("fail", "skip"):
        raise InputError(f"on_error {shown(on_error)}: give fail or skip")
    used = [column for column, encoder in (("audio", audio), ("text", text)) if encoder is not None]
    filled = set(cohort.segments.loc[cohort.segments[used].notna().any(axis=1), "document_id"])
    bare = [
        f"documents.csv row {row}: document {shown(name)} has no {used[0]}; give an encoder for its other modality, or "
        "delete the row"
        for row, name in cohort.documents["document_id"].items()
        if name not in filled
    ]
    if bare:
        raise_faults(f"{cohort.folder}: documents that this extraction would leave without features:", bare)


@contextlib.contextmanager
def _only_one(partial: Path) -> Iterator[None]:
    """Hold the work folder for this process alone; the system lets go of it when the process dies."""
    try:
        make_real(partial)
        lock = filelock.FileLock(partial / "lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise StoreError(
            f"{partial}: another process is extracting to this store; wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise StoreError(f"{partial}: can't be written ({error.strerror}); name another folder") from None
    try:
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            (partial / "lock").unlink(missing_ok=True)
            partial.rmdir()  # refused, rightly, where finished shards wait


def _finished(cohort: Cohort, folder: Path, work: Work, on_error: str, overwrite: bool) -> FeatureStore | None:
    """The store that is there already, with its labels brought up to date; None where there is work to do."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        store, edited = _there(folder, cohort)
        store.verify()
    except StoreError as error:
        if overwrite:
            return None
        raise StoreError(f"{error} (--overwrite replaces it)") from None
    there = dict(store.manifest["extraction"])
    skipped = sum(there.get("skipped", {}).values())
    unnoted = [name for name in work.encoders if store.encoders.get(name, {}).get("revision", "") is None]
    same = there.get("key") in {work.key(cohort.document_ids), work.key(cohort.document_ids, unnoted=unnoted)}
    if same and any(work.encoders[name].description.get("revision") for name in unnoted):
        log.warning("%s: made by a version that didn't note its encoders' revisions: not checked", folder)
    fault = None
    if same and "audio" in work.encoders and "sound" not in there:
        log.warning("%s: made by a version that didn't look at the sound; it is checked now, once", folder)
        fault = _fault_of_old(cohort, work, there)
    if same and not fault and (not skipped or on_error == "skip"):
        return _with_labels(store, cohort, there, edited=edited)
    if overwrite:
        return None
    why = fault or (f"it lacks {skipped} segments that were skipped" if same else _difference(store, work))
    raise StoreError(
        f"{folder}: a store with other contents lies there ({why}); name another folder, or overwrite it on purpose "
        "(--overwrite)"
    )


def _fault_of_old(cohort: Cohort, work: Work, there: dict[str, Any]) -> str | None:
    """What is wrong with the sound behind a store of an earlier version; else completes the store's entry `there`."""
    results = [check_shard(shard, cohort.folder) for shard in work.shards]
    failures = _failures(cohort, work, results)
    skipped = there.get("skipped", {}).get("audio", 0)
    if len(failures) > skipped:
        return f"{len(failures) - skipped} of its segments should not have been used; unfit are: {failures[0]}; ..."
    if len(failures) < skipped:
        return f"{skipped - len(failures)} segments that it lacks can be used"
    there["sound"] = counts(work, results)
    return None


def _difference(store: FeatureStore, work: Work) -> str:
    """In what the store that is there differs from the one that is wanted."""
    for modality in ("audio", "text"):
        there = store.encoders.get(modality)
        wanted = dict(work.encoders[modality].description) if modality in work.encoders else None
        if there is None and wanted is not None:
            return f"{modality}: the store there lacks it"
        if there is not None and wanted is None:
            return f"{modality}: the store there has it, and this extraction leaves it out"
        if there is not None and wanted is not None and there != wanted:
            told = [
                f"{key} {shown(there.get(key))} instead of {shown(wanted.get(key))}"
                for key in [*wanted, *(key for key in there if key not in wanted)]
                if there.get(key) != wanted.get(key)
            ]
            return f"{modality} encoder: {', '.join(told)}"
    window = store.manifest["extraction"].get("window")
    if window != work.window:
        return f"window {window} instead of {work.window}"
    if any(isinstance(item.content, Stretch) and item.content.anew for shard in work.shards for item in shard.items):
        return "the cohort or the dtype has changed, or an earlier version read some of its recordings wrongly"
    return "the cohort's documents, segments or audio have changed, or the dtype"


def _there(folder: Path, cohort: Cohort) -> tuple[FeatureStore, bool]:
    """The store that is there, and whether its documents.csv was edited in place: then with the cohort's documents."""
    try:
        return FeatureStore.open(folder), False
    except LabelsChangedError:
        with contextlib.suppress(StoreError):
            return open_for_labels(folder, cohort.documents), True
        raise


def _with_labels(store: FeatureStore, cohort: Cohort, extraction: Mapping[str, Any], *, edited: bool) -> FeatureStore:
    """The same features with the cohort's labels: only documents.csv and the manifest are new."""
    wanted = _cohort_entry(cohort)
    if edited:
        log.warning(
            "%s: had been edited in place, and is written again with the labels of %s",
            *(store.folder / DOCUMENTS, cohort.folder / DOCUMENTS),
        )
    elif store.manifest["cohort"] == wanted:
        if store.manifest["extraction"] == extraction:
            return store
        with contextlib.suppress(OSError, StoreError):  # the store is right, even where nothing can be written into it
            return store.with_documents(cohort.documents, cohort=wanted, extraction=extraction)
        return store
    return store.with_documents(cohort.documents, cohort=wanted, extraction=extraction)


def _cohort_entry(cohort: Cohort) -> dict[str, Any]:
    missing = {"missing": list(cohort.missing)} if cohort.missing else {}
    return {"fingerprint": cohort.fingerprint(), "documents": len(cohort), "segments": len(cohort.segments), **missing}


def encode_here(folder: Path, work: Work, places: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
    """Encode shards in this process, one by one: an `Encode`."""
    for place in places:
        shard = work.shards[place]
        yield place, encode_shard(shard, work.encoders[shard.modality], folder)


def _encode_all(
    cohort: Cohort, work: Work, partial: Path, on_error: str, progress: Progress | None, encode: Encode
) -> list[Encoded]:
    """Every shard's result, from the work folder where it is there already."""
    keys = [shard.key(work.encoders[shard.modality].description) for shard in work.shards]

    def kept(place: int) -> Encoded | None:
        shard = work.shards[place]
        found = saved(partial, keys[place], shard, work.encoders[shard.modality].dim, cohort.folder)
        # A shard with failures counts only where they are accepted: else it is tried again next time.
        return None if found is not None and found.failures and on_error == "fail" else found

    results = {place: found for place in range(len(keys)) if (found := kept(place)) is not None}
    to_do = [place for place in range(len(keys)) if place not in results]
    total = work.total
    done = total - sum(len(work.shards[place].items) for place in to_do)
    if done and progress is not None:
        progress(done, total)
    for place, result in encode(cohort.folder, work, to_do) if to_do else ():
        if on_error == "skip" or not result.failures:
            save(partial, keys[place], result)
        results[place] = kept(place) or result  # mapped, not held in memory
        done += len(work.shards[place].items)
        if progress is not None:
            progress(done, total)
    ordered = [results[place] for place in range(len(keys))]
    _tell(cohort, work, ordered, on_error)
    return ordered


def _failures(cohort: Cohort, work: Work, results: Sequence[Encoded]) -> list[str]:
    """What could not be read, in the cohort's order."""
    return [
        f"{place_of(cohort, shard.items[place])} {why}"
        for shard, result in zip(work.shards, results, strict=True)
        for place, why in sorted(result.failures.items())
    ]


def _tell(cohort: Cohort, work: Work, results: Sequence[Encoded], on_error: str) -> None:
    """Lists what could not be read: as an error, or as warnings where it may be left out; and what is odd."""
    failures = _failures(cohort, work, results)
    if failures and on_error == "fail":
        raise_faults(
            f"{cohort.folder}: {len(failures)} segment(s) can't be read; replace the files and run the same command "
            "again, or leave these segments out with --on-error skip (what is done is kept):",
            failures,
        )
    for failure in failures:
        log.warning("left out: %s", failure)
    for line in lines(cohort, work, results):
        log.warning("%s", line)


# --- assemble --------------------------------------------------------------------------------------------------------


def assemble(
    cohort: Cohort, folder: Path, work: Work, results: Sequence[Encoded], *, overwrite: bool = False
) -> FeatureStore:
    """Write the store from every shard's result.

    Args:
        cohort: the cohort that was planned.
        folder: where the store shall lie.
        work: the plan.
        results: one per shard, in the plan's order.
        overwrite: replace a store with other contents.

    Raises:
        InputError: a document is left with neither modality, because all its audio failed.
        StoreError: values too big for float16, or the place is taken.
    """
    values: dict[str, list[Features]] = {}
    numbers: dict[str, list[npt.NDArray[np.int64]]] = {}
    for modality, encoder in work.encoders.items():
        pairs = [pair for pair in zip(work.shards, results, strict=True) if pair[0].modality == modality]
        values[modality], numbers[modality] = _by_document(pairs, work.documents, encoder.dim)
    _check_left(cohort, values)
    skipped = dict.fromkeys(work.encoders, 0)
    for shard, result in zip(work.shards, results, strict=True):
        skipped[shard.modality] += len(result.failures)
    sound = {"sound": counts(work, results)} if "audio" in work.encoders else {}
    return FeatureStore.write(
        folder,
        documents=cohort.documents,
        audio=values.get("audio"),
        text=values.get("text"),
        audio_encoder=work.encoders["audio"].description if "audio" in work.encoders else None,
        text_encoder=work.encoders["text"].description if "text" in work.encoders else None,
        audio_segments=numbers.get("audio"),
        text_segments=numbers.get("text"),
        dtype=work.dtype,
        cohort=_cohort_entry(cohort),
        extraction={"key": work.key(cohort.document_ids), "window": work.window, "skipped": skipped} | sound,
        overwrite=overwrite,
    )


def _by_document(
    pairs: Sequence[tuple[Shard, Encoded]], documents: int, dim: int
) -> tuple[list[Features], list[npt.NDArray[np.int64]]]:
    """[S_i, D] rows and [S_i] segment numbers of every document; views, so that nothing is copied."""
    values = [np.empty((0, dim), np.float32)] * documents
    numbers = [np.empty(0, np.int64)] * documents
    for shard, result in pairs:
        kept = [item for place, item in enumerate(shard.items) if place not in result.failures]
        row = 0
        for document, group in groupby(kept, key=lambda item: item.document):
            of_one = [item.segment for item in group]
            values[document] = result.values[row : row + len(of_one)]
            numbers[document] = np.array(of_one, np.int64)
            row += len(of_one)
    return values, numbers


def _check_left(cohort: Cohort, values: Mapping[str, Sequence[Features]]) -> None:
    bare = [
        f"documents.csv row {row}: document {shown(name)}"
        for place, (row, name) in enumerate(cohort.documents["document_id"].items())
        if not any(len(of_one[place]) for of_one in values.values())
    ]
    if bare:
        raise_faults(
            f"{cohort.folder}: none of these documents' audio can be read, and they have no text to go by; replace the "
            "files, or delete the rows:",
            bare,
        )

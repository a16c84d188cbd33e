"""Predictions of new people: from a release and a cohort, or a feature store, to tables.

A cohort is encoded first, by the encoders that the release names. A store is taken as it is, if they made it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hilbert.cells import number, tidy, told_counts
from hilbert.cohort import DOCUMENTS, SEGMENTS, Cohort
from hilbert.config import TaskConfig
from hilbert.encoders import Modality, load_encoder
from hilbert.errors import InputError, StoreError, shown
from hilbert.extraction import extract
from hilbert.features import FeatureStore
from hilbert.label_cells import read_labels
from hilbert.metrics import Array, auc, bootstrap_interval, brier
from hilbert.predicted import MODALITIES, Predicted
from hilbert.release import Release
from hilbert.store_files import MANIFEST
from hilbert.tasks import suspicions
from hilbert.temporary import temporary_folder

logger = logging.getLogger(__name__)

FREE = ("name", "precision")
"""Of an encoder's description, what may differ where the revision is known: a folder's path; half precision on GPUs."""

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""


def predict(
    model: Release | str | Path,
    data: FeatureStore | Cohort | str | Path,
    *,
    audio: str | None = None,
    text: str | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 16,
    encoding: Progress = lambda _done, _total: None,
    progress: Progress = lambda _done, _total: None,
) -> Predicted:
    """Predicts every document of a cohort or a feature store.

    Args:
        model: a release, or its folder.
        data: a feature store or a cohort, or the folder of one.
        audio: where the audio encoder lies now, as `hf:models/whisper`, if not where the release says; it must be the
            same one. For cohorts alone.
        text: likewise.
        store: folder in which a cohort's features are kept; interrupted, encoding goes on there. Without it they are
            not kept.
        device: of the encoders: auto, cpu, cuda, mps. The model itself runs on the CPU.
        batch_size: segments encoded at once; no result depends on it.
        encoding: called after every shard of segments.
        progress: called after every few documents.

    Raises:
        InputError: no release or no data there, a damaged file, or features of other encoders.
    """
    release = model if isinstance(model, Release) else Release.load(model)
    found = open_data(data)
    if isinstance(found, FeatureStore):
        return _predict(release, found, progress)
    given: dict[Modality, str | None] = {"audio": audio, "text": text}
    encoders = {
        name: load_encoder(told or _encoder_name(release, name), modality=name, device=device, batch_size=batch_size)
        for name, told in given.items()
    }
    descriptions: dict[str, Mapping[str, Any]] = {name: encoder.description for name, encoder in encoders.items()}
    check_encoders(release, descriptions, where=str(found.folder))
    with temporary_folder() as folder:
        features = extract(
            found,
            store or folder / "features",
            audio=encoders["audio"],
            text=encoders["text"],
            window=release.window,
            dtype=release.dtype,
            progress=encoding,
        )
        return _predict(release, features, progress)


def _predict(release: Release, store: FeatureStore, progress: Progress) -> Predicted:
    check_encoders(release, store.encoders, where=str(store.folder))
    window = (store.manifest["extraction"] or {}).get("window")
    if window != release.window:
        logger.warning(
            "%s was extracted with --window %s, the features that %s learned from with %s: segments of other lengths",
            *(store.folder, window or "none", release.name, release.window or "none"),
        )
    found = release.predict(store, names=store.document_ids, progress=progress)
    groups = store.documents.get("group_id")
    seen = release.seen(store, names=store.document_ids, groups=None if groups is None else groups.tolist())
    return replace(found, seen=seen)


def check_encoders(release: Release, encoders: Mapping[str, Mapping[str, Any]], *, where: str) -> None:
    """Whether features are of the encoders that the release was trained with.

    Args:
        release: the release.
        encoders: descriptions by modality, as a store's manifest has them.
        where: the features' place, for messages.

    Raises:
        StoreError: they are others: another model, revision, layer, pooling or dimension.
    """
    for name in MODALITIES:
        if name not in encoders:
            raise StoreError(
                f"{where}: holds no {name} features, and {shown(release.name)} needs both; extract with --{name}"
            )
        trained, found = release.encoders[name], encoders[name]
        unnoted = trained.get("revision", "") is None
        free = ("revision",) if unnoted else FREE if trained.get("revision") and found.get("revision") else ()
        told = [
            f"{key} {shown(found.get(key))} instead of {shown(trained.get(key))}"
            for key in [*trained, *(key for key in found if key not in trained)]
            if found.get(key) != trained.get(key) and key not in free
        ]
        if told:
            raise StoreError(
                f"{where}: {name} features of another encoder than {shown(release.name)} was trained with"
                f" ({trained.get('name')}): {', '.join(told)}; extract them with that one"
            )
        if unnoted and trained.get("revision") != found.get("revision"):
            logger.warning(
                "%s: the revision of %s isn't known to the release, whose version didn't note it: not checked",
                *(where, trained.get("name")),
            )


def _encoder_name(release: Release, name: str) -> str:
    found = release.encoders[name].get("name")
    if not found:
        raise InputError(
            f"{shown(release.name)} was trained on {name} features of unknown origin: no cohort can be encoded for it;"
            " give a feature store"
        )
    return str(found)


def open_data(data: FeatureStore | Cohort | str | Path) -> FeatureStore | Cohort:
    """The feature store or the cohort of a folder.

    Raises:
        InputError: it is neither.
    """
    if isinstance(data, FeatureStore | Cohort):
        return data
    folder = Path(data)
    if (folder / MANIFEST).is_file():
        return FeatureStore.open(folder)
    if (folder / DOCUMENTS).is_file() or (folder / SEGMENTS).is_file():
        return Cohort.load(folder)
    why = "neither a feature store nor a cohort" if folder.is_dir() else "no such folder"
    raise InputError(f"{folder}: {why}; a store holds {MANIFEST}, a cohort {DOCUMENTS} and {SEGMENTS}")


def evaluate(
    predicted: Predicted, documents: pd.DataFrame, *, missing: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """How good predictions are of documents whose labels are known: of people whom the model has never seen.

    Those that the model has learned from, as `predicted.seen` has them, are left out; where it has nothing, nobody is.

    Args:
        predicted: the predictions.
        documents: of the same documents in the same order: `group_id`, if there is one, and label columns.
        missing: by task, codes that count as a missing label beside the usual ones: `missing_codes` of the release.

    Returns:
        One row a task that has a label column: `task`, `labelled` documents that count, `auc`, `low` and `high` (95 %
        bootstrap interval that resamples groups), `brier`; None where undefined. A label that isn't one of the task's
        classes, or no number, counts as missing, and is said to be in the log.
    """
    rows = []
    groups = documents.get("group_id")
    columns = {tidy(str(column)): column for column in documents.columns}
    for task, spec in predicted.tasks.items():
        column = columns.get(task)
        if column is None:
            continue
        codes = (missing or {}).get(task, ())
        y, scores = _numbers(documents[column], task, spec, codes), predicted.scores[task]
        if predicted.seen is not None:
            y = np.where(predicted.seen.known, np.nan, y)
        interval = bootstrap_interval(y, scores, spec.kind, groups=None if groups is None else list(groups))
        rows.append(
            {
                "task": task,
                "labelled": int((~np.isnan(y)).sum()),
                "auc": auc(y, scores, spec.kind),
                "low": interval and interval[0],
                "high": interval and interval[1],
                "brier": None if spec.kind == "regression" else brier(y, scores, spec.kind),
            }
        )
    return pd.DataFrame(rows, columns=["task", "labelled", "auc", "low", "high", "brier"])


def _numbers(cells: "pd.Series[Any]", task: str, spec: TaskConfig, codes: Sequence[str]) -> Array:
    """Class numbers or values, [N], NaN where missing."""
    given = [None if pd.isna(cell) else str(cell) for cell in cells]
    numeric = spec.kind == "regression"
    classes = [tidy(one) for one in spec.classes]
    read = read_labels(given, classes=classes or None, numeric=numeric, codes=[tidy(code) for code in codes])
    place = {one: float(position) for position, one in enumerate(classes)}
    values = {text: number(text) if numeric else place.get(text) for text in set(read.texts) if text is not None}
    unknown = sorted(text for text, value in values.items() if value is None)
    known = [value for text in read.texts if text is not None and (value := values[text]) is not None]
    for note in [*read.notes(task), *(suspicions(task, known) if numeric else [])]:
        logger.warning("%s", note)
    if read.missing:
        logger.warning("%s: counted as missing: %s", task, told_counts(read.missing))
    if unknown:
        told = told_counts({text: read.texts.count(text) for text in unknown})
        logger.warning("%s: labels that the model doesn't know count as missing: %s", task, told)
    found = [None if text is None else values[text] for text in read.texts]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def missing_codes(release: Release) -> dict[str, list[str]]:
    """By task, the codes that counted as a missing label where the release was trained, as far as they were named."""
    tasks = (release.made.get("configuration") or {}).get("tasks") or {}
    extracted = [str(code) for code in release.made.get("missing") or ()]
    named = {task: told.get("missing_values") or () for task, told in tasks.items() if isinstance(told, Mapping)}
    return {task: [*map(str, named.get(task, ())), *extracted] for task in release.tasks}

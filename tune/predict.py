"""`hilbert predict`: from a released model, wherever it lies, and new people to tables on disk.

Needs neither Ray nor Optuna, and MLflow only for a model that is named by MLflow's address.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hilbert import inference
from hilbert.cohort import Cohort
from hilbert.errors import InputError
from hilbert.features import FeatureStore
from hilbert.files import unforeseen
from hilbert.learned import Seen
from hilbert.predicted import Predicted, check_one_embedding
from hilbert.release import Release
from hilbert.spreadsheets import csv_text
from hilbert.temporary import temporary_folder
from tune.bars import counted
from tune.output import check_file
from tune.space import is_url
from tune.stores import open_location

FORMATS = (".csv", ".parquet")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN`, or a folder.
        data: folder of a cohort or of a feature store, or a store's URL.
        output: the table to write, .csv or .parquet.
        embeddings: also write the embeddings.
        explain: also write segments' and experts' weights.
        audio: where the audio encoder lies now, if elsewhere.
        text: likewise.
        store: where a cohort's features are kept.
        device: of the encoders.
        batch_size: segments encoded at once.
        overwrite: whether the tables may be there already.
    """

    model: str
    data: str
    output: Path
    embeddings: bool = False
    explain: bool = False
    audio: str | None = None
    text: str | None = None
    store: Path | None = None
    device: str = "auto"
    batch_size: int = 16
    overwrite: bool = False


def predict(request: Request, *, uri: str | None, console: Console) -> list[Path]:
    """Predicts, and writes the tables; returns their paths, the predictions' first.

    Args:
        request: what is asked for.
        uri: the tracking server or store, see `tune.tracking.tracking_uri`.
        console: where progress goes.

    Raises:
        InputError: the model or the data can't be had, they don't fit each other, or a table can't be written.
    """
    places = _places(request)
    _check(request, places)
    data = open_location(request.data) if is_url(request.data) else inference.open_data(request.data)
    with _model(request.model, uri) as release, counted(console, "segments") as bar:
        if request.embeddings:
            check_one_embedding(len(release.members))
        found = inference.predict(
            release,
            data,
            audio=request.audio,
            text=request.text,
            store=request.store,
            device=request.device,
            batch_size=request.batch_size,
            encoding=lambda done, total: bar(done, total, "segments"),
            progress=lambda done, total: bar(done, total, "documents"),
        )
    _write(_tables(found, request), places)
    _judge(release, data, found, console)
    return list(places.values())


def _judge(release: Release, data: FeatureStore | Cohort, found: Predicted, console: Console) -> None:
    """Says whom of these people the model has learned from, and how good the predictions of the others are."""
    whole, seen, count = _learned_from(release, data), found.seen, len(found.documents)
    quality = inference.evaluate(found, data.documents, missing=inference.missing_codes(release))
    known = count if whole else 0 if seen is None else int(seen.known.sum())
    labelled = bool(quality["labelled"].any())
    if known == count:
        _say(console, f"the model has learned from these very people ({count}): {OF_KNOWN}")
        return
    if known:
        _say(console, f"the model has learned from {known} of these {count} people: {OF_KNOWN}")
    elif seen is None and labelled:
        _say(console, UNKNOWN)
    elif labelled:
        _say(console, f"the model has learned from none of these {count} people, as far as their features tell")
    for hint in _hints(seen) if seen is not None and labelled else ():
        _say(console, hint)
    _show_quality(quality, console, only_new=bool(known))


OF_KNOWN = "how well it predicts them says nothing of new ones"
UNKNOWN = (
    "not known whether the model has learned from any of these people: its release is of an older version, which kept"
    f" no trace of them; of those that it has learned from, {OF_KNOWN}"
)


def _hints(seen: Seen) -> Iterator[str]:
    """What makes one doubt that the others are new, one line each."""
    told = {
        "have the document_id of somebody whom it has learned from, with other features": seen.ids,
        "say the same words as somebody whom it has learned from, with other audio": seen.words,
    }
    for what, marked in told.items():
        if marked.any():
            yield (
                f"{int(marked.sum())} of those that count as new {what}: if they are the same people, recorded or"
                " encoded anew, the numbers below are too good"
            )
    if seen.groups.any():
        yield (
            f"{int(seen.groups.sum())} of those that count as new have the group_id of somebody whom it has learned"
            " from: if these are the same families or sites, the numbers below are too good for people of others"
        )


def _say(console: Console, words: str) -> None:
    console.print(words, highlight=False, markup=False, soft_wrap=True)


def _learned_from(release: Release, data: FeatureStore | Cohort) -> bool:
    """Whether the release was trained on this very data."""
    if isinstance(data, Cohort):
        return release.made.get("cohort") == data.fingerprint()
    cohort = (data.manifest["cohort"] or {}).get("fingerprint")
    return data.fingerprint == release.made.get("fingerprint") or (
        cohort is not None and cohort == release.made.get("cohort")
    )


def _show_quality(quality: pd.DataFrame, console: Console, *, only_new: bool) -> None:
    """How good the predictions are, where the data has labels."""
    if not quality["labelled"].any():
        return
    title = "of new people, against their labels" if only_new else "against the labels that the data has"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for name in ("task", "labelled", "AUC [95 % interval]", "Brier score"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for row in quality.to_dict("records"):
        value = "undefined" if pd.isna(row["auc"]) else f"{row['auc']:.3f}"
        interval = "" if pd.isna(row["low"]) else f" [{row['low']:.3f}, {row['high']:.3f}]"
        brier = "" if pd.isna(row["brier"]) else f"{row['brier']:.3f}"
        table.add_row(row["task"], str(row["labelled"]), value + interval, brier)
    console.print(table)


def _places(request: Request) -> dict[str, Path]:
    """Where each table goes: the predictions as asked for, the others beside them."""
    wanted = [
        *(["embeddings"] if request.embeddings else []),
        *(["segments", "experts"] if request.explain else []),
    ]
    stem, ending = request.output.with_suffix(""), request.output.suffix
    return {"predictions": request.output} | {name: stem.with_name(f"{stem.name}.{name}{ending}") for name in wanted}


def _check(request: Request, places: Mapping[str, Path]) -> None:
    """Everything that can be wrong before hours of encoding."""
    if request.output.suffix not in FORMATS:
        raise InputError(f"--output {request.output}: must end with {' or '.join(FORMATS)}")
    check_file(request.output)
    there = [path for path in places.values() if path.exists()]
    if there and not request.overwrite:
        raise InputError(f"{there[0]}: is there already; name another file, or replace it with --overwrite")


def _tables(found: Predicted, request: Request) -> dict[str, pd.DataFrame]:
    tables = {"predictions": found.table()}
    if request.embeddings:
        tables["embeddings"] = found.embedding_table()
    if request.explain:
        tables |= {"segments": found.segment_table(), "experts": found.expert_table()}
    return tables


def _write(tables: Mapping[str, pd.DataFrame], places: Mapping[str, Path]) -> None:
    """Writes all tables beside their places, then renames them."""
    partials = {name: unforeseen(path) for name, path in places.items()}
    try:
        for name, table in tables.items():
            if places[name].suffix == ".csv":
                partials[name].write_text(csv_text(table), encoding="utf-8")
            else:
                table.to_parquet(partials[name], index=False)
        for name, partial in partials.items():
            partial.replace(places[name])
    except OSError as error:
        raise InputError(f"{places['predictions']}: can't be written ({error.strerror or error})") from None
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


@contextmanager
def _model(model: str, uri: str | None) -> Iterator[Release]:
    """The release that `model` names."""
    if not re.match("models:/|runs:/", model):
        folder = Path(model)
        if not folder.is_dir():
            raise InputError(f"{model}: no such folder; name a release's folder, models:/NAME@champion or runs:/RUN")
        yield Release.load(folder)
        return
    try:
        import_module("mlflow.artifacts")  # where it isn't installed, a folder of that name may pass for it
    except ImportError:
        raise InputError(f"{model}: MLflow isn't installed here; copy the release's folder, and name that") from None
    from tune.registry import fetch
    from tune.tracking import connect_to_read, tracking_uri

    with temporary_folder() as beside:
        yield Release.load(fetch(connect_to_read(tracking_uri(uri), f"model {model}"), model, beside))

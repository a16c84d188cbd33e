"""What comes out of MLflow's artifacts, read so that no damage to it does harm: see `hilbert.reading`."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field, TypeAdapter

from hilbert.errors import shown
from hilbert.reading import Content, Damaged, checked, content_of, open_regular, parse_json

MOST_ROWS = 100_000_000
"""Rows of a table of predictions, at most."""
MOST_BYTES = 1 << 33
"""Bytes of such a table in memory, at most."""
CHECKED: dict[str, Any] = {"index": False, "write_page_checksum": True}
"""How such a table is written: reading notices a changed bit. Tables of older versions have no checksums."""
COLUMNS = ("document_id", "fold", "task", "label", "class", "score")

Count = Annotated[int, Field(ge=0, lt=2**53)]
Positive = Annotated[int, Field(ge=1, le=10_000)]


class _Task(Content):
    kind: Literal["binary", "multiclass", "regression"]
    classes: dict[str, Count] = Field(default_factory=dict)


class _Folds(Content):
    n_splits: Positive
    repeats: Positive


class _Data(Content):
    tasks: dict[str, _Task]
    folds: _Folds


class _Part(Content):
    encoder: dict[str, Any] | None
    dim: Count
    segments: Count


class _Store(Content):
    fingerprint: str
    audio: _Part
    text: _Part


class _TaskAsTold(_Task):
    missing: Count


class _FoldsAsTold(_Folds):
    splits: str


class _Whole(Content):
    documents: Count
    groups: Count
    stores: dict[str, _Store]
    tasks: dict[str, _TaskAsTold]
    folds: _FoldsAsTold


class _Model(Content):
    width: Count
    experts: Count
    expert_width: Count
    layers: Count


class _Configuration(Content):
    features: str
    tasks: dict[str, Any]
    model: _Model
    loss: dict[str, Any]
    train: dict[str, Any]
    seed: Count


_DATA, _WHOLE = TypeAdapter(_Data), TypeAdapter(_Whole)
_CONFIGURATION, _OBJECT = TypeAdapter(_Configuration), TypeAdapter(dict[str, Any])


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Fault: it is something else.
    """
    return checked(parse_json(content_of(path)), _OBJECT)


def read_data(path: Path, *, whole: bool = False) -> dict[str, Any]:
    """A study's data.json: tasks and folds, or `whole` also the numbers and stores that a report shows.

    Raises:
        Fault: it is damaged.
    """
    found = read_object(path)
    schema: TypeAdapter[Any] = _WHOLE if whole else _DATA
    checked(found, schema)
    return found


def read_configuration(path: Path) -> dict[str, Any]:
    """A trial's configuration.json.

    Raises:
        Fault: it is damaged.
    """
    found = read_object(path)
    checked(found, _CONFIGURATION)
    return found


def read_predictions(path: Path) -> pd.DataFrame:
    """A trial's predictions.parquet: see `tune.predictions`.

    Raises:
        Fault: it is damaged, or not such a table.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            about = ParquetFile(file).metadata
            groups = [about.row_group(place) for place in range(about.num_row_groups)]
            if about.num_rows > MOST_ROWS or sum(group.total_byte_size for group in groups) > MOST_BYTES:
                raise Damaged(f"{about.num_rows:,} rows in {size:,} bytes")
            table = pd.read_parquet(path, page_checksum_verification=True)
        except (ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError) as error:
            raise error if isinstance(error, Damaged) else Damaged(f"not a Parquet file ({error})") from None
    _check_table(table)
    return table


def _check_table(table: pd.DataFrame) -> None:
    absent = set(COLUMNS) - set(table.columns)
    if absent:
        raise Damaged(f"it has no column {shown(min(absent))}")
    if not table.columns.is_unique:
        raise Damaged("it has a column twice")
    kinds = {name: pd.api.types.infer_dtype(table[name], skipna=name == "label") for name in COLUMNS}
    expected = {"fold": {"integer", "empty"}, "score": {"floating", "empty"}}
    for name, kind in kinds.items():
        if len(table) and kind not in expected.get(name, {"string", "empty"}):
            raise Damaged(f"its column {shown(name)} holds {kind} values")

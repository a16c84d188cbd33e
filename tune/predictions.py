"""Held-out predictions as a table: what the prediction artifacts hold."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

import pandas as pd

from hilbert.config import TaskConfig
from tune.job import JobRecord


def hashed(document: str, key: bytes) -> str:
    """A document's id as a keyed hash, 16 hexadecimal digits: the same within a study, without a way back."""
    return hmac.new(key, document.encode(), hashlib.sha256).hexdigest()[:16]


def predictions(
    records: Sequence[JobRecord], tasks: Mapping[str, TaskConfig], *, id_key: bytes | None = None
) -> pd.DataFrame:
    """One row a held-out document, fold, task and class.

    Columns: `document_id`, `fold`, `task`, `label` (class or number as text; missing where unlabelled), `class` (that
    the score is of; empty for regression), `score` (probability, or number in the label's units).

    Args:
        records: fold jobs that are done.
        tasks: the tasks with their classes.
        id_key: replaces the document ids by hashes with this key.
    """
    rows = []
    for record in records:
        names = [hashed(document, id_key) if id_key else document for document in record.document_ids]
        for task, spec in tasks.items():
            classes = spec.classes or ("",)
            for name, label, scores in zip(names, record.labels[task], record.scores[task], strict=True):
                shown = _shown(label, spec)
                rows += [(name, record.fold, task, shown, c, s) for c, s in zip(classes, scores, strict=True)]
    return pd.DataFrame(rows, columns=["document_id", "fold", "task", "label", "class", "score"])


def _shown(label: float | None, spec: TaskConfig) -> str | None:
    """A label as text, every digit of a number kept."""
    if label is None:
        return None
    return spec.classes[int(label)] if spec.classes else repr(label).removesuffix(".0")

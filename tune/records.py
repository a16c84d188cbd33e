"""Records of fold jobs as files: JSON that ends with the SHA-256 of what stands before it.

    {"identity": ..., ..., "checksum": "<SHA-256 of the bytes before, closed by a brace>"}

Records of older versions have no checksum; of these, every value is looked at.
"""

import hashlib
import re
from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic_core import from_json

from hilbert.errors import shown
from hilbert.reading import Content, Damaged, checked, parse_flat_json
from tune.job import JobRecord

LARGEST = 1 << 28
"""Bytes of a record, at most."""
SEAL = re.compile(rb', "checksum": "([0-9a-f]{64})"\}\Z')
SEAL_LENGTH = len(', "checksum": ""}') + 64
KNOWN = frozenset(field.name for field in fields(JobRecord))

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Record(Content):
    identity: str
    fold: Count
    started: Number
    seconds: Number
    error: str
    stopped: bool
    best_epoch: Count
    epochs: dict[str, list[Number | None]]
    document_ids: list[str]
    labels: dict[str, list[Number | None]]
    scores: dict[str, list[list[Number]]]
    auc: dict[str, Number | None]
    usage: Annotated[dict[str, list[Number]], Field(default_factory=dict)]
    gpus: Number = 0.0
    gpu_memory: Count = 0
    gpu_total: Count = 0
    out_of_memory: bool = False
    untrained: Annotated[list[str], Field(default_factory=list)]


_SCHEMA = TypeAdapter(_Record)


def sealed(record: JobRecord) -> bytes:
    """A record as its file holds it."""
    content = record.to_json()
    return content[:-1] + f', "checksum": "{hashlib.sha256(content).hexdigest()}"}}'.encode()


def unsealed(content: bytes, identity: str, *, failed: bool) -> JobRecord:
    """The inverse of `sealed`.

    Args:
        content: of the file.
        identity: of the fold job that it must be of.
        failed: whether it must be of a job that failed; else of one that is done.

    Raises:
        Damaged: it has changed since it was written, is another job's, or no record.
    """
    seal = SEAL.search(content, max(0, len(content) - SEAL_LENGTH))
    if seal is None:
        parsed = _looked_through(content)
    elif hashlib.sha256(content[: seal.start()] + b"}").hexdigest().encode() != seal[1]:
        raise Damaged("changed since it was written: its checksum is another one")
    else:
        parsed = from_json(content)  # four times as fast as Python's own parser, which checks more
    record = JobRecord(**{name: value for name, value in parsed.items() if name in KNOWN})
    if record.identity != identity:
        raise Damaged(f"it is the record of fold job {shown(record.identity)}")
    if bool(record.error) != failed or record.stopped:
        raise Damaged(f"it is the record of a job that {'failed' if record.error else 'is done'}")
    return record


def _looked_through(content: bytes) -> dict[str, Any]:
    """The values of a record that has no checksum, each of them looked at."""
    parsed = parse_flat_json(content)
    unknown = parsed.keys() - KNOWN if isinstance(parsed, dict) else {""}
    if unknown:
        raise Damaged(f"not a record, or with the unknown key {shown(min(unknown))}")
    found = checked(parsed, _SCHEMA)
    if not found.labels.keys() == found.scores.keys() == found.auc.keys():
        raise Damaged("labels, scores and AUCs of different tasks")
    documents = len(found.document_ids)
    for task, scores in found.scores.items():
        if len(scores) != documents or len(found.labels[task]) != documents or len({*map(len, scores)}) > 1:
            raise Damaged(f"labels and scores of {shown(task)} don't fit its {documents} documents")
    return dict(parsed)

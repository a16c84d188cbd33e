"""Cohorts made for tests: sound that is quick to write, and tables as a user would write them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from hilbert.features import FeatureStore

DOCUMENTS = "document_id,group_id,affect\na,g,low\nb,g,\nc,,high\n"
SEGMENTS = (
    "document_id,segment,audio,start,end,text\n"
    "a,0,one.wav,0,0.5,we call it bear\n"
    "a,1,one.wav,0.5,1.0,\n"
    "b,0,,,,only words here\n"
    "b,1,,,,and more of them\n"
    "c,0,sub/two.wav,,,\n"
)


def write_wave(path: Path, seconds: float = 1.0, *, rate: int = 16_000, channels: int = 1, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, noise, rate, subtype="PCM_16")


def write_cohort(folder: Path, documents: str = DOCUMENTS, segments: str = SEGMENTS) -> Path:
    """Three documents: `a` with both modalities, `b` without audio, `c` without text; two sound files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "documents.csv").write_text(documents, encoding="utf-8", newline="")
    (folder / "segments.csv").write_text(segments, encoding="utf-8", newline="")
    write_wave(folder / "one.wav")
    write_wave(folder / "sub" / "two.wav", 0.5, seed=1)
    return folder


def edit(text: str, row: int, line: str | None) -> str:
    """The table with one line replaced, or deleted; rows count from 1, the header's."""
    lines: Sequence[str] = text.splitlines()
    kept = [line if number == row else old for number, old in enumerate(lines, start=1)]
    return "\n".join(old for old in kept if old is not None) + "\n"


def store_as_before(folder: Path, documents: str, *, seed: int = 0) -> Path:
    """A feature store whose table holds these cells as they are, as the version before wrote them."""
    rng = np.random.default_rng(seed)
    count = len(documents.splitlines()) - 1
    names = pd.DataFrame({"document_id": [f"d{number}" for number in range(count)]})
    audio, text = ([rng.standard_normal((2, dim)).astype(np.float32) for _ in range(count)] for dim in (4, 3))
    FeatureStore.write(folder, documents=names, audio=audio, text=text, overwrite=True)
    (folder / "documents.csv").write_text(documents, encoding="utf-8", newline="")
    manifest = json.loads((folder / "manifest.json").read_text())
    content = documents.encode()
    manifest["files"]["documents.csv"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder

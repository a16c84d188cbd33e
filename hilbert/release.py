"""A release: a trained model with all that it takes to predict new people, in one folder without a pickle.

    release.json                     format, version, name, how it was made; SHA-256 of every other file
    config.json, model.safetensors   the model: architecture, tasks with their classes, weights
                                     (of an ensemble in members/00, members/01, ...)
    preprocessing.json               encoders with their revisions, windows; where the standardisation's numbers lie
    calibration.json                 what makes each task's probabilities honest: see `hilbert.calibration`
    learned_from.json                keyed hashes of whom it has learned from: see `hilbert.learned`
    model_card.md                    for people

`Release.load` checks every file. Shapes: N documents, C outputs of a task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from hilbert.batches import Features, IntArray, RaggedArray, modality, segment_rows
from hilbert.calibration import Calibrator
from hilbert.config import TaskConfig
from hilbert.encoders.base import Modality
from hilbert.errors import InputError, shown
from hilbert.files import digest, write_text
from hilbert.learned import NAME as LEARNED
from hilbert.learned import LearnedFrom, Seen
from hilbert.model import Hilbert
from hilbert.predicted import MODALITIES, Array, Predicted, SegmentsOf
from hilbert.prediction import ATTENTION, EMBEDDINGS, Outputs, check_features, check_numbers, predict
from hilbert.release_files import (
    CALIBRATION,
    CARD,
    FORMAT,
    MANIFEST,
    PREPROCESSING,
    VERSION,
    check_files,
    read_calibration,
    read_manifest,
    read_preprocessing,
    sealed,
    write_json,
)
from hilbert.store_files import Dtype

CHUNK = 16
"""Documents between two reports of progress."""


@dataclass(frozen=True, eq=False)
class Release:
    """A model, or an ensemble of several, ready to predict. Made by `hilbert release`.

    Attributes:
        name: what it is called.
        members: the models, one or several, in evaluation mode, with the same tasks and features.
        calibrators: of each task but regressions.
        encoders: description of each modality's encoder, `{"name": None}` where its features are of unknown origin.
        window: seconds at which long recordings were cut before they were encoded; None where they were not.
        dtype: of the stored features.
        made: how it was made; JSON, for people and for comparison with the next release.
        learned: whom it has learned from; None where that isn't known, as of releases of older versions.
    """

    name: str
    members: Sequence[Hilbert]
    calibrators: Mapping[str, Calibrator]
    encoders: Mapping[str, Mapping[str, Any]]
    window: float | None = None
    dtype: Dtype = "float32"
    made: Mapping[str, Any] = field(default_factory=dict)
    learned: LearnedFrom | None = None

    @property
    def tasks(self) -> Mapping[str, TaskConfig]:
        """Kind and classes of each task."""
        return self.members[0].config.tasks

    @property
    def dims(self) -> dict[Modality, int]:
        """Features of a segment of each modality."""
        return _dims(self.members[0])

    def predict(
        self,
        features: Features,
        documents: Sequence[int] | IntArray | None = None,
        *,
        names: Sequence[str] | None = None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Predicted:
        """Predicts documents one by one, so that neither order nor company changes a bit of a prediction.

        Args:
            features: a feature store, or `hilbert.documents.Documents`. See `hilbert.inference` for the check that they
                are the right encoders'.
            documents: row numbers within `features`; all of them if left out.
            names: of these documents; their numbers if left out.
            progress: called with (documents done, documents in all).

        Raises:
            InputError: features of another dimension, that have changed since they were stored, or that hold a value
                that isn't finite or larger than any feature; a prediction that isn't a number.
        """
        check_features(features)
        for name, dim in self.dims.items():
            found = modality(features, name).values.shape[1]
            if found != dim:
                raise InputError(
                    f"{name} features have {found} dimensions, and {shown(self.name)} was trained on {dim}"
                )
        everyone = range(len(modality(features, "audio").offsets) - 1)
        rows = np.asarray(everyone if documents is None else documents, dtype=np.int64)
        outputs: list[list[Outputs]] = [[] for _ in self.members]
        for start in range(0, len(rows), CHUNK):
            for member, found_so_far in zip(self.members, outputs, strict=True):
                found_so_far.append(predict(member, features, rows[start : start + CHUNK], batch_size=1))
            progress(min(start + CHUNK, len(rows)), len(rows))
        if not len(rows):
            outputs = [[predict(member, features, rows)] for member in self.members]
        return self._answer(features, rows, names, outputs)

    def seen(
        self, features: Features, *, names: Sequence[str], groups: Sequence[str | None] | None = None
    ) -> Seen | None:
        """Which documents it has learned from, as far as their features tell; None where that isn't known.

        Args:
            features: as for `predict`, all documents of it.
            names: of the documents.
            groups: of the documents, None where there is none.
        """
        if self.learned is None:
            return None
        rows = np.arange(len(modality(features, "audio").offsets) - 1)
        return self.learned.seen(self.members[0], features, rows, names=names, groups=groups)

    def _answer(
        self, features: Features, rows: IntArray, names: Sequence[str] | None, outputs: Sequence[Sequence[Outputs]]
    ) -> Predicted:
        scores = [
            [found.scores(member.config.tasks) for found in chunks]
            for member, chunks in zip(self.members, outputs, strict=True)
        ]
        told = [str(row) for row in rows] if names is None else list(names)
        attention = [{name: _join([c.attention[name] for c in chunks]) for name in ATTENTION} for chunks in outputs]
        means = {
            task: np.mean([self._calibrated(task, [c[task] for c in chunks]) for chunks in scores], axis=0)
            for task in self.tasks
        }
        for task, values in means.items():
            check_numbers(values, told, what=f"{shown(self.name)} predicts {task}")
        return Predicted(
            documents=told,
            tasks=self.tasks,
            scores=means,
            embeddings=[
                {name: _join([c.embeddings[name] for c in chunks]) for name in EMBEDDINGS} for chunks in outputs
            ],
            gates=[{task: _join([c.gates[task] for c in chunks]) for task in self.tasks} for chunks in outputs],
            attention={name: np.mean([found[name] for found in attention], axis=0) for name in ATTENTION},
            segments={name: _segments(modality(features, name), rows) for name in MODALITIES},
        )

    def _calibrated(self, task: str, chunks: Sequence[Array]) -> Array:
        scores = np.concatenate(chunks)
        return self.calibrators[task](scores) if task in self.calibrators else scores

    # ---- on disk -----------------------------------------------------------------------------------------------------

    def save(self, folder: Path, *, card: str) -> None:
        """Writes the release into `folder`, which must be new or empty; `card` is its model card, Markdown."""
        folder.mkdir(parents=True, exist_ok=True)
        for member, place in zip(self.members, self._places(), strict=True):
            member.save_pretrained(folder / place)
        write_json(folder / PREPROCESSING, self._preprocessing())
        write_json(folder / CALIBRATION, {task: found.to_json() for task, found in self.calibrators.items()})
        if self.learned is not None:
            write_json(folder / LEARNED, self.learned.to_json())
        write_text(folder / CARD, card)
        files = {
            path.relative_to(folder).as_posix(): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
        }
        content = {"format": FORMAT, "version": VERSION, "name": self.name, "members": self._places()}
        write_json(folder / MANIFEST, sealed({**content, "made": self.made, "files": files}))

    def _places(self) -> list[str]:
        """Each model's folder within the release."""
        if len(self.members) == 1:
            return ["."]
        return [f"members/{number:02d}" for number in range(len(self.members))]

    def _preprocessing(self) -> dict[str, Any]:
        clip = self.members[0].config.clip_features
        return {
            "window": self.window,
            "dtype": self.dtype,
            **{
                name: {
                    "encoder": self.encoders.get(name, {"name": None}),
                    "dim": self.dims[name],
                    "standardise": {
                        "formula": "clip((x - mean) / deviation, -clip, clip)",
                        "mean": f"model.safetensors: {name}_encoder.standardise.mean",
                        "deviation": f"model.safetensors: {name}_encoder.standardise.deviation",
                        "clip": clip,
                    },
                }
                for name in MODALITIES
            },
        }

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Loads a release, on the CPU, and checks every byte of it.

        Raises:
            InputError: it is no release, of another version, or a file is missing, damaged or changed.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        members = [Hilbert.from_pretrained(folder / place) for place in manifest["members"]]
        check_files(folder, manifest["files"])
        tasks, dims = members[0].config.tasks, _dims(members[0])
        if any(_dims(one) != dims or _outputs(one) != _outputs(members[0]) for one in members):
            raise InputError(f"{folder}: its models don't fit each other; copy the whole release again")
        preprocessing = read_preprocessing(folder, dims)
        calibration = read_calibration(folder, tasks)
        return cls(
            name=manifest["name"],
            members=members,
            calibrators={
                task: Calibrator.from_json(
                    found, classes=len(tasks[task].classes), where=f"{folder / CALIBRATION}: {task}"
                )
                for task, found in calibration.items()
            },
            encoders={name: preprocessing[name]["encoder"] for name in MODALITIES},
            window=preprocessing["window"],
            dtype=preprocessing["dtype"],
            made=manifest["made"],
            learned=LearnedFrom.load(folder / LEARNED) if LEARNED in manifest["files"] else None,
        )


def _dims(model: Hilbert) -> dict[Modality, int]:
    return {"audio": model.config.audio_dim, "text": model.config.text_dim}


def _outputs(model: Hilbert) -> dict[str, tuple[str, ...]]:
    return {task: (spec.kind, *spec.classes) for task, spec in model.config.tasks.items()}


def _segments(source: RaggedArray, rows: IntArray) -> SegmentsOf:
    places, lengths = segment_rows(source.offsets, rows)
    numbers = getattr(source, "segments", None)  # as the cohort numbers them; else from 0 within each document
    if numbers is not None:
        return SegmentsOf(lengths, np.asarray(numbers)[places])
    return SegmentsOf(lengths, places - np.repeat(source.offsets[rows], lengths))


def _join(chunks: Sequence[torch.Tensor]) -> Array:
    joined: Array = torch.cat(list(chunks)).double().cpu().numpy()
    return joined

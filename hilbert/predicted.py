"""What a release says of documents, as arrays and as tables for people.

Shapes: N documents, C outputs of a task, M models (members of an ensemble), E experts, d = width; tokens, all segments
of a modality, document after document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilbert.config import TaskConfig
from hilbert.encoders.base import Modality
from hilbert.errors import InputError
from hilbert.learned import Seen
from hilbert.prediction import EMBEDDINGS

Array = NDArray[np.float64]
MODALITIES: tuple[Modality, ...] = ("audio", "text")


def check_one_embedding(models: int) -> None:
    """Refuses embeddings of an ensemble.

    Raises:
        InputError: there are several models. Their embeddings lie in different spaces.
    """
    if models != 1:
        raise InputError(
            f"an ensemble of {models} models has no one embedding: each has axes of its own; release with --how refit"
        )


@dataclass(frozen=True, eq=False)
class SegmentsOf:
    """The segments of one modality: how many each document has [N], and their numbers in the cohort [tokens]."""

    lengths: NDArray[np.int64]
    numbers: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of N documents, in the order in which they were asked for.

    Attributes:
        documents: their names.
        tasks: kind and classes of each task.
        scores: for each task [N, C]: calibrated probabilities that sum to 1, or for regression numbers in the label's
            units [N, 1]; of an ensemble the mean over its models.
        embeddings: of each model `audio`, `text` and `joint` [N, d].
        gates: of each model, for each task the experts' weights [N, E].
        attention: mean over the models, [tokens]: `audio` and `text`, the weights that a modality's own embedding gives
            its segments (they sum to 1 over a document), and `joint_audio` and `joint_text`, those of the joint
            embedding (together they do).
        segments: of each modality.
        seen: which of these documents the release has learned from; None where it isn't known.
    """

    documents: Sequence[str]
    tasks: Mapping[str, TaskConfig]
    scores: Mapping[str, Array]
    embeddings: Sequence[Mapping[str, Array]]
    gates: Sequence[Mapping[str, Array]]
    attention: Mapping[str, Array]
    segments: Mapping[str, SegmentsOf]
    seen: Seen | None = None

    def table(self) -> pd.DataFrame:
        """One row a document: `document_id`; for each task `<task>`, the most probable class, and `<task>/<class>`.

        A regression has `<task>` alone, the predicted number. `<task>/<class>` are probabilities.
        """
        columns: dict[str, Any] = {"document_id": list(self.documents)}
        for task, spec in self.tasks.items():
            scores = self.scores[task]
            if spec.kind == "regression":
                columns[task] = scores[:, 0]
                continue
            columns[task] = [spec.classes[place] for place in scores.argmax(1)]
            columns |= {f"{task}/{name}": scores[:, place] for place, name in enumerate(spec.classes)}
        return pd.DataFrame(columns)

    def embedding_table(self) -> pd.DataFrame:
        """One row a document: `document_id`, `joint/0` ... `joint/<d - 1>`, then `audio/0` ... and `text/0` ...

        Raises:
            InputError: several models made the predictions. Their embeddings lie in different spaces.
        """
        check_one_embedding(len(self.embeddings))
        parts = [pd.DataFrame({"document_id": list(self.documents)})]
        for name in reversed(EMBEDDINGS):
            values = self.embeddings[0][name]
            parts.append(pd.DataFrame(values, columns=[f"{name}/{axis}" for axis in range(values.shape[1])]))
        return pd.concat(parts, axis=1)

    def segment_table(self) -> pd.DataFrame:
        """One row a segment: `document_id`, `modality`, `segment`, `own`, `joint`: which segments, which modality.

        `own` is its weight in the embedding of its modality, `joint` that in the joint embedding.
        """
        parts = []
        for name in MODALITIES:
            found = self.segments[name]
            parts.append(
                pd.DataFrame(
                    {
                        "place": np.repeat(np.arange(len(self.documents)), found.lengths),
                        "modality": name,
                        "segment": found.numbers,
                        "own": self.attention[name],
                        "joint": self.attention[f"joint_{name}"],
                    }
                )
            )
        table = pd.concat(parts).sort_values("place", kind="stable", ignore_index=True)
        table.insert(0, "document_id", [self.documents[place] for place in table["place"]])
        return table.drop(columns="place")

    def expert_table(self) -> pd.DataFrame:
        """One row a document and model: `document_id`, `model`, `joint/audio`, `joint/text`, `<task>/expert_<e>`.

        `joint/<modality>` is that modality's share of the document's joint embedding, mean over the models;
        `<task>/expert_<e>` the weight of a model's expert.
        """
        shares = {f"joint/{name}": self._share(name) for name in MODALITIES}
        parts = []
        for number, gates in enumerate(self.gates):
            columns: dict[str, Any] = {"document_id": list(self.documents), "model": number, **shares}
            for task, weights in gates.items():
                columns |= {f"{task}/expert_{e}": weights[:, e] for e in range(weights.shape[1])}
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def _share(self, modality: str) -> Array:
        owner = np.repeat(np.arange(len(self.documents)), self.segments[modality].lengths)
        weights = self.attention[f"joint_{modality}"]
        return np.bincount(owner, weights=weights, minlength=len(self.documents)).astype(np.float64)

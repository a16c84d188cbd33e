"""Predictions of a trained model: class probabilities, or numbers in the units of their label.

Shapes: N documents, C outputs of a task, E experts, d = width; tokens, all segments of a modality.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hilbert.batches import Features, IntArray, make_batch
from hilbert.config import TaskConfig
from hilbert.errors import InputError
from hilbert.features import FeatureStore
from hilbert.model import Hilbert, HilbertOutput
from hilbert.plausible import check_plausible

EMBEDDINGS = ("audio", "text", "joint")
ATTENTION = ("audio", "text", "joint_audio", "joint_text")

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Outputs:
    """What the model says of documents, on its device.

    Attributes:
        logits: for each task [N, C].
        gates: for each task the experts' weights [N, E].
        embeddings: `audio`, `text` and `joint` [N, d]; zero where a document lacks the modality.
        attention: pooling weights of the segments, mean over the hops, packed [tokens] document after document: `audio`
            and `text` sum to 1 over a document, `joint_audio` and `joint_text` together do.
    """

    logits: dict[str, Tensor]
    gates: dict[str, Tensor]
    embeddings: dict[str, Tensor]
    attention: dict[str, Tensor]

    def scores(self, tasks: Mapping[str, TaskConfig]) -> dict[str, Array]:
        """For each task the scores [N, C]: see `to_scores`."""
        return {task: to_scores(found, tasks[task]) for task, found in self.logits.items()}

    def usage(self) -> dict[str, Array]:
        """For each task the mean weight of every expert [E]: they sum to 1, or without documents to 0."""
        return {task: (gates.double().sum(0) / max(len(gates), 1)).cpu().numpy() for task, gates in self.gates.items()}


def to_scores(logits: Tensor, task: TaskConfig) -> Array:
    """`logits` [N, C] to probabilities [N, C] that sum to 1, or for regression to numbers [N, 1]."""
    values = logits.detach().cpu().double()
    if task.kind == "regression":
        return (values * task.deviation + task.mean).numpy()
    return torch.softmax(values, dim=1).numpy()


def check_features(features: Features) -> None:
    """Refuses features that are not what they were, or that nothing can be said of.

    A feature store on disk is compared with its manifest and looked through once, see `FeatureStore.verify`; features
    in memory are looked through every time.

    Raises:
        StoreError: a store's file has changed since it was written.
        InputError: a value isn't finite, or larger than any feature; the message names document and segment.
    """
    if isinstance(features, FeatureStore):
        features.verify()
        return
    table = getattr(features, "documents", None)
    names = None if table is None else [str(name) for name in table["document_id"]]
    for modality, part in (("audio", features.audio), ("text", features.text)):
        if part is not None:
            check_plausible(modality, part, names=names)


def check_numbers(scores: Array, names: Sequence[str], *, what: str) -> None:
    """Refuses scores [N, C] that are no numbers.

    Args:
        scores: of N documents.
        names: of the documents.
        what: which scores of which model, for the message.

    Raises:
        InputError: naming the document.
    """
    wrong = ~np.isfinite(scores).all(axis=1)
    if wrong.any():
        place = int(wrong.argmax())
        raise InputError(
            f"{what} of document {names[place]!r} to be {scores[place].tolist()}: the model's numbers leave what can be"
            " computed with; check this document's features, then train the model again"
        )


def predict(
    model: Hilbert, features: Features, documents: Sequence[int] | IntArray, *, batch_size: int = 64
) -> Outputs:
    """What the model says of `documents` (indices into the store), in evaluation mode.

    The last bits of a prediction depend on the documents beside it in the batch; with `batch_size=1` they don't.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            batches = [
                model(make_batch(features, {}, documents[start : start + batch_size]).to(device))
                for start in range(0, len(documents), batch_size)
            ]
    finally:
        model.train(was_training)
    return _joined(model, batches, device)


def _joined(model: Hilbert, batches: Sequence[HilbertOutput], device: torch.device) -> Outputs:
    config = model.config

    def join(parts: Sequence[Tensor], *shape: int) -> Tensor:
        return torch.cat([torch.zeros(0, *shape, device=device), *parts])

    return Outputs(
        {task: join([b.logits[task] for b in batches], spec.outputs) for task, spec in config.tasks.items()},
        {task: join([b.gates[task] for b in batches], config.model.experts) for task in config.tasks},
        {name: join([getattr(b, name) for b in batches], config.model.width) for name in EMBEDDINGS},
        {name: join([b.attention[name].values.mean(1) for b in batches]) for name in ATTENTION},
    )

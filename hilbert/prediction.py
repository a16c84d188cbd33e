"""Predictions of a trained model: class probabilities, or numbers in the units of their label.

Shapes: N documents, C outputs of a task, E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hilbert.batches import Features, IntArray, make_batch
from hilbert.config import TaskConfig
from hilbert.model import Hilbert


@dataclass(frozen=True)
class Outputs:
    """What the model says of documents, on its device.

    Attributes:
        logits: for each task [N, C].
        gates: for each task the experts' weights [N, E].
    """

    logits: dict[str, Tensor]
    gates: dict[str, Tensor]

    def usage(self) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """For each task the mean weight of every expert [E]: they sum to 1, or without documents to 0."""
        return {task: (gates.double().sum(0) / max(len(gates), 1)).cpu().numpy() for task, gates in self.gates.items()}


def to_scores(logits: Tensor, task: TaskConfig) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`logits` [N, C] to probabilities [N, C] that sum to 1, or for regression to numbers [N, 1]."""
    values = logits.detach().cpu().double()
    if task.kind == "regression":
        return (values * task.deviation + task.mean).numpy()
    return torch.softmax(values, dim=1).numpy()


def predict(
    model: Hilbert, features: Features, documents: Sequence[int] | IntArray, *, batch_size: int = 64
) -> Outputs:
    """Logits and experts' weights of `documents` (indices into the store), in evaluation mode."""
    tasks, device = model.config.tasks, next(model.parameters()).device
    logits = {task: [torch.zeros(0, spec.outputs, device=device)] for task, spec in tasks.items()}
    gates = {task: [torch.zeros(0, model.config.model.experts, device=device)] for task in tasks}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(documents), batch_size):
                output = model(make_batch(features, {}, documents[start : start + batch_size]).to(device))
                for task in tasks:
                    logits[task].append(output.logits[task])
                    gates[task].append(output.gates[task])
    finally:
        model.train(was_training)
    return Outputs(
        {task: torch.cat(found) for task, found in logits.items()},
        {task: torch.cat(found) for task, found in gates.items()},
    )


def predict_logits(
    model: Hilbert, features: Features, documents: Sequence[int] | IntArray, *, batch_size: int = 64
) -> dict[str, Tensor]:
    """For each task the logits [N, C] of `documents`: see `predict`."""
    return predict(model, features, documents, batch_size=batch_size).logits


def predict_scores(
    model: Hilbert, features: Features, documents: Sequence[int] | IntArray, *, batch_size: int = 64
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """For each task the scores [N, C] of `documents`: see `to_scores`."""
    logits = predict_logits(model, features, documents, batch_size=batch_size)
    return {task: to_scores(found, model.config.tasks[task]) for task, found in logits.items()}

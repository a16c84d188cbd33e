"""Predictions of a trained model: class probabilities, or numbers in the units of their label.

Shapes: N documents, C outputs of a task.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hilbert.batches import Features, IntArray, make_batch
from hilbert.config import TaskConfig
from hilbert.model import Hilbert


def to_scores(logits: Tensor, task: TaskConfig) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`logits` [N, C] to probabilities [N, C] that sum to 1, or for regression to numbers [N, 1]."""
    values = logits.detach().cpu().double()
    if task.kind == "regression":
        return (values * task.deviation + task.mean).numpy()
    return torch.softmax(values, dim=1).numpy()


def predict_logits(
    model: Hilbert, features: Features, documents: Sequence[int] | IntArray, *, batch_size: int = 64
) -> dict[str, Tensor]:
    """For each task the logits [N, C] of `documents` (indices into the store), in evaluation mode."""
    tasks, device = model.config.tasks, next(model.parameters()).device
    parts = {task: [torch.zeros(0, spec.outputs, device=device)] for task, spec in tasks.items()}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(documents), batch_size):
                output = model(make_batch(features, {}, documents[start : start + batch_size]).to(device))
                for task in tasks:
                    parts[task].append(output.logits[task])
    finally:
        model.train(was_training)
    return {task: torch.cat(found) for task, found in parts.items()}


def predict_scores(
    model: Hilbert, features: Features, documents: Sequence[int] | IntArray, *, batch_size: int = 64
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """For each task the scores [N, C] of `documents`: see `to_scores`."""
    logits = predict_logits(model, features, documents, batch_size=batch_size)
    return {task: to_scores(found, model.config.tasks[task]) for task, found in logits.items()}

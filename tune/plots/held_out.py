"""The held-out predictions of one trial and task, as arrays: what most pictures are made of.

Shapes: n labelled held-out documents of a fold, C classes (1 for regression).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hilbert.config import TaskConfig
from tune.job import JobRecord
from tune.plots.style import Array


@dataclass(frozen=True)
class HeldOut:
    """One task's predictions, fold by fold. Documents without a label are left out, and counted.

    Attributes:
        task: the task.
        spec: its kind and classes.
        folds: numbers of the folds.
        labels: of each fold [n].
        scores: of each fold [n, C].
        missing: held-out documents without a label, of each fold.
        auc: of each fold, None where it is undefined.
        counted: of each fold, whether its training part held every class: else its scores are in no picture.
    """

    task: str
    spec: TaskConfig
    folds: tuple[int, ...]
    labels: tuple[Array, ...]
    scores: tuple[Array, ...]
    missing: tuple[int, ...]
    auc: tuple[float | None, ...]
    counted: tuple[bool, ...]

    @classmethod
    def of(cls, records: Sequence[JobRecord], task: str, spec: TaskConfig) -> "HeldOut":
        """The predictions in the records of finished fold jobs."""
        labels, scores, missing = [], [], []
        for record in records:
            y = np.array(record.labels[task], dtype=np.float64)
            known = ~np.isnan(y)
            labels.append(y[known])
            scores.append(np.array(record.scores[task], dtype=np.float64).reshape(len(y), -1)[known])
            missing.append(int((~known).sum()))
        folds = tuple(record.fold for record in records)
        auc = tuple(record.auc.get(task) for record in records)
        counted = tuple(task not in record.untrained for record in records)
        return cls(task, spec, folds, tuple(labels), tuple(scores), tuple(missing), auc, counted)

    @cached_property
    def pooled(self) -> tuple[Array, Array]:
        """Labels [N] and scores [N, C] of all folds that count together."""
        pairs = zip(self.labels, self.scores, strict=True)
        filled = [(y, score) for (y, score), counts in zip(pairs, self.counted, strict=True) if counts and len(y)]
        if not filled:
            return np.zeros(0), np.zeros((0, self.spec.outputs))
        return np.concatenate([y for y, _ in filled]), np.concatenate([score for _, score in filled])

    @property
    def columns(self) -> list[int]:
        """Classes that are set against the rest: of a binary task the second alone."""
        return [1] if self.spec.kind == "binary" else list(range(len(self.spec.classes)))

    def against_rest(self, column: int) -> list[tuple[Array, Array]]:
        """Of each fold that counts, membership of a class (0 or 1) [n] and its score [n]."""
        return [
            ((y == column).astype(np.float64), score[:, column])
            for y, score, counts in zip(self.labels, self.scores, self.counted, strict=True)
            if counts
        ]

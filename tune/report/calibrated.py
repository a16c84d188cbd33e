"""How much calibration helps the winner, of new documents: cross-fitted, see `hilbert.calibration`.

Notation: N predictions over all folds, D documents, R repeats, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hilbert.calibration import Choice, best_method, cross_fitted
from hilbert.errors import InputError
from tune.report.predicted import Array, Predicted


@dataclass(frozen=True)
class Calibrated:
    """What calibration does to the predictions of one classification.

    Attributes:
        choice: the method, and how good the probabilities are with each.
        predicted: the predictions, cross-fitted by that method; None where it is none.
    """

    choice: Choice
    predicted: Predicted | None


def calibrated(found: Predicted) -> Calibrated | None:
    """None for a regression, and where no document has a label."""
    if found.kind == "regression":
        return None
    stack = _stacked(found)
    try:
        choice = best_method(stack.labels, stack.scores, fold_of=stack.fold_of, groups=stack.groups)
    except InputError:  # no labelled prediction
        return None
    if choice.method == "none":
        return Calibrated(choice, None)
    scores = cross_fitted(stack.labels, stack.scores, method=choice.method, fold_of=stack.fold_of, groups=stack.groups)
    return Calibrated(choice, replace(found, scores=scores[found.repeats, stack.document]))


def all_calibrated(predicted: Mapping[str, Predicted]) -> dict[str, Calibrated | None]:
    """Of each classification task."""
    return {task: calibrated(found) for task, found in predicted.items() if found.kind != "regression"}


class _Stacked(NamedTuple):
    """Predictions by repeat and document.

    Attributes:
        document: [N], which of the D documents a prediction is of.
        labels: [D].
        scores: [R, D, C], NaN where there is none, or none that counts.
        fold_of: [R, D], -1 where there is none.
        groups: D groups; None where they are not known.
    """

    document: NDArray[np.int64]
    labels: Array
    scores: Array
    fold_of: NDArray[np.int64]
    groups: list[str | None] | None


def _stacked(found: Predicted) -> _Stacked:
    names, first, document = np.unique(np.array(found.documents), return_index=True, return_inverse=True)
    shape = (int(found.repeats.max(initial=0)) + 1, len(names))
    scores, fold_of = np.full((*shape, found.scores.shape[1]), np.nan), np.full(shape, -1)
    counts = found.labelled
    scores[found.repeats[counts], document[counts]] = found.scores[counts]
    fold_of[found.repeats, document] = found.folds
    labels = np.full(len(names), np.nan)
    labels[document[counts]] = found.labels[counts]
    groups = None if found.groups is None else [found.groups[row] for row in first]
    return _Stacked(document, labels, scores, fold_of, groups)

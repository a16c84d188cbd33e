"""How much each class counts in the training loss of a classification task, where classes are unevenly distributed.

C classes with n_c labelled training documents each, n in all. The result goes into `hilbert.losses.cross_entropy`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbert.errors import InputError

Method = Literal["none", "inverse", "effective-number", "logit-adjusted"]

BETA = 0.999  # of the effective number: 1 / (1 - beta) = 1,000 documents are where a class begins to saturate
ABSENT = 0.5  # the count that stands in for 0 in a class prior: log 0 would leave the class untrained


class ClassWeighting(NamedTuple):
    """What to do about uneven classes: weights [C] of the documents' losses, and an offset [C] of the logits."""

    weights: Tensor
    logit_offset: Tensor


def class_weighting(counts: Sequence[int] | NDArray[np.integer] | Tensor, method: Method) -> ClassWeighting:
    """Weights and logit offset from the training part's class counts.

    - ``none``: every document counts the same.
    - ``inverse``: n / (C n_c). Every class counts the same; a document's weight is 1 on average.
    - ``effective-number``: ~ (1 - beta) / (1 - beta^n_c), beta = 0.999, their sum C; Cui et al. (2019), equation 4.
      Between the two: it levels off where a class has many documents, and equals ``inverse`` where all have few.
    - ``logit-adjusted``: weights 1, and log(n_c / n) is added to the logits in training, so that the logits themselves
      learn to be good on average over classes; Menon et al. (2021), equation 10. Nothing is added at inference.

    A class without training documents is left out of C and has weight 0; its prior is that of half a document.

    Args:
        counts: [C], the labelled training documents of each class.
        method: one of the four.

    Returns:
        Weights and offset, float32 [C], finite.

    Raises:
        InputError: an unknown method, or counts that are not a row of numbers >= 0.
    """
    n = torch.as_tensor(counts, dtype=torch.float64)
    if n.ndim != 1 or not bool((n >= 0).all()):
        raise InputError(f"class counts must be one number >= 0 for each class, not {n.tolist()}")
    present = n > 0
    seen = torch.where(present, n, 1)
    weights, offset = torch.ones_like(n), torch.zeros_like(n)
    match method:
        case "none":
            pass
        case "inverse":
            weights = present * n.sum() / (present.sum().clamp_min(1) * seen)
        case "effective-number":
            raw = present / (1 - BETA**seen)
            weights = raw * present.sum() / raw.sum().clamp_min(1)
        case "logit-adjusted":
            prior = n.clamp_min(ABSENT)
            offset = (prior / prior.sum()).log()
        case _:
            raise InputError(f"class weighting must be one of {', '.join(get_args(Method))}, not {method!r}")
    return ClassWeighting(weights.float(), offset.float())

"""Every term of the training loss, as a pure function from tensors to a scalar tensor.

Notation: N documents in a batch, d = model width, E experts, C classes; s = cosine similarity; tau = temperature.
``audio``, ``text`` and ``joint`` are the document embeddings a, t and j, all [N, d].

    NCE(u -> v)  = -1/N sum_i log( exp(s(u_i, v_i)/tau) / sum_k exp(s(u_i, v_k)/tau) )       `info_nce`
    align(u, j)  = ( NCE(u -> j) + NCE(j -> u) ) / 2                                          `align`
    L_con        = ( align(a, j) + align(t, j) ) / 2                                          `reciprocal_contrastive`
    L_cka        = ( (1 - CKA(a, j)) + (1 - CKA(t, j)) ) / 2                                  `cka_loss`, `linear_cka`
    L_mi         = ( I(a; j) - I(t; j) )^2                                                    `information_balance`

Where documents lack a modality, the pairs (a, j) and (t, j) have different rows: build the same terms from the
functions of one pair, `align`, `linear_cka`, `information_infonce` and `information_gaussian`, each on the rows that
have both.

Precision: float16 and bfloat16 inputs are computed in float32, float64 stays, and autocast does not reach inside.
Degenerate batches (zero vectors, constant embeddings, identical rows) give finite losses and finite gradients. A batch
of fewer documents than `MINIMUM_DOCUMENTS` has no such term at all: its function raises, and the caller omits it.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from hilbert.estimators import (
    MINIMUM_DOCUMENTS,
    SMALLEST_NORM,
    centred_kernel,
    full_precision,
    information_gaussian,
    information_infonce,
    linear_cka,
    matrix_cosine,
    product,
    same_rows,
)

__all__ = [
    "MINIMUM_DOCUMENTS",
    "Estimator",
    "align",
    "cka_loss",
    "cross_entropy",
    "info_nce",
    "information_balance",
    "information_gaussian",
    "information_infonce",
    "linear_cka",
    "load_balance",
    "reciprocal_contrastive",
    "squared_error",
]

Estimator = Literal["infonce", "gaussian"]


# ---- contrastive -----------------------------------------------------------------------------------------------------


def info_nce(anchor: Tensor, positive: Tensor, temperature: float | Tensor) -> Tensor:
    """One-directional InfoNCE, NCE(anchor -> positive): which of the N positives belongs to each anchor?

    van den Oord et al. (2018), "Representation learning with contrastive predictive coding", equation 4, with
    the exponential of cosine similarity over temperature as the score and the rest of the batch as negatives.

    Args:
        anchor: [N, d], N >= 2.
        positive: [N, d]; row i belongs to row i of ``anchor``.
        temperature: positive; a scalar tensor where it is learned.

    Returns:
        The mean over documents in nats, >= 0; log N when nothing tells the documents apart.

    Raises:
        ValueError: shapes differ, fewer than 2 documents, or a temperature given as a number is not positive.
    """
    return _pick_partner(_similarity_logits(anchor, positive, temperature))


def align(u: Tensor, joint: Tensor, temperature: float | Tensor) -> Tensor:
    """Symmetric InfoNCE of one modality and the joint embedding: the mean of both directions.

    Arguments, unit and errors as in `info_nce`. Give its value to `information_infonce` to have I(u; j) for free.
    """
    logits = _similarity_logits(u, joint, temperature)
    return (_pick_partner(logits) + _pick_partner(logits.T)) / 2


def reciprocal_contrastive(audio: Tensor, text: Tensor, joint: Tensor, temperature: float | Tensor) -> Tensor:
    """Reciprocal dual contrastive loss L_con: each modality against the joint embedding, never audio against text.

    Arguments, unit and errors as in `info_nce`; all three are [N, d].
    """
    return (align(audio, joint, temperature) + align(text, joint, temperature)) / 2


def _pick_partner(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _similarity_logits(u: Tensor, v: Tensor, temperature: float | Tensor) -> Tensor:
    """s(u_i, v_k) / tau for every pair of rows: [N, N]."""
    u, v = same_rows(u, v, minimum=MINIMUM_DOCUMENTS["contrastive"])
    if u.shape != v.shape:
        raise ValueError(f"embeddings that are compared must have one width, not {u.shape[1]} and {v.shape[1]}")
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    return product(_unit_rows(u), _unit_rows(v)) / temperature


def _unit_rows(x: Tensor) -> Tensor:
    """Rows scaled to length 1; a row without direction becomes zero, with zero gradient."""
    square = x.square().sum(-1, keepdim=True)
    has_direction = square > SMALLEST_NORM**2
    return torch.where(has_direction, x * torch.where(has_direction, square, 1).rsqrt(), 0)


# ---- balance of the modalities ---------------------------------------------------------------------------------------


def cka_loss(audio: Tensor, text: Tensor, joint: Tensor, *, debiased: bool = True) -> Tensor:
    """L_cka: one minus the mean CKA of each modality with the joint embedding.

    Arguments and errors as in `linear_cka`. In [0, 1]; debiased, in [0, 2].
    """
    rows = same_rows(audio, text, joint, minimum=MINIMUM_DOCUMENTS["cka_debiased" if debiased else "cka_plain"])
    a, t, j = (centred_kernel(x, debiased) for x in rows)
    return 1 - (matrix_cosine(a, j) + matrix_cosine(t, j)) / 2


def information_balance(
    audio: Tensor, text: Tensor, joint: Tensor, temperature: float | Tensor, *, estimator: Estimator = "infonce"
) -> Tensor:
    """L_mi: the squared difference of what the joint embedding knows of each modality, (I(a; j) - I(t; j))^2.

    Args:
        audio: [N, d].
        text: [N, d].
        joint: [N, d].
        temperature: as in `info_nce`; the Gaussian estimator does not use it.
        estimator: ``"infonce"`` (`information_infonce`) or ``"gaussian"`` (`information_gaussian`).

    Returns:
        In squared nats, >= 0.

    Raises:
        ValueError: an unknown estimator, or as the estimator's function.
    """
    match estimator:
        case "infonce":
            a, t = (information_infonce(align(u, joint, temperature), len(joint)) for u in (audio, text))
        case "gaussian":
            a, t = (information_gaussian(u, joint) for u in (audio, text))
        case _:
            raise ValueError(f"estimator must be 'infonce' or 'gaussian', not {estimator!r}")
    return (a - t).square()


# ---- tasks and experts -----------------------------------------------------------------------------------------------


def cross_entropy(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, logit_offset: Tensor | None = None
) -> Tensor:
    """Cross-entropy over the labelled documents of a batch; for binary and multiclass tasks.

    `hilbert.class_weights.class_weighting` makes the weights and the offset. A weighted loss is divided by the number
    of labelled documents, not by their weights: a document then counts the same in whatever batch it falls.

    Args:
        logits: [N, C]; a binary task has C = 2.
        target: [N], class numbers of any dtype; NaN or a negative number is a missing label.
        class_weights: [C], or None for equal weights.
        logit_offset: [C], added to the logits in training only: logit adjustment, Menon et al. (2021), equation 10.

    Returns:
        The mean in nats; exactly 0, with zero gradient, where no document is labelled.

    Raises:
        ValueError: the shapes do not fit.
    """
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(f"logits must be [N, C] and target [N], not {list(logits.shape)} and {list(target.shape)}")
    (logits,) = full_precision(logits)
    labelled = target >= 0
    classes = torch.where(labelled, target, 0).long()
    if logit_offset is not None:
        logits = logits + logit_offset.to(logits)
    losses = functional.cross_entropy(logits, classes, reduction="none")
    if class_weights is not None:
        losses = losses * class_weights.to(logits)[classes]
    return _mean_over(losses, labelled)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the labelled documents of a batch; for regression tasks.

    Args:
        prediction: [N] or [N, 1].
        target: [N]; NaN is a missing label.

    Returns:
        In squared units of the target; exactly 0, with zero gradient, where no document is labelled.

    Raises:
        ValueError: the shapes do not fit.
    """
    if prediction.shape not in (target.shape, (*target.shape, 1)):
        raise ValueError(
            f"prediction must be [N] or [N, 1] for target [N], not {list(prediction.shape)} for {list(target.shape)}"
        )
    (prediction,) = full_precision(prediction)
    labelled = ~target.isnan()
    errors = prediction.view(target.shape) - torch.where(labelled, target, 0).to(prediction)
    return _mean_over(errors.square(), labelled)


def load_balance(gate_probabilities: Tensor, *, top_k: int | None = None) -> Tensor:
    """Load balance of one gate: E sum_e f_e P_e, Fedus et al. (2022), "Switch Transformers", equations 4 to 6.

    P_e is the gate's mean probability of expert e. f_e is the share of the batch that is routed to expert e: of the
    documents' ``top_k`` choices (1 in Switch), a count without gradient; for a dense gate, P_e itself.

    Args:
        gate_probabilities: [N, E], rows sum to 1, before any top-k masking.
        top_k: how many experts the gate keeps for a document; None for a dense gate.

    Returns:
        1 for a balanced gate, up to E for one that always chooses one expert (E / k for top-k).

    Raises:
        ValueError: not a matrix, no documents, or ``top_k`` not in 1..E.
    """
    if gate_probabilities.ndim != 2 or not len(gate_probabilities):
        raise ValueError(f"gate probabilities must be [N, E] with N >= 1, not {list(gate_probabilities.shape)}")
    n, experts = gate_probabilities.shape
    if top_k is not None and not 1 <= top_k <= experts:
        raise ValueError(f"top_k must be in 1..{experts}, not {top_k}")
    (gate_probabilities,) = full_precision(gate_probabilities)
    probability = gate_probabilities.mean(0)
    if top_k is None:
        return experts * probability.square().sum()
    chosen = gate_probabilities.detach().topk(top_k, dim=1).indices
    share = functional.one_hot(chosen, experts).sum((0, 1)) / (n * top_k)
    return experts * (share * probability).sum()


def _mean_over(losses: Tensor, labelled: Tensor) -> Tensor:
    return torch.where(labelled, losses, 0).sum() / labelled.sum().clamp_min(1)

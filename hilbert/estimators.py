"""How much two embeddings of the same documents have in common: kernel alignment and mutual information.

Notation: N documents, X [N, d], Y [N, e], K = X X' a linear kernel [N, N]; tensors in, scalar tensors out, all
differentiable. `hilbert.losses` builds the training loss from these and says what holds for all of them: precision,
degenerate batches and `MINIMUM_DOCUMENTS`.
"""

import math
from collections.abc import Mapping
from functools import reduce
from types import MappingProxyType

import torch
from torch import Tensor

MINIMUM_DOCUMENTS: Mapping[str, int] = MappingProxyType(
    {"contrastive": 2, "cka_plain": 2, "cka_debiased": 4, "information_infonce": 2, "information_gaussian": 4}
)
"""The fewest documents in a batch for which a term exists; with fewer, its function raises `ValueError`."""

SMALLEST_NORM = 1e-8  # what is shorter counts as zero: it has no direction, and receives no gradient
SMALLEST_SHRINKAGE = 0.01  # keeps the Gaussian estimate finite where columns are copies of each other


# ---- centred kernel alignment ----------------------------------------------------------------------------------------


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """Similarity of two embeddings of the same documents, up to rotation, scale and shift of either one.

        CKA(X, Y) = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y))           Kornblith et al. (2019), equation 4

    with the linear kernels K = X X', L = Y Y'. Plain: HSIC is proportional to <HKH, HLH>, H the centring matrix;
    its expectation is well above 0 for independent data when N is not much larger than d. Debiased: HSIC is HSIC_1 of
    Song et al. (2012), as proposed by Nguyen et al. (2021); zero in expectation for independent data. HSIC_1 is
    computed as <K*, L*> / (N (N - 3)), K* the U-centred matrix of Székely and Rizzo (2014): the two are identical,
    and so the denominator is a product of norms, never the square root of a negative number.

    Args:
        x: [N, d], N >= 4 (plain: 2).
        y: [N, e]; the widths may differ.
        debiased: use it for mini-batches; plain suits N much larger than d.

    Returns:
        Plain: in [0, 1]. Debiased: in [-1, 1]. An embedding whose centred kernel vanishes (all documents alike, or,
        debiased, all equally far apart) is similar to nothing: the value is 0 and so is the gradient.

    Raises:
        ValueError: different numbers of rows, or too few.
    """
    x, y = same_rows(x, y, minimum=MINIMUM_DOCUMENTS["cka_debiased" if debiased else "cka_plain"])
    return matrix_cosine(centred_kernel(x, debiased), centred_kernel(y, debiased))


def centred_kernel(x: Tensor, debiased: bool) -> Tensor:
    """The centred linear kernel of a canonical scale, exactly zero where it is only rounding error: [N, N].

    Both centrings ignore shift and CKA ignores scale, so removing them first changes nothing but the rounding.
    """
    tolerance = 64 * torch.finfo(x.dtype).eps
    spread = x - x.mean(0)
    size = spread.detach().abs().max()
    varies = size > (tolerance * x.detach().abs().max()).clamp_min(SMALLEST_NORM)
    spread = torch.where(varies, spread / torch.where(varies, size, 1), 0)
    kernel = product(spread, spread)
    centred = _u_centred(kernel) if debiased else kernel
    vanishes = centred.detach().square().sum() <= tolerance**2 * kernel.detach().square().sum()
    return torch.where(vanishes, 0, centred)


def _u_centred(kernel: Tensor) -> Tensor:
    """Zero diagonal and zero row sums: K*_ij = K_ij - r_i/(N-2) - r_j/(N-2) + r/((N-1)(N-2)), sums without diagonal."""
    n = len(kernel)
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=kernel.device)
    kernel = torch.where(off_diagonal, kernel, 0)
    rows = kernel.sum(1) / (n - 2)
    return torch.where(off_diagonal, kernel - rows[:, None] - rows + rows.sum() / (n - 1), 0)


def matrix_cosine(k: Tensor, m: Tensor) -> Tensor:
    """Cosine of two matrices as long vectors; 0, without gradient, where one of them is zero."""
    squares = k.square().sum() * m.square().sum()
    defined = squares > 0
    return torch.where(defined, (k * m).sum() * torch.where(defined, squares, 1).rsqrt(), 0)


# ---- mutual information ----------------------------------------------------------------------------------------------


def information_infonce(align_value: Tensor, documents: int) -> Tensor:
    """The InfoNCE lower bound on mutual information in nats: I(u; j) >= log N - align(u, j).

    van den Oord et al. (2018), appendix A.1; it can't exceed log N. ``align_value`` is `align` over N = ``documents``.
    """
    return math.log(documents) - align_value


def information_gaussian(u: Tensor, joint: Tensor) -> Tensor:
    """Mutual information in nats of u and j as if they were jointly Gaussian, from shrunken correlations.

        I(u; j) = -1/2 log( det R / (det R_uu det R_jj) ),     R = (1 - lambda) corr([u ; j]) + lambda 1
        lambda  = sum_{p != q} Var(r_pq) / sum_{p != q} r_pq^2, kept within [0.01, 1]

    The shrinkage intensity is that of Schäfer and Strimmer (2005), Table 2, target D with unit variances: well
    posed for any d and N, and 1, hence I = 0, where the sample shows no correlation beyond chance. It is a plug-in
    estimate, biased for small N in the same way for both modalities: use it to compare, not to report. The determinants
    are taken in the N x N dual, det(1 + c Z Z') with Z standardised columns and c = (1 - lambda) / (lambda N).

    Args:
        u: [N, d], N >= 4.
        joint: [N, e]; the widths may differ.

    Returns:
        >= 0, and finite; constant columns carry no information.

    Raises:
        ValueError: different numbers of rows, or too few.
    """
    u, joint = (_standardised(x) for x in same_rows(u, joint, minimum=MINIMUM_DOCUMENTS["information_gaussian"]))
    both = torch.cat([u, joint], dim=1)
    shrinkage = _shrinkage_intensity(both)
    weight = (1 - shrinkage) / (shrinkage * len(u))
    identity = torch.eye(len(u), dtype=u.dtype, device=u.device)

    def log_det(z: Tensor) -> Tensor:
        value: Tensor = torch.linalg.slogdet(identity + weight * product(z, z)).logabsdet
        return value

    return (log_det(u) + log_det(joint) - log_det(both)) / 2


def _standardised(x: Tensor) -> Tensor:
    """Columns of mean 0 and mean square 1; a constant column becomes zero, with zero gradient."""
    spread = x - x.mean(0)
    square = spread.square().mean(0)
    rounding = 64 * torch.finfo(x.dtype).eps * x.detach().abs().amax(0)
    varies = square > rounding.clamp_min(SMALLEST_NORM).square()
    return torch.where(varies, spread * torch.where(varies, square, 1).rsqrt(), 0)


def _shrinkage_intensity(z: Tensor) -> Tensor:
    """Schäfer and Strimmer's lambda for the correlations of standardised columns z [N, p], without a p x p matrix.

    With w_kpq = z_kp z_kq, r_pq is the mean of w over documents and Var(r_pq) the squared standard error of that mean.
    """
    n = len(z)
    squares = z.square()
    mean_w_squared = (squares.sum(1).square() - squares.square().sum(1)).mean()  # summed over p != q
    r_squared = (product(z, z) / n).square().sum() - squares.mean(0).square().sum()
    r_squared = r_squared.clamp_min(torch.finfo(z.dtype).eps)
    return ((mean_w_squared - r_squared) / ((n - 1) * r_squared)).clamp(SMALLEST_SHRINKAGE, 1)


# ---- precision and shapes --------------------------------------------------------------------------------------------


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common dtype, float32 at least."""
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)
    return tuple(x.to(dtype) for x in tensors)


def product(x: Tensor, y: Tensor) -> Tensor:
    """X Y'. The one matrix product of this module: autocast would round it to bfloat16."""
    with torch.autocast(x.device.type, enabled=False):
        return x @ y.T


def same_rows(*embeddings: Tensor, minimum: int) -> tuple[Tensor, ...]:
    """Check that embeddings are matrices over the same documents, enough of them, and raise their precision."""
    shapes = [list(x.shape) for x in embeddings]
    if any(x.ndim != 2 for x in embeddings) or len({len(x) for x in embeddings}) != 1:
        raise ValueError(f"embeddings must be [N, d] over the same N documents, not {shapes}")
    if len(embeddings[0]) < minimum:
        raise ValueError(f"this term needs at least {minimum} documents in a batch, not {len(embeddings[0])}")
    return full_precision(*embeddings)

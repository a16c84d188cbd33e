import math

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from hilbert.class_weights import class_weighting
from hilbert.errors import InputError
from hilbert.losses import (
    MINIMUM_DOCUMENTS,
    align,
    cka_loss,
    cross_entropy,
    info_nce,
    information_balance,
    information_gaussian,
    information_infonce,
    linear_cka,
    load_balance,
    reciprocal_contrastive,
    squared_error,
)

TAU = 0.2
TERMS = {
    "info_nce": lambda a, t, j: info_nce(a, j, TAU),
    "reciprocal_contrastive": lambda a, t, j: reciprocal_contrastive(a, t, j, TAU),
    "cka_debiased": lambda a, t, j: cka_loss(a, t, j),
    "cka_plain": lambda a, t, j: cka_loss(a, t, j, debiased=False),
    "balance_infonce": lambda a, t, j: information_balance(a, t, j, TAU),
    "balance_gaussian": lambda a, t, j: information_balance(a, t, j, TAU, estimator="gaussian"),
}
REFERENCES = {
    "info_nce": lambda a, t, j: reference.nce(a, j, TAU),
    "reciprocal_contrastive": lambda a, t, j: reference.reciprocal_contrastive(a, t, j, TAU),
    "cka_debiased": lambda a, t, j: reference.cka_loss(a, t, j, debiased=True),
    "cka_plain": lambda a, t, j: reference.cka_loss(a, t, j, debiased=False),
    "balance_infonce": lambda a, t, j: (
        (reference.information_infonce(a, j, TAU) - reference.information_infonce(t, j, TAU)) ** 2
    ),
    "balance_gaussian": lambda a, t, j: (
        (reference.information_gaussian(a, j) - reference.information_gaussian(t, j)) ** 2
    ),
}


def embeddings(n: int = 7, d: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Related audio, text and joint embeddings; audio the closer to joint."""
    generator = torch.Generator().manual_seed(seed)
    a, t, j = torch.randn(3, n, d, generator=generator, dtype=torch.float64)
    return [x.to(dtype) for x in (a + j, t + 0.5 * j, j)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("term", TERMS)
def test_equals_the_equations(term, seed):
    batch = embeddings(seed=seed)
    expected = REFERENCES[term](*(x.numpy() for x in batch))
    assert TERMS[term](*batch).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = TERMS[term](*(x.float() for x in batch))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_gradients(term):
    batch = [x.requires_grad_() for x in embeddings()]
    assert torch.autograd.gradcheck(TERMS[term], batch)


def test_gradient_of_a_learned_temperature():
    a, t, j = embeddings()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda tau: reciprocal_contrastive(a, t, j, tau), temperature)


@pytest.mark.parametrize("term", TERMS)
def test_the_order_of_documents_does_not_matter(term):
    batch = embeddings()
    order = torch.randperm(len(batch[0]), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(TERMS[term](*(x[order] for x in batch)), TERMS[term](*batch))


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_ignores_rotation_scale_and_shift(debiased):
    x, y, _ = embeddings()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    expected = linear_cka(x, y, debiased=debiased)
    for moved in (x @ rotation, 1e-4 * x, 1e6 * x, x + 5):
        torch.testing.assert_close(linear_cka(moved, y, debiased=debiased), expected)
    assert linear_cka(x, 3 * x @ rotation, debiased=debiased).item() == pytest.approx(1)
    stretched = x * torch.tensor([1.0, 5.0, 25.0], dtype=torch.float64)
    assert abs(linear_cka(stretched, y, debiased=debiased) - expected) > 1e-3


def test_contrastive_terms_ignore_length():
    a, t, j = embeddings()
    scaled = reciprocal_contrastive(a * torch.arange(1, 8)[:, None], t, 7 * j, TAU)
    torch.testing.assert_close(scaled, reciprocal_contrastive(a, t, j, TAU))


def test_debiased_cka_of_independent_embeddings_is_zero_on_average_and_plain_is_not():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(300, 2, 16, 8, generator=generator, dtype=torch.float64)
    debiased, plain = (np.array([linear_cka(x, y, debiased=kind).item() for x, y in pairs]) for kind in (True, False))
    assert abs(debiased.mean()) < 4 * debiased.std() / math.sqrt(len(debiased))
    assert plain.mean() > 0.25


def test_cka_compares_different_widths():
    x, y, _ = embeddings()
    assert linear_cka(x, torch.cat([y, y], dim=1)).item() == pytest.approx(linear_cka(x, y).item())


def test_infonce_information_is_at_most_log_n():
    for seed in range(20):
        a, _, j = embeddings(n=5, seed=seed)
        for other in (a, j):
            bound = information_infonce(align(other, j, 0.02), 5)
            assert bound <= math.log(5) + 1e-12
    assert bound.item() == pytest.approx(math.log(5), rel=0.01)


def test_gaussian_information_finds_the_truth_in_a_large_sample():
    generator = torch.Generator().manual_seed(0)
    u, noise = torch.randn(2, 20_000, 2, generator=generator, dtype=torch.float64)
    for correlation in (0.0, 0.5, 0.8):
        joint = correlation * u[:2000] + math.sqrt(1 - correlation**2) * noise[:2000]
        truth = -math.log(1 - correlation**2)  # two columns, half of it each
        assert information_gaussian(u[:2000], joint).item() == pytest.approx(truth, rel=0.1, abs=0.01)


def test_gaussian_information_of_few_wide_independent_documents_is_small():
    generator = torch.Generator().manual_seed(0)
    u, joint = torch.randn(2, 32, 64, generator=generator)
    assert 0 <= information_gaussian(u, joint) < 0.5
    assert information_gaussian(u, u) > 1


def test_balance_is_zero_for_equal_modalities_and_grows_with_the_difference():
    a, t, j = embeddings(n=32)
    for estimator in ("infonce", "gaussian"):
        assert information_balance(a, a, j, TAU, estimator=estimator) == 0
        closer = information_balance(j, t, j, TAU, estimator=estimator)
        assert closer > information_balance(a, t, j, TAU, estimator=estimator) > 0


DEGENERATE = {
    "zero": lambda x: torch.zeros_like(x),
    "constant": lambda x: torch.full_like(x, 0.1),
    "identical rows": lambda x: x[:1].repeat(len(x), 1),
    "one zero row": lambda x: torch.cat([torch.zeros_like(x[:1]), x[1:]]),
    "one column": lambda x: torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], dim=1),
    "equal columns": lambda x: x[:, :1].repeat(1, x.shape[1]),
    "equally far apart": lambda x: torch.eye(*x.shape, dtype=x.dtype),
    "two points": lambda x: (torch.arange(len(x)) % 2)[:, None].to(x) * torch.ones_like(x),
    "large": lambda x: 1e12 * x,
    "tiny": lambda x: 1e-12 * x,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("degenerate", DEGENERATE)
@pytest.mark.parametrize("term", TERMS)
def test_degenerate_batches_stay_finite(term, degenerate, dtype):
    good = embeddings(n=6, d=6, dtype=dtype)
    bad = [DEGENERATE[degenerate](x) for x in good]
    for batch in (bad, [bad[0], *good[1:]], [good[0], good[1], bad[2]], [bad[0], bad[0], bad[0]]):
        inputs = [x.clone().requires_grad_() for x in batch]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = TERMS[term](*inputs)
        value.backward()
        assert value.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        assert value.isfinite()
        assert all(x.grad is None or x.grad.isfinite().all() for x in inputs)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_of_a_constant_is_zero_without_gradient(debiased):
    x, y, _ = embeddings(dtype=torch.float32)
    constant = torch.full_like(x, 0.1).requires_grad_()
    value = linear_cka(constant, y.requires_grad_(), debiased=debiased)
    value.backward()
    assert value == 0
    assert constant.grad.abs().max() == y.grad.abs().max() == 0


@pytest.mark.parametrize("term", TERMS)
def test_autocast_does_not_reach_inside(term):
    batch = embeddings(n=16, d=16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = TERMS[term](*batch)
    assert inside == TERMS[term](*batch)


@pytest.mark.parametrize("term", TERMS)
def test_half_precision_inputs_are_computed_in_float32(term):
    batch = embeddings(n=16, d=16, dtype=torch.bfloat16)
    assert TERMS[term](*batch) == TERMS[term](*(x.float() for x in batch))


@pytest.mark.parametrize(
    ("minimum", "term"),
    [
        ("contrastive", "reciprocal_contrastive"),
        ("cka_plain", "cka_plain"),
        ("cka_debiased", "cka_debiased"),
        ("information_infonce", "balance_infonce"),
        ("information_gaussian", "balance_gaussian"),
    ],
)
def test_too_few_documents(minimum, term):
    n = MINIMUM_DOCUMENTS[minimum]
    assert TERMS[term](*embeddings(n=n)).isfinite()
    with pytest.raises(ValueError, match=f"at least {n} documents"):
        TERMS[term](*embeddings(n=n - 1))


def test_arguments_that_make_no_sense():
    a, _, j = embeddings()
    with pytest.raises(ValueError, match="temperature must be positive"):
        info_nce(a, j, 0.0)
    with pytest.raises(ValueError, match="same N documents"):
        linear_cka(a, j[1:])
    with pytest.raises(ValueError, match="one width"):
        align(a, j[:, 1:], TAU)
    with pytest.raises(ValueError, match="estimator"):
        information_balance(a, a, j, TAU, estimator="exact")


# ---- tasks and experts


def labelled_logits(n: int = 12, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (n,), generator=generator).double()
    target[::4] = math.nan
    return logits, target


@pytest.mark.parametrize("method", ["none", "inverse", "effective-number", "logit-adjusted"])
def test_cross_entropy_equals_the_equation(method):
    logits, target = labelled_logits()
    weighting = class_weighting([50, 30, 4], method)
    value = cross_entropy(logits, target, class_weights=weighting.weights, logit_offset=weighting.logit_offset)
    expected = reference.cross_entropy(logits.numpy(), target.numpy(), *(x.double().numpy() for x in weighting))
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_missing_labels_have_no_influence():
    logits, target = labelled_logits()
    known = ~target.isnan()
    torch.testing.assert_close(cross_entropy(logits, target), cross_entropy(logits[known], target[known]))
    numbers = torch.where(known, target, -1).long()
    torch.testing.assert_close(cross_entropy(logits, numbers), cross_entropy(logits, target))
    prediction = logits[:, 0].clone().requires_grad_()
    value = squared_error(prediction, target)
    value.backward()
    assert value.item() == pytest.approx(((logits[known, 0] - target[known]) ** 2).mean().item())
    assert (prediction.grad[~known] == 0).all()
    torch.testing.assert_close(squared_error(prediction[:, None], target), value)


def test_a_batch_without_labels_costs_nothing():
    logits = torch.randn(4, 2, requires_grad=True)
    missing = torch.full((4,), math.nan)
    for value in (cross_entropy(logits, missing), squared_error(logits[:, :1], missing)):
        assert value == 0
        assert (torch.autograd.grad(value, logits)[0] == 0).all()


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"\[N, 1\]"):
        squared_error(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(ValueError, match=r"\[N, C\]"):
        cross_entropy(torch.zeros(4, 2), torch.zeros(4, 1))


@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_load_balance_equals_the_equation(top_k):
    gates = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1)
    assert load_balance(gates, top_k=top_k).item() == pytest.approx(reference.load_balance(gates.numpy(), top_k))


def test_load_balance_is_one_at_balance_and_most_at_collapse():
    balanced, collapsed = torch.eye(4).repeat(3, 1), torch.eye(4)[:1].repeat(12, 1)
    assert load_balance(balanced) == load_balance(balanced, top_k=1) == 1
    assert load_balance(collapsed) == load_balance(collapsed, top_k=1) == 4
    gates = torch.tensor([[0.7, 0.3], [0.6, 0.4]], requires_grad=True)
    gradient = torch.autograd.grad(load_balance(gates, top_k=1), gates)[0]
    assert (gradient[:, 0] > gradient[:, 1]).all()
    with pytest.raises(ValueError, match=r"1\.\.2"):
        load_balance(gates, top_k=3)


# ---- class weights


def test_inverse_weights_count_every_class_the_same():
    counts = torch.tensor([90, 9, 1])
    weights = class_weighting(counts, "inverse").weights
    torch.testing.assert_close(weights * counts, torch.full((3,), 100 / 3))


def test_effective_number_lies_between_none_and_inverse():
    few = class_weighting([6, 3, 1], "effective-number").weights
    torch.testing.assert_close(few / few[0], torch.tensor([1.0, 2.0, 6.0]), rtol=0.01, atol=0)
    many = class_weighting([10**6, 10**5, 10**5], "effective-number").weights
    torch.testing.assert_close(many, torch.ones(3))
    by_hand = [(1 - 0.999) / (1 - 0.999**n) for n in (500, 50)]
    expected = torch.tensor(by_hand) / sum(by_hand) * 2
    torch.testing.assert_close(class_weighting([500, 50], "effective-number").weights, expected)


def test_logit_adjustment_adds_the_log_prior():
    weights, offset = class_weighting([75, 25], "logit-adjusted")
    assert (weights == 1).all()
    torch.testing.assert_close(offset.exp(), torch.tensor([0.75, 0.25]))


@pytest.mark.parametrize("counts", [[5, 0, 3], [0, 0], [1, 0]])
@pytest.mark.parametrize("method", ["none", "inverse", "effective-number", "logit-adjusted"])
def test_an_absent_class_is_finite_and_changes_no_other_weight(method, counts):
    weighting = class_weighting(counts, method)
    assert all(x.isfinite().all() for x in weighting)
    if method in ("inverse", "effective-number"):
        present = [n for n in counts if n]
        assert (weighting.weights[torch.tensor(counts) == 0] == 0).all()
        if present:
            alone = class_weighting(present, method).weights
            torch.testing.assert_close(weighting.weights[torch.tensor(counts) > 0], alone)


def test_class_weighting_refuses_nonsense():
    with pytest.raises(InputError, match="one of none, inverse"):
        class_weighting([1, 2], "balanced")
    with pytest.raises(InputError, match=">= 0"):
        class_weighting([1, -2], "none")

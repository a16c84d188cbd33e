"""Pooling, cross-modal attention and the mixture of experts, against naive loops in float64."""

import math

import pytest
import torch
from synthetic import split
from torch import Tensor
from torch.nn import functional as F

from hilbert.attention import CrossAttention, CrossModalBlock, CrossModalEncoder, attend, position_signal
from hilbert.experts import MixtureOfExperts, gate_probabilities
from hilbert.pooling import SelfAttentivePooling, masked_softmax
from hilbert.ragged import Ragged

WIDTH = 8
NEAR = {"rtol": 0, "atol": 1e-12}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sequences(lengths: list[int], *, seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), WIDTH, generator=generator(seed), dtype=torch.float64)
    return Ragged.from_lengths(values, torch.tensor(lengths))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


# ---- pooling ---------------------------------------------------------------------------------------------------------


def naive_pool(pool: SelfAttentivePooling, segments: Tensor) -> tuple[Tensor, Tensor]:
    """One document's pooled vector and weights [S, r], from the equations."""
    hops = pool.score[2].out_features
    if not len(segments):
        return torch.zeros(WIDTH, dtype=torch.float64), torch.zeros(0, hops, dtype=torch.float64)
    w1, b1, w2 = pool.score[0].weight, pool.score[0].bias, pool.score[2].weight
    scores = torch.stack([w2 @ torch.tanh(w1 @ segment + b1) for segment in segments])
    weights = scores.exp() / scores.exp().sum(0)
    means = torch.cat([sum(weights[s, r] * segments[s] for s in range(len(segments))) for r in range(hops)])
    return (pool.merge.weight @ means if hops > 1 else means), weights


@pytest.mark.parametrize("hops", [1, 3])
def test_pooling_equals_a_loop_over_the_union_of_sequences(hops):
    pool = SelfAttentivePooling(WIDTH, hops=hops).double()
    first, second = sequences([3, 0, 1, 0]), sequences([2, 4, 0, 0], seed=1)
    pooled, (weights_first, weights_second) = pool(first, second)
    parts = zip(split(first), split(second), split(weights_first), split(weights_second), strict=True)
    for vector, (one, other, weights_one, weights_other) in zip(pooled, parts, strict=True):
        expected, weights = naive_pool(pool, torch.cat([one, other]))
        torch.testing.assert_close(vector, expected, **NEAR)
        torch.testing.assert_close(torch.cat([weights_one, weights_other]), weights, **NEAR)


def test_masked_softmax_of_nothing_has_no_weights_and_no_gradient():
    scores = torch.randn(2, 3, 1, dtype=torch.float64, requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([[True, True, False], [False] * 3]))
    torch.testing.assert_close(weights.sum(1).flatten(), torch.tensor([1.0, 0.0], dtype=torch.float64))
    (weights * torch.randn_like(weights)).sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[1].any()


def test_weights_are_float32_where_the_values_are_not():
    pool = SelfAttentivePooling(WIDTH, hops=2).bfloat16()
    packed = sequences([3, 2])
    pooled, (weights,) = pool(packed.with_values(packed.values.bfloat16()))
    assert (pooled.dtype, weights.values.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(weights.padded().sum(1), torch.ones(2, 2))


# ---- attention -------------------------------------------------------------------------------------------------------


def naive_attention(layer: CrossAttention, asking: Tensor, answering: Tensor) -> Tensor:
    """One document, head by head and query by query."""
    if not len(answering):
        return layer.output.bias.expand(len(asking), -1)
    query, key, value = layer.query(asking), answering @ layer.key.weight.T, layer.value(answering)
    size = WIDTH // layer.heads
    rows = []
    for q in query:
        heads = []
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            scores = torch.stack([q[part] @ k[part] / math.sqrt(size) for k in key])
            weights = scores.exp() / scores.exp().sum()
            heads.append(sum(w * v[part] for w, v in zip(weights, value, strict=True)))
        rows.append(layer.output(torch.cat(heads)))
    return torch.stack(rows) if rows else asking


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_equals_a_loop_over_queries(heads):
    layer = CrossAttention(WIDTH, heads=heads).double()
    asking, answering = sequences([2, 1, 3, 0, 0]), sequences([4, 1, 0, 2, 0], seed=1)
    attended = asking.with_values(layer(asking, answering))
    for found, one, other in zip(split(attended), split(asking), split(answering), strict=True):
        torch.testing.assert_close(found, naive_attention(layer, one, other), **NEAR)


def test_attention_equals_torch_s_multi_head_attention():
    layer = CrossAttention(WIDTH, heads=2).double()
    theirs = torch.nn.MultiheadAttention(WIDTH, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([layer.query.bias, torch.randn(WIDTH).double(), layer.value.bias]))
        theirs.out_proj.load_state_dict(layer.output.state_dict())
    asking, answering = sequences([2, 1, 3]), sequences([4, 1, 2], seed=1)
    padded = answering.padded()
    expected, _ = theirs(asking.padded(), padded, padded, key_padding_mask=~answering.mask, need_weights=False)
    torch.testing.assert_close(layer(asking, answering), asking.packed(expected), **NEAR)


def test_attend_ignores_masked_keys_and_answers_nothing_with_zeros():
    query, key, value = torch.randn(3, 2, 2, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [False] * 3])
    found = attend(query, key, value, mask)
    torch.testing.assert_close(
        found[:1], F.scaled_dot_product_attention(query[:1], key[:1, :, :2], value[:1, :, :2]), **NEAR
    )
    assert not found[1].any()


def test_keys_have_no_bias():
    assert not [
        name
        for name, _ in CrossModalBlock(8, heads=2, feed_forward=2, dropout=0).named_parameters()
        if name.endswith("key.bias")
    ]


@pytest.mark.parametrize("width", [2, 8, 10])
def test_position_signal_follows_the_formula(width):
    signal = position_signal(torch.tensor([0, 1, 7, 900]), width)
    assert signal.shape == (4, width)
    for row, position in zip(signal, (0, 1, 7, 900), strict=True):
        angles = [position / 10_000 ** (2 * i / width) for i in range(width // 2)]
        expected = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-4)


def test_every_block_attends_to_the_other_modality_s_first_sequence():
    encoder = CrossModalEncoder(WIDTH, layers=2, heads=2, feed_forward=2, dropout=0).double().eval()
    asking, answering = sequences([2, 3]), sequences([1, 2], seed=1)
    hidden = encoder.blocks[1](encoder.blocks[0](asking, answering), answering)
    torch.testing.assert_close(encoder(asking, answering).values, encoder.norm(hidden.values), **NEAR)


def test_a_block_is_pre_norm_and_residual():
    block = CrossModalBlock(WIDTH, heads=2, feed_forward=3, dropout=0).double()
    asking, answering = sequences([2, 3]), sequences([1, 2], seed=1)
    normed = asking.with_values(block.norm_asking(asking.values))
    context = answering.with_values(block.norm_answering(answering.values))
    hidden = asking.values + block.attention(normed, context)
    norm, first, _, _, second = block.feed_forward
    expected = hidden + second(F.gelu(first(norm(hidden))))
    torch.testing.assert_close(block(asking, answering).values, expected, **NEAR)


# ---- experts ---------------------------------------------------------------------------------------------------------


def experts(**options: object) -> MixtureOfExperts:
    return MixtureOfExperts(5, {"one": 2, "two": 3}, **({"experts": 4, "width": 6} | options)).double()


def inputs(n: int = 7) -> Tensor:
    return torch.randn(n, 5, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize("top_k", [0, 1, 2, 4])
def test_mixture_equals_a_loop_over_documents_tasks_and_experts(top_k):
    layer = experts(top_k=top_k)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    logits, gates, gate_logits = layer(inputs())
    for number, task in enumerate(("one", "two")):
        for i, x in enumerate(inputs()):
            raw = layer.gates[number](x)
            torch.testing.assert_close(gate_logits[task][i], raw, **NEAR)
            kept = sorted(range(4), key=lambda e: -raw[e])[: top_k or 4]
            total = sum(raw[e].exp() for e in kept)
            mixed = torch.zeros(6, dtype=torch.float64)
            for e in range(4):
                weight = raw[e].exp() / total if e in kept else torch.zeros(())
                torch.testing.assert_close(gates[task][i, e], weight.double(), **NEAR)
                hidden = F.gelu(x @ layer.hidden.weight[e] + layer.hidden.bias[e, 0])
                mixed = mixed + weight * F.gelu(hidden @ layer.output.weight[e] + layer.output.bias[e, 0])
            torch.testing.assert_close(logits[task][i], layer.heads[number](mixed), **NEAR)


def test_one_expert_is_a_plain_multilayer_perceptron():
    layer = experts(experts=1, gate_noise=1.0).train()
    x = inputs()
    logits, gates, gate_logits = layer(x)
    hidden = F.gelu(x @ layer.hidden.weight[0] + layer.hidden.bias[0])
    hidden = F.gelu(hidden @ layer.output.weight[0] + layer.output.bias[0])
    for task, head in zip(("one", "two"), layer.heads, strict=True):
        torch.testing.assert_close(logits[task], hidden @ head.weight.T + head.bias, **NEAR)
        assert torch.equal(gates[task], torch.ones(7, 1, dtype=torch.float64))
    assert gate_logits == {}
    assert not list(layer.gates.parameters())


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_keeps_exactly_k_even_among_equals(top_k):
    for logits in (torch.zeros(5, 4), torch.randn(5, 4, generator=generator())):
        gates = gate_probabilities(logits, top_k=top_k)
        assert (gates > 0).sum(1).tolist() == [top_k] * 5
        torch.testing.assert_close(gates.sum(1), torch.ones(5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_are_float32_at_least(dtype):
    assert gate_probabilities(torch.zeros(2, 3, dtype=dtype)).dtype == torch.float32


@pytest.mark.parametrize("top_k", [0, 1, 2])
def test_every_gate_learns_from_its_task(top_k):
    layer = experts(top_k=top_k)
    logits, *_ = layer(inputs())
    sum(values.square().sum() for values in logits.values()).backward()
    for gate in layer.gates:
        assert gate.weight.grad.abs().max() > 1e-6


def test_gate_noise_is_of_the_given_size_and_only_in_training():
    layer = experts(gate_noise=0.5)
    x = inputs(1).expand(4000, -1)
    noise = layer.train()(x)[2]["one"] - layer.gates[0](x)
    assert 0.48 < noise.std() < 0.52
    assert torch.equal(layer.eval()(x)[2]["one"], layer.gates[0](x))
    assert torch.equal(layer(x)[1]["two"], layer(x)[1]["two"])


def test_experts_and_heads_begin_apart():
    layer = experts()
    assert not torch.equal(layer.hidden.weight[0], layer.hidden.weight[1])
    assert layer.hidden.weight.abs().max() <= 1 / math.sqrt(5)

import itertools
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import SPECS, make_model, random_batch, select

from hilbert import losses
from hilbert.batches import Batch
from hilbert.class_weights import class_weighting
from hilbert.config import LossConfig
from hilbert.model import Hilbert, HilbertOutput
from hilbert.objective import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, Objective, Terms

COUNTS = {"affect": [10, 3], "spectrum": [7, 2, 1]}
TASK_TERMS = {f"task_{task}" for task in SPECS}
WEIGHTINGS = ("none", "inverse", "effective-number", "logit-adjusted")
VARIANTS = [
    {},
    {"mi_estimator": "gaussian"},
    {"cka_estimator": "plain", "learned_temperature": True},
    *({"class_weighting": method} for method in WEIGHTINGS),
]
variants = pytest.mark.parametrize("changes", VARIANTS, ids=str)


def make_objective(*, top_k: int = 0, **changes: object) -> Objective:
    config = LossConfig(**({"contrastive": 0.3, "cka": 0.5, "mi": 0.7, "moe": 0.2} | changes))
    weighting = {task: class_weighting(counts, config.class_weighting) for task, counts in COUNTS.items()}
    return Objective(config, SPECS, weighting, top_k=top_k)


def terms_of(model: Hilbert, batch: Batch, *, top_k: int = 0, **changes: object) -> Terms:
    return make_objective(top_k=top_k, **changes)(model(batch), batch)


def unlabelled(batch: Batch, *tasks: str) -> Batch:
    labels = {task: torch.full_like(y, torch.nan) if task in tasks else y for task, y in batch.labels.items()}
    return replace(batch, labels=labels)


def lacking() -> Batch:
    """Nine documents: six with audio, seven with text, four with both."""
    return random_batch(audio=(3, 2, 0, 1, 0, 2, 1, 0, 4), text=(2, 0, 4, 1, 1, 0, 3, 2, 1))


# ---- the sum ---------------------------------------------------------------------------------------------------------


@variants
def test_the_total_is_the_sum_of_the_weighted_terms(changes):
    batch = lacking()
    tasks = {"affect": 2.0, "score": 0.25}
    terms = terms_of(make_model(), batch, tasks=tasks, **changes)
    weights = {"task_affect": 2.0, "task_spectrum": 1.0, "task_score": 0.25}
    weights |= {"contrastive": 0.3, "cka": 0.5, "mi": 0.7, "moe": 0.2}
    assert dict(terms.weights) == weights
    assert terms.values.keys() == terms.weighted.keys() == weights.keys()
    expected = sum(weight * terms.values[name] for name, weight in weights.items())
    torch.testing.assert_close(terms.total, expected, rtol=0, atol=1e-12)
    for name, weight in weights.items():
        torch.testing.assert_close(terms.weighted[name], weight * terms.values[name], rtol=0, atol=0)


def test_each_term_is_its_published_loss():
    model, batch = make_model(), random_batch()
    output = model(batch)
    terms = make_objective()(output, batch)
    embeddings = output.audio, output.text, output.joint
    expected = {
        "contrastive": losses.reciprocal_contrastive(*embeddings, 0.2),
        "cka": losses.cka_loss(*embeddings),
        "mi": losses.information_balance(*embeddings, 0.2),
        "moe": torch.stack([losses.load_balance(gates) for gates in output.gates.values()]).mean(),
        "task_score": ((output.logits["score"][:, 0] - (batch.labels["score"] - 2) / 3) ** 2).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms.values[name], value, rtol=0, atol=1e-12, msg=name)
    gaussian = make_objective(mi_estimator="gaussian", cka_estimator="plain")(output, batch)
    expected = losses.information_balance(*embeddings, 0.2, estimator="gaussian")
    torch.testing.assert_close(gaussian.values["mi"], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gaussian.values["cka"], losses.cka_loss(*embeddings, debiased=False), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", WEIGHTINGS)
def test_task_losses_weigh_the_classes_of_the_training_part(method):
    model, batch = make_model(), random_batch()
    output = model(batch)
    terms = make_objective(class_weighting=method)(output, batch)
    for task, counts in COUNTS.items():
        n = np.array(counts, dtype=float)
        weights = {"inverse": n.sum() / (len(n) * n), "effective-number": (1 - 0.999**n) ** -1}.get(method, n**0)
        weights = weights * len(n) / weights.sum() if method == "effective-number" else weights
        offset = np.log(n / n.sum()) if method == "logit-adjusted" else 0 * n
        logits = output.logits[task].detach().numpy() + offset
        y = batch.labels[task].numpy().astype(int)
        each = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
        assert float(terms.values[f"task_{task}"].detach()) == pytest.approx((weights[y] * each).mean(), rel=1e-6)


def test_the_load_balance_counts_the_choices_before_top_k():
    model, batch = make_model(top_k=2), random_batch()
    output = model(batch)
    full = [torch.softmax(logits, 1) for logits in output.gate_logits.values()]
    expected = torch.stack([losses.load_balance(gates, top_k=2) for gates in full]).mean()
    torch.testing.assert_close(make_objective(top_k=2)(output, batch).values["moe"], expected, rtol=0, atol=1e-12)


@variants
def test_the_order_of_documents_does_not_change_the_terms(changes):
    model, batch = make_model(), lacking()
    order = [4, 8, 0, 3, 7, 1, 6, 2, 5]
    straight, permuted = terms_of(model, batch, **changes), terms_of(model, select(batch, order), **changes)
    for name, value in straight.values.items():
        torch.testing.assert_close(permuted.values[name], value, rtol=0, atol=1e-10, msg=name)


# ---- what a weight of 0 removes --------------------------------------------------------------------------------------

COMPUTES = {"contrastive": ["align"], "cka": ["linear_cka"], "mi": ["information_gaussian"], "moe": ["load_balance"]}


@pytest.mark.parametrize("term", COMPUTES)
def test_a_term_of_weight_0_is_neither_there_nor_computed(term, monkeypatch):
    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("computed")

    model, batch = make_model(), random_batch()
    for function in COMPUTES[term]:
        monkeypatch.setattr(losses, function, forbidden)
    with pytest.raises(AssertionError, match="computed"):
        terms_of(model, batch, mi_estimator="gaussian")
    terms = terms_of(model, batch, mi_estimator="gaussian", **{term: 0.0})
    assert terms.values.keys() == TASK_TERMS | COMPUTES.keys() - {term}


def test_the_infonce_bounds_come_with_either_of_the_terms_that_need_them(monkeypatch):
    model, batch = make_model(), random_batch()
    bounds = {"information_audio", "information_text"}
    assert terms_of(model, batch, mi=0.0).bounds.keys() == bounds
    assert terms_of(model, batch, contrastive=0.0).bounds.keys() == bounds
    assert "mi" in terms_of(model, batch, contrastive=0.0).values
    monkeypatch.delattr(losses, "align")
    assert not terms_of(model, batch, contrastive=0.0, mi=0.0).bounds


@pytest.mark.parametrize("estimator", ["infonce", "gaussian"])
def test_bounds_are_nats_and_finite(estimator):
    batch = lacking()
    bounds = terms_of(make_model(), batch, mi_estimator=estimator).bounds
    assert bounds.keys() == {"information_audio", "information_text"}
    if estimator == "infonce":
        assert bounds["information_audio"] <= math.log(6)
        assert bounds["information_text"] <= math.log(7)
    else:
        assert all(0 <= bound < 100 for bound in bounds.values())


def test_a_task_of_weight_0_is_left_out(monkeypatch):
    model, batch = make_model(), random_batch()
    monkeypatch.delattr(losses, "squared_error")
    terms = terms_of(model, batch, tasks={"score": 0.0})
    assert "task_score" not in terms.values
    assert {"task_affect", "task_spectrum"} < terms.values.keys()


def test_one_expert_has_no_load_to_balance():
    assert "moe" not in terms_of(make_model(experts=1), random_batch(), moe=1.0).values


def test_supervised_is_the_tasks_share():
    model, batch = make_model(), lacking()
    output = model(batch)
    objective = make_objective(tasks={"affect": 2.0, "score": 0.0})
    terms = objective(output, batch)
    expected = sum(value for name, value in terms.weighted.items() if name in TASK_TERMS)
    torch.testing.assert_close(objective.supervised(output.logits, batch.labels), expected, rtol=0, atol=1e-12)


# ---- missing modalities ----------------------------------------------------------------------------------------------


@variants
def test_representation_terms_look_only_at_documents_that_have_the_modality(changes):
    model, batch = make_model(), lacking()
    output = model(batch)
    terms = make_objective(**changes)(output, batch)
    config = LossConfig(**changes)
    pairs = {
        name: [x[getattr(batch, name).lengths > 0] for x in (getattr(output, name), output.joint)]
        for name in ("audio", "text")
    }
    assert [len(pair[0]) for pair in pairs.values()] == [6, 7]
    aligned = [losses.align(*pair, config.temperature) for pair in pairs.values()]
    similar = [losses.linear_cka(*pair, debiased=config.cka_estimator == "debiased") for pair in pairs.values()]
    both = (batch.audio.lengths > 0) & (batch.text.lengths > 0)  # the bounds are compared: the same documents for both
    common = [(x[both], output.joint[both]) for x in (output.audio, output.text)]
    if config.mi_estimator == "gaussian":
        known = [losses.information_gaussian(*pair) for pair in common]
    else:
        known = [
            losses.information_infonce(losses.align(*pair, config.temperature), int(both.sum())) for pair in common
        ]
    expected = {
        "contrastive": sum(aligned) / 2,
        "cka": 1 - sum(similar) / 2,
        "mi": (known[0] - known[1]) ** 2,
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms.values[name], value, rtol=0, atol=1e-7, msg=name)


def test_a_batch_without_a_modality_uses_the_other_and_has_no_balance():
    model, batch = make_model(), random_batch(audio=(0,) * 5)
    output = model(batch)
    terms = make_objective()(output, batch)
    expected = losses.align(output.text, output.joint, 0.2)
    torch.testing.assert_close(terms.values["contrastive"], expected, rtol=0, atol=1e-12)
    assert "mi" not in terms.values
    assert not terms.bounds


# ---- degenerate batches ----------------------------------------------------------------------------------------------


def constant(output: HilbertOutput) -> HilbertOutput:
    """Every document embedded alike, still a function of the parameters."""
    first = {name: getattr(output, name)[:1].expand_as(getattr(output, name)) for name in ("audio", "text", "joint")}
    return replace(output, **first)


DEGENERATE = {
    "one document": random_batch((2,), (3,)),
    "two documents": random_batch((2, 1), (3, 1)),
    "one class": replace(random_batch(), labels={task: torch.ones(5) for task in SPECS}),
    "no label": unlabelled(random_batch(), *SPECS),
    "no label of one task": unlabelled(random_batch(), "spectrum"),
    "no segment anywhere": random_batch((0,) * 5, (0,) * 5),
    "no audio": random_batch(audio=(0,) * 5),
    "copies of one document": select(random_batch(), [0] * 6),
    "no document with both": random_batch((1, 2, 1, 1, 3, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 1, 2, 3, 1, 1)),
}


@variants
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("alike", [False, True])
def test_degenerate_batches_give_finite_losses_and_gradients(changes, case, alike):
    batch = DEGENERATE[case]
    model, objective = make_model(top_k=2, hops=2, modality_source="cross").train(), make_objective(top_k=2, **changes)
    output = model(batch)
    terms = objective(constant(output) if alike else output, batch)
    terms.total.backward()
    assert torch.isfinite(terms.total)
    assert all(torch.isfinite(value) for value in itertools.chain(terms.values.values(), terms.bounds.values()))
    for name, parameter in [*model.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def test_without_labels_only_the_task_losses_are_zero():
    batch = DEGENERATE["no label"]
    terms = terms_of(make_model(), batch)
    assert all(terms.values[name] == 0 for name in TASK_TERMS)
    assert terms.values["contrastive"] > 0


def test_a_batch_too_small_for_a_term_is_said_once(caplog):
    model, batch = make_model(), random_batch((1, 1, 1), (1, 1, 0))
    objective = make_objective()
    with caplog.at_level(logging.WARNING, logger="hilbert"):
        for _ in range(3):
            terms = objective(model(batch), batch)
            assert terms.values.keys() == TASK_TERMS | {"contrastive", "mi", "moe"}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "3 documents with audio" in said[0]
    assert "2 documents with text" in said[1]
    assert all("cka" in message and "needs 4" in message for message in said)


# ---- temperature -----------------------------------------------------------------------------------------------------


def test_a_learned_temperature_starts_as_told_and_learns():
    model, batch = make_model(), random_batch()
    objective = make_objective(learned_temperature=True, temperature=0.5)
    assert float(objective.temperature.detach()) == pytest.approx(0.5)
    objective(model(batch), batch).total.backward()
    assert objective.log_temperature.grad.abs() > 1e-4
    assert not list(make_objective().parameters())


@pytest.mark.parametrize(("start", "border"), [(0.001, LOWEST_TEMPERATURE), (100.0, HIGHEST_TEMPERATURE)])
def test_a_temperature_at_the_border_of_its_range_can_come_back(start, border):
    """Clamped in the forward pass it would have no gradient out there, and stay for ever."""
    objective = make_objective(learned_temperature=True, temperature=start, mi=0.0)
    with torch.no_grad():
        objective.log_temperature.add_(math.copysign(1.0, math.log(border)))
    batch = random_batch(seed=3)
    objective(make_model()(batch), batch).total.backward()
    assert float(objective.temperature.detach()) == pytest.approx(border, rel=1e-5)
    assert objective.log_temperature.grad.abs() > 0


def test_training_keeps_the_temperature_in_its_range():
    objective = make_objective(learned_temperature=True, temperature=0.02)
    optimizer = torch.optim.SGD(objective.parameters(), lr=10.0)
    batch = random_batch()
    output = make_model()(batch)
    output = replace(output, joint=output.audio + output.text)
    for _ in range(20):
        optimizer.zero_grad()
        terms = objective(output, batch)
        assert LOWEST_TEMPERATURE * 0.999 <= float(objective.temperature.detach()) <= HIGHEST_TEMPERATURE * 1.001
        terms.total.backward(retain_graph=True)
        optimizer.step()


# ---- half precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@variants
def test_autocast_gives_float32_losses_and_gates(dtype, changes):
    model = make_model(dtype=torch.float32, top_k=2, hops=2, layers=2).train()
    batch = random_batch((3, 1, 0, 2, 1, 1), (2, 1, 1, 2, 0, 4), dtype=torch.float32)
    objective = make_objective(top_k=2, **changes)
    with torch.autocast("cpu", dtype=dtype):
        output = model(batch)
        terms = objective(output, batch)
    outside = objective(output, batch)
    terms.total.backward()
    assert output.joint.dtype == dtype
    assert all(gates.dtype == torch.float32 for gates in output.gates.values())
    for name, value in terms.values.items():
        assert value.dtype == torch.float32, name
        assert torch.isfinite(value), name
        torch.testing.assert_close(value, outside.values[name], rtol=0, atol=1e-6, msg=name)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name
        assert torch.isfinite(parameter.grad).all(), name
    exact = objective(model(batch), batch)
    for name, value in exact.values.items():
        torch.testing.assert_close(terms.values[name], value, rtol=0.05, atol=0.05, msg=name)

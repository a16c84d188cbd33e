"""One fit: what it may depend on, what it must not see, and that it learns."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import TASKS, Store, fit_config, make_fold, make_store

from hilbert.config import FitConfig
from hilbert.features import FeatureStore
from hilbert.folds import Fold
from hilbert.metrics import auc
from hilbert.model import Hilbert
from hilbert.prediction import predict
from hilbert.tasks import encode_labels
from hilbert.training import FoldResult, Trainer, fit

STORE = make_store(48, missing=0.15, unlabelled=0.2)
FOLD = make_fold(48)
PARTS = ("train", "inner", "held_out")
TERMS = {"total", "contrastive", "cka", "mi", "moe"}


def assert_same_fit(one: FoldResult, other: FoldResult, *, but: set[str] = frozenset()) -> None:
    """Bit for bit: weights, reports, predictions; `seconds` apart."""
    ignored = {"seconds", *but}
    assert one.best_epoch == other.best_epoch
    for found, expected in zip(one.epochs, other.epochs, strict=True):
        assert {k: v for k, v in found.items() if k not in ignored} == {
            k: v for k, v in expected.items() if k not in ignored
        }
    for (name, found), expected in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name


def assert_same_scores(one: FoldResult, other: FoldResult) -> None:
    assert one.scores.keys() == other.scores.keys()
    for task, scores in one.scores.items():
        assert np.array_equal(scores, other.scores[task]), task


# ---- what the result depends on --------------------------------------------------------------------------------------


def test_a_fit_depends_on_nothing_but_its_arguments():
    config = fit_config(tasks=TASKS, segment_dropout=0.3, model={"gate_noise": 0.5})
    first = fit(config, STORE, FOLD)
    torch.manual_seed(99)
    torch.rand(7)
    np.random.seed(5)  # noqa: NPY002
    fit(replace_train(config, epochs=1), make_store(48, seed=3), make_fold(48, index=4))
    again = fit(config, STORE, FOLD)
    assert_same_fit(first, again)
    assert_same_scores(first, again)


def replace_train(config: FitConfig, **changes: object) -> FitConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def test_a_fit_leaves_the_global_random_states_alone():
    torch.manual_seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fit(fit_config(segment_dropout=0.2, epochs=1), STORE, FOLD)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(fit_config(epochs=1), STORE, FOLD, report=stop)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


def test_the_second_training_of_a_refit_can_be_ended_too():
    config, told = fit_config(epochs=2, refit=True, patience=5), []

    def stop(epoch: dict[str, float]) -> None:
        told.append(epoch["epoch"])
        if len(told) > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, STORE, FOLD, report=stop)
    assert told == [1, 2, 1]


def test_seed_and_fold_number_draw_other_weights():
    initial = []
    for seed, index in ((0, 0), (1, 0), (0, 1)):
        model = fit(fit_config(seed=seed, epochs=1, learning_rate=1e-12), STORE, replace(FOLD, index=index)).model
        initial.append(model.audio_encoder.project.weight)
    assert not torch.allclose(initial[0], initial[1])
    assert not torch.allclose(initial[0], initial[2])


def test_held_out_documents_leave_no_trace():
    config = fit_config(tasks=TASKS, monitor="auc")
    expected = fit(config, STORE, FOLD)
    wild = STORE.with_features(FOLD.held_out, lambda x: np.full_like(x, 1e15))
    assert_same_fit(fit(config, wild, FOLD), expected)
    relabelled = STORE
    for task, value in {"affect": "low", "spectrum": None, "score": "1e6"}.items():
        relabelled = relabelled.with_labels(FOLD.held_out, task, value)
    found = fit(config, relabelled, FOLD)
    assert_same_fit(found, expected)
    assert_same_scores(found, expected)
    assert np.isnan(found.labels["spectrum"]).all()


def test_only_the_training_part_is_fitted_on():
    """Inner validation chooses the epoch, and does nothing else."""
    config = fit_config(tasks=TASKS, patience=0)
    expected = fit(config, STORE, FOLD)
    changed = STORE.with_features(FOLD.inner, lambda x: 3 * x + 100)
    for task, value in {"affect": "low", "spectrum": "a", "score": "-777"}.items():
        changed = changed.with_labels(FOLD.inner, task, value)
    inner = {name for report in expected.epochs for name in report if name.startswith("inner")}
    found = fit(config, changed, FOLD)
    assert_same_fit(found, expected, but=inner)
    assert_same_scores(found, expected)
    assert found.epochs[0]["inner_loss"] != expected.epochs[0]["inner_loss"]


def test_preprocessing_travels_with_the_model():
    result = fit(fit_config(tasks=TASKS, epochs=1), STORE, FOLD)
    rows = np.concatenate([STORE.text[i] for i in FOLD.train]).astype(np.float64)
    standardise = result.model.text_encoder.standardise
    np.testing.assert_allclose(standardise.mean.numpy(), rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(standardise.deviation.numpy(), rows.std(0), rtol=1e-5)
    scores = np.array([float(cell) for cell in STORE.documents["score"].iloc[FOLD.train] if cell is not None])
    spec = result.model.config.tasks["score"]
    assert (spec.mean, spec.deviation) == pytest.approx((scores.mean(), scores.std()))
    assert result.model.config.tasks["spectrum"].classes == ("a", "b", "c")


def test_a_store_on_disk_gives_the_same_fit(tmp_path):
    arrays = {name: getattr(STORE, name).split() for name in ("audio", "text")}
    store = FeatureStore.write(tmp_path / "store", documents=STORE.documents, **arrays)
    found, expected = (fit(fit_config(epochs=1), one, FOLD) for one in (store, STORE))
    assert_same_fit(found, expected)
    assert_same_scores(found, expected)


# ---- reports and results ---------------------------------------------------------------------------------------------


def test_every_epoch_reports_all_terms():
    told = []
    result = fit(fit_config(tasks=TASKS, model={"experts": 2}), STORE, FOLD, report=told.append)
    assert told == result.epochs
    assert [report["epoch"] for report in told] == [1, 2, 3]
    terms = TERMS | {f"task_{task}" for task in TASKS}
    expected = {"epoch", "seconds", "learning_rate", "inner_loss", "train_information_audio", "train_information_text"}
    expected |= {f"train_{term}" for term in terms} | {f"train_weighted_{term}" for term in terms - {"total"}}
    expected |= {f"inner_{task}_auc" for task in TASKS}
    for report in told:
        assert report.keys() == expected
        assert all(type(value) in (int, float) and math.isfinite(value) for value in report.values())
        weighted = sum(value for name, value in report.items() if name.startswith("train_weighted_"))
        assert report["train_total"] == pytest.approx(weighted, rel=1e-4)
    json.dumps(told)


def test_the_result_names_the_held_out_documents_and_scores_them():
    result = fit(fit_config(tasks=TASKS), STORE, replace(FOLD, index=7))
    assert result.fold == 7
    assert result.document_ids == [f"d{i:03}" for i in FOLD.held_out]
    assert result.seconds > 0
    assert not result.model.training
    again = predict(result.model, STORE, FOLD.held_out).scores(result.model.config.tasks)
    for task, spec in result.model.config.tasks.items():
        scores, labels = result.scores[task], result.labels[task]
        assert scores.shape == (12, spec.outputs)
        assert np.array_equal(scores, again[task])
        assert result.auc[task] == auc(labels, scores, spec.kind)
        cells = STORE.documents[task].iloc[FOLD.held_out]
        expected = [math.nan if c is None else spec.classes.index(c) if spec.classes else float(c) for c in cells]
        np.testing.assert_array_equal(labels, expected)
        if spec.classes:
            np.testing.assert_allclose(scores.sum(1), 1, rtol=0, atol=1e-12)
            assert (scores >= 0).all()


def test_an_undefined_auc_is_none():
    store = STORE.with_labels(FOLD.held_out, "affect", "low").with_labels(FOLD.inner, "affect", "high")
    result = fit(fit_config(epochs=1), store, FOLD)
    assert result.auc == {"affect": None}
    assert "inner_affect_auc" not in result.epochs[0]


# ---- early stopping --------------------------------------------------------------------------------------------------


def inner_loss(result: FoldResult, store: Store, fold: Fold) -> float:
    """The inner loss of the returned model, from its predictions alone: one binary task without class weights."""
    probabilities = predict(result.model, store, fold.inner).scores(result.model.config.tasks)["affect"]
    cells = store.documents["affect"].iloc[fold.inner]
    classes = result.model.config.tasks["affect"].classes
    known = [-math.log(p[classes.index(cell)]) for p, cell in zip(probabilities, cells, strict=True) if cell]
    return sum(known) / len(known)


@pytest.mark.parametrize(("monitor", "patience"), [("loss", 2), ("auc", 2), ("loss", 0), ("loss", 30)])
def test_the_best_epoch_s_weights_are_returned_and_patience_is_kept(monitor, patience):
    config = fit_config(
        loss={"class_weighting": "none"}, epochs=25, monitor=monitor, patience=patience, learning_rate=0.02
    )
    store = make_store(48, signal=0.3, unlabelled=0.2)
    result = fit(config, store, FOLD)
    key, sign = ("inner_affect_auc", 1) if monitor == "auc" else ("inner_loss", -1)
    values = [sign * report[key] for report in result.epochs]
    if patience:
        assert result.best_epoch == 1 + int(np.argmax(values))  # the first of equals
        assert len(result.epochs) == min(25, result.best_epoch + patience)
    else:
        assert result.best_epoch == len(result.epochs) == 25
    reported = result.epochs[result.best_epoch - 1]
    assert inner_loss(result, store, FOLD) == pytest.approx(reported["inner_loss"], rel=1e-5)
    if monitor == "loss" and patience == 2:
        assert result.best_epoch < len(result.epochs) < 25


def test_without_inner_validation_the_last_epoch_counts():
    fold = replace(FOLD, inner=np.arange(0))
    for patience in (0, 1):
        result = fit(fit_config(epochs=4, patience=patience), STORE, fold)
        assert (result.best_epoch, len(result.epochs)) == (4, 4)
        assert not any(name.startswith("inner") for name in result.epochs[0])


def test_inner_validation_without_a_label_counts_as_none():
    """A loss over no document is 0 in every epoch, which must not make the first epoch the best."""
    store = STORE.with_labels(FOLD.inner, "affect", None)
    result = fit(fit_config(epochs=4, patience=1), store, FOLD)
    assert (result.best_epoch, len(result.epochs)) == (4, 4)


def test_a_task_of_weight_0_does_not_choose_the_epoch():
    tasks = {"affect": "binary", "spectrum": "multiclass"}
    config = fit_config(tasks=tasks, loss={"tasks": {"spectrum": 0.0}}, epochs=12, monitor="auc", patience=12)
    for seed in range(4):
        result = fit(config, make_store(48, signal=0.3, seed=seed), FOLD)
        assert result.best_epoch == 1 + int(np.argmax([report["inner_affect_auc"] for report in result.epochs]))


# ---- refit -----------------------------------------------------------------------------------------------------------


def test_refit_trains_on_inner_validation_too_for_as_many_epochs_as_it_chose():
    settings = {"epochs": 6, "patience": 2, "learning_rate": 0.02}
    config = fit_config(**settings, refit=True)
    result = fit(config, STORE, FOLD)
    chosen = fit(fit_config(**settings), STORE, FOLD)
    assert result.best_epoch == chosen.best_epoch
    for found, expected in zip(result.epochs, chosen.epochs, strict=True):
        assert found["train_total"] == expected["train_total"]
        assert found["inner_loss"] == expected["inner_loss"]
    rows = np.concatenate([STORE.audio[i] for i in [*FOLD.train, *FOLD.inner]]).astype(np.float64)
    np.testing.assert_allclose(result.model.audio_encoder.standardise.mean.numpy(), rows.mean(0), rtol=1e-4, atol=1e-6)
    assert_same_fit(fit(config, STORE, FOLD), result)
    wild = STORE.with_features(FOLD.held_out, lambda x: np.full_like(x, 1e15))
    assert_same_fit(fit(config, wild.with_labels(FOLD.held_out, "affect", "low"), FOLD), result)


def test_refit_without_patience_trains_once_on_both_parts():
    both = replace(FOLD, train=np.concatenate([FOLD.train, FOLD.inner]), inner=FOLD.inner[:0])
    found, expected = fit(fit_config(patience=0, refit=True), STORE, FOLD), fit(fit_config(patience=0), STORE, both)
    assert_same_fit(found, expected)
    assert_same_scores(found, expected)


# ---- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_learns_a_planted_signal(schedule):
    store = make_store(120, signal=3.0)
    fold = make_fold(120, inner=20, held_out=40)
    config = fit_config(tasks=TASKS, epochs=15, learning_rate=0.01, schedule=schedule, patience=0)
    result = fit(config, store, fold)
    assert result.auc["affect"] > 0.9
    assert min(result.auc.values()) > 0.8
    known = result.labels["score"]
    error = np.square(result.scores["score"][:, 0] - known).mean() / known.var()
    assert error < 0.5
    assert result.epochs[-1]["train_total"] < result.epochs[0]["train_total"]


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"contrastive": 0.0, "cka": 0.0, "mi": 0.0, "moe": 0.0}, "model": {"experts": 1, "layers": 0}},
        {"loss": {"mi_estimator": "gaussian", "cka_estimator": "plain", "learned_temperature": True}},
        {"loss": {"class_weighting": "logit-adjusted"}, "model": {"modality_source": "cross", "top_k": 1}},
        {"precision": "bfloat16", "clip_norm": 0.0, "model": {"hops": 2, "layers": 2}},
        {"precision": "float16", "segment_dropout": 0.5},
    ],
    ids=str,
)
def test_every_variant_learns(changes):
    store, fold = make_store(100, missing=0.05, signal=3.0), make_fold(100, inner=15, held_out=35)
    result = fit(fit_config(epochs=12, learning_rate=0.01, patience=0, **changes), store, fold)
    assert result.auc["affect"] > 0.9
    assert all(parameter.dtype == torch.float32 for parameter in result.model.parameters())


def test_logit_adjustment_is_for_training_alone():
    """Predictions are the softmax of the model's own logits: nothing is added to them."""
    result = fit(fit_config(loss={"class_weighting": "logit-adjusted"}), STORE, FOLD)
    logits = predict(result.model, STORE, FOLD.held_out).logits["affect"].double()
    np.testing.assert_allclose(result.scores["affect"], torch.softmax(logits, 1).numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1.7e9])
def test_regression_does_not_care_about_units(offset):
    """A label may be a date in seconds."""
    store = make_store(80)
    numbers = [float(cell) for cell in store.documents["score"]]
    shifted = store.with_labels(range(80), "score", [repr(number + offset) for number in numbers])
    config = fit_config(tasks={"score": "regression"}, loss={"contrastive": 0.0, "cka": 0.0, "mi": 0.0})
    expected, found = (fit(config, one, make_fold(80)) for one in (store, shifted))
    np.testing.assert_allclose(found.scores["score"] - offset, expected.scores["score"], rtol=0, atol=0.05)


# ---- segment dropout -------------------------------------------------------------------------------------------------


def test_segment_dropout_thins_training_and_never_evaluation(monkeypatch):
    seen: dict[bool, list[int]] = {True: [], False: []}
    forward = Hilbert.forward

    def counting(self, batch):
        seen[self.training] += batch.audio.lengths.tolist()
        return forward(self, batch)

    monkeypatch.setattr(Hilbert, "forward", counting)
    store = make_store(48, longest=8)
    fit(fit_config(segment_dropout=0.5, epochs=4), store, FOLD)
    lengths = np.diff(store.audio.offsets)
    assert min(seen[True]) >= 1
    assert sum(seen[True]) < 0.8 * 4 * lengths[FOLD.train].sum()
    assert sum(seen[False]) == 4 * lengths[FOLD.inner].sum() + lengths[FOLD.held_out].sum()


# ---- wiring ---------------------------------------------------------------------------------------------------------


def test_weight_decay_spares_biases_norms_and_the_temperature():
    config = fit_config(loss={"learned_temperature": True}, weight_decay=0.5)
    optimizer = trainer(config).optimizer
    decayed, free = (group["params"] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    model = trainer(config).model
    shapes = sorted(tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight") and p.ndim > 1)
    assert sorted(tuple(p.shape) for p in decayed) == shapes
    assert sum(p.numel() for p in [*decayed, *free]) == 1 + sum(p.numel() for p in model.parameters())


def test_the_load_balance_knows_of_top_k():
    assert trainer(fit_config(model={"experts": 3, "top_k": 2})).objective.top_k == 2


def trainer(config: FitConfig) -> Trainer:
    labels = encode_labels(STORE.documents, config.tasks, source="here")
    return Trainer(config, STORE, FOLD, labels, torch.device("cpu"), np.random.default_rng(0))

"""A fit on little or odd data, and a fit that can't go on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import TASKS, fit_config, make_fold, make_store
from torch import Tensor

from hilbert import losses
from hilbert.errors import InputError, StoreError
from hilbert.training import TrainingError, choose_device, fit

STORE = make_store(48, missing=0.15, unlabelled=0.2)
FOLD = make_fold(48)


# ---- small and odd training parts ------------------------------------------------------------------------------------


ODD_LABELS = {
    "one class": lambda store: store.with_labels(FOLD.train, "affect", "low"),
    "one document of a class": lambda store: store.with_labels(FOLD.train[1:], "affect", "low").with_labels(
        FOLD.train[:1], "affect", "high"
    ),
    "no label of one task": lambda store: store.with_labels(FOLD.train, "spectrum", None),
    "one number": lambda store: store.with_labels(FOLD.train, "score", "0.1"),
    "one labelled document": lambda store: store.with_labels(FOLD.train[1:], "score", None),
}


@pytest.mark.parametrize("weighting", ["none", "inverse", "effective-number", "logit-adjusted"])
@pytest.mark.parametrize("case", ODD_LABELS)
def test_odd_labels_train(case, weighting):
    store = ODD_LABELS[case](make_store(48))
    result = fit(fit_config(tasks=TASKS, loss={"class_weighting": weighting}, epochs=2), store, FOLD)
    for report in result.epochs:
        assert all(math.isfinite(value) for value in report.values())
        assert report["train_task_score"] < 100  # squared standard deviations of the label
        assert report["inner_loss"] < 1e5  # a deviation that is rounding error is none
    assert all(np.isfinite(scores).all() for scores in result.scores.values())


@pytest.mark.parametrize("documents", [1, 2, 3, 5])
def test_few_training_documents_train(documents):
    fold = replace(FOLD, train=FOLD.train[:documents])
    result = fit(fit_config(tasks=TASKS, batch_size=2), make_store(48), fold)
    assert all(np.isfinite(scores).all() for scores in result.scores.values())


def test_documents_without_a_modality_anywhere_in_training():
    store = make_store(48).with_features(FOLD.train, lambda x: x)
    silent = [x[:0] if i in set(FOLD.train) else x for i, x in enumerate(store.audio.split())]
    store = replace(store, audio=type(store.audio).of(silent))
    result = fit(fit_config(epochs=2), store, FOLD)
    assert np.isfinite(result.scores["affect"]).all()
    assert "train_mi" not in result.epochs[0]


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["audio", "text"])
def test_a_store_without_a_modality_is_refused(name):
    with pytest.raises(StoreError, match=name):
        fit(fit_config(), replace(STORE, **{name: None}), FOLD)


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match="affekt"):
        fit(fit_config(tasks={"affekt": "binary"}), STORE, FOLD)


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match=name):
        fit(fit_config(device=name), STORE, FOLD)


def test_the_automatic_device():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training(value, monkeypatch):
    squared_error = losses.squared_error
    monkeypatch.setattr(losses, "squared_error", lambda *arguments: squared_error(*arguments) * value)
    with pytest.raises(TrainingError, match="epoch 1"):
        fit(fit_config(tasks={"score": "regression"}), STORE, FOLD)


def test_weights_that_are_no_numbers_stop_the_training_even_in_the_last_epoch(monkeypatch):
    """A finite loss with a gradient that is none: the model returned would be worthless."""
    cross_entropy = losses.cross_entropy

    def treacherous(logits: Tensor, *arguments: object, **options: object) -> Tensor:
        return cross_entropy(logits, *arguments, **options) + (0 * logits.sum()).abs().sqrt()

    monkeypatch.setattr(losses, "cross_entropy", treacherous)
    for fold in (FOLD, replace(FOLD, inner=FOLD.inner[:0])):
        with pytest.raises(TrainingError):
            fit(fit_config(epochs=1, batch_size=64), STORE, fold)

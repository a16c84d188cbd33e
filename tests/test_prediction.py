import math

import numpy as np
import pytest
import torch
from synthetic import SPECS, make_model, make_store

from hilbert.prediction import predict, to_scores

STORE = make_store(48, missing=0.15)


def test_batches_and_order_change_no_prediction():
    model = make_model(dtype=torch.float32)
    documents = np.random.default_rng(0).permutation(48)[:30]
    expected = predict(model, STORE, documents).scores(SPECS)
    for size in (1, 7, 64):
        back = predict(model, STORE, documents[::-1].tolist(), batch_size=size).scores(SPECS)
        for task, scores in back.items():
            np.testing.assert_allclose(scores[::-1], expected[task], rtol=0, atol=1e-5 if task == "score" else 1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_prediction_is_in_evaluation_mode_and_restores_the_mode(training):
    model = make_model(dtype=torch.float32, dropout=0.5, gate_noise=1.0).train(training)
    one, other = (predict(model, STORE, [0, 1, 2]).logits for _ in range(2))
    assert torch.equal(one["affect"], other["affect"])
    assert not one["affect"].requires_grad
    assert model.training is training
    assert model.audio_encoder.dropout.training is training


def test_no_documents_give_no_scores():
    scores = predict(make_model(dtype=torch.float32), STORE, []).scores(SPECS)
    assert {task: found.shape for task, found in scores.items()} == {task: (0, s.outputs) for task, s in SPECS.items()}


def test_scores_are_probabilities_or_numbers_in_the_label_s_units():
    logits = torch.tensor([[0.0, math.log(3)], [100.0, -100.0]])
    np.testing.assert_allclose(to_scores(logits, SPECS["affect"]), [[0.25, 0.75], [1, 0]], atol=1e-7)
    np.testing.assert_allclose(to_scores(torch.tensor([[0.0], [-1.0]]), SPECS["score"]), [[2.0], [-1.0]])

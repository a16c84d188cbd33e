"""How much each task uses the experts: counted on held-out documents, in the pass that predicts them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import TASKS, fit_config, make_fold, make_store
from torch.nn.modules.module import register_module_forward_hook

from hilbert.batches import make_batch
from hilbert.model import Hilbert
from hilbert.prediction import predict
from hilbert.training import fit
from tune.job import JobRecord, record

STORE = make_store(48, missing=0.15, unlabelled=0.2)
FOLD = make_fold(48)


@pytest.mark.parametrize("model", [{"experts": 3}, {"experts": 4, "top_k": 1, "gate_noise": 0.5}])
def test_usage_is_the_mean_gate_over_the_held_out_documents(model):
    result = fit(fit_config(tasks=TASKS, model=model), STORE, FOLD)
    with torch.inference_mode():
        gates = result.model(make_batch(STORE, {}, FOLD.held_out)).gates
    for task in TASKS:
        np.testing.assert_allclose(result.usage[task], gates[task].double().mean(0), rtol=0, atol=1e-7)
        assert result.usage[task].shape == (model["experts"],)
        assert result.usage[task].sum() == pytest.approx(1, abs=1e-6)
        assert (result.usage[task] >= 0).all()


def test_one_expert_is_used_whole():
    result = fit(fit_config(tasks=TASKS, model={"experts": 1}, epochs=1), STORE, FOLD)
    assert {task: usage.tolist() for task, usage in result.usage.items()} == {task: [1.0] for task in TASKS}


def test_predictions_and_usage_take_one_pass():
    calls = []
    hook = register_module_forward_hook(
        lambda module, _, output: (
            calls.append(len(output.joint)) if isinstance(module, Hilbert) and not module.training else None
        )
    )
    try:
        fit(fit_config(epochs=1), STORE, replace(FOLD, inner=FOLD.inner[:0]))
    finally:
        hook.remove()
    assert calls == [len(FOLD.held_out)]


def test_no_documents_use_nothing():
    model = fit(fit_config(epochs=1), STORE, FOLD).model
    assert predict(model, STORE, []).usage()["affect"].tolist() == [0.0, 0.0]


def test_usage_is_kept_in_the_record_and_older_records_load():
    result = fit(fit_config(tasks=TASKS, epochs=1), STORE, FOLD)
    made = record("job", result, 0.0)
    assert JobRecord.from_json(made.to_json()) == made
    assert made.usage == {task: usage.tolist() for task, usage in result.usage.items()}
    older = json.loads(made.to_json())
    del older["usage"]
    assert JobRecord.from_json(json.dumps(older).encode()) == replace(made, usage={})

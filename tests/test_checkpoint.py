"""A fit that is interrupted and goes on ends as one that is not: to the last bit."""

import io
import time

import pytest
import torch
from synthetic import fit_config, make_fold, make_store

from hilbert.training import Checkpoint, fit
from tune.checkpoints import FileStates, StateCheckpoint

TASKS = {"affect": "binary", "spectrum": "multiclass", "score": "regression"}
VARIANTS = {
    "patience": {"epochs": 7, "patience": 3},
    "last epoch": {"epochs": 7, "patience": 0, "schedule": "cosine"},
    "refit": {"epochs": 5, "patience": 2, "refit": True, "segment_dropout": 0.5},
    "refit at once": {"epochs": 4, "patience": 0, "refit": True},
    "learned": {"epochs": 6, "schedule": "constant", "monitor": "auc", "loss": {"learned_temperature": True}},
    "bfloat16": {"epochs": 5, "precision": "bfloat16", "model": {"gate_noise": 1.0}},
}


class Memory(Checkpoint):
    """Keeps states as bytes, as a file would; what it is given is read back without pickled code."""

    def __init__(self):
        self.content, self.saved = None, 0

    def load(self):
        return None if self.content is None else torch.load(io.BytesIO(self.content), weights_only=True)

    def save(self, state):
        buffer = io.BytesIO()
        torch.save(state(), buffer)
        self.content, self.saved = buffer.getvalue(), self.saved + 1


class PowerCut(Checkpoint):
    """Passes on to another checkpoint, and ends the fit after so many states."""

    class Now(Exception):  # noqa: N818
        pass

    def __init__(self, inner, after):
        self.inner, self.left = inner, after

    def load(self):
        return self.inner.load()

    def save(self, state):
        self.inner.save(state)
        self.left -= 1
        if not self.left:
            raise self.Now


DATA = make_store(30, missing=0.1, unlabelled=0.1), make_fold(30, inner=7, held_out=6)


def found(result):
    epochs = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in result.epochs]
    scores = {task: values.tolist() for task, values in result.scores.items()}
    weights = {name: value.tolist() for name, value in result.model.state_dict().items()}
    return epochs, scores, weights, result.best_epoch


@pytest.mark.parametrize("name", VARIANTS)
def test_an_interrupted_fit_goes_on_to_the_same_end(name):
    config = fit_config(tasks=TASKS, **VARIANTS[name])
    counted = Memory()
    expected = found(fit(config, *DATA, checkpoint=counted))
    assert found(fit(config, *DATA)) == expected
    for after in {1, 2, counted.saved // 2 + 1, counted.saved}:
        memory = Memory()
        with pytest.raises(PowerCut.Now):
            fit(config, *DATA, checkpoint=PowerCut(memory, after))
        torch.rand(3)
        assert found(fit(config, *DATA, checkpoint=memory)) == expected, f"cut after {after} states"


def test_a_fit_that_is_cut_again_and_again_still_ends_the_same():
    config = fit_config(tasks=TASKS, **VARIANTS["refit"])
    expected = found(fit(config, *DATA))
    memory = Memory()
    for _ in range(50):
        try:
            result = fit(config, *DATA, checkpoint=PowerCut(memory, 1))
        except PowerCut.Now:
            continue
        break
    assert found(result) == expected


def test_a_state_is_kept_now_and_then_and_a_damaged_one_is_left_alone(tmp_path):
    states, path = FileStates(tmp_path), tmp_path / "job.pt"
    config = fit_config(tasks=TASKS, **VARIANTS["patience"])
    expected = found(fit(config, *DATA))
    with pytest.raises(PowerCut.Now):
        fit(config, *DATA, checkpoint=PowerCut(StateCheckpoint(states, "job", every=0), 3))
    assert [file.name for file in tmp_path.iterdir()] == ["job.pt"]
    assert StateCheckpoint(states, "job").load() is not None
    assert found(fit(config, *DATA, checkpoint=StateCheckpoint(states, "job", every=0))) == expected
    path.write_bytes(path.read_bytes()[:100])
    assert StateCheckpoint(states, "job").load() is None
    states.forget("job")
    assert not path.exists()
    states.forget("job")  # as often as one likes
    started = time.monotonic()
    fit(config, *DATA, checkpoint=StateCheckpoint(states, "job", every=3600))
    assert time.monotonic() - started < 3600
    assert not path.exists()

"""Sizes in a configuration: generous bounds, told before memory is taken."""

import json

import pytest
from pydantic import ValidationError

from hilbert.config import FitConfig, HilbertConfig, ModelConfig, TaskConfig
from hilbert.errors import InputError, StudyError
from hilbert.model import Hilbert
from tune.study_file import parse_study

STUDY = {"study": "s", "features": "f", "tasks": {"x": "binary"}, "trials": 1}
TASKS = {"x": TaskConfig(kind="binary", classes=("no", "yes")), "y": TaskConfig(kind="regression")}


def config_of(**changes):
    return HilbertConfig(model=ModelConfig(**changes), audio_dim=11, text_dim=7, tasks=TASKS)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"width": 16, "heads": 2, "layers": 0, "hops": 3, "experts": 1, "expert_width": 8},
        {
            "width": 8,
            "heads": 2,
            "layers": 2,
            "feed_forward": 3,
            "hops": 2,
            "experts": 2,
            "expert_width": 5,
            "top_k": 1,
        },
    ],
)
def test_parameters_are_counted_as_torch_counts_them(changes):
    config = config_of(**changes)
    outputs = [task.outputs for task in TASKS.values()]
    counted = sum(parameter.numel() for parameter in Hilbert(config).parameters())
    assert config.model.parameters(dims=(11, 7), outputs=outputs) == counted


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": {"layers": 10**9}}, "model.layers"),
        ({"model": {"width": 10**9}}, "model.width"),
        ({"model": {"experts": 10**9}}, "model.experts"),
        ({"model": {"width": 16_384, "layers": 256}}, "parameters, and may have 2,000,000,000 at most"),
        ({"train": {"epochs": 10**12}}, "train.epochs"),
        ({"train": {"batch_size": 10**12}}, "train.batch_size"),
        ({"train": {"clip_features": float("inf")}}, "train.clip_features"),
        ({"folds": {"n_splits": 10**9}}, "folds.n_splits"),
        ({"folds": {"n_splits": 50_000, "repeats": 10}}, "too many"),
        ({"trials": 10**9}, "trials"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 10**4000}, "seed"),
        ({"folds": {"seed": 2**63}}, "folds.seed"),
        ({"hours": 1e300}, "hours"),
        ({"fold_jobs": 10**30}, "fold_jobs"),
        ({"resources": {"cpus_per_job": 1e9}}, "resources.cpus_per_job"),
        ({"resources": {"gpus_per_job": 1e9}}, "gpus_per_job"),
        ({"resources": {"workers": 10**9}}, "resources.workers"),
        ({"resources": {"retries": 10**9}}, "resources.retries"),
        ({"resources": {"minutes_per_job": float("inf")}}, "resources.minutes_per_job"),
        ({"search": {"model.layers": {"low": 0, "high": 10**9}}}, "model.layers"),
        ({"search": {"model.width": {"choices": [64, 10**9]}}}, "model.width"),
    ],
)
def test_what_nobody_would_run_is_refused(changes, expected):
    with pytest.raises(StudyError) as error:
        parse_study(STUDY | changes, source="s")
    assert expected in str(error.value)
    assert len(str(error.value)) < 400


def test_what_somebody_might_run_is_not():
    large = {"width": 2048, "heads": 16, "layers": 12, "feed_forward": 4, "experts": 8, "expert_width": 1024}
    changes = {"model": large, "train": {"epochs": 100_000, "batch_size": 4096}, "folds": {"n_splits": 5000}}
    changes |= {"trials": 100_000, "seed": 2**63 - 1, "search": {"loss.cka": {"low": 0, "high": 1}}}
    assert parse_study(STUDY | changes, source="s").trials == 100_000
    assert FitConfig(tasks={"x": "binary"}, seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("audio_dim", 10**12), ("text_dim", 0), ("model", {"layers": 10**9}), ("clip_features", float("inf"))],
)
def test_a_config_that_claims_too_much_is_refused_unread(tmp_path, key, value):
    Hilbert(config_of(width=8, heads=2)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=r"config\.json"):
        Hilbert.from_pretrained(tmp_path)


def test_moments_that_are_no_numbers_are_refused():
    with pytest.raises(ValidationError):
        TaskConfig(kind="regression", mean=float("nan"))


def test_a_large_model_without_its_weights_takes_no_memory(tmp_path):
    Hilbert(config_of(width=8, heads=2)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    model = {"width": 4096, "heads": 8, "layers": 6}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": model}))
    before = peak_memory()
    with pytest.raises(InputError, match="does not fit config"):
        Hilbert.from_pretrained(tmp_path)
    assert peak_memory() - before < 200_000  # KiB; the weights would take 2 GB


def peak_memory():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

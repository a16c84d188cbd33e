"""The study file: what is legal, what is refused, and how a proposal becomes a configuration."""

import pytest
import yaml

from hilbert.errors import StudyError
from tune.space import Choices, Range, configuration_hash
from tune.study_file import load_study, parse_study

GOOD = {
    "study": "parents",
    "features": "features/parents",
    "tasks": {"affect": "binary", "spectrum": "multiclass"},
    "folds": {"n_splits": 25, "seed": 0},
    "trials": 60,
    "objective": "mean_auc",
    "model": {"width": 128, "heads": 4, "layers": 1},
    "train": {"epochs": 60, "batch_size": 32, "patience": 8},
    "search": {
        "loss.contrastive": {"low": 0.01, "high": 2.0, "log": True},
        "loss.cka": {"low": 0.0, "high": 1.0},
        "loss.mi": {"low": 0.0, "high": 1.0},
        "loss.temperature": {"low": 0.02, "high": 1.0, "log": True},
        "model.experts": {"choices": [1, 2, 4, 8]},
        "train.learning_rate": {"low": 1.0e-4, "high": 5.0e-3, "log": True},
    },
    "resources": {"cpus_per_job": 1, "gpus_per_job": 0},
}


def write(path, content=None, **changes):
    path.write_text(yaml.safe_dump((content or GOOD) | changes, sort_keys=False))
    return path


def test_the_study_file_of_the_contract_is_read(tmp_path):
    study = load_study(write(tmp_path / "study.yaml"))
    assert study.trials == 60
    assert study.parameters["model.experts"] == Choices(choices=[1, 2, 4, 8])
    assert study.parameters["loss.cka"] == Range(low=0.0, high=1.0)
    config = study.configuration({"model.experts": 8, "loss.cka": 0.25})
    assert (config.model.experts, config.model.width, config.loss.cka, config.train.epochs) == (8, 128, 0.25, 60)


def test_every_value_can_be_overridden(tmp_path):
    path = write(tmp_path / "study.yaml")
    overrides = ["trials=10", "train.epochs=5", "loss.tasks.affect=2", "train.learning_rate=1e-3", "study=other"]
    study = load_study(path, [*overrides, "search.model.experts={choices: [1, 2]}", "tasks={affect: binary}"])
    assert (study.trials, study.train.epochs, study.study, study.train.learning_rate) == (10, 5, "other", 1e-3)
    assert study.loss.tasks == {"affect": 2}
    assert study.parameters["model.experts"] == Choices(choices=[1, 2])
    assert list(study.tasks) == ["affect"]


def test_numbers_in_exponent_notation_are_numbers(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("study: a\nfeatures: f\ntasks: {x: binary}\ntrials: 1\ntrain: {learning_rate: 1e-3}\n")
    assert load_study(path).train.learning_rate == 1e-3


def test_several_feature_stores_are_one_more_choice():
    study = parse_study(GOOD | {"features": {"whisper": "features/a", "hubert": "features/b"}}, source="s")
    assert study.parameters["features"] == Choices(choices=["hubert", "whisper"])
    assert study.store({"features": "whisper"}) == "whisper"
    same = study.configuration({"features": "whisper"})
    assert same == study.configuration({"features": "hubert"})
    assert configuration_hash(same, "whisper") != configuration_hash(same, "hubert")


def test_a_whole_value_is_searched_as_whole_and_a_real_one_as_real():
    study = parse_study(
        GOOD | {"search": {"loss.cka": {"low": 0, "high": 1}, "model.layers": {"low": 0, "high": 3}}}, source="s"
    )
    assert study.is_whole("model.layers")
    assert not study.is_whole("loss.cka")


def test_the_files_own_values_are_the_first_proposal_where_they_are_within_the_search():
    study = parse_study(GOOD, source="s")
    assert study.defaults == {
        "loss.contrastive": 0.1,
        "loss.cka": 0.1,
        "loss.mi": 0.1,
        "loss.temperature": 0.2,
        "model.experts": 4,
        "train.learning_rate": 1e-3,
    }
    assert "model.experts" not in parse_study(GOOD | {"model": {"experts": 3}}, source="s").defaults


BAD = [
    ("unknown key", {"trails": 3}, ["unknown key 'trails'", "did you mean 'trials'"]),
    ("unknown nested key", {"model": {"widht": 3}}, ["unknown key 'model.widht'", "did you mean 'width'"]),
    ("unknown folds key", {"folds": {"splits": 3}}, ["unknown key 'folds.splits'", "n_splits"]),
    ("missing key", {"features": None}, ["features"]),
    ("wrong type", {"trials": "many"}, ["trials", "integer", "'many'"]),
    ("trials 0", {"trials": 0}, ["trials", "greater than or equal to 1"]),
    ("bad study name", {"study": "a/b"}, ["study", "pattern"]),
    ("objective", {"objective": "afect"}, ["objective", "did you mean 'affect'"]),
    ("n_splits", {"folds": {"n_splits": 1}}, ["folds.n_splits", "greater than or equal to 2"]),
    (
        "width and heads",
        {"model": {"width": 130, "heads": 4}},
        ["model.width must be a multiple of model.heads", "130"],
    ),
    ("top_k", {"model": {"experts": 2, "top_k": 3}}, ["model.top_k must be at most model.experts"]),
    ("negative weight", {"loss": {"cka": -1}}, ["loss.cka", "greater than or equal to 0"]),
    ("unknown estimator", {"loss": {"cka_estimator": "biased"}}, ["loss.cka_estimator", "'debiased' or 'plain'"]),
    ("weight of no task", {"loss": {"tasks": {"mood": 1.0}}}, ["loss.tasks names 'mood'", "affect, spectrum"]),
    (
        "search of nothing",
        {"search": {"loss.contrast": {"low": 0.1, "high": 1}}},
        ["search.loss.contrast", "'loss.contrastive'"],
    ),
    ("search without bounds", {"search": {"loss.cka": 0.5}}, ["search.loss.cka", "low: ..., high: ...", "0.5"]),
    (
        "search low above high",
        {"search": {"loss.cka": {"low": 2, "high": 1}}},
        ["search.loss.cka", "low must be less than high"],
    ),
    ("search log of zero", {"search": {"loss.cka": {"low": 0.0, "high": 1.0, "log": True}}}, ["low must be above 0"]),
    ("search extra key", {"search": {"loss.cka": {"low": 0.0, "high": 1.0, "step": 1}}}, ["search.loss.cka", "'step'"]),
    (
        "search out of range",
        {"search": {"train.learning_rate": {"low": 0.1, "high": 5.0}}},
        ["search.train.learning_rate", "5.0"],
    ),
    ("search real for whole", {"search": {"model.layers": {"low": 0.5, "high": 2.5}}}, ["search.model.layers", "0.5"]),
    ("choice that never fits", {"search": {"model.heads": {"choices": [4, 5]}}}, ["search.model.heads", "5"]),
    ("equal choices", {"search": {"model.heads": {"choices": [4, 4]}}}, ["search.model.heads", "differ"]),
    ("no choices", {"search": {"model.heads": {"choices": []}}}, ["search.model.heads.choices", "at least 1"]),
    ("nothing to search", {"search": {}}, ["trials is 60 but search is empty", "trials: 1"]),
    ("no tasks", {"tasks": {}}, ["tasks", "at least 1"]),
    ("racing", {"racing": "wilcoxn"}, ["racing", "'none'"]),
    ("cpus", {"resources": {"cpus_per_job": 0}}, ["resources.cpus_per_job", "greater than 0"]),
    ("search is a list", {"search": ["loss.cka"]}, ["search"]),
]


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_wrong_study_file_is_refused_with_key_and_remedy(tmp_path, changes, expected):
    path = write(tmp_path / "study.yaml", **changes)
    with pytest.raises(StudyError) as error:
        load_study(path)
    message = str(error.value)
    assert str(path) in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("study: [", "line 1: not valid YAML"),
        ("study: a\nstudy: b\n", "'study' stands twice"),
        ("- a\n- b\n", "a study file is a mapping"),
        ("", "a study file is a mapping"),
        (b"\xff\xfe\x00", "can't be read as a text file"),
    ],
)
def test_what_is_no_study_file_is_refused(tmp_path, text, expected):
    path = tmp_path / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError, match=r"study\.yaml") as error:
        load_study(path)
    assert expected in str(error.value)


def test_a_missing_study_file_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"nowhere\.yaml: no such study file"):
        load_study(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trials", "must be key=value"),
        ("=3", "must be key=value"),
        ("trials=[", "not valid YAML"),
        ("trials.more=3", "trials has no keys of its own"),
        ("trian.epochs=5", "did you mean 'train'"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path, override, expected):
    with pytest.raises(StudyError) as error:
        load_study(write(tmp_path / "study.yaml"), [override])
    assert expected in str(error.value)

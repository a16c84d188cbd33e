"""First proposals: the study file's own values, on each feature store, whatever kind of value is searched."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune.combinations import combinations
from tune.search import Search
from tune.space import FEATURES, Choices, Range
from tune.study_file import parse_study

BASE = {"study": "s", "features": "f", "tasks": {"x": "binary"}, "trials": 30}
STORES = {"whisper": "features/w", "hubert": "features/h", "ege": "features/e"}
FOLLOWING = 12

WHOLE = {"layers": (0, 8), "feed_forward": (1, 8), "hops": (1, 8), "experts": (4, 64), "top_k": (0, 4)}
REAL = {
    "model": {"position": (0, 2), "gate_noise": (0, 3), "dropout": (0, 0.9)},
    "loss": {"contrastive": (0, 5), "cka": (0, 1), "mi": (0, 1e6), "temperature": (0.01, 100)},
    "train": {"learning_rate": (1e-6, 1), "weight_decay": (0, 1e3), "clip_features": (1e-3, 1e3)},
}
NAMED = {
    "model": {"modality_source": ["self", "cross"], "heads": [1, 2, 4, 8], "width": [8, 16, 64]},
    "loss": {
        "cka_estimator": ["debiased", "plain"],
        "learned_temperature": [False, True],
        "class_weighting": ["none", "inverse", "effective-number", "logit-adjusted"],
    },
    "train": {
        "refit": [True, False],
        "monitor": ["loss", "auc"],
        "device": ["cpu", "cuda:1", "no", "1"],
        "schedule": ["one-cycle", "cosine", "constant"],
    },
}


def study_of(**changes):
    return parse_study(BASE | changes, source="s")


def asked(study, folder, count=1):
    search = Search(study, folder / "journal")
    return [search.ask() for _ in range(count)]


def test_every_store_has_its_own_first_proposal(tmp_path):
    search = {"loss.cka": {"low": 0.0, "high": 1.0}, "model.experts": {"choices": [1, 4]}}
    proposals = asked(study_of(features=STORES, search=search), tmp_path, 4)
    own = {"loss.cka": 0.1, "model.experts": 4}
    assert [p.parameters for p in proposals[:3]] == [{FEATURES: store, **own} for store in sorted(STORES)]
    assert [p.store for p in proposals[:3]] == sorted(STORES)
    assert len({p.configuration for p in proposals}) == 4
    assert proposals[3].parameters != proposals[0].parameters


def test_stores_alone_may_be_what_is_searched(tmp_path):
    proposals = asked(study_of(features=STORES, search={}, trials=3), tmp_path, 3)
    assert [p.parameters for p in proposals] == [{FEATURES: store} for store in sorted(STORES)]


def test_own_values_outside_the_search_are_not_proposed(tmp_path):
    search = {"loss.cka": {"low": 0.5, "high": 1.0}}
    proposals = asked(study_of(features=STORES, search=search), tmp_path, 3)
    assert all(p.parameters["loss.cka"] >= 0.5 for p in proposals)
    assert all(p.store in STORES for p in proposals)


def test_an_interrupted_search_goes_on_with_the_next_store(tmp_path):
    study = study_of(features=STORES, search={"loss.cka": {"low": 0.0, "high": 1.0}})
    parts = [asked(study, tmp_path)[0] for _ in range(5)]
    (tmp_path / "whole").mkdir()
    assert parts == asked(study, tmp_path / "whole", 5)


@pytest.mark.parametrize(
    ("section", "space", "first"),
    [
        ({"loss": {"cka": 1}}, {"loss.cka": {"choices": [0, 1]}}, 1),
        ({"loss": {"cka": 0}}, {"loss.cka": {"choices": [0.0, 0.5]}}, 0.0),
        ({}, {"loss.cka": {"low": 0, "high": 1}}, 0.1),
        ({"loss": {"cka": 0}}, {"loss.cka": {"low": 0, "high": 1}}, 0.0),
        ({"loss": {"cka": 1}}, {"loss.cka": {"low": 0.01, "high": 1, "log": True}}, 1.0),
        ({"model": {"experts": 8}}, {"model.experts": {"low": 1, "high": 8, "log": True}}, 8),
        ({"train": {"refit": True}}, {"train.refit": {"choices": [False, True]}}, True),
        ({"train": {"device": "cpu"}}, {"train.device": {"choices": ["cuda", "cpu"]}}, "cpu"),
    ],
)
def test_own_values_are_found_among_choices_however_they_are_written(tmp_path, section, space, first):
    study = study_of(**section, search=space)
    (proposal,) = asked(study, tmp_path)
    (value,) = proposal.parameters.values()
    assert value == first
    assert type(value) is type(first)
    assert proposal.config == study.configuration({})
    assert Search(study, tmp_path / "journal").proposals == [proposal]


@st.composite
def spaces(draw):
    """Sections and a search of every kind of value, the own values inside, at a bound, or outside."""
    sections, search = {"model": {"experts": 16}, "loss": {}, "train": {}}, {}

    def numbers(section, key, low, high, kind):
        value = (
            st.integers(low, high)
            if kind is int
            else st.floats(low, high) | st.integers(-(-low // 1), high // 1).filter(lambda n: low <= n <= high)
            if high >= 1
            else st.floats(low, high)
        )
        found = sorted(draw(st.lists(value, min_size=3, max_size=3, unique_by=float)))
        own = draw(st.sampled_from(found) | st.none())
        if own is not None:
            sections[section][key] = own
        if draw(st.booleans()):
            search[f"{section}.{key}"] = {"choices": draw(st.permutations(found))}
        else:
            log = found[0] > 0 and draw(st.booleans())
            search[f"{section}.{key}"] = {"low": found[0], "high": found[2], "log": log}

    for key, (low, high) in WHOLE.items():
        if draw(st.integers(0, 2)) == 0:
            numbers("model", key, low, high, int)
    for section, fields in REAL.items():
        for key, (low, high) in fields.items():
            if draw(st.integers(0, 3)) == 0:
                numbers(section, key, low, high, float)
    for section, fields in NAMED.items():
        for key, choices in fields.items():
            if draw(st.integers(0, 3)) == 0:
                chosen = draw(st.lists(st.sampled_from(choices), min_size=1, unique=True))
                search[f"{section}.{key}"] = {"choices": chosen}
                if draw(st.booleans()):
                    sections[section][key] = draw(st.sampled_from(choices))
    stores = draw(st.sampled_from(["f", {"a": "f"}, {"b": "f", "a": "g"}, STORES]))
    return {"features": stores, "search": search, **sections} | {"trials": 30 if search else 1}


def within(study, parameters):
    assert parameters.keys() == study.parameters.keys()
    for name, value in parameters.items():
        space = study.parameters[name]
        if isinstance(space, Choices):
            assert any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in space.choices
            )
        else:
            assert isinstance(space, Range)
            assert space.low <= value <= space.high


@settings(max_examples=30, deadline=None)
@given(content=spaces(), told=st.lists(st.none() | st.floats(0, 1), min_size=FOLLOWING, max_size=FOLLOWING))
def test_any_study_proposes_within_its_search_and_its_journal_says_the_same_again(content, told):
    study = study_of(**content)
    folder = Path(tempfile.mkdtemp())
    try:
        search = Search(study, folder / "journal")
        for value in told:
            proposal = search.ask()
            if proposal is None:  # everything has been proposed
                listed = combinations(study)
                assert listed is not None
                assert len(search.proposals) <= len(listed)  # some may be impossible
                break
            within(study, proposal.parameters)
            search.tell(proposal.number, value)
        search.ask()
        again = Search(study, folder / "journal")
        assert again.proposals == search.proposals
        assert [p.parameters for p in again.proposals[: len(study.firsts)]] == study.firsts
        assert again.told == search.told
    finally:
        shutil.rmtree(folder)

"""Searches of finitely many configurations: each is proposed once, and then the search is used up."""

import pytest
from test_search import STUDY, run, study_of

from tune.combinations import combinations
from tune.search import Search, TrialState

MANY = {"train.epochs": {"low": 1, "high": 100}, "train.batch_size": {"low": 8, "high": 100}}
SIX = {"model.experts": {"choices": [1, 2, 4]}, "model.layers": {"low": 1, "high": 2}}


BEFORE = [
    "46db5a4ebb5d",
    "ab25b0848818",
    "a2e4d54ce632",
    "ec81600d3007",
    "207282af8243",
    "a40b2dca8cef",
    "77cf0fc55c6e",
    "3e83d3245a97",
    "d8a9ed30c61f",
    "4f3ee3d03b5b",
]


def all_of(search, most=100):
    found = []
    while len(found) < most and (proposal := search.ask()) is not None:
        search.tell(proposal.number, 0.5 + 0.01 * len(found) % 0.07)
        found.append(proposal)
    return found


def test_combinations_are_listed_where_they_are_finitely_many():
    listed = combinations(study_of(search=SIX))
    assert len(listed) == 6
    assert {"model.experts": 4, "model.layers": 2} in listed
    assert combinations(study_of()) is None  # a real number is searched
    assert combinations(study_of(search=MANY)) is None
    two_stores = study_of(search={"model.experts": {"choices": [1, 2]}}, features={"a": "x", "b": "y"})
    assert {"features": "b", "model.experts": 2} in combinations(two_stores)
    assert len(combinations(two_stores)) == 4


@pytest.mark.parametrize("seed", range(4))
def test_each_configuration_is_proposed_once(tmp_path, seed):
    search = Search(study_of(search=SIX, seed=seed), tmp_path / "journal")
    found = all_of(search)
    assert len(found) == len({proposal.configuration for proposal in found}) == 6
    assert [proposal.number for proposal in found] == list(range(6))
    assert search.ask() is None
    again = Search(study_of(search=SIX, seed=seed), tmp_path / "journal")
    assert again.ask() is None
    assert again.proposals == found


def test_impossible_combinations_are_not_waited_for(tmp_path):
    search = {"model.width": {"choices": [8, 12, 20]}, "model.heads": {"choices": [4, 3, 5]}}
    study = study_of(model={"width": 8, "heads": 4}, search=search)
    found = all_of(Search(study, tmp_path / "journal"))
    assert len(found) == len({proposal.configuration for proposal in found}) == 5
    assert all(proposal.config.model.width % proposal.config.model.heads == 0 for proposal in found)


def test_an_interrupted_search_ends_as_an_uninterrupted_one(tmp_path):
    study = study_of(search=SIX)
    whole = all_of(Search(study, tmp_path / "a"))
    parts = all_of(Search(study, tmp_path / "b"), 3) + all_of(Search(study, tmp_path / "b"))
    assert [proposal.parameters for proposal in parts[:3]] == [proposal.parameters for proposal in whole[:3]]
    assert {proposal.configuration for proposal in parts} == {proposal.configuration for proposal in whole}


def test_repeated_proposals_of_an_older_version_stay_and_are_not_added_to(tmp_path):
    study = study_of(search={"model.experts": {"choices": [1, 2]}})
    older = Search(study, tmp_path / "journal")
    for experts in (2, 1, 1, 2, 2):
        older._note({"model.experts": experts}, TrialState.RUNNING)
    search = Search(study, tmp_path / "journal")
    assert len(search.proposals) == 5
    assert len(search.configurations) == 2
    assert search.ask() is None


def test_proposals_of_endless_searches_are_what_they_were(tmp_path):
    """Recorded before repeated proposals were left out."""
    found = run(Search(study_of(), tmp_path / "journal"), 10)
    assert STUDY["seed"] == 3
    assert [proposal.configuration for proposal in found] == BEFORE

"""Proposals: seeded, kept in a journal, the same whether the search was interrupted or not."""

import pytest

from hilbert.errors import StudyError
from tune.search import Search
from tune.study_file import parse_study

STUDY = {
    "study": "s",
    "features": "f",
    "tasks": {"x": "binary"},
    "trials": 30,
    "seed": 3,
    "search": {
        "loss.cka": {"low": 0.0, "high": 1.0},
        "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "model.layers": {"low": 0, "high": 3},
        "model.experts": {"choices": [1, 2, 4]},
    },
}


def study_of(**changes):
    return parse_study(STUDY | changes, source="s")


def value_of(proposal):
    """A landscape with one top."""
    return 1 - (proposal.parameters["loss.cka"] - 0.7) ** 2 - 0.05 * abs(proposal.parameters["model.layers"] - 2)


def run(search, trials):
    found = []
    for _ in range(trials):
        proposal = search.ask()
        search.tell(proposal.number, value_of(proposal))
        found.append(proposal)
    return found


def test_the_first_proposal_is_the_study_files_own_values(tmp_path):
    first = Search(study_of(), tmp_path / "journal").ask()
    assert first.number == 0
    assert first.parameters == {"loss.cka": 0.1, "train.learning_rate": 1e-3, "model.layers": 1, "model.experts": 4}
    assert first.config == study_of().configuration({})


def test_an_interrupted_search_proposes_what_an_uninterrupted_one_does(tmp_path):
    whole = run(Search(study_of(), tmp_path / "a"), 24)
    parts = run(Search(study_of(), tmp_path / "b"), 13) + run(Search(study_of(), tmp_path / "b"), 11)
    assert parts == whole
    assert run(Search(study_of(seed=4), tmp_path / "c"), 3)[1:] != whole[1:3]


def test_tpe_climbs(tmp_path):
    found = run(Search(study_of(), tmp_path / "a"), 40)
    early, late = found[:10], found[-10:]
    assert sum(map(value_of, late)) > sum(map(value_of, early))


def test_a_proposal_that_was_not_told_is_still_there(tmp_path):
    search = Search(study_of(), tmp_path / "a")
    run(search, 2)
    asked = search.ask()
    again = Search(study_of(), tmp_path / "a")
    assert again.proposals[-1] == asked
    assert sorted(again.told) == [0, 1]
    assert again.told[1] == pytest.approx(value_of(again.proposals[1]))
    again.tell(asked.number, None)
    assert again.told[2] is None
    again.tell(asked.number, 0.9)  # said twice: the first stands
    assert again.told[2] is None


def test_impossible_combinations_are_passed_over(tmp_path):
    search = {"model.width": {"choices": [8, 12, 20]}, "model.heads": {"choices": [4, 3, 5]}}
    search["loss.cka"] = {"low": 0.0, "high": 1.0}
    found = Search(study_of(model={"width": 8, "heads": 4}, search=search), tmp_path / "a")
    proposals = [found.ask() for _ in range(20)]
    assert all(p.config.model.width % p.config.model.heads == 0 for p in proposals)
    assert len({p.number for p in proposals}) == 20
    assert len(found.proposals) == 20


def test_a_space_without_any_possible_combination_is_refused():
    with pytest.raises(StudyError, match=r"search\.model\.heads: 7 can't be used"):
        study_of(model={"width": 8}, search={"model.heads": {"choices": [7]}})

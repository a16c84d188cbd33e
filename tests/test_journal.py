"""The search's journal, cut anywhere: the same proposals come in the end."""

from itertools import pairwise

import pytest

from tune.archive import Archive
from tune.search import Search
from tune.study_file import parse_study

SPACES = {
    "the first is the study file's": {"low": 0.01, "high": 2.0, "log": True},
    "all are drawn": {"low": 1.5, "high": 2.0, "log": True},
}


def study_of(space):
    content = {
        "study": "s",
        "features": "f",
        "tasks": {"x": "binary"},
        "trials": 4,
        "search": {"loss.contrastive": space, "model.experts": {"choices": [1, 2]}},
    }
    return parse_study(content, source="s")


def run(folder, study):
    """Tells what isn't told, and goes on to four proposals."""
    archive = Archive(folder)
    with archive.locked():
        search = Search(study, archive.journal)
        for number in range(study.trials):
            if number == len(search.proposals):
                search.ask()
            search.tell(number, number / 10)
        trials = search.optuna.get_trials()
    return search.proposals, [(t.number, t.state, t.value, t.params) for t in trials]


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
def test_a_journal_that_was_cut_short_goes_on_to_the_same_end(tmp_path, space):
    study = study_of(space)
    expected = run(tmp_path / "whole", study)
    content = (tmp_path / "whole" / "proposals.journal").read_bytes()
    ends = [0, *(place + 1 for place, byte in enumerate(content) if byte == ord("\n"))]
    cuts = ends + [(first + last) // 2 for first, last in pairwise(ends)]
    for cut in cuts:
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "proposals.journal").write_bytes(content[:cut])
        assert run(folder, study) == expected, cut


def test_a_lock_of_the_journal_whose_holder_is_dead_holds_nobody_up(tmp_path):
    study = study_of(SPACES["all are drawn"])
    expected = run(tmp_path, study)
    (tmp_path / "proposals.journal.lock").symlink_to(tmp_path / "proposals.journal")
    assert run(tmp_path, study) == expected
    assert not (tmp_path / "proposals.journal.lock").exists()

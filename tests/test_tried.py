"""How many configurations a winner was picked from: each counts once, and who is left out is said."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from contests import make
from rich.console import Console
from sweeps import hilbert

from tune.card import _quality
from tune.choice import by_hand, choose
from tune.comparison import ranking, show, show_winner
from tune.contest import best_trial, contest
from tune.evidence import gather_evidence
from tune.report.material import gather
from tune.report.tables import cost_words, summary
from tune.report.verdict import caution, judge, worth
from tune.search import Search, TrialState
from tune.selection import repeated
from tune.study_file import load_study
from tune.tracking import connect
from tune.tried import Tried, tried

pytestmark = pytest.mark.timeout(300)


def printed(function, *arguments):
    console = Console(file=io.StringIO(), width=400, color_system=None)
    function(*arguments, console)
    return console.file.getvalue()


def with_repeats(made, of):
    """A study in which trials repeat others: number -> number."""
    scores = {task: values.copy() for task, values in made.scores.items()}
    frame = made.study.trials.set_index("trial", drop=False)
    frame["configuration"] = [f"c{of.get(number, number)}" for number in frame["trial"]]
    for number, first in of.items():
        for values in scores.values():
            values[number] = values[first]
        for name in frame.columns.difference(["trial", "run", "configuration"]):
            frame.loc[number, name] = frame.loc[first, name]
    frame = frame.reset_index(drop=True)
    frame = frame.assign(repeats=repeated(frame))
    return replace(made, scores=scores, study=replace(made.study, trials=frame))


# ---- repeated configurations -----------------------------------------------------------------------------------------


def test_of_equal_configurations_the_one_that_came_furthest_counts():
    rows = [
        (0, "a", "FAILED", "", 2),
        (1, "a", "FINISHED", "after 3 folds", 3),
        (2, "b", "FINISHED", "", 5),
        (3, "a", "FINISHED", "", 5),
        (4, "b", "FINISHED", "", 5),
        (5, "c", "RUNNING", "", 1),
        (6, "c", "FAILED", "", 4),
        (7, "", "FINISHED", "", 5),
        (8, "", "FINISHED", "", 5),
    ]
    frame = pd.DataFrame(rows, columns=["trial", "configuration", "status", "abandoned", "cv/folds_done"])
    assert repeated(frame).fillna(-1).tolist() == [3, 3, -1, -1, 2, -1, 5, -1, -1]
    assert repeated(frame.drop(columns="cv/folds_done")).notna().sum() == 4


def test_repeats_are_no_part_of_the_choice():
    made = make([1, 2, 0.5], seed=4)
    padded = with_repeats(make([1, 2, 0.5, 0, 0, 0, 0], seed=4), {3: 1, 4: 1, 5: 0, 6: 1})
    alone = replace(padded, study=replace(padded.study, trials=padded.study.trials.iloc[:3]), trials=[0, 1, 2])
    alone = replace(alone, scores={task: values[:3] for task, values in padded.scores.items()})
    assert padded.choices == alone.choices == 3
    assert padded.bias_corrected() == alone.bias_corrected()
    found, expected = contest(padded), contest(alone)
    assert found == expected
    assert found.tested == 2
    text = printed(show_winner, padded)
    assert "the best of 3 configurations" in text
    assert best_trial(padded) == best_trial(alone)
    assert made.choices == 3


def test_the_table_shows_a_configuration_once_and_the_file_all_trials():
    padded = with_repeats(make([1, 2, 0.5, 0, 0]), {3: 1, 4: 0})
    frame = ranking(padded.study)
    assert len(frame) == 5
    assert frame["rank"].dropna().tolist() == [1, 2, 3]
    assert dict(zip(frame["trial"], frame["repeats"].fillna(-1), strict=True)) == {0: -1, 1: -1, 2: -1, 3: 1, 4: 0}
    text = printed(show, padded.study)
    assert "2 of the 5 trials repeat one of these 3 configurations, and aren't shown: t003, t004." in text
    assert text.count("t003") == text.count("t004") == 1


def test_a_repeat_cant_be_chosen_and_the_message_names_whose_it_is():
    padded = with_repeats(make([1, 2, 0.5, 0, 0]), {3: 1, 4: 0})
    with pytest.raises(ValueError, match="t003 can't be chosen: it repeats the configuration of t001, which can"):
        by_hand(padded.study, 3)
    assert len(choose(padded, "best").table) == 3
    assert padded.first(3) == 1
    assert padded.first(2) == 2


# ---- a single configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "said", "unsaid"),
    [
        (Tried(1), ["A single configuration was tried", "0.8, pooled, can be published"], ["don't"]),
        (Tried(1, missing=[2]), ["can't be had of t002", "don't publish it"], ["single", "nothing was picked"]),
        (Tried(1, failed=[1, 2]), ["a fold failed in t001, t002", "nothing was picked"], ["single", "don't"]),
        (Tried(1, unfinished=[3]), ["not finished: t003", "nothing was picked"], ["single", "don't"]),
        (Tried(1, [1], [2], [3]), ["t001", "t002", "t003", "don't publish it"], ["single", "nothing was picked"]),
    ],
)
def test_it_is_single_only_where_nobody_was_left_out(of, said, unsaid):
    text = of.without_choice("0.8")
    assert all(part in text for part in said)
    assert not any(part in text for part in unsaid)


def test_what_became_of_the_others_is_counted():
    made = make([1, 2, 5, 1, 1, 1], abandoned={1: [0, 2]}, failed={3: [1]})
    frame = made.study.trials.copy()
    frame.loc[frame["trial"] == 5, "status"] = "RUNNING"
    kept = [0, 1, 2, 3]
    scores = {task: values[kept] for task, values in made.scores.items()}
    study = replace(made.study, trials=frame)
    less = replace(made, trials=kept, scores=scores, study=study, missing={4: "gone"})
    assert tried(less) == Tried(3, [3], [4], [5])
    assert "Others took part in the choice (predictions can't be had of t004)" in printed(show_winner, less)


@pytest.mark.parametrize("lost", [True, False])
def test_compare_never_calls_it_single_where_others_were_left_out(lost):
    made = make([2, 1, 1], failed={} if lost else {1: [0], 2: [1]})
    if lost:
        scores = {task: values[:1] for task, values in made.scores.items()}
        made = replace(made, trials=[0], scores=scores, missing={1: "gone", 2: "gone"})
    text = printed(show_winner, made)
    assert "single" not in text
    assert ("don't publish it" in text) == lost
    assert "Publish 0" not in text


# ---- a study of an older version -------------------------------------------------------------------------------------


def test_repeated_trials_of_an_older_version_count_once_everywhere(tmp_path, quick_sweep):
    """Its journal holds each of two configurations several times; their fold jobs lie in the archive."""
    folder = quick_sweep.copy(tmp_path)
    search = Search(load_study(folder / "study.yaml"), folder / "studies" / "quick" / "proposals.journal")
    for number in (0, 1, 1, 0):
        search._note(search.proposals[number].parameters, TrialState.RUNNING)
    done = hilbert("sync", "quick", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "6/6 fold jobs" in done.stderr
    client = connect(f"sqlite:///{folder}/mlflow.db")
    found = gather_evidence(client, "quick")
    assert (len(found.trials), found.choices) == (6, 2)
    assert found.study.trials["repeats"].fillna(-1).tolist() == [-1, -1, 0, 1, 1, 0]
    notes = [client.get_run(run).data.tags["mlflow.note.content"] for run in found.study.trials["run"]]
    assert sorted(note.split("**")[1] for note in notes) == ["Rank 1 of 2"] * 3 + ["Rank 2 of 2"] * 3
    material = gather(client, "quick")
    assert len(material.ranking) == 2
    assert len(material.jobs) == 6
    assert "4 trials more only repeated one of these" in summary(material)[0]
    assert cost_words(material)[0].startswith("6 fold jobs ran")
    verdict = judge(material)
    text = caution(material, verdict, worth(material, verdict, {}))
    assert "the best of 2 configurations" in text or np.isnan(material.study.trials["cv/auc_pooled"]).any()


# ---- the model card --------------------------------------------------------------------------------------------------


def card_of(made, trial):
    made_of = {"trial": trial, "folds": {"n_splits": 5, "repeats": 1}, "how": "refit"}
    return _quality(SimpleNamespace(made=made_of), made)


def test_the_card_counts_those_that_could_be_chosen_each_once():
    made = with_repeats(make([2, 1, 1, 1, 1], failed={3: [1]}), {4: 1})
    assert "chosen among 3 by these same folds" in card_of(made, best_trial(made))
    assert "the best of 3 configurations" in printed(show_winner, made)


def test_the_card_calls_it_single_only_where_nobody_was_left_out():
    assert "A single configuration was tried" in card_of(make([1]), 0)
    text = card_of(make([2, 1], failed={1: [0]}), 0)
    assert "a fold failed in t001" in text
    assert "single" not in text
    assert "Publish the second" not in text

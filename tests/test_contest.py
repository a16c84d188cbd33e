"""The winner against all others, and two configurations side by side, as numbers."""

import dataclasses

import numpy as np
import pytest
from contests import TASKS, configuration, make
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert.metrics import auc, corrected_resampled_ttest, delong, wilcoxon
from tune.contest import ABSENT, LEVEL, best_trial, contest, flat, pair
from tune.selection import rank

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.sampled_from([1, 2]), st.sampled_from(["mean_auc", "pooled_auc", "affect"]))
@settings(max_examples=25, deadline=None)
def test_the_winner_is_the_first_of_the_ranking_and_holm_only_raises(seed, repeats, objective):
    made = make(
        [0.2, 0.5, 0.8, 0.8, 0.1, 0.4],
        repeats=repeats,
        n_splits=3,
        seed=seed,
        objective=objective,
        abandoned={2: [0, 1]},
        failed={3: [2]},
    )
    found = contest(made)
    assert found.winner == rank(made.study.trials, objective)["trial"].iloc[0] == best_trial(made)
    assert found.winner not in {2, 3}
    assert sorted([found.winner, *(rival.trial for rival in found.rivals)]) == [0, 1, 2, 4, 5]
    assert found.left_out == [3]
    for rival in found.rivals:
        assert rival.p is None or rival.p <= rival.holm <= 1
        assert rival.distinguishable == (rival.holm is not None and rival.holm < LEVEL)


def test_those_that_were_given_up_are_tested_on_their_folds_by_the_studys_fraction():
    made = make([2, 0.5, 0.4], abandoned={2: [0, 2, 3]}, documents=60)
    scores = [made.fold_scores(trial) for trial in (0, 2)]
    differences = [None if b is None else a - b for a, b in zip(*scores, strict=True)]
    (rival,) = (rival for rival in contest(made).rivals if rival.trial == 2)
    assert rival.folds == 3
    assert rival.difference == pytest.approx(np.mean([d for d in differences if d is not None]))
    three = [d for d in differences if d is not None]
    assert rival.p == corrected_resampled_ttest(three, test_fraction=1 / 5).p
    assert rival.p != corrected_resampled_ttest(three).p
    assert rival.wilcoxon == wilcoxon(three)


def test_repeats_are_no_more_training_sets_than_there_are():
    made = make([1, 0.8], repeats=4, n_splits=3)
    differences = pair(made, 0, 1).objective.tested.differences
    (rival,) = contest(made).rivals
    assert len(differences) == 12
    assert rival.p == corrected_resampled_ttest(differences, repeats=4).p


def test_a_worse_configuration_is_told_from_the_winner_and_its_like_is_not():
    made = make([1.5, 1.5, 0], documents=200, n_splits=10, seed=3)
    verdicts = {rival.trial: rival.distinguishable for rival in contest(made).rivals}
    assert verdicts[2]
    assert not verdicts[{0: 1, 1: 0}[best_trial(made)]]


@pytest.mark.parametrize("missing", [True, False])
def test_without_a_winner_there_is_no_contest(missing):
    made = make([1, 0.5])
    if missing:  # the winner's predictions can't be had
        winner = best_trial(made)
        left = 1 - winner
        scores = {task: values[[left]] for task, values in made.scores.items()}
        made = dataclasses.replace(made, trials=[left], scores=scores, missing={winner: "gone"})
    else:
        made = make([1, 0.5], failed={0: [1]}, abandoned={1: [0]})
    assert contest(made) is None


# ---- two of them -----------------------------------------------------------------------------------------------------


def mirrored(values):
    return [None if value is None else -value for value in values]


@given(SEEDS, st.sampled_from([{}, {"repeats": 2}, {"abandoned": {1: [0, 1, 4]}}, {"group": 2}]))
@settings(max_examples=25, deadline=None)
def test_b_and_a_mirror_a_and_b(seed, shape):
    made = make([0.5, 0.7], seed=seed, configurations={1: configuration(seed=3)}, **shape)
    one, other = pair(made, 0, 1), pair(made, 1, 0)
    assert one.parameters == {name: values[::-1] for name, values in other.parameters.items()} == {"seed": (0, 3)}
    assert one.common == other.common
    for a, b in zip([one.objective, *one.tasks.values()], [other.objective, *other.tasks.values()], strict=True):
        assert (a.a, a.b, a.pooled) == (b.b, b.a, b.pooled[::-1])
        assert a.tested.differences == mirrored(b.tested.differences)
        assert a.tested.folds == b.tested.folds
        assert a.tested.wilcoxon == pytest.approx(b.tested.wilcoxon)
        assert (a.tested.test is None) == (b.tested.test is None)
        assert a.tested.test is None or a.tested.test.p == pytest.approx(b.tested.test.p)
        assert a.tested.mean == pytest.approx(-b.tested.mean)
        assert (a.delong is None) == (b.delong is None)
        assert a.delong is None or a.delong.p == pytest.approx(b.delong.p)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_two_that_predict_alike_do_not_differ(seed):
    made = make([0.5, 0.5], seed=seed)
    for scores in made.scores.values():
        scores[1] = scores[0]
    found = pair(made, 0, 1)
    assert found.parameters == {}
    for one in (found.objective, *found.tasks.values()):
        assert set(one.tested.differences) <= {0, None}
        assert (one.tested.test.p, one.tested.wilcoxon) == (1, 1)
        assert one.pooled[0] == one.pooled[1]
    assert found.tasks["affect"].delong.p == 1


def test_pooled_aucs_are_of_the_folds_that_both_ran():
    made = make([0.5, 0.9], abandoned={1: [1, 3]})
    found = pair(made, 0, 1)
    assert list(found.common) == [1, 3]
    rows = np.isin(made.fold_of[0], [1, 3])
    for task, spec in TASKS.items():
        expected = [auc(made.labels[task][rows], made.scores[task][trial, 0, rows], spec.kind) for trial in (0, 1)]
        assert list(found.tasks[task].pooled) == expected
    means = np.mean([one.pooled for one in found.tasks.values()], axis=0)
    assert found.objective.pooled == pytest.approx(tuple(means))
    y, scores = made.labels["affect"][rows], made.scores["affect"][:, 0, rows]
    assert found.tasks["affect"].delong == delong(y, scores[0], scores[1])


@pytest.mark.parametrize(("shape", "tested"), [({}, ["affect"]), ({"repeats": 2}, []), ({"group": 2}, [])], ids=str)
def test_delong_is_for_one_prediction_a_document_and_no_relatives(shape, tested):
    found = pair(make([0.5, 0.9], **shape), 0, 1)
    assert [task for task, one in found.tasks.items() if one.delong] == tested
    assert found.objective.delong is None


def test_nothing_in_common_is_no_comparison():
    found = pair(make([1, 1, 1], abandoned={0: [0], 1: [2]}), 0, 1)
    assert (found.common, found.objective.tested.folds, found.objective.tested.test) == ([], 0, None)
    assert {one.pooled for one in found.tasks.values()} == {(None, None)}
    assert found.tasks["affect"].delong is None


def test_one_task_that_is_maximised_is_the_objective():
    found = pair(make([1, 0.5], objective="kind"), 0, 1)
    assert found.objective is found.tasks["kind"]


def test_parameters_are_told_by_their_dotted_names():
    other = configuration(model={"experts": 2}, loss={"tasks": {"affect": 0.5}}, train={"refit": True})
    made = make([1, 1], configurations={1: other | {"features": "whisper"}})
    assert pair(made, 0, 1).parameters == {
        "features": ("features", "whisper"),
        "model.experts": (4, 2),
        "loss.tasks": ({}, ABSENT),
        "loss.tasks.affect": (ABSENT, 0.5),
        "train.refit": (False, True),
    }


VALUES = st.one_of(st.integers(), st.dictionaries(st.sampled_from("xyz"), st.integers()))


@given(st.dictionaries(st.sampled_from("abc"), VALUES))
def test_flattening_loses_nothing(configuration):
    for name, value in flat(configuration).items():
        outer, _, inner = name.partition(".")
        assert (configuration[outer][inner] if inner else configuration[outer]) == value
    assert len(flat(configuration)) == sum(len(v) or 1 if isinstance(v, dict) else 1 for v in configuration.values())

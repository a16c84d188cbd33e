"""Choosing a configuration by a rule or by hand, and what MLflow then says of it."""

import dataclasses
import io

import numpy as np
import pytest
from contests import TASKS, configuration, make, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.console import Console

from hilbert.errors import InputError
from hilbert.metrics import mean_and_se
from tune.choice import (
    BY_HAND,
    LONGEST_REASON,
    ONE_SE,
    PARETO,
    REASONS,
    RULES,
    SELECTED,
    Choice,
    by_hand,
    choose,
    complexity,
    pareto_front,
    record_choice,
    selected,
    show_choice,
    standard_error,
)
from tune.selection import is_whole, objective_metric, rank
from tune.tracking import NOTE, read_study, search_runs

pytestmark = pytest.mark.timeout(300)

SEEDS = st.integers(0, 2**32 - 1)
OBJECTIVES = ["mean_auc", "pooled_auc", "affect"]


def drawn(seed, objective="mean_auc", **shape):
    """Eight configurations of random size, of which one failed and one was given up."""
    rng = np.random.default_rng(seed)
    configurations = {
        number: configuration(
            model={
                "experts": int(rng.choice([1, 2])),
                "width": int(rng.choice([32, 64])),
                "layers": int(rng.integers(2)),
            },
            loss={"cka": float(rng.choice([0, 0.1])), "mi": float(rng.choice([0, 0.1]))},
        )
        for number in range(8)
    }
    skills = rng.normal(0.8, 0.2, 8)
    extremes = {"abandoned": {6: [0, 1]}, "failed": {7: [2]}}
    return make(skills, seed=seed, objective=objective, configurations=configurations, **extremes, **shape)


def candidates(made):
    """Numbers of the complete configurations, best first, with the objective."""
    ranked = rank(made.study.trials, made.study.objective)
    return ranked[is_whole(ranked)].set_index("trial")[objective_metric(made.study.objective)]


# ---- rules -----------------------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from(OBJECTIVES), st.sampled_from(RULES))
@settings(max_examples=40, deadline=None)
def test_only_complete_configurations_are_chosen_and_the_best_is_the_first_of_the_ranking(seed, objective, rule):
    made = drawn(seed, objective)
    found = choose(made, rule)
    assert found.choice.trial in set(candidates(made).index)
    assert found.choice.trial not in {6, 7}
    assert found.choice.rule == rule
    assert found.choice.trial in set(found.table["trial"])
    if rule == "best":
        assert found.choice.trial == candidates(made).index[0]


@given(SEEDS, st.sampled_from(OBJECTIVES))
@settings(max_examples=40, deadline=None)
def test_one_se_is_the_simplest_that_is_good_enough(seed, objective):
    made = drawn(seed, objective)
    values = candidates(made)
    best, chosen = values.index[0], choose(made, ONE_SE).choice.trial
    size = {trial: complexity(made.configurations[trial]) for trial in values.index}
    limit = values[best] - standard_error(made, best)
    enough = [trial for trial in values.index if values[trial] >= limit]
    assert chosen in enough
    assert size[chosen] <= size[best]
    assert all(size[chosen] <= size[trial] for trial in enough)
    assert values[chosen] == max(values[trial] for trial in enough if size[trial] == size[chosen])


def test_the_standard_error_is_the_recorded_one():
    made = drawn(1)
    rows = made.study.trials.set_index("trial")
    assert standard_error(made, 0) == pytest.approx(rows.at[0, "cv/auc_se"], abs=1e-4)
    single = drawn(1, "kind")
    assert standard_error(single, 0) == pytest.approx(rows.at[0, "kind/auc_se"], abs=1e-4)


def test_folds_that_do_not_define_every_task_make_no_error():
    made = make([1], documents=14)
    aucs, scores = made.fold_aucs(0), made.fold_scores(0)
    whole = [score for fold, score in enumerate(scores) if all(values[fold] is not None for values in aucs.values())]
    assert len(whole) < len(scores)
    expected = mean_and_se(whole if len(whole) > 1 else scores).standard_error
    assert standard_error(made, 0) == expected


@pytest.mark.parametrize(
    ("simple", "complex_"),
    [
        ({"model": {"experts": 1, "width": 128}}, {"model": {"experts": 2, "width": 8}}),
        ({"model": {"width": 32, "expert_width": 128}}, {"model": {"width": 64, "expert_width": 8}}),
        ({"model": {"expert_width": 32, "layers": 3}}, {"model": {"expert_width": 64, "layers": 0}}),
        ({"model": {"layers": 0}}, {"model": {"layers": 1}, "loss": {"cka": 0.0, "mi": 0.0}}),
        ({"loss": {"mi": 0.0, "cka": 9.0}}, {"loss": {"mi": 1e-3}}),
        ({"loss": {"moe": 0.0}}, {"loss": {"moe": 1e-3}}),
    ],
)
def test_what_is_more_complex(simple, complex_):
    assert complexity(configuration(**simple)) < complexity(configuration(**complex_))


def test_the_load_balance_of_a_single_expert_is_no_loss():
    sizes = [complexity(configuration(model={"experts": 1}, loss={"moe": weight})) for weight in (0.0, 0.1)]
    assert sizes[0] == sizes[1]


COARSE = arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 3)), elements=st.sampled_from([0, 0.5, 0.7, 1]))


@given(COARSE)
def test_the_front_holds_all_that_are_not_dominated_and_no_other(values):
    def dominates(a, b):
        return (a >= b).all() and (a > b).any()

    front = set(pareto_front(values))
    assert front == {row for row, mine in enumerate(values) if not any(dominates(other, mine) for other in values)}
    assert front
    assert (values.max(0) == values[list(front)].max(0)).all()


@given(SEEDS, st.sampled_from(OBJECTIVES))
@settings(max_examples=25, deadline=None)
def test_pareto_regrets_least(seed, objective):
    made = drawn(seed, objective)
    found = choose(made, PARETO)
    part = "pooled" if objective == "pooled_auc" else "mean"
    rows = made.study.trials.set_index("trial").loc[candidates(made).index]
    values = rows[[f"{task}/auc_{part}" for task in TASKS]]
    regret = (values.max() - values).max(axis=1)
    front = set(values.index[pareto_front(values.to_numpy())])
    assert set(found.table["trial"]) == front
    assert regret[found.choice.trial] == pytest.approx(min(regret[trial] for trial in front))


def test_pareto_takes_the_pooled_auc_where_a_mean_is_undefined():
    made = make([1, 0.5, 0.7], objective="affect")
    frame = made.study.trials.assign(**{"kind/auc_mean": np.nan})
    found = choose(dataclasses.replace(made, study=dataclasses.replace(made.study, trials=frame)), PARETO)
    assert {"affect/auc_mean", "kind/auc_pooled", "age/auc_mean"} <= set(found.table.columns)


def test_those_without_predictions_are_left_out_and_it_says_so():
    made = make([0.5, 0.5, 0.5])
    first = candidates(made).index[0]
    left = [trial for trial in made.trials if trial != first]
    scores = {task: values[left] for task, values in made.scores.items()}
    found = choose(dataclasses.replace(made, trials=left, scores=scores, missing={first: "gone"}), "best")
    assert found.choice.trial == candidates(made).index[1]
    assert f"can't be had: t{first:03d}" in found.choice.reasons


def test_rules_that_are_none_and_studies_without_a_complete_configuration_are_refused():
    with pytest.raises(InputError, match="best, one-se, pareto"):
        choose(make([1]), "worst")
    for rule in RULES:
        with pytest.raises(InputError, match="no complete configuration"):
            choose(make([1, 1], abandoned={0: [0]}, failed={1: [0]}), rule)


@pytest.mark.parametrize(
    ("trial", "parts"),
    [
        (6, ["t006 can't be chosen: racing gave it up after 2 folds", "complete ones are t000 to t005"]),
        ("t007", ["t007 can't be chosen: folds 2 failed", "t000 to t005"]),
        (8, ["no configuration 8", "t000 to t005"]),
        ("best", ["no configuration best", "t000 to t005"]),
    ],
)
def test_what_is_not_complete_cannot_be_chosen_by_hand(trial, parts):
    with pytest.raises(InputError) as caught:
        by_hand(drawn(0).study, trial)
    for part in parts:
        assert part in str(caught.value)


def test_one_that_still_runs_cannot_be_chosen_by_hand():
    study = make([1, 1]).study
    frame = study.trials.assign(status=["RUNNING", "FINISHED"])
    with pytest.raises(InputError, match=r"t000 can't be chosen: not all of its folds have run; .* t001"):
        by_hand(dataclasses.replace(study, trials=frame), 0)


def test_a_reason_is_one_line_of_bounded_length():
    study = make([1]).study
    assert by_hand(study, 0, because=" it is\n\n**small** ").choice.reasons.endswith(": it is **small**")
    with pytest.raises(InputError, match="--because"):
        by_hand(study, 0, because="x" * (LONGEST_REASON + 1))


@pytest.mark.parametrize("rule", RULES)
def test_what_was_decided_by_is_shown(rule):
    console = Console(file=io.StringIO(), width=80)
    found = choose(drawn(3), rule)
    show_choice(found, console)
    text = console.file.getvalue()
    assert f"t{found.choice.trial:03d}, {rule}: " in text
    assert " ".join(found.choice.reasons.split()[:4]) in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    for trial in found.table["trial"]:
        assert f"t{trial:03d}" in text


def test_a_long_table_is_cut_but_shows_what_was_chosen():
    made = make(np.linspace(0.5, 1.5, 20), tasks={"affect": TASKS["affect"]}, n_splits=2)
    last = int(candidates(made).index[-1])
    console = Console(file=io.StringIO(), width=80)
    show_choice(by_hand(made.study, last), console)
    assert f"t{last:03d}" in console.file.getvalue().splitlines()[-4]
    assert "and 7 more" in console.file.getvalue()


# ---- the record ------------------------------------------------------------------------------------------------------

FIRST, BODY = "**Rank 1 of 3** by `cv/auc_mean`, 0.7.", "| task | AUC |\n|---|---|\n| x | 0.7 |\n\nThe rest."


@pytest.fixture
def recorded(tmp_path):
    """A client, and its study's runs by number, with notes as the recorder writes them."""
    client = write(make([1, 0.5, 0.7], tasks={"affect": TASKS["affect"]}, n_splits=2), tmp_path)
    for run in trial_runs(client).values():
        client.set_tag(run.info.run_id, NOTE, f"{FIRST}\n\n{BODY}")
    return client


def trial_runs(client):
    experiment = client.get_experiment_by_name("made").experiment_id
    runs = search_runs(client, experiment, "tags.`hilbert.level` = 'trial'")
    return {int(run.data.tags["hilbert.trial"]): run for run in runs}


def marks(client):
    """What says of each run that it was chosen: the rule, and the note's second paragraph where it is about that."""
    found = {}
    for number, run in trial_runs(client).items():
        tags = run.data.tags
        first, second, *rest = tags[NOTE].split("\n\n")
        said = second if second.startswith("**Selected**") else None
        assert first == FIRST
        assert "\n\n".join(rest if said else [second, *rest]) == BODY
        if said or SELECTED in tags or REASONS in tags:
            found[number] = (tags.get(SELECTED), said)
    return found


ONE, TWO = Choice(1, "one-se", "the simplest of 2: 0.7."), Choice(2, BY_HAND, "chosen by hand: it is small")


def test_a_choice_is_recorded_and_read_back(recorded):
    assert selected(recorded, "made") is None
    record_choice(recorded, "made", ONE)
    assert selected(recorded, "made") == ONE
    assert marks(recorded) == {1: ("one-se", "**Selected** by `one-se`: the simplest of 2: 0.7.")}
    assert recorded.get_experiment_by_name("made").tags[SELECTED] == "1"


@pytest.mark.parametrize("again", [TWO, ONE, Choice(1, "best", "rank 1.")])
def test_choosing_anew_takes_the_old_choice_away(recorded, again):
    for choice in (ONE, again):
        record_choice(recorded, "made", choice)
    assert selected(recorded, "made") == again
    (found,) = marks(recorded).items()
    assert found[0] == again.trial
    assert found[1][0] == again.rule
    assert found[1][1].endswith(again.reasons)


class BrokenError(Exception):
    """A lost connection."""


class Failing:
    """A client whose connection breaks before its n-th write."""

    def __init__(self, client, writes):
        self.client, self.left = client, writes

    def __getattr__(self, name):
        found = getattr(self.client, name)
        if name not in {"log_batch", "set_tag", "delete_tag", "set_experiment_tag"}:
            return found

        def write(*arguments, **options):
            if not self.left:
                raise BrokenError
            self.left -= 1
            return found(*arguments, **options)

        return write


def test_whatever_a_crash_leaves_is_one_choice_and_the_same_again_mends_it(recorded):
    for writes in range(20):
        record_choice(recorded, "made", ONE)
        failing = Failing(recorded, writes)
        try:
            record_choice(failing, "made", TWO)
        except BrokenError:
            assert selected(recorded, "made") in (ONE, TWO)
            record_choice(recorded, "made", TWO)
        assert selected(recorded, "made") == TWO
        assert set(marks(recorded)) == {2}
        if failing.left:
            break
    assert writes == 6  # one more than it takes: the new run, the experiment, and three for the old run


def test_a_choice_that_is_gone_is_said(recorded):
    record_choice(recorded, "made", ONE)
    recorded.delete_run(trial_runs(recorded)[1].info.run_id)
    with pytest.raises(InputError, match="t001, which was selected, is gone"):
        selected(recorded, "made")


def test_a_study_without_notes_gets_one(tmp_path):
    client = write(make([1], tasks={"affect": TASKS["affect"]}, n_splits=2), tmp_path)
    record_choice(client, "made", Choice(0, "best", "rank 1."))
    assert trial_runs(client)[0].data.tags[NOTE].strip() == "**Selected** by `best`: rank 1."
    assert by_hand(read_study(client, "made"), 0).choice.trial == 0
    assert selected(client, "nowhere") is None

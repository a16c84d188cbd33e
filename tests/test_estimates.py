"""Estimates of an AUC lie within 0 and 1, and keep the order that the additive model gives them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune.estimates import estimates, unbounded
from tune.racing import Standing, incumbent, paired_differences
from tune.tracking import bounded_estimates

FOLDS = 6
AUCS = st.integers(0, 16).map(lambda n: n / 16)  # many at both ends, as small folds have them
quick = settings(deadline=None, max_examples=100)


@st.composite
def races(draw):
    """Trial 0 is complete, the others have some folds."""
    rows = draw(st.lists(st.lists(AUCS, min_size=FOLDS, max_size=FOLDS), min_size=5, max_size=5))
    there = [set(range(FOLDS)), *(draw(st.sets(st.integers(0, FOLDS - 1), min_size=1)) for _ in rows[1:])]
    return {t: Standing({f: rows[t][f] for f in sorted(folds)}, len(folds) == FOLDS) for t, folds in enumerate(there)}


def test_a_trial_that_ran_on_hard_folds_alone_is_not_thought_to_be_better_than_perfect():
    """Perfect where the leader has 0.9, whose mean is 0.95: the additive model says 1.05."""
    table = {0: Standing({0: 0.9, 1: 1.0}, complete=True), 1: Standing({0: 1.0})}
    assert unbounded(table, {}, of=[1]) == pytest.approx({1: 1.05})
    assert estimates(table, {0: 0.95}) == {1: 1.0}
    hopeless = {0: Standing({0: 1.0, 1: 0.0}, complete=True), 1: Standing({0: 0.0})}
    assert estimates(hopeless, {0: 0.5}) == {1: 0.0}


@quick
@given(table=races())
def test_estimates_are_aucs_and_keep_their_order(table):
    raw, found = unbounded(table, {}), estimates(table, {})
    assert found.keys() == raw.keys()
    assert all(0 <= value <= 1 for value in found.values())
    ranked = sorted(raw, key=raw.__getitem__)
    assert [found[trial] for trial in ranked] == sorted(found.values())
    best = incumbent(table)
    for trial, standing in table.items():
        if standing.complete:
            assert found[trial] == pytest.approx(np.mean(list(standing.scores.values())))
        if paired_differences(standing.scores, table[best].scores).sum() < 0:
            assert found[trial] < table[best].mean


def test_estimates_that_an_older_version_recorded_are_shown_within_their_range():
    assert bounded_estimates({"cv/auc_corrected": 1.0069, "cv/folds_done": 3.0}) == {
        "cv/auc_corrected": 1.0,
        "cv/folds_done": 3.0,
    }

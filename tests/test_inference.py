"""Is one configuration better than another, and how good is the winner of a search?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hilbert.metrics import (
    auc,
    bbc_cv,
    bootstrap_interval,
    corrected_resampled_ttest,
    delong,
    holm,
    pooled_auc,
    wilcoxon,
)

DIFFERENCES = st.lists(
    st.one_of(st.none(), st.sampled_from([-0.5, -0.1, 0.0, 0.1, 0.25, 0.3])), min_size=2, max_size=30
)

# Student (1908), hours of sleep gained by two drugs; R prints t = -4.0621, p = 0.002833, -2.4598858 to -0.7001142
SLEEP = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]) - np.array(
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
)
# Hollander and Wolfe (1973), table 1, depression before and after; R prints p = 0.03906
DEPRESSION = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]) - np.array(
    [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
)


# ---- paired folds


def test_the_t_test_without_overlap_is_students():
    found = corrected_resampled_ttest(SLEEP, test_fraction=1e-12)
    assert (found.difference, found.t, found.degrees_of_freedom) == (
        pytest.approx(-1.58),
        pytest.approx(-4.0621, abs=5e-5),
        9,
    )
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.interval == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)


@pytest.mark.parametrize(("folds", "repeats"), [(10, 1), (5, 2)])
def test_overlap_widens_the_error_as_in_the_papers(folds, repeats):
    plain = stats.ttest_1samp(SLEEP, 0)
    found = corrected_resampled_ttest(SLEEP, repeats=repeats)
    shrink = np.sqrt((1 / 10) / (1 / 10 + 1 / (folds - 1)))  # n_test / n_train = 1 / (k - 1)
    assert found.t == pytest.approx(plain.statistic * shrink)
    assert found.p == pytest.approx(2 * stats.t.cdf(plain.statistic * shrink, 9))
    assert found == corrected_resampled_ttest(SLEEP, test_fraction=1 / folds, repeats=repeats)


@settings(deadline=None)
@given(DIFFERENCES, st.randoms(use_true_random=False))
def test_the_t_test_knows_no_order_and_no_side(differences, random):
    found = corrected_resampled_ttest(differences, test_fraction=0.2)
    defined = [value for value in differences if value is not None]
    if len(defined) < 2 or (len(set(defined)) == 1 and defined[0] != 0):
        assert found is None
        return
    shuffled = random.sample(differences, len(differences))
    again = corrected_resampled_ttest(shuffled, test_fraction=0.2)
    assert again[:4] == pytest.approx(found[:4], abs=1e-12)
    assert again.interval == pytest.approx(found.interval, abs=1e-12)
    turned = corrected_resampled_ttest([None if d is None else -d for d in differences], test_fraction=0.2)
    assert turned[:4] == pytest.approx((-found.difference, -found.t, found.degrees_of_freedom, found.p), abs=1e-12)
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]), abs=1e-12)
    assert (found.p < 0.05) == (not found.interval[0] <= 0 <= found.interval[1])


def test_identical_configurations_do_not_differ():
    same = [0.0, None, 0.0, 1e-17]
    assert corrected_resampled_ttest(same) == (0.0, 0.0, 2, 1.0, (0.0, 0.0))
    assert wilcoxon(same) == 1.0


def test_undefined_folds_count_as_little_as_they_can():
    with_none = corrected_resampled_ttest([*SLEEP, None, None], test_fraction=0.1)
    assert with_none == corrected_resampled_ttest(SLEEP, test_fraction=0.1)
    for too_few in ([], [0.1], [None, 0.1], [None, None]):
        assert corrected_resampled_ttest(too_few) is None
        assert wilcoxon(too_few) is None
    assert corrected_resampled_ttest([0.1, 0.1]) is None


def test_differences_that_make_no_sense():
    for test in (corrected_resampled_ttest, wilcoxon):
        with pytest.raises(ValueError, match="must be None"):
            test([0.1, np.nan])
    with pytest.raises(ValueError, match="between 0 and 1"):
        corrected_resampled_ttest([0.1, 0.2], test_fraction=1)
    with pytest.raises(ValueError, match="whole repeats"):
        corrected_resampled_ttest([0.1, 0.2, 0.3], repeats=2)


def test_the_corrected_test_keeps_its_level_where_folds_are_correlated():
    """Differences with the correlation that Nadeau and Bengio suppose, n_test / (n_test + n_train) = 0.2."""
    rng = np.random.default_rng(0)
    differences = np.sqrt(0.2) * rng.normal(size=(1000, 1)) + np.sqrt(0.8) * rng.normal(size=(1000, 25))
    corrected = np.mean([corrected_resampled_ttest(row, test_fraction=0.2).p < 0.05 for row in differences])
    plain = np.mean(stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05)
    assert 0.03 < corrected < 0.08
    assert plain > 0.3


def test_the_signed_rank_test_is_exact():
    assert wilcoxon(DEPRESSION) == pytest.approx(0.03906, abs=5e-6)
    assert wilcoxon(-DEPRESSION) == wilcoxon([*DEPRESSION, None]) == wilcoxon(DEPRESSION)
    assert wilcoxon([0.1] * 6) == pytest.approx(2 / 2**6)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from([-0.3, -0.1, 0.0, 0.1, 0.2]), min_size=2, max_size=8).filter(any))
def test_the_signed_rank_test_counts_all_signs(differences):
    d = np.array(differences)
    ranks = stats.rankdata(np.abs(d))
    signs = 1 - 2 * ((np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1)
    null = (signs * np.sign(d)) @ ranks  # zeros add nothing to either side, as half of their ranks to each
    assert wilcoxon(d) == pytest.approx(np.mean(np.abs(null) >= np.abs(np.sign(d) @ ranks)))


# ---- several tests


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, None, 0.5]) == [1.0, None, 1.0]
    assert holm([]) == []
    assert holm([None]) == [None]
    for wrong in (1.2, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm([0.5, wrong])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_steps_reject(p, alpha):
    adjusted = holm(p)
    order, rejected = np.argsort(p, kind="stable"), set()
    for step, number in enumerate(order):
        if min(1, (len(p) - step) * p[number]) > alpha:
            break
        rejected.add(number)
    assert {number for number, value in enumerate(adjusted) if value <= alpha} == rejected
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    assert holm(p[::-1]) == pytest.approx(adjusted[::-1])


# ---- DeLong


def two_scores(n=60, seed=0, tie=False, gap=0.0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3 == 0).astype(float)
    shared = rng.normal(size=n)
    a, b = (y * signal + shared + rng.normal(size=n) for signal in (0.5 + gap, 0.5))
    return (y, a.round(), b.round()) if tie else (y, a, b)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_delong_equals_the_structural_components(seed, tie):
    y, a, b = two_scores(seed=seed, tie=tie)
    psi = [
        (s[y == 1][:, None] > s[y == 0]) + 0.5 * (s[y == 1][:, None] == s[y == 0]) for s in (a, b)
    ]  # the paper's kernel, of all pairs
    covariance = np.cov([k.mean(1) for k in psi]) / (y == 1).sum() + np.cov([k.mean(0) for k in psi]) / (y == 0).sum()
    found = delong(y, a, b)
    error = np.sqrt(np.array([1, -1]) @ covariance @ [1, -1])
    assert found[:4] == pytest.approx((auc(y, a, "binary"), auc(y, b, "binary"), found.auc_a - found.auc_b, error))
    assert found.p == pytest.approx(2 * stats.norm.cdf(-abs(found.difference) / error))
    assert found.interval == pytest.approx(found.difference + np.array([-1, 1]) * 1.959964 * error, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.booleans())
def test_delong_knows_no_order_no_side_and_no_scale(seed, tie):
    y, a, b = two_scores(30, seed, tie)
    found = delong(y, a, b)
    order = np.random.default_rng(seed).permutation(30)
    swapped, relabelled = delong(y, b, a), delong(1 - y, a, b)
    assert delong(y[order], a[order], b[order])[:5] == pytest.approx(found[:5])
    assert delong(y, np.exp(a), 3 * b - 1)[:5] == pytest.approx(found[:5])
    assert swapped[:5] == pytest.approx((found.auc_b, found.auc_a, -found.difference, found.standard_error, found.p))
    assert relabelled[:5] == pytest.approx(
        (1 - found.auc_a, 1 - found.auc_b, -found.difference, found.standard_error, found.p)
    )


def test_delong_of_the_same_predictions_and_of_too_few():
    y, a, b = two_scores()
    assert delong(y, a, 2 * a)[2:] == (0.0, 0.0, 1.0, (0.0, 0.0))
    assert delong(np.append(y, np.nan), np.append(a, np.nan), np.append(b, 0)) == delong(y, a, b)
    assert delong([0, 0, 1], [1, 2, 3], [3, 2, 1]) is None
    assert delong([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1]) is None  # right against wrong, no scatter
    with pytest.raises(ValueError, match="class numbers"):
        delong(y + 1, a, b)


def test_delong_keeps_its_level_and_sees_a_difference():
    p = np.array([[delong(*two_scores(120, seed, gap=gap)).p for seed in range(400)] for gap in (0.0, 1.0)])
    assert 0.02 < np.mean(p[0] < 0.05) < 0.09
    assert np.mean(p[1] < 0.05) > 0.8


# ---- the winner of a search


def configurations(count=20, n=125, seed=0, signal=0.0, repeats=1):
    """Labels, and scores of configurations with little in common, each on a scale of its own."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2).astype(float)
    scores = rng.normal(size=(count, repeats, n)) + np.multiply.outer(np.broadcast_to(signal, count), y)[:, None]
    return y, scores * np.exp(rng.normal(size=(count, 1, 1)))


def bbc(y, scores, kind="binary", **options):
    return bbc_cv({"x": y}, {"x": scores}, {"x": kind}, **options)


def race(y, scores, survivors, share=0.3):
    """Gives up all but the best on the first documents: the others have no predictions for the rest."""
    seen = int(share * len(y))
    first = [auc(y[:seen], one[0, :seen], "binary") for one in scores]
    raced = scores.copy()
    raced[np.argsort(first)[:-survivors], :, seen:] = np.nan
    return raced


def bias(estimates, truth=0.5):
    return float(np.mean(estimates)) - truth


def test_among_equals_the_winner_is_chance_again():
    found = [bbc(*configurations(seed=seed), resamples=100, seed=seed) for seed in range(60)]
    assert bias([one.objective.winner for one in found]) > 0.03
    assert abs(bias([one.objective.corrected for one in found])) < 0.015


@pytest.mark.parametrize("count", [1, 10])
def test_the_interval_covers_the_truth_as_often_as_it_says(count):
    """Nothing to choose, and a choice among configurations of different worth."""
    held, signal = [], np.linspace(0.5, 1.0, count)
    for seed in range(300):
        found = bbc(*configurations(count, 80, seed, signal=signal), resamples=200, seed=seed)
        low, high = found.objective.interval
        held.append(low < stats.norm.cdf(signal[found.winner] / np.sqrt(2)) < high)
    assert 0.91 <= np.mean(held) <= 0.98  # 0.95, with a standard error of 0.013; percentiles cover 0.99


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 4.0]), st.sampled_from([0.5, 0.9]))
def test_an_interval_stays_within_its_bounds_and_holds_the_estimate(seed, signal, confidence):
    y, scores = configurations(3, 20, seed, signal=signal)
    found = bbc(y, scores, confidence=confidence, resamples=50)
    if found is not None:
        low, high = found.objective.interval
        wide_low, wide_high = bbc(y, scores, confidence=0.99, resamples=50).objective.interval
        assert 0 <= wide_low <= low <= found.objective.corrected <= high <= wide_high <= 1


@pytest.mark.parametrize("survivors", [1, 6])
def test_racing_does_not_hide_the_choice(survivors):
    """One survivor of 20 seems, by itself, to have been chosen from nothing."""
    left_out, completed = [], []
    for seed in range(60):
        y, scores = configurations(seed=seed)
        raced = race(y, scores, survivors)
        completed.append(bbc(y, raced, resamples=100, seed=seed).objective.corrected)
        left_out.append(bbc(y, raced[~np.isnan(raced).any((1, 2))], resamples=100, seed=seed).objective.corrected)
    assert bias(left_out) > 0.01
    assert abs(bias(completed)) < 0.01


def test_a_winner_that_stands_out_needs_no_correction():
    y, scores = configurations(signal=np.eye(20)[7] * 3)
    found = bbc(y, scores)
    assert found.winner == 7
    assert found.objective.winner == auc(y, scores[7, 0], "binary")
    assert found.objective.corrected == pytest.approx(found.objective.winner, abs=0.01)
    assert found.objective.interval[0] < found.objective.corrected < found.objective.interval[1]
    assert found.resamples == 500


def test_bbc_equals_choosing_one_by_one():
    y, scores = configurations(5, 40, repeats=2)
    found = bbc(y, scores, resamples=2000)
    rng, values, deviations = np.random.default_rng(1), [], []
    for _ in range(600):
        rows = rng.integers(0, 40, 40)
        rest = np.setdiff1d(np.arange(40), rows)
        inside = [pooled_auc([y[rows]] * 2, [one[0, rows], one[1, rows]], "binary", repeats=[0, 1]) for one in scores]
        best = scores[int(np.argmax(inside))]
        values.append(pooled_auc([y[rest]] * 2, [best[0, rest], best[1, rest]], "binary", repeats=[0, 1]))
        deviations.append(values[-1] - pooled_auc([y] * 2, list(best), "binary", repeats=[0, 1]))
    assert found.objective.corrected == pytest.approx(np.mean(values), abs=0.015)
    left_out = (1 - 1 / 40) ** 40
    reach = 1.96 * np.std(deviations) * np.sqrt(left_out / (1 - left_out))
    assert found.objective.interval == pytest.approx(np.mean(values) + np.array([-reach, reach]), abs=0.02)


def test_one_configuration_has_nothing_to_correct():
    y, scores = configurations(1, 125, signal=1.0)
    found = bbc(y, scores)
    same = bbc(y, np.repeat(scores, 4, axis=0))
    assert found == same  # four identical ones are one
    assert found.objective.corrected == pytest.approx(found.objective.winner, abs=0.01)
    low, high = bootstrap_interval(y, scores[0, 0], "binary")
    assert np.diff(found.objective.interval)[0] == pytest.approx(high - low, rel=0.1)


def test_the_order_and_the_scale_of_configurations_have_no_influence():
    y, scores = configurations(6, 60)
    raced = race(y, scores, survivors=3, share=0.5)
    found = bbc(y, raced)
    turned = bbc(y, raced[::-1])
    assert turned.winner == 5 - found.winner
    assert turned.objective[:2] == pytest.approx(found.objective[:2], abs=0.01)  # ties go to the first
    stretched = raced * np.where(np.isnan(raced).any((1, 2)), 1000, 1)[:, None, None]
    assert bbc(y, stretched) == found
    assert bbc(y, np.stack([1 - raced, raced], axis=-1)) == found


def test_what_was_given_up_before_it_began_changes_nothing():
    y, scores = configurations(4, 60)
    assert bbc(y, np.concatenate([scores, np.full_like(scores, np.nan)])) == bbc(y, scores)
    assert bbc(y, np.full_like(scores, np.nan)) is None


def test_copies_of_documents_are_drawn_together():
    y, scores = configurations(5, 40)
    copies = np.repeat(np.arange(40), 3)
    single = bbc(y, scores)
    grouped = bbc(y[copies], scores[:, :, copies], groups=list(copies))
    assert grouped.objective[:2] == pytest.approx(single.objective[:2])
    assert grouped.objective.interval == pytest.approx(single.objective.interval)
    naive = bbc(y[copies], scores[:, :, copies])
    assert np.diff(naive.objective.interval)[0] < 0.8 * np.diff(single.objective.interval)[0]


def several_tasks(n=60, count=4):
    rng = np.random.default_rng(3)
    labels = {
        "two": (np.arange(n) % 2).astype(float),
        "three": (np.arange(n) % 3).astype(float),
        "real": rng.normal(size=n),
    }
    labels["three"][::5] = np.nan
    scores = {
        "two": rng.random((count, 2, n)),
        "three": rng.random((count, 2, n, 3)),
        "real": rng.random((count, 2, n)),
    }
    scores["three"][:, :, ::5] = np.nan  # nobody asks for them
    return labels, scores, {"two": "binary", "three": "multiclass", "real": "regression"}


def test_the_winner_over_tasks_is_judged_on_each():
    labels, scores, kinds = several_tasks()
    found = bbc_cv(labels, scores, kinds)
    winners = [
        np.mean([np.mean([auc(labels[t], scores[t][m, r], kinds[t]) for r in range(2)]) for t in kinds])
        for m in range(4)
    ]
    assert found.winner == int(np.argmax(winners))
    assert found.objective.winner == pytest.approx(max(winners))
    for part in ("winner", "corrected"):
        mean = np.mean([getattr(found.tasks[task], part) for task in kinds])
        assert mean == pytest.approx(getattr(found.objective, part), abs=1e-9 if part == "winner" else 0.01)
    for task in kinds:
        alone = bbc_cv({task: labels[task]}, {task: scores[task]}, {task: kinds[task]})
        chosen = bbc_cv(labels, scores, kinds, task=task)
        assert chosen.objective == chosen.tasks[task]
        assert chosen.winner == alone.winner


def test_a_task_without_labels_is_undefined_and_so_is_a_mean_with_it():
    labels, scores, kinds = several_tasks()
    labels["two"] = np.where(labels["two"] == 1, np.nan, 0)
    found = bbc_cv(labels, scores, kinds, task="real")
    assert found.tasks["two"] is None
    assert found.objective == found.tasks["real"]
    assert bbc_cv(labels, scores, kinds) is None
    assert bbc(np.full(8, np.nan), np.zeros((2, 1, 8))) is None
    assert bbc(np.eye(30)[0], np.random.default_rng(0).random((2, 1, 30))) is None  # outside or inside, never both


def test_tables_that_make_no_sense():
    labels, scores, kinds = several_tasks()
    with pytest.raises(ValueError, match="task must be one of"):
        bbc_cv(labels, scores, kinds, task="four")
    with pytest.raises(ValueError, match="same tasks"):
        bbc_cv(labels, {"two": scores["two"]}, kinds)
    with pytest.raises(ValueError, match="two: scores must be"):
        bbc_cv(labels, {**scores, "two": scores["two"][0]}, kinds)
    with pytest.raises(ValueError, match="differ in configurations"):
        bbc_cv(labels, {**scores, "two": scores["two"][:2]}, kinds)
    with pytest.raises(ValueError, match="class numbers"):
        bbc_cv({**labels, "two": labels["two"] + 1}, scores, kinds)
    with pytest.raises(ValueError, match="resamples"):
        bbc_cv(labels, scores, kinds, resamples=1)

"""May the winner of a search replace the champion?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hilbert.metrics import auc, bbc_cv, delong, promotion


def contest(count=20, n=80, seed=0, signal=0.0, champion=0.0, repeats=1):
    """Labels, scores of candidates that share half of their noise with the champion, and the champion's."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2).astype(float)
    noise = (rng.normal(size=n) + rng.normal(size=(count + 1, repeats, n))) / np.sqrt(2)
    scores = noise + np.multiply.outer(np.append(np.broadcast_to(signal, count), champion), y)[:, None]
    return y, scores[:-1], scores[-1]


def decide(y, scores, champion, **options):
    return promotion({"x": y}, {"x": scores}, {"x": champion}, {"x": "binary"}, **options)


def area(y, scores):
    return np.mean([auc(y, one, "binary") for one in scores])


def test_among_equals_the_champion_stays():
    found = [decide(*contest(seed=seed), resamples=100, seed=seed) for seed in range(200)]
    assert np.mean([one.observed for one in found]) > 0.05
    assert abs(np.mean([one.corrected for one in found])) < 0.01
    assert np.mean([one.better for one in found]) < 0.05


def test_a_paired_test_of_the_winner_falls_for_its_luck():
    """The reason why the choice is repeated."""

    def naive(seed):
        y, scores, champion = contest(100, seed=seed)
        best = scores[np.argmax([area(y, one) for one in scores])]
        return delong(y, best[0], champion[0])

    found = [naive(seed) for seed in range(60)]
    honest = [decide(*contest(100, seed=seed), resamples=60, seed=seed) for seed in range(60)]
    assert np.mean([one.p < 0.05 and one.difference > 0 for one in found]) > 0.3
    assert np.mean([one.better for one in honest]) < 0.05


def test_one_candidate_is_a_paired_comparison_that_keeps_its_level():
    found = [decide(*contest(1, 100, seed), resamples=200, seed=seed) for seed in range(300)]
    different = np.mean([one.p < 0.05 for one in found])
    assert 0.02 < different < 0.09
    assert all((one.p < 0.05) == (not one.interval[0] <= 0 <= one.interval[1]) for one in found)
    assert all(one.better == (one.interval[0] > 0) for one in found)


def test_a_candidate_that_is_better_is_promoted_and_a_worse_one_never():
    signal = np.where(np.arange(20) == 7, 1.2, 0.3)
    found = [decide(*contest(seed=seed, signal=signal, champion=0.3), resamples=100) for seed in range(30)]
    assert np.mean([one.better and one.candidate == 7 for one in found]) > 0.8
    worse = [decide(*contest(seed=seed, champion=1.0), resamples=100) for seed in range(30)]
    assert not any(one.better for one in worse)


def test_it_equals_choosing_one_by_one():
    y, scores, champion = contest(5, 40, repeats=2)
    found = decide(y, scores, champion, resamples=2000)
    rng, outside, deviations = np.random.default_rng(1), [], []
    for _ in range(600):
        rows = rng.integers(0, 40, 40)
        rest = np.setdiff1d(np.arange(40), rows)
        best = scores[np.argmax([area(y[rows], one[:, rows]) for one in scores])]
        outside.append(area(y[rest], best[:, rest]) - area(y[rest], champion[:, rest]))
        deviations.append(outside[-1] - (area(y, best) - area(y, champion)))
    left_out = (1 - 1 / 40) ** 40
    error = np.std(deviations) * np.sqrt(left_out / (1 - left_out))
    assert found.observed == pytest.approx(max(area(y, one) for one in scores) - area(y, champion))
    assert found.corrected == pytest.approx(np.mean(outside), abs=0.015)
    assert np.diff(found.interval)[0] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.p == pytest.approx(
        2 * stats.norm.sf(abs(found.corrected) * 3.92 / np.diff(found.interval)[0]), abs=1e-4
    )


def test_against_a_champion_that_is_always_chance_it_is_the_bias_corrected_auc():
    y, scores, _ = contest(6, 60, signal=0.5)
    same = np.zeros((1, 60))
    found, whole = decide(y, scores, same), bbc_cv({"x": y}, {"x": scores}, {"x": "binary"})
    assert found.candidate == whole.winner
    assert found.observed == pytest.approx(whole.objective.winner - 0.5)
    assert found.corrected == pytest.approx(whole.objective.corrected - 0.5)
    assert found.interval == pytest.approx(np.array(whole.objective.interval) - 0.5)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 2.0]))
def test_what_has_no_influence(seed, signal):
    y, scores, champion = contest(4, 30, seed, signal=signal)
    found = decide(y, scores, champion, resamples=50)
    if found is None:
        return
    assert decide(y, 3 * scores + 1, np.exp(champion), resamples=50) == found
    unlabelled = (np.append(y, np.nan), np.pad(scores, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan))
    extended = decide(*unlabelled, np.append(champion, [[np.nan]], axis=1), resamples=50)
    assert extended == found
    assert decide(y, np.concatenate([scores, np.full_like(scores, np.nan)]), champion, resamples=50) == found


def test_copies_of_documents_are_no_further_evidence():
    y, scores, champion = contest(3, 40, signal=0.6)
    copies = np.repeat(np.arange(40), 4)
    single = decide(y, scores, champion)
    grouped = decide(y[copies], scores[:, :, copies], champion[:, copies], groups=list(copies))
    naive = decide(y[copies], scores[:, :, copies], champion[:, copies])
    assert grouped.interval == pytest.approx(single.interval)
    assert np.diff(naive.interval)[0] < 0.7 * np.diff(single.interval)[0]


def test_a_candidate_other_than_the_best_is_taken_to_be_worse():
    y, scores, champion = contest(4, 60)
    best = decide(y, scores, champion)
    for number, one in enumerate(scores):
        found = decide(y, scores, champion, candidate=number)
        assert found.candidate == number
        assert found.observed == pytest.approx(area(y, one) - area(y, champion))
        assert found.corrected - best.corrected == pytest.approx(found.observed - best.observed)
        assert found.corrected <= best.corrected


def test_what_was_given_up_takes_part_but_is_no_candidate():
    y, scores, champion = contest(10, 60, seed=3)
    order = np.argsort([area(y, one) for one in scores])
    raced = scores.copy()
    raced[order[:-1], :, 20:] = np.nan
    found, alone = decide(y, raced, champion), decide(y, raced[order[-1:]], champion)
    assert found.candidate == order[-1]
    assert found.observed == alone.observed
    assert found.corrected < alone.corrected
    with pytest.raises(ValueError, match="all predictions"):
        decide(y, raced, champion, candidate=int(order[0]))
    assert decide(y, np.full_like(raced, np.nan), champion) is None


def test_the_champion_itself_is_not_better():
    y, _, champion = contest(3, 40)
    found = decide(y, np.stack([champion, champion]), champion)
    assert (found.observed, found.corrected, found.p, found.better) == (0, 0, 1, False)


def test_nothing_to_decide_and_what_makes_no_sense():
    y, scores, champion = contest(3, 40)
    assert decide(np.zeros(40), scores, champion) is None
    assert decide(np.full(40, np.nan), scores, champion) is None
    right = np.stack([[y]])
    assert decide(y, right, 1 - y[None]) is None  # right against wrong, no scatter
    with pytest.raises(ValueError, match="champion must have a prediction"):
        decide(y, scores, np.where(np.arange(40) < 3, np.nan, champion))
    with pytest.raises(ValueError, match="champion's scores must be"):
        decide(y, scores, champion[0])
    with pytest.raises(ValueError, match="same tasks"):
        promotion({"x": y}, {"x": scores}, {"z": champion}, {"x": "binary"})
    for wrong in ({"alpha": 0}, {"alpha": 1}, {"resamples": 1}):
        with pytest.raises(ValueError, match="alpha must be"):
            decide(y, scores, champion, **wrong)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match="candidate"):
            decide(y, scores, champion, candidate=wrong)

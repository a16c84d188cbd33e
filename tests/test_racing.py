"""Racing: who is given up, and what the search is told of them."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tune.estimates import unbounded
from tune.racing import (
    RULES,
    NoRacing,
    Standing,
    SuccessiveHalving,
    Wilcoxon,
    fold_order,
    incumbent,
    next_trial,
    paired_differences,
    shortfall,
    signed_rank_p,
)

GRID = st.integers(-40, 40).map(lambda n: n / 64)  # exact in binary, with many ties
FOLDS = 8
ORDER = list(range(FOLDS))
quick = settings(deadline=None, max_examples=60)
RACING = [Wilcoxon(0.2, 3), SuccessiveHalving((2, 5), 3)]


def rows(trials):
    return st.lists(st.lists(GRID, min_size=FOLDS, max_size=FOLDS), min_size=trials, max_size=trials)


@st.composite
def tables(draw, trials=5):
    """Trial 0 is complete, the others have some folds."""
    scores = draw(rows(trials))
    there = [set(ORDER)] + [draw(st.sets(st.sampled_from(ORDER), min_size=1)) for _ in range(trials - 1)]
    return {t: Standing({f: scores[t][f] for f in sorted(there[t])}, len(there[t]) == FOLDS) for t in range(trials)}


def same(table, change):
    """The table with `change(fold, score)` -> (fold, score) applied to every score."""
    return {
        trial: Standing(dict(change(f, s) for f, s in standing.scores.items()), standing.complete)
        for trial, standing in table.items()
    }


def verdicts(rule, table, order=ORDER):
    return [rule.judge(table, order)(trial) for trial in table]


# ------------------------------------------------------------------------------------------------------- all the rules


@pytest.mark.parametrize("rule", RACING)
@quick
@given(table=tables(), seed=st.integers(0, 99), shifts=st.lists(GRID, min_size=FOLDS, max_size=FOLDS))
def test_what_a_fold_is_called_and_how_hard_it_is_change_nothing(rule, table, seed, shifts):
    names = fold_order(FOLDS, seed=seed)
    other = same(table, lambda fold, score: (names[fold], score + shifts[fold]))
    assert incumbent(other) == incumbent(table)
    assert verdicts(rule, other, [names[fold] for fold in ORDER]) == verdicts(rule, table)


@pytest.mark.parametrize("rule", RACING)
@quick
@given(table=tables(), random=st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(rule, table, random):
    trials = list(table)
    random.shuffle(trials)
    other = {}
    for trial in trials:
        cells = list(table[trial].scores.items())
        random.shuffle(cells)
        other[trial] = Standing(dict(cells), table[trial].complete)
    assert [rule.judge(other, ORDER)(trial) for trial in table] == verdicts(rule, table)


@pytest.mark.parametrize("rule", [*RACING, *RULES.values()])
@quick
@given(table=tables(), there=st.sets(st.sampled_from(ORDER), min_size=1), gain=st.sampled_from([0.0, 0.25]))
def test_equal_to_or_better_than_everyone_is_never_given_up(rule, table, there, gain):
    best = [max(s.scores.get(fold, -9.0) for s in table.values()) + gain for fold in ORDER]
    table[9] = Standing({fold: best[fold] for fold in there})
    assert not rule.judge(table, ORDER)(9)


@pytest.mark.parametrize("rule", [*RACING, *RULES.values()])
@quick
@given(table=tables())
def test_complete_is_never_given_up(rule, table):
    assert not rule.judge(table, ORDER)(0)


@pytest.mark.parametrize("rule", [Wilcoxon(0.2, 3), SuccessiveHalving((2, 5), 3)])
def test_clearly_worse_is_given_up_and_never_without_racing(rule):
    table = {t: Standing({f: 0.8 + 0.01 * f for f in ORDER}, complete=True) for t in range(3)}
    table[9] = Standing({f: 0.5 + 0.02 * f for f in ORDER[:5]})
    assert rule.judge(table, ORDER)(9)
    assert not NoRacing().judge(table, ORDER)(9)


@quick
@given(table=tables(), void=st.sampled_from(ORDER), score=GRID)
def test_wilcoxon_pairs_an_undefined_fold_with_nothing(table, void, score):
    """What the incumbent scores where another is undefined has no say in it, as long as it stays the incumbent."""
    scores = {fold: s for fold, s in table[1].scores.items() if fold != void}
    table = {0: table[0], 1: Standing(scores, undefined=[void])}
    other = table | {0: Standing({**table[0].scores, void: score}, complete=True)}
    rule = Wilcoxon(0.2, 3)
    assert rule.judge(table, ORDER)(1) == rule.judge(other, ORDER)(1)


@quick
@given(table=tables(), void=st.sampled_from(ORDER), lone=st.integers(0, 4))
def test_successive_halving_leaves_an_undefined_fold_out_for_all(table, void, lone):
    """Undefined for one: as if it were in for who ran it, and the same for everybody."""
    rule, ran = SuccessiveHalving((2, 5), 3), {t for t, x in table.items() if void in x.scores} | {lone}
    bare = {t: {f: s for f, s in x.scores.items() if f != void} for t, x in table.items()}
    level = {t: Standing(bare[t] | ({void: 0.5} if t in ran else {}), x.complete) for t, x in table.items()}
    holes = {t: table[t] for t in table} | {lone: Standing(bare[lone], table[lone].complete, undefined=[void])}
    for trial in table:
        rung = max((r for r in rule.rungs if holes[trial].has(ORDER[:r])), default=0)
        if void not in ORDER[:rung] or holes[lone].has(ORDER[:rung]):  # else the one undefined isn't among the rivals
            assert rule.judge(holes, ORDER)(trial) == rule.judge(level, ORDER)(trial)


# ----------------------------------------------------------------------------------------------------------- the test


@quick
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=25, unique=True), st.data())
def test_p_value_is_scipys_without_ties(magnitudes, data):
    signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(magnitudes), max_size=len(magnitudes)))
    differences = np.array(magnitudes, dtype=float) * signs
    expected = scipy.stats.wilcoxon(differences, alternative="less", method="exact").pvalue
    assert signed_rank_p(differences) == pytest.approx(expected, rel=1e-9)


@quick
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_p_value_with_ties_and_zeros_is_that_of_all_sign_flips(values):
    differences = np.array(values, dtype=float)
    ranks = scipy.stats.rankdata(abs(differences))

    def statistic(signed):
        return sum(ranks[signed > 0]) + sum(ranks[signed == 0]) / 2

    flips = itertools.product([-1, 1], repeat=len(values))
    lower = [statistic(differences * signs) <= statistic(differences) for signs in flips]
    assert signed_rank_p(differences) == pytest.approx(np.mean(lower))


def test_differences_equal_but_for_rounding_are_tied():
    scores, others = {0: 0.3, 1: 0.9}, {0: 0.1 + 0.2, 1: 0.8}
    assert sorted(paired_differences(scores, others)) == [0, 1e8]


@quick
@given(table=tables(), threshold=st.floats(0.01, 0.9))
def test_wilcoxon_follows_its_p_value_and_never_a_mean_that_is_not_behind(table, threshold):
    best = incumbent(table)
    for trial, standing in table.items():
        differences = paired_differences(standing.scores, table[best].scores)
        hopeless = Wilcoxon(threshold, 1).judge(table, ORDER)(trial)
        assert hopeless <= (differences.sum() < 0)
        if differences.sum() < 0 and not standing.complete:
            assert hopeless == (signed_rank_p(differences) < threshold)


def test_wilcoxon_ranks_may_speak_against_a_trial_that_is_ahead():
    table = {0: Standing(dict.fromkeys(ORDER, 0.5), complete=True)}
    table[1] = Standing({**{f: 0.49 - 0.001 * f for f in range(6)}, 6: 0.9})
    assert signed_rank_p(paired_differences(table[1].scores, table[0].scores)) < 0.2
    assert not Wilcoxon(0.2, 3).judge(table, ORDER)(1)


def test_wilcoxon_waits_for_its_startup_and_for_an_incumbent():
    table = {0: Standing(dict.fromkeys(ORDER, 0.9), complete=True)}
    folds = [Standing({f: 0.1 * f for f in ORDER[:n]}) for n in range(6)]
    assert [Wilcoxon(0.9, 4).judge({**table, 1: s}, ORDER)(1) for s in folds] == [False] * 4 + [True] * 2
    assert not Wilcoxon(0.9, 4).judge({0: Standing(table[0].scores), 1: folds[5]}, ORDER)(1)


# -------------------------------------------------------------------------------------------------- successive halving


@quick
@given(st.permutations(range(10)), st.integers(1, 10), st.integers(2, 4), st.data())
def test_successive_halving_keeps_the_right_share(quality, trials, eta, data):
    gone = data.draw(st.sets(st.integers(0, trials - 1)))
    table = {t: Standing({0: quality[t], 1: 0.0}, abandoned=t in gone) for t in range(trials)}
    kept = {t for t in table if not SuccessiveHalving((2, 5), eta).judge(table, ORDER)(t)}
    best_first = sorted(table, key=lambda t: -quality[t])
    expected = set(best_first[: -(-trials // eta)])
    alive = [t for t in best_first if t not in gone]
    assert kept - gone == (expected - gone) | set(alive[:1])


def test_successive_halving_judges_at_the_highest_rung_with_all_its_folds():
    rule, order = SuccessiveHalving((2, 4), 2), [3, 1, 0, 2]
    good = {t: Standing(dict.fromkeys(order, 0.9), complete=True) for t in range(3)}
    assert not rule.judge({**good, 9: Standing({3: 0.1, 0: 0.1, 2: 0.1})}, order)(9)  # fold 1 is missing
    assert rule.judge({**good, 9: Standing({3: 0.1, 1: 0.1})}, order)(9)
    assert rule.judge({**good, 9: Standing({3: 0.1}, undefined=[1])}, order)(9)
    ahead = {t: Standing({3: 0.9, 1: 0.9}) for t in range(3)}  # only at the lower rung
    assert not rule.judge({**ahead, 9: Standing({3: 0.1, 1: 0.1, 0: 0.1}, undefined=[2])}, order)(9)


# --------------------------------------------------------------------------------------------------- estimates


@quick
@given(
    qualities=st.lists(GRID, min_size=3, max_size=6),
    effects=st.lists(GRID, min_size=FOLDS, max_size=FOLDS),
    data=st.data(),
)
def test_corrected_mean_is_exact_where_scores_are_trial_plus_fold(qualities, effects, data):
    there = [set(ORDER)] + [data.draw(st.sets(st.sampled_from(ORDER), min_size=1)) for _ in qualities[1:]]
    table = {
        t: Standing({f: q + effects[f] for f in folds}, len(folds) == FOLDS)
        for t, (q, folds) in enumerate(zip(qualities, there, strict=True))
    }
    for trial, quality in enumerate(qualities):
        assert unbounded(table, {})[trial] == pytest.approx(quality + np.mean(effects), abs=1e-9)


@quick
@given(table=tables())
def test_corrected_mean_agrees_with_a_regression_on_indicators(table):
    cells = [(t, f, score) for t, x in table.items() for f, score in x.scores.items()]
    design = np.zeros((len(cells), len(table) + FOLDS))
    for row, (trial, fold, _) in enumerate(cells):
        design[row, [trial, len(table) + fold]] = 1
    solution = np.linalg.lstsq(design, np.array([score for *_, score in cells]), rcond=None)[0]
    best = incumbent(table)
    for trial, standing in table.items():
        expected = solution[trial] + solution[len(table) :].mean()
        behind = paired_differences(standing.scores, table[best].scores).sum() < 0
        if not behind or expected < table[best].mean - 1e-9:
            assert unbounded(table, {})[trial] == pytest.approx(expected, abs=1e-9)


@quick
@given(table=tables())
def test_corrected_mean_of_a_complete_trial_is_its_mean_and_of_one_behind_is_below(table):
    best = incumbent(table)
    assert unbounded(table, {})[0] == pytest.approx(np.mean(list(table[0].scores.values())))
    for trial, standing in table.items():
        if paired_differences(standing.scores, table[best].scores).sum() < 0:
            assert unbounded(table, {})[trial] < table[best].mean


def test_least_squares_alone_would_put_a_trial_that_is_behind_above_the_incumbent():
    """The incumbent was lucky on fold 0, which is hard for everyone else."""
    table = {t: Standing({0: 0.0, 1: 1.0 - 0.01 * t}, complete=True) for t in range(1, 6)}
    table |= {0: Standing({0: 1.0, 1: 0.1}, complete=True), 9: Standing({0: 0.9})}
    assert incumbent(table) == 0
    assert unbounded(table, {})[9] == pytest.approx(0.55 - 0.1)


def test_corrected_mean_without_an_incumbent_or_without_scores():
    table = {0: Standing({0: 0.5, 1: 0.7}), 1: Standing({1: 0.6}), 2: Standing({}, undefined=[0])}
    assert unbounded(table, {})[1] == pytest.approx(0.5)
    assert unbounded(table, {}).get(2) is None


def test_estimates_are_on_the_scale_of_the_objective():
    """The pooled AUC of a configuration is lower than its mean over folds, here by 0.1."""
    table = {0: Standing({0: 0.5, 1: 0.7}, complete=True), 1: Standing({1: 0.6})}
    assert unbounded(table, {0: 0.5}) == pytest.approx({1: 0.4})
    assert unbounded({0: table[0]}, {0: 0.5}) == {}
    assert unbounded({}, {}) == {}


@quick
@given(table=tables(), shift=GRID)
def test_a_shifted_objective_shifts_the_unbounded(table, shift):
    known = {trial: s.mean for trial, s in table.items() if s.complete}
    moved = {trial: value + shift for trial, value in known.items()}
    assert unbounded(table, moved) == pytest.approx({t: v + shift for t, v in unbounded(table, known).items()})


def pooled(values):
    """A standing that scores by these numbers where it has so many folds together."""
    scores = dict.fromkeys(range(max(values)), 0.5)
    return Standing(scores, complete=max(values) == FOLDS, together=lambda folds: values[len(folds)])


def test_halving_compares_folds_together_where_the_objective_does():
    """By fold all are equal; taken together 3 and 4 are behind."""
    table = {t: pooled({2: 0.9 - 0.1 * t}) for t in range(5)}
    assert verdicts(SuccessiveHalving((2, 5), 3), table) == [False, False, True, True, True]
    undefined = {t: pooled({2: None}) for t in range(5)}
    assert verdicts(SuccessiveHalving((2, 5), 3), undefined) == [False] * 5


def test_estimates_where_folds_score_together_compare_with_the_best_on_the_same_folds():
    table = {0: pooled({2: 0.7, FOLDS: 0.8}), 1: pooled({2: 0.5, FOLDS: 0.7}), 2: pooled({2: 0.65})}
    expected = np.mean([0.8 + 0.65 - 0.7, 0.7 + 0.65 - 0.5])
    assert unbounded(table, {0: 0.8, 1: 0.7}) == pytest.approx({2: expected})
    alone = unbounded({2: table[2]}, {})
    assert alone == pytest.approx({2: 0.5})  # nobody to compare with: the mean by fold


def test_shortfall_names_the_rival_on_the_folds_that_a_trial_ran():
    table = {
        0: Standing({0: 0.9, 1: 0.7, 2: 0.1}),
        1: Standing({0: 0.5, 1: 0.7}),
        2: Standing({0: 0.99}, abandoned=True),
    }
    rival, difference, folds = shortfall(1, table)
    assert (rival, folds) == (0, 2)
    assert difference == pytest.approx(0.2)
    assert shortfall(0, table) is None
    together = {0: pooled({2: 0.7}), 1: pooled({2: 0.5})}
    assert shortfall(1, together) == pytest.approx((0, 0.2, 2))


# ------------------------------------------------------------------------------------------------------- handing out


def test_fold_order_is_a_permutation_that_the_seed_alone_decides():
    np.random.seed(1)  # noqa: NPY002
    first = fold_order(25, seed=3)
    np.random.seed(2)  # noqa: NPY002
    assert first == fold_order(25, seed=3) != fold_order(25, seed=4)
    assert sorted(first) == list(range(25))


def test_incumbent_is_the_best_complete_one_the_first_if_tied():
    table = {5: Standing({0: 0.6}, complete=True), 2: Standing({0: 0.6}, complete=True), 1: Standing({0: 0.9})}
    assert incumbent(table) == 2
    assert incumbent({1: table[1], 3: Standing({}, complete=True)}) is None


def test_next_trial():
    assert next_trial({}, speculation=3) is None
    assert next_trial({1: (2, 0), 2: (1, 1)}, speculation=3) == 2  # fewest out
    assert next_trial({1: (1, 0), 2: (1, 5), 3: (1, 5)}, speculation=3) == 2  # furthest along, then the lowest number
    assert next_trial({1: (3, 0), 2: (3, 1)}, speculation=3) is None
    assert next_trial({1: (3, 0), 2: (3, 1)}, speculation=None) == 2
    rule = SuccessiveHalving((3, 8))
    assert next_trial({1: (1, 2), 2: (2, 0)}, speculation=3, rule=rule) == 2  # 1 has all out for its next decision
    assert next_trial({1: (1, 2)}, speculation=3, rule=rule) is None
    assert next_trial({1: (1, 2)}, speculation=None, rule=rule) == 1
    assert next_trial({1: (1, 4)}, speculation=3, rule=Wilcoxon(startup=4)) is None


@pytest.mark.parametrize("rule", [*RACING, *RULES.values()])
@quick
@given(done=st.integers(0, 30))
def test_every_rule_lets_a_trial_go_on(rule, done):
    ahead = rule.ahead(done)
    assert ahead is None or ahead >= 1


@quick
@given(
    table=rows(7),
    workers=st.integers(1, 9),
    speculation=st.integers(1, 4),
    rule=st.sampled_from([*RACING, NoRacing()]),
    random=st.randoms(use_true_random=False),
)
def test_a_race_ends_with_a_complete_trial_and_jobs_run_once(table, workers, speculation, rule, random):
    """Any number of workers, any order of arrival, late folds of trials that were given up included."""
    given, table_now, out = [[] for _ in table], {}, []
    while True:
        while len(out) < workers:
            more = len(table_now) < len(table)
            room = {
                t: (len(given[t]) - len(s.scores), len(s.scores))
                for t, s in table_now.items()
                if not s.abandoned and len(given[t]) < FOLDS
            }
            trial = next_trial(room, speculation=speculation if more else None, rule=rule)
            if trial is None:
                if not more:
                    break
                trial = len(table_now)
                table_now[trial] = Standing({})
            given[trial].append(ORDER[len(given[trial])])
            out.append((trial, given[trial][-1]))
        if not out:
            break
        trial, fold = out.pop(random.randrange(len(out)))
        scores = {**table_now[trial].scores, fold: table[trial][fold]}
        gone = table_now[trial].abandoned
        table_now[trial] = Standing(scores, len(scores) == FOLDS, gone)
        if not gone and rule.judge(table_now, ORDER)(trial):
            table_now[trial] = Standing(scores, len(scores) == FOLDS, abandoned=True)
    assert all(s.complete or s.abandoned for s in table_now.values())
    assert all(set(s.scores) == set(folds) for s, folds in zip(table_now.values(), given, strict=True))
    assert any(s.complete and not s.abandoned for s in table_now.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Wilcoxon(threshold=0),
        lambda: Wilcoxon(startup=0),
        lambda: SuccessiveHalving((8, 3)),
        lambda: SuccessiveHalving((0, 3)),
        lambda: SuccessiveHalving(eta=1),
    ],
)
def test_senseless_settings_are_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()

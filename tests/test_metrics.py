import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from hilbert.metrics import (
    MeanAndError,
    auc,
    average_precision,
    balanced_accuracy,
    bootstrap_interval,
    brier,
    expected_calibration_error,
    mean_and_se,
    pooled_auc,
    pooled_interval,
)

SCORES = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, np.inf])


def binary(n=60, seed=0, signal=1.0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3 == 0).astype(float)
    return y, 1 / (1 + np.exp(-(signal * (y - 0.5) + rng.normal(size=n))))


def multiclass(n=60, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes).astype(float)
    logits = rng.normal(size=(n, classes)) + np.eye(classes)[y.astype(int)]
    return y, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


# ---- auc


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), SCORES), min_size=1))
def test_binary_auc_equals_scikit_learn_with_ties(pairs):
    y, scores = np.array(pairs).T
    if len(set(y)) < 2:
        assert auc(y, scores, "binary") is None
        return
    ranks = np.unique(scores, return_inverse=True)[1]  # scikit-learn refuses infinities
    assert auc(y, scores, "binary") == pytest.approx(sklearn_metrics.roc_auc_score(y, ranks))
    assert (
        auc(y, np.column_stack([-ranks, ranks]), "binary") == auc(y, scores, "binary") == auc(y, scores, "regression")
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1.5, 2.0, 3.0, 10.0]), SCORES), min_size=1))
def test_concordance_equals_the_count_of_pairs(pairs):
    y, scores = np.array(pairs).T
    value = auc(y, scores, "regression")
    if len(set(y)) < 2:
        assert value is None
    else:
        assert value == pytest.approx(reference.concordance(y, scores))
        assert auc(y, scores[:, None], "regression") == value
        assert auc(-y, scores, "regression") == pytest.approx(1 - value)


def test_concordance_of_many_documents():
    rng = np.random.default_rng(0)
    y, scores = rng.integers(0, 50, size=(2, 1500)).astype(float)
    assert auc(y, scores, "regression") == pytest.approx(reference.concordance(y, scores))


def test_multiclass_auc_equals_scikit_learn():
    y, probabilities = multiclass()
    expected = sklearn_metrics.roc_auc_score(y, probabilities, multi_class="ovr", average="macro")
    assert auc(y, probabilities, "multiclass") == pytest.approx(expected)


def test_missing_labels_are_ignored_and_so_are_their_scores():
    y, scores = binary()
    with_missing = np.append(y, [np.nan, np.nan])
    assert auc(with_missing, np.append(scores, [0.3, np.nan]), "binary") == auc(y, scores, "binary")


def test_auc_is_undefined_without_every_class():
    y, probabilities = multiclass()
    assert auc(np.zeros(4), np.arange(4), "binary") is None
    assert auc(np.full(4, np.nan), np.arange(4), "binary") is None
    assert auc(np.full(4, np.nan), np.zeros((4, 3)), "multiclass") is None
    assert auc([], [], "regression") is None
    assert auc([2.5, 2.5, np.nan], [1, 2, 3], "regression") is None
    assert auc(np.where(y == 2, np.nan, y), probabilities, "multiclass") is None


def test_scores_and_labels_that_make_no_sense():
    y, scores = binary(6)
    with pytest.raises(ValueError, match="NaN scores"):
        auc(y, np.where(np.arange(6) == 2, np.nan, scores), "binary")
    with pytest.raises(ValueError, match="don't fit"):
        auc(y, scores[1:], "binary")
    with pytest.raises(ValueError, match="don't fit"):
        auc(y, scores[:, None], "multiclass")
    with pytest.raises(ValueError, match="class numbers 0 to 1"):
        auc(y + 1, scores, "binary")
    with pytest.raises(ValueError, match="class numbers 0 to 2"):
        auc(y + 0.5, np.zeros((6, 3)), "multiclass")
    with pytest.raises(ValueError, match="kind must be one of"):
        auc(y, scores, "survival")
    with pytest.raises(ValueError, match="not for regression"):
        brier(y, scores, "regression")


# ---- bootstrap


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_bootstrap_equals_resampling_one_by_one(kind):
    y, scores = multiclass(40) if kind == "multiclass" else binary(40)
    low, high = bootstrap_interval(y, scores, kind, resamples=4000)
    rng = np.random.default_rng(1)
    values = []
    for _ in range(1000):
        rows = rng.integers(0, 40, 40)
        values.append(auc(y[rows], scores[rows], kind))
    expected = np.quantile([value for value in values if value is not None], [0.025, 0.975])
    assert [low, high] == pytest.approx(expected, abs=0.02)
    assert low < auc(y, scores, kind) < high


def test_copies_within_a_group_do_not_narrow_the_interval():
    y, scores = binary(40)
    copies = np.repeat(np.arange(40), 5)
    single, naive, grouped = (
        np.diff(interval)[0]
        for interval in (
            bootstrap_interval(y, scores, "binary"),
            bootstrap_interval(y[copies], scores[copies], "binary"),
            bootstrap_interval(y[copies], scores[copies], "binary", groups=list(copies)),
        )
    )
    assert grouped == pytest.approx(single)
    assert naive < 0.6 * grouped


def test_documents_without_a_group_are_their_own():
    y, scores = binary(30)
    groups = [None, "", float("nan")] * 10
    assert bootstrap_interval(y, scores, "binary", groups=groups) == bootstrap_interval(y, scores, "binary")


def test_unlabelled_documents_are_not_resampled():
    y, scores = binary(30)
    padded, padded_scores = np.append(y, np.full(30, np.nan)), np.append(scores, np.full(30, np.nan))
    groups = [*range(30), *range(30)]
    expected = bootstrap_interval(y, scores, "binary")
    assert bootstrap_interval(padded, padded_scores, "binary", groups=groups) == expected


def test_interval_depends_on_seed_and_confidence():
    y, scores = binary()
    assert bootstrap_interval(y, scores, "binary") == bootstrap_interval(y, scores, "binary")
    assert bootstrap_interval(y, scores, "binary") != bootstrap_interval(y, scores, "binary", seed=1)
    low, high = bootstrap_interval(y, scores, "binary", confidence=0.5)
    wider = bootstrap_interval(y, scores, "binary", confidence=0.99)
    assert wider[0] < low < high < wider[1]
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(y, scores, "binary", confidence=95)


def test_no_interval_where_the_auc_is_mostly_undefined():
    assert bootstrap_interval([0, 0, 0], [1, 2, 3], "binary") is None
    assert bootstrap_interval([np.nan], [1], "binary") is None
    y, scores = np.repeat([0, 1, 2], 4).astype(float), np.random.default_rng(0).random((12, 3))
    assert bootstrap_interval(y, scores, "multiclass", groups=list(y)) is None  # 2 resamples in 9 hold every class
    assert bootstrap_interval(y, scores, "multiclass") is not None


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    truth, hits = 0.7602, 0  # Phi(1 / sqrt 2)
    for seed in range(100):
        y, scores = binary(90, seed=seed)
        low, high = bootstrap_interval(y, scores, "binary", confidence=0.9, resamples=400)
        hits += low <= truth <= high
    assert 80 <= hits <= 98


# ---- over folds


def test_mean_over_the_folds_that_are_defined():
    assert mean_and_se([0.5, None, 0.7, 0.9]) == pytest.approx((0.7, 0.2 / np.sqrt(3), 3))
    assert mean_and_se([None, 0.5]) == MeanAndError(0.5, None, 1)
    assert mean_and_se([None]) == mean_and_se([]) == MeanAndError(None, None, 0)
    with pytest.raises(ValueError, match="None, not NaN"):
        mean_and_se([0.5, float("nan")])


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_pooled_auc_is_that_of_all_predictions_of_a_repeat(kind):
    y, scores = multiclass(30) if kind == "multiclass" else binary(30)
    parts = np.split(np.random.default_rng(0).permutation(30), [10, 25])
    pooled = pooled_auc([y[rows] for rows in parts], [scores[rows] for rows in parts], kind)
    assert pooled == pytest.approx(auc(y, scores, kind), abs=1e-12)


def test_pooled_auc_of_repeats_is_their_mean_and_not_that_of_an_ensemble():
    y, first = binary(40, seed=1)
    _, second = binary(40, seed=2)
    halves = [np.arange(20), np.arange(20, 40)]
    labels = [y[rows] for rows in halves] * 2
    scores = [first[rows] for rows in halves] + [second[rows] for rows in halves]
    expected = (auc(y, first, "binary") + auc(y, second, "binary")) / 2
    found = pooled_auc(labels, scores, "binary", repeats=[0, 0, 1, 1])
    assert found == pytest.approx(expected, abs=1e-12)
    assert found != pytest.approx(auc(y, (first + second) / 2, "binary"), abs=1e-3)


def test_pooled_auc_is_undefined_where_a_repeat_is():
    y, scores = binary(20)
    assert pooled_auc([y, np.ones(20)], [scores, scores], "binary", repeats=[0, 1]) is None
    with pytest.raises(ValueError, match="one a fold, at least one"):
        pooled_auc([], [], "binary")
    with pytest.raises(ValueError, match="2 labels, 1 scores"):
        pooled_auc([y, y], [scores], "binary")


def folds_of(y, scores, *, repeats=1, seed=0):
    """Labels, scores, ids and repeats of three folds, repeated with other scores."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"d{row}" for row in range(len(y))])
    labels, predicted, names, of = [], [], [], []
    for repeat in range(repeats):
        shown = scores if repeat == 0 else scores + 0.3 * rng.random(len(y))
        for rows in np.array_split(rng.permutation(len(y)), 3):
            labels.append(y[rows])
            predicted.append(shown[rows])
            names.append(ids[rows].tolist())
            of.append(repeat)
    return {"labels": labels, "scores": predicted, "documents": names, "repeats": of}


def test_the_interval_of_one_repeat_is_that_of_the_predictions_together():
    y, scores = binary(60)
    parts = folds_of(y, scores)
    order = [int(name[1:]) for name in sorted(f"d{row}" for row in range(60))]
    expected = bootstrap_interval(y[order], scores[order], "binary", resamples=300)
    assert pooled_interval(**parts, kind="binary", resamples=300) == expected
    groups = {f"d{row}": f"g{row // 3}" for row in range(60)}
    grouped = pooled_interval(**parts, kind="binary", resamples=300, groups=groups)
    names = [groups[f"d{row}"] for row in order]
    assert grouped == bootstrap_interval(y[order], scores[order], "binary", resamples=300, groups=names)


def test_the_order_of_folds_and_documents_does_not_change_the_interval():
    y, scores = binary(60)
    parts = folds_of(y, scores)
    turned = {name: [fold[::-1] for fold in values[::-1]] for name, values in parts.items() if name != "repeats"}
    turned["repeats"] = parts["repeats"][::-1]
    assert pooled_interval(**turned, kind="binary") == pooled_interval(**parts, kind="binary")


def test_the_interval_of_repeats_lies_about_their_pooled_auc_and_repeats_are_not_more_people():
    y, scores = binary(60)
    parts = folds_of(y, scores, repeats=5)
    low, high = pooled_interval(**parts, kind="binary")
    centre = pooled_auc(parts["labels"], parts["scores"], "binary", repeats=parts["repeats"])
    assert low < centre < high
    once = pooled_interval(**folds_of(y, scores), kind="binary")
    assert high - low > 0.7 * (once[1] - once[0])  # taken for 300 people it would shrink to 0.45


def test_the_pooled_interval_is_undefined_where_a_repeat_is():
    y, scores = binary(20)
    ids = [[f"d{row}" for row in range(20)]] * 2
    assert pooled_interval([y, np.ones(20)], [scores, scores], "binary", documents=ids, repeats=[0, 1]) is None
    missing = pooled_interval([y * np.nan], [scores], "binary", documents=ids[:1])
    assert missing is None


# ---- other metrics


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_binary_metrics_equal_scikit_learn(seed):
    y, p = binary(seed=seed)
    assert average_precision(y, p, "binary") == pytest.approx(sklearn_metrics.average_precision_score(y, p))
    assert balanced_accuracy(y, p, "binary") == pytest.approx(sklearn_metrics.balanced_accuracy_score(y, p > 0.5))
    assert brier(y, p, "binary") == pytest.approx(sklearn_metrics.brier_score_loss(y, p))
    for metric in (average_precision, balanced_accuracy, brier, expected_calibration_error):
        assert metric(y, np.column_stack([1 - p, p]), "binary") == pytest.approx(metric(y, p, "binary"))


def test_multiclass_metrics_equal_scikit_learn():
    y, p = multiclass()
    one_hot = np.eye(3)[y.astype(int)]
    expected = sklearn_metrics.average_precision_score(one_hot, p, average="macro")
    assert average_precision(y, p, "multiclass") == pytest.approx(expected)
    expected = sklearn_metrics.balanced_accuracy_score(y, p.argmax(1))
    assert balanced_accuracy(y, p, "multiclass") == pytest.approx(expected)
    assert brier(y, p, "multiclass") == pytest.approx(((p - one_hot) ** 2).sum(1).mean())


def test_calibration_error_by_hand():
    y, p = [0, 1, 1, 1, np.nan], [0.25, 0.25, 0.85, 1.0, 0.5]
    assert expected_calibration_error(y, p, "binary") == pytest.approx((2 * 0.25 + 0.15 + 0) / 4)
    assert expected_calibration_error(y, p, "binary", bins=1) == pytest.approx(0.75 - 2.35 / 4)
    y, p = [0, 2], [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]
    assert expected_calibration_error(y, p, "multiclass") == pytest.approx((0.4 + 0.5) / 2)


def test_calibrated_probabilities_have_little_error():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(float)
    assert expected_calibration_error(y, p, "binary") < 0.02 < expected_calibration_error(y, p**2, "binary")


def test_other_metrics_without_labels_or_classes_are_undefined():
    one_class = np.zeros(3), np.array([0.1, 0.2, 0.6])
    assert average_precision(*one_class, "binary") is None
    assert balanced_accuracy(*one_class, "binary") is None
    assert brier(*one_class, "binary") == pytest.approx((0.01 + 0.04 + 0.36) / 3)
    for metric in (average_precision, balanced_accuracy, brier, expected_calibration_error):
        assert metric([np.nan], [0.5], "binary") is None

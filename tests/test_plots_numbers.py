"""The numbers in the pictures of a trial, against independent computations."""

from dataclasses import replace

import numpy as np
import pytest
from plot_records import SPECS, make_records
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from hilbert.metrics import certainty, expected_calibration_error
from tune.plots.curves import GRID, over_folds, precision_recall, roc
from tune.plots.decisions import confusion, reliability
from tune.plots.folds import class_counts
from tune.plots.held_out import HeldOut
from tune.plots.training import by_epoch, course, effective_experts, ranked_usage

RECORDS = make_records(folds=7, n=30)
MEMBERS = {"affect": (1,), "spectrum": (0, 1, 2)}
CLASSES = [(task, column) for task, columns in MEMBERS.items() for column in columns]


def held(task, records=RECORDS):
    return HeldOut.of(records, task, SPECS[task])


def labelled(record, task, column):
    """Membership and scores of the labelled documents, without the code under test."""
    pairs = [
        (y == column, s[column]) for y, s in zip(record.labels[task], record.scores[task], strict=True) if y is not None
    ]
    y, score = zip(*pairs, strict=True)
    return np.array(y), np.array(score)


# ---- curves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "column"), CLASSES)
def test_the_roc_band_is_mean_and_deviation_of_the_folds_curves(task, column):
    found = over_folds(held(task), column, roc)
    folds = [labelled(record, task, column) for record in RECORDS]
    curves = [np.interp(GRID, *roc_curve(y, score)[:2]) for y, score in folds]
    for curve in curves:
        curve[0] = 0
    np.testing.assert_allclose(found.mean, np.mean(curves, axis=0), atol=1e-12)
    np.testing.assert_allclose(found.deviation, np.std(curves, axis=0), atol=1e-12)
    np.testing.assert_allclose(found.areas, [roc_auc_score(y, score) for y, score in folds], atol=1e-12)
    y, score = (np.concatenate(parts) for parts in zip(*folds, strict=True))
    assert found.pooled.area == pytest.approx(roc_auc_score(y, score), abs=1e-12)


@pytest.mark.parametrize(("task", "column"), CLASSES)
def test_the_precision_recall_band_is_mean_and_deviation_of_the_folds_steps(task, column):
    found = over_folds(held(task), column, precision_recall)
    folds = [labelled(record, task, column) for record in RECORDS]
    curves = []
    for y, score in folds:
        precision, recall, _ = precision_recall_curve(y, score)
        reached = [np.flatnonzero((recall >= level - 1e-9) & (recall > 0))[-1] for level in GRID]
        curves.append(precision[reached])
    np.testing.assert_allclose(found.mean, np.mean(curves, axis=0), atol=1e-12)
    np.testing.assert_allclose(found.deviation, np.std(curves, axis=0), atol=1e-12)
    np.testing.assert_allclose(found.areas, [average_precision_score(y, score) for y, score in folds], atol=1e-12)


@pytest.mark.parametrize("curve", [roc, precision_recall])
def test_tied_scores_are_one_threshold(curve):
    y = np.array([0, 1, 0, 1, 1, 0, 1.0])
    score = np.array([0.2, 0.2, 0.2, 0.7, 0.7, 0.7, 0.9])
    reference = roc_auc_score if curve is roc else average_precision_score
    expected = reference(y, score)
    assert curve(y, score).area == pytest.approx(expected)
    assert curve(y[::-1], score[::-1]).area == pytest.approx(expected)
    assert curve(y, np.full(7, 0.5)).area == pytest.approx(0.5 if curve is roc else 4 / 7)


def test_folds_with_one_side_are_left_out_of_the_band_and_stay_in_the_pool():
    one_sided = replace(RECORDS[0], labels=RECORDS[0].labels | {"affect": [1.0] * 30})
    found = over_folds(held("affect", [one_sided, *RECORDS[1:]]), 1, roc)
    expected = over_folds(held("affect", RECORDS[1:]), 1, roc)
    assert len(found.areas) == 6
    np.testing.assert_array_equal(found.mean, expected.mean)
    assert found.pooled.area != expected.pooled.area
    assert len(over_folds(held("affect", [one_sided]), 1, roc).areas) == 0
    assert over_folds(held("affect", [one_sided]), 1, roc).pooled is None


# ---- decisions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", MEMBERS)
def test_the_confusion_matrix_counts_every_labelled_document(task):
    y, scores = held(task).pooled
    expected = confusion_matrix(y, scores.argmax(1), labels=range(len(SPECS[task].classes)))
    np.testing.assert_array_equal(confusion(held(task)), expected)
    assert expected.sum() == sum(label is not None for record in RECORDS for label in record.labels[task])


@pytest.mark.parametrize("n", [1, 9, 19, 20, 47, 125, 1003])
def test_calibration_bins_hold_all_documents_in_equal_counts(n):
    rng = np.random.default_rng(n)
    confidence = rng.random(n)
    happened = (rng.random(n) < confidence).astype(float)
    bins = reliability(confidence, happened)
    assert bins.count.sum() == n
    assert bins.count.max() - bins.count.min() <= 1
    assert len(bins.count) == max(1, min(10, n // 10))
    assert np.sum(bins.count * bins.confidence) == pytest.approx(confidence.sum())
    assert np.sum(bins.count * bins.frequency) == pytest.approx(happened.sum())
    assert (np.diff(bins.confidence) >= 0).all()
    low, high = bins.interval
    assert ((low >= 0) & (low <= bins.frequency + 1e-12) & (bins.frequency <= high + 1e-12) & (high <= 1)).all()
    assert (high - low > 0).all()


@pytest.mark.parametrize("task", MEMBERS)
def test_calibration_is_of_the_same_confidence_as_the_metric(task):
    """One bin a document wide: the distance of confidence and frequency is that of `hilbert.metrics`."""
    confidence, happened = certainty(*held(task).pooled, SPECS[task].kind)
    number = np.clip((confidence * 10).astype(int), 0, 9)
    gap = sum(abs((confidence - happened)[number == b].sum()) for b in range(10)) / len(confidence)
    expected = expected_calibration_error(*held(task).pooled, SPECS[task].kind)
    assert gap == pytest.approx(expected, abs=1e-12)


# ---- folds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", SPECS)
def test_class_counts_hold_every_held_out_document(task):
    counts = class_counts(held(task))
    assert counts.shape == (max(len(SPECS[task].classes), 1) + 1, 7)
    for column, record in zip(counts.T, RECORDS, strict=True):
        assert column.sum() == len(record.document_ids)
        assert column[-1] == record.labels[task].count(None)
        for number in range(len(SPECS[task].classes)):
            assert column[number] == record.labels[task].count(number)


# ---- training --------------------------------------------------------------------------------------------------------


def test_a_course_is_over_the_folds_that_still_train():
    lengths = [2, 3, 5]
    records = [
        replace(record, epochs={"inner_loss": [None if e == 1 and n == 3 else float(n * 10 + e) for e in range(n)]})
        for record, n in zip(RECORDS, lengths, strict=False)
    ]
    found = course(by_epoch(records, "inner_loss"))
    values = [[20, 30, 50], [21, 51], [32, 52], [53], [54]]
    np.testing.assert_array_equal(found.epoch, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(found.folds, [len(one) for one in values])
    np.testing.assert_allclose(found.mean, [np.mean(one) for one in values])
    np.testing.assert_allclose(found.deviation, [np.std(one) for one in values])
    assert course(by_epoch(records, "train_cka")) is None
    assert course(by_epoch([], "train_cka")) is None


def test_ranked_usage_does_not_depend_on_the_experts_numbers():
    rng = np.random.default_rng(0)
    tasks = list(SPECS)
    shuffled = []
    for record in RECORDS:
        order = rng.permutation(4)
        usage = {task: [values[i] for i in order] for task, values in record.usage.items()}
        shuffled.append(replace(record, usage=usage))
    found = ranked_usage(RECORDS, tasks)
    np.testing.assert_array_equal(ranked_usage(shuffled, tasks), found)
    np.testing.assert_allclose(found.sum(2), 1)
    assert (np.diff(found.mean(1), axis=1) <= 0).all()


def test_effective_experts_are_between_one_and_all():
    assert effective_experts(np.array([1.0, 0, 0])) == pytest.approx(1)
    assert effective_experts(np.full(8, 1 / 8)) == pytest.approx(8)
    assert effective_experts(np.array([0.5, 0.5, 0])) == pytest.approx(2)

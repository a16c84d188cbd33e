"""Which folds count: an AUC of models that never saw a class counts nowhere.

Most cases are one rare class: `rare` is held by so few documents that some training parts lack it.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from plot_records import make_records
from synthetic import SPECS, fit_config, make_store

from hilbert.folds import Fold, defined_folds, make_folds
from hilbert.metrics import auc, bbc_cv, pooled_auc, promotion
from hilbert.tasks import encode_labels
from hilbert.training import fit
from tune.entries import fold_entries
from tune.job import JobRecord, record
from tune.notes import pooled_intervals, trial_body
from tune.plots.held_out import HeldOut
from tune.selection import fold_score, pooled_objective, summarise, undefined_tasks

PARTS = [Fold(np.r_[4:12], np.r_[2:4], np.r_[0:2]), Fold(np.r_[0:8], np.r_[8:10], np.r_[10:12])]


def labels_of(**columns):
    table = pd.DataFrame({name: [None if v is None else str(v) for v in values] for name, values in columns.items()})
    kinds = {name: "regression" if name == "age" else "binary" for name in columns}
    return encode_labels(table, kinds, source="x")


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_a_fold_counts_where_both_its_training_and_its_held_out_part_hold_every_class():
    only_held_out = np.r_[1, 0, np.zeros(10)]
    assert [one.tolist() for one in defined_folds(only_held_out, 2, PARTS)] == [[False, True], [False, False]]
    in_inner = np.r_[1, 0, 1, np.zeros(9)]  # a model of the training part chooses the epoch, whatever `refit` says
    assert defined_folds(in_inner, 2, PARTS).scored.tolist() == [False, False]
    both = np.r_[1, 0, 0, 0, 1, np.zeros(7)]
    assert defined_folds(both, 2, PARTS).scored.tolist() == [True, False]


def test_several_classes_and_numbers():
    three = np.r_[0, 1, 2, 2, 0, 1, 0, 1, 0, 1, 0, 1.0]
    assert defined_folds(three, 3, PARTS).trained.tolist() == [False, True]
    age = np.r_[30, 31, 40, 41, np.full(8, 50.0)]
    assert defined_folds(age, 0, PARTS).trained.tolist() == [False, True]
    assert defined_folds(age, 0, PARTS).scored.tolist() == [False, False]
    unlabelled = np.r_[1, 0, 0, 0, np.nan, 1, np.zeros(6)]
    assert defined_folds(unlabelled, 2, PARTS).scored.tolist() == [True, False]


# ---- a fit -----------------------------------------------------------------------------------------------------------


def rare_store(cases):
    """24 documents, `affect` of which these are high."""
    store = make_store(24, seed=1)
    return store.with_labels(range(24), "affect", ["high" if row in cases else "low" for row in range(24)])


@pytest.mark.parametrize("changes", [{}, {"refit": True}, {"refit": True, "patience": 0}])
def test_a_fit_whose_training_part_lacks_a_class_has_no_auc(changes):
    fold = Fold(np.r_[12:24], np.r_[8:12], np.r_[0:8])
    tasks = {"affect": "binary", "spectrum": "multiclass"}
    alone = fit(fit_config(tasks=tasks, epochs=1, **changes), rare_store({3}), fold)
    assert (alone.auc["affect"], alone.untrained) == (None, ["affect"])
    assert alone.auc["spectrum"] is not None
    two = fit(fit_config(tasks=tasks, epochs=1, **changes), rare_store({3, 20}), fold)
    assert two.auc["affect"] == auc(two.labels["affect"], two.scores["affect"], "binary")
    assert two.untrained == []


def test_inner_validation_has_no_auc_of_a_class_that_was_never_trained():
    fold = Fold(np.r_[12:24], np.r_[6:12], np.r_[0:6])
    config = fit_config(tasks={"affect": "binary", "spectrum": "multiclass"}, epochs=1, monitor="auc")
    (epoch,) = fit(config, rare_store({3, 8}), fold).epochs
    assert "inner_affect_auc" not in epoch
    assert "inner_affect_auc" in fit(config, rare_store({3, 8, 20}), fold).epochs[0]


# ---- a configuration over its folds ----------------------------------------------------------------------------------


def records_of(untrained):
    """Four folds of the two classifications, and the folds; `untrained`: the folds that lack a class of `affect`."""
    specs = {name: SPECS[name] for name in ("affect", "spectrum")}
    parts = np.split(np.arange(80), 4)
    folds = [Fold(np.array([900]), np.array([901]), rows, index=k) for k, rows in enumerate(parts)]
    return [
        replace(one, untrained=["affect"], auc=one.auc | {"affect": None}) if one.fold in untrained else one
        for one in make_records(specs=specs)
    ], folds


KINDS = {"affect": "binary", "spectrum": "multiclass"}


def test_means_and_pooled_aucs_are_of_what_counts():
    found, folds = records_of({0, 2})
    kept = [found[1], found[3]]
    metrics = summarise(found, KINDS, folds).metrics
    assert metrics["affect/auc_folds"] == 2
    assert metrics["affect/auc_mean"] == pytest.approx(np.mean([one.auc["affect"] for one in kept]))
    expected = pooled_auc([one.truth("affect") for one in kept], [np.array(o.scores["affect"]) for o in kept], "binary")
    assert metrics["affect/auc_pooled"] == expected
    assert metrics["cv/auc_pooled"] == pytest.approx((expected + metrics["spectrum/auc_pooled"]) / 2)
    everything, _ = records_of(())
    assert metrics["spectrum/auc_pooled"] == summarise(everything, KINDS, folds).metrics["spectrum/auc_pooled"]
    assert fold_score(found[0], "affect") is None
    assert fold_score(found[0], "mean_auc") == found[0].auc["spectrum"]
    assert pooled_objective(found[:1], KINDS, folds) == pooled_objective(found[:1], {"spectrum": "multiclass"}, folds)


def test_where_no_fold_counts_nothing_is_defined():
    found, folds = records_of({0, 1, 2, 3})
    metrics = summarise(found, KINDS, folds, "pooled_auc").metrics
    assert metrics["affect/auc_folds"] == 0
    assert not {"affect/auc_mean", "affect/auc_pooled", "cv/auc_mean", "cv/auc_pooled"} & set(metrics)
    assert pooled_intervals(found, KINDS, folds, {})["affect"] is None


def test_mlflow_and_the_note_leave_out_what_does_not_count():
    found, folds = records_of({0})
    assert not [name for name, *_ in fold_entries(found[0], SPECS) if name.startswith("affect/")]
    assert [name for name, *_ in fold_entries(found[1], SPECS) if name == "affect/auc"]
    intervals = pooled_intervals(found, KINDS, folds, {})
    body = trial_body(found, summarise(found, KINDS, folds), intervals, folds=4)
    counted = sum(int((~np.isnan(one.truth("affect"))).sum()) for one in found)
    assert f"affect: the training part of fold 0 lacks a class, so that {counted} of " in body
    assert "spectrum: the training part" not in body


def test_pictures_are_of_what_counts():
    found, _ = records_of({1, 2})
    held = HeldOut.of(found, "affect", SPECS["affect"])
    labels, scores = held.pooled
    assert len(labels) == len(scores) == len(held.labels[0]) + len(held.labels[3])
    assert len(held.against_rest(1)) == 2
    none = replace(held, counted=(False,) * 4)
    assert len(none.pooled[0]) == 0


def test_a_record_of_an_older_version_is_read_without_what_does_not_count():
    old = JobRecord.from_json(b'{"identity": "a", "fold": 0, "started": 0, "seconds": 1, "auc": {"x": 1.0}}')
    assert old.untrained == []
    result = fit(fit_config(epochs=1), rare_store({3}), Fold(np.r_[12:24], np.r_[8:12], np.r_[0:8]))
    assert JobRecord.from_json(record("a", result, 0.0).to_json()).untrained == ["affect"]


# ---- before anything runs --------------------------------------------------------------------------------------------


def test_tasks_without_any_fold_that_counts_are_found_before_anything_runs():
    one = np.r_[1, np.zeros(23)]
    labels = labels_of(x=(np.arange(24) % 2).astype(int), rare=one.astype(int))
    folds = make_folds([f"d{i:02}" for i in range(24)], labels, n_splits=3, repeats=4)
    assert undefined_tasks(labels, folds, "mean_auc") == ["rare"]
    assert undefined_tasks(labels, folds, "pooled_auc") == ["rare"]
    assert undefined_tasks(labels, folds, "rare") == ["rare"]
    assert undefined_tasks(labels, folds, "x") == []


def test_pooled_aucs_are_defined_where_single_folds_are_too_small():
    labels = labels_of(x=[1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1])
    bounds = [(k, k + 1) for k in range(12)]
    folds = [Fold(np.setdiff1d(np.arange(12), [a, (a + 1) % 12]), [(a + 1) % 12], np.r_[a:b]) for a, b in bounds]
    assert undefined_tasks(labels, folds, "mean_auc") == ["x"]
    assert undefined_tasks(labels, folds, "pooled_auc") == []
    assert all(a[1] == b[0] for a, b in pairwise(bounds))


# ---- the winner ------------------------------------------------------------------------------------------------------


def test_bias_correction_and_promotion_take_no_account_of_what_does_not_count():
    """What doesn't count may be anything, and the numbers are those of the other documents alone."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2.0
    scores = y + rng.normal(size=(5, 1, 60))
    champion = y + rng.normal(size=(1, 60))
    counted = np.ones((1, 60), dtype=bool)
    counted[0, 40:] = False
    wild = np.where(counted, scores, 9.0 * y - 4)
    found = bbc_cv({"x": y}, {"x": wild}, {"x": "binary"}, counted={"x": counted})
    apart = bbc_cv({"x": y[:40]}, {"x": scores[:, :, :40]}, {"x": "binary"})
    assert found == apart
    better = promotion({"x": y}, {"x": wild}, {"x": champion}, {"x": "binary"}, counted={"x": counted})
    expected = promotion({"x": y[:40]}, {"x": scores[:, :, :40]}, {"x": champion[:, :40]}, {"x": "binary"})
    assert better == expected
    nothing = {"x": np.zeros((1, 60), dtype=bool)}
    assert bbc_cv({"x": y}, {"x": wild}, {"x": "binary"}, counted=nothing) is None
    with pytest.raises(ValueError, match="counted must be"):
        bbc_cv({"x": y}, {"x": wild}, {"x": "binary"}, counted={"x": counted[:, :5]})

"""What is shown of an AUC lies within 0 and 1, and of a difference of AUCs within -1 and 1."""

from dataclasses import replace

import numpy as np
import pytest
from contests import make
from plot_records import SPECS, make_records

from hilbert.metrics import delong, promotion
from tune.contest import pair
from tune.plots.folds import folds_figure
from tune.plots.held_out import HeldOut
from tune.plots.training import training_figure
from tune.single import losses


def test_intervals_of_differences_end_at_one():
    """Two folds with one degree of freedom: the t-distribution's tails are wide."""
    made = make([1.0, 0.0], n_splits=2, documents=16, tasks={"affect": SPECS["affect"]}, seed=1)
    test = pair(made, 0, 1).objective.tested.test
    assert test is not None
    assert test.interval == (-1.0, 1.0)


def test_delongs_interval_ends_at_one():
    found = delong([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9], [0.9, 0.6, 0.8, 0.1])
    assert found is not None
    assert found.difference + 1.96 * found.standard_error > 1
    assert found.interval[1] == 1.0


def test_the_interval_of_a_promotion_ends_at_one():
    rng = np.random.default_rng(0)
    y = np.arange(12) % 2.0
    good, bad = y + 0.5 * rng.normal(size=12), rng.normal(size=12)
    found = promotion({"x": y}, {"x": good[None, None]}, {"x": bad[None]}, {"x": "binary"}, alpha=1e-9)
    assert found is not None
    assert (found.interval[0] >= -1, found.interval[1]) == (True, 1.0)


def test_error_bars_and_bands_of_an_auc_end_at_one():
    records = make_records(folds=3)
    held = HeldOut.of(records, "affect", SPECS["affect"])
    (ax,) = folds_figure([replace(held, auc=(1.0, 1.0, 0.4))]).axes
    ends = np.concatenate([line.get_xdata() for line in ax.lines if line.get_marker() == "|"]).astype(float)
    assert np.nanmax(ends) == pytest.approx(1.0)
    aucs = [0.2, 1.0, 1.0]
    shown = [replace(r, epochs=r.epochs | {"inner_affect_auc": [v] * 6}) for r, v in zip(records, aucs, strict=True)]
    panel = next(ax for ax in training_figure(shown, SPECS).axes if ax.get_title(loc="left") == "Inner validation AUC")
    tops = [path.vertices[:, 1].max() for area in panel.collections for path in area.get_paths()]
    assert max(tops) <= 1


def test_a_fit_without_inner_validation_says_so():
    assert losses({"epoch": 1, "train_total": 0.5}) == "loss 0.500, no inner validation"
    assert losses({"epoch": 1, "train_total": 0.5, "inner_loss": 0.25}) == "loss 0.500, inner 0.250"

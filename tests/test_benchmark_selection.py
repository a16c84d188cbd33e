"""The study of honest selection: its simulation is what it says, and it can tell honest numbers from others."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hilbert.metrics import auc
from tune.racing import SuccessiveHalving

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import selection
from selection import Cell, measure, race, simulate


def test_the_simulated_truth_is_true():
    study = simulate(Cell(".7 ± .03", 20_000, raced=False, configurations=10), [0])
    found = selection.aucs(study.labels, study.scores)
    assert found == pytest.approx(study.truth, abs=0.02)
    assert study.truth[-2] == study.truth[:-2].max()
    noise = study.scores - np.outer(2**0.5 * stats.norm.ppf(study.truth), study.labels)
    assert np.corrcoef(noise)[0, 1:] == pytest.approx(0.85, abs=0.02)
    assert noise.std(axis=1) == pytest.approx(1, abs=0.02)


def test_aucs_are_the_areas():
    study = simulate(Cell("all .7", 50, raced=False, configurations=4), [1])
    expected = [auc(study.labels, one, "binary") for one in study.scores]
    assert selection.aucs(study.labels, study.scores) == pytest.approx(expected)


@pytest.mark.parametrize("documents", [125, 500])
def test_every_fold_holds_both_classes(documents):
    study = simulate(Cell("all .5", documents, raced=False), [2])
    for fold in range(selection.FOLDS):
        held = study.labels[study.fold == fold]
        assert len(held) == documents / selection.FOLDS
        assert 0 < held.sum() < len(held)


def test_racing_gives_up_two_thirds_twice_and_the_best_go_on():
    study = simulate(Cell("all .5", 125, raced=True), [3])
    raced = race(study, study.scores[:100], SuccessiveHalving())
    folds = np.array([len(set(study.fold[~np.isnan(one)])) for one in raced])
    assert np.bincount(folds)[[3, 8, 25]].tolist() == [67, 22, 11]
    seen = study.fold < 3
    first = selection.aucs(study.labels[seen], study.scores[:100][:, seen])
    assert first[folds == 3].max() <= first[folds > 3].min()


@pytest.mark.parametrize("raced", [False, True])
def test_among_equals_the_winner_looks_better_than_its_corrected_estimate(raced):
    cell = Cell("all .7", 125, raced, configurations=20, share=0.5, resamples=60)
    found = [measure(cell, 0, repetition) for repetition in range(40)]
    winner, corrected, covers, naive = np.mean([one[:4] for one in found], axis=0)
    assert winner > 0.03
    assert abs(corrected) < 0.02
    assert covers > naive
    assert all(one.gap == 0 and np.isnan(one.rightly).all() for one in found)


def test_it_prints_a_table(capsys):
    selection.main(["--repetitions", "2", "--configurations", "9", "--resamples", "20", "--processes", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 12
    assert len({line.count("|") for line in lines}) == 1

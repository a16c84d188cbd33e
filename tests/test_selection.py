"""What a configuration's folds say of it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from hilbert.folds import Fold
from hilbert.metrics import auc
from tune.job import JobRecord
from tune.selection import fold_score, rank, summarise

KINDS = {"x": "binary", "y": "multiclass"}


def make(folds=4, documents=6, repeats=1, seed=0):
    """Records of a configuration whose y is undefined in fold 1, and the folds."""
    rng = np.random.default_rng(seed)
    records, parts = [], []
    for number in range(folds * repeats):
        x = np.arange(documents) % 2.0
        y = np.arange(documents) % (2.0 if number == 1 else 3.0)
        scores = {"x": rng.dirichlet([1, 1], documents), "y": rng.dirichlet([1, 1, 1], documents)}
        labels = {"x": x, "y": y}
        aucs = {task: auc(labels[task], scores[task], KINDS[task]) for task in KINDS}
        rows = np.arange(documents) + documents * (number % folds)
        parts.append(Fold(np.array([900]), np.array([901]), rows, index=number, repeat=number // folds))
        records.append(
            JobRecord(
                identity=str(number),
                fold=number,
                started=0.0,
                seconds=2.0,
                document_ids=[f"d{row}" for row in rows],
                labels={task: values.tolist() for task, values in labels.items()},
                scores={task: values.tolist() for task, values in scores.items()},
                auc=aucs,
            )
        )
    return records, parts


def failed(record):
    return JobRecord(identity=record.identity, fold=record.fold, started=0.0, seconds=1.0, error="boom")


def test_means_are_over_the_folds_that_are_defined_and_say_how_many():
    records, folds = make()
    found = summarise(records, KINDS, folds).metrics
    x = [r.auc["x"] for r in records]
    y = [r.auc["y"] for r in records if r.fold != 1]
    assert records[1].auc["y"] is None
    assert found["x/auc_mean"] == pytest.approx(np.mean(x))
    assert (found["x/auc_folds"], found["y/auc_folds"]) == (4, 3)
    assert found["y/auc_mean"] == pytest.approx(np.mean(y))
    assert found["y/auc_se"] == pytest.approx(np.std(y, ddof=1) / np.sqrt(3))
    assert found["cv/auc_mean"] == pytest.approx((np.mean(x) + np.mean(y)) / 2)
    assert found["cost/seconds"] == 8


def test_series_have_the_folds_in_which_they_are_defined():
    records, folds = make()
    found = summarise(records, KINDS, folds)
    assert list(found.series["fold/auc"]) == [0, 1, 2, 3]
    assert list(found.series["fold/y_auc"]) == [0, 2, 3]
    assert found.series["fold/auc"][1] == records[1].auc["x"]
    assert found.series["fold/auc"][2] == pytest.approx((records[2].auc["x"] + records[2].auc["y"]) / 2)


def test_pooled_auc_is_that_of_all_predictions():
    records, folds = make()
    truth = np.concatenate([r.labels["x"] for r in records])
    scores = np.concatenate([r.scores["x"] for r in records])[:, 1]
    assert summarise(records, KINDS, folds).metrics["x/auc_pooled"] == pytest.approx(roc_auc_score(truth, scores))


def test_pooled_auc_of_repeats_is_the_mean_of_theirs():
    records, folds = make(repeats=2)
    parts = [
        roc_auc_score(
            np.concatenate([r.labels["x"] for r in records[k : k + 4]]),
            np.concatenate([r.scores["x"] for r in records[k : k + 4]])[:, 1],
        )
        for k in (0, 4)
    ]
    assert summarise(records, KINDS, folds).metrics["x/auc_pooled"] == pytest.approx(np.mean(parts))


@pytest.mark.parametrize("objective", ["mean_auc", "pooled_auc", "x"])
def test_a_failed_fold_is_never_hidden_in_a_mean(objective):
    records, folds = make()
    records[2] = failed(records[2])
    found = summarise(records, KINDS, folds, objective)
    assert found.failed == [2]
    assert found.objective is None
    assert found.metrics.keys() == {"cv/folds_done", "cost/seconds", "cost/gpu_seconds"}
    assert found.metrics["cv/folds_done"] == 3


@pytest.mark.parametrize(
    ("objective", "metric"), [("mean_auc", "cv/auc_mean"), ("pooled_auc", "cv/auc_pooled"), ("x", "x/auc_mean")]
)
def test_the_objective_is_what_the_study_asks_for(objective, metric):
    records, folds = make()
    found = summarise(records, KINDS, folds, objective)
    assert found.objective == found.metrics[metric]


def test_an_abandoned_configuration_has_an_estimate_and_no_mean():
    records, folds = make()
    found = summarise(records[:2], KINDS, folds, corrected=0.61)
    assert found.abandoned
    assert found.objective == 0.61
    assert found.metrics == {"cv/folds_done": 2, "cost/seconds": 4, "cost/gpu_seconds": 0, "cv/auc_corrected": 0.61}


def test_the_order_in_which_folds_came_in_changes_nothing():
    records, folds = make()
    assert summarise(records[::-1], KINDS, folds) == summarise(records, KINDS, folds)


def test_racing_compares_what_is_defined():
    records, _ = make()
    assert fold_score(records[1], "mean_auc") == records[1].auc["x"]
    assert fold_score(records[0], "mean_auc") == pytest.approx((records[0].auc["x"] + records[0].auc["y"]) / 2)
    assert fold_score(records[1], "y") is None
    assert fold_score(records[0], "y") == records[0].auc["y"]


def test_the_ranking_puts_whole_configurations_first():
    trials = pd.DataFrame(
        {
            "trial": [0, 1, 2, 3, 4],
            "status": ["FINISHED", "FAILED", "FINISHED", "FINISHED", "RUNNING"],
            "abandoned": ["", "", "after 4 folds", "", ""],
            "cv/auc_mean": [0.7, 0.95, np.nan, 0.8, 0.99],
        }
    )
    assert rank(trials)["trial"].tolist()[:2] == [3, 0]

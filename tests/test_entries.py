"""What MLflow is told of fold jobs and trials, and the notes of trials."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from hilbert.config import TaskConfig
from hilbert.folds import Fold
from tune.entries import fold_entries, parameter_texts, trial_entries
from tune.job import JobRecord
from tune.notes import pooled_intervals, rank_line, trial_body
from tune.selection import Summary, summarise

TASKS = {
    "x": TaskConfig(kind="binary", classes=("no", "yes")),
    "age": TaskConfig(kind="regression", mean=0.0, deviation=1.0),
}
KINDS = {task: spec.kind for task, spec in TASKS.items()}


def record_of(fold, seed=0, documents=10, **changes):
    rng = np.random.default_rng([seed, fold])
    y = np.arange(documents) % 2.0
    score = np.clip(0.35 * y + 0.6 * rng.random(documents), 0, 1)
    content = {
        "identity": f"j{fold}",
        "fold": fold,
        "started": 100.0,
        "seconds": 2.0,
        "best_epoch": 2,
        "epochs": {"epoch": [1.0, 2.0], "train_total": [0.9, 0.7], "inner_x_auc": [None, 0.8]},
        "document_ids": [f"d{fold}-{row}" for row in range(documents)],
        "labels": {"x": y.tolist(), "age": rng.random(documents).tolist()},
        "scores": {"x": np.column_stack([1 - score, score]).tolist(), "age": rng.random((documents, 1)).tolist()},
        "auc": {"x": sklearn_metrics.roc_auc_score(y, score), "age": 0.5},
    }
    return JobRecord(**content | changes)


def folds_of(count):
    return [Fold(np.array([90]), np.array([91]), np.array([k]), index=k, repeat=0) for k in range(count)]


def test_a_fold_job_has_its_metrics_and_every_epochs_measures():
    record = record_of(0)
    found = {(name, step): value for name, value, step in fold_entries(record, TASKS)}
    y, score = np.array(record.labels["x"]), np.array(record.scores["x"])[:, 1]
    assert found["x/average_precision", 0] == pytest.approx(sklearn_metrics.average_precision_score(y, score))
    assert found["x/balanced_accuracy", 0] == pytest.approx(sklearn_metrics.balanced_accuracy_score(y, score > 0.5))
    assert found["x/brier", 0] == pytest.approx(sklearn_metrics.brier_score_loss(y, score))
    assert found["epoch/train_total", 1] == 0.9
    assert found["epoch/train_total", 2] == 0.7
    assert ("epoch/inner_x_auc", 1) not in found  # undefined is not there, never 0
    assert found["epoch/inner_x_auc", 2] == 0.8
    assert {name for name, _ in found if name.startswith("age/")} == {"age/auc"}


def test_a_failed_fold_job_has_its_cost_alone():
    assert fold_entries(record_of(0, error="boom"), TASKS) == [("cost/seconds", 2.0, 0)]


def test_a_trial_has_rounded_metrics_and_series_by_fold():
    records = [record_of(fold) for fold in range(3)]
    found = {(name, step): value for name, value, step in trial_entries(summarise(records, KINDS, folds_of(3)))}
    for record in records:
        assert found["fold/x_auc", record.fold] == round(record.auc["x"], 4)
        assert found["fold/auc", record.fold] == round((record.auc["x"] + 0.5) / 2, 4)
    assert found["x/auc_mean", 0] == round(np.mean([r.auc["x"] for r in records]), 4)


def test_gpu_seconds_count_what_a_job_occupied():
    records = [record_of(0, gpus=0.25), record_of(1, gpus=0.5)]
    assert summarise(records, KINDS, folds_of(3)).metrics["cost/gpu_seconds"] == 2 * 0.25 + 2 * 0.5


def test_parameters_on_a_log_scale_have_a_logarithm_beside_them():
    values = {"loss.cka": 0.123456789, "train.learning_rate": 0.001, "model.experts": 4}
    found = parameter_texts(values, ["train.learning_rate"])
    assert found == {
        "loss.cka": "0.123457",
        "train.learning_rate": "0.001",
        "train.learning_rate.log10": "-3",
        "model.experts": "4",
    }


def test_the_note_says_rank_and_numbers_with_their_intervals():
    records = [record_of(fold) for fold in range(4)]
    summary = summarise(records, KINDS, folds_of(4))
    intervals = pooled_intervals(records, KINDS, folds_of(4), {})
    low, high = intervals["x"]
    assert low < summary.metrics["x/auc_pooled"] < high
    assert rank_line(summary, "mean_auc", 2, 7).startswith("**Rank 2 of 7** by `cv/auc_mean`")
    body = trial_body(records, summary, intervals, folds=4)
    assert f"| x | {summary.metrics['x/auc_mean']:.4f} ± {summary.metrics['x/auc_se']:.4f} | 4 |" in body
    assert f"{summary.metrics['x/auc_pooled']:.4f} [{low:.4f}, {high:.4f}]" in body
    assert "4 of 4 fold jobs done, 8 seconds" in body


def test_the_note_says_why_there_is_no_rank():
    records = [record_of(0), record_of(1, error="Traceback\nValueError: boom")]
    summary = summarise(records, KINDS, folds_of(2))
    assert rank_line(summary, "mean_auc", None, 3).startswith("**Not ranked**: fold 1 failed")
    body = trial_body(records, summary, pooled_intervals(records[:1], KINDS, folds_of(2), {}), folds=2)
    assert "- fold 1 failed: `ValueError: boom`" in body
    assert "| x | undefined | 1 | undefined |" in body, body
    given_up = Summary({"cost/seconds": 1.0}, {}, [], 0.5, abandoned=True)
    assert rank_line(given_up, "mean_auc", None, 3).startswith("**Given up** by racing")
    assert "Given up after 3 folds: behind." in trial_body(
        [record_of(0)], given_up, dict.fromkeys(KINDS), folds=9, given_up="after 3 folds: behind"
    )


def test_intervals_without_any_fold_are_undefined():
    assert pooled_intervals([], KINDS, folds_of(2), {}) == {"x": None, "age": None}

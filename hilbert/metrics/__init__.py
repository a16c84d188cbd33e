"""How good predictions are, and how sure that is, as pure functions of labels and scores.

Notation: N documents, C classes, B bootstrap resamples. ``y`` is [N]: 0 or 1, a class number, or a real number, NaN
where the label is missing; documents without a label are ignored. ``scores`` are, by kind of task,

    binary       [N], higher for class 1, or [N, 2], of which column 1 is used
    multiclass   [N, C]
    regression   [N] or [N, 1]

A metric that these labels leave undefined is None: never 0, 0.5 or NaN. A score that is NaN is an error, but for
`bbc_cv` and `promotion`, where it marks a prediction that a configuration does not have.

Which one to use:

    how good one configuration is, fixed beforehand     pooled_auc, pooled_interval (resamples groups)
    how good the winner of a search is                  bbc_cv
    whether it should replace the champion              promotion
    two configurations over the same folds              corrected_resampled_ttest; wilcoxon for a second opinion
    two sets of predictions for the same documents      delong
    several such tests                                  holm
"""

from hilbert.metrics.bbc import BiasCorrected, CorrectedAuc, bbc_cv
from hilbert.metrics.classification import (
    average_precision,
    balanced_accuracy,
    brier,
    certainty,
    confusion_counts,
    expected_calibration_error,
    wilson_interval,
)
from hilbert.metrics.comparisons import DeLong, PairedTest, corrected_resampled_ttest, delong, holm, wilcoxon
from hilbert.metrics.intervals import bootstrap_interval, pooled_interval
from hilbert.metrics.over_folds import MeanAndError, mean_and_se, pooled_auc
from hilbert.metrics.promotion import Promotion, promotion
from hilbert.metrics.ranking import auc
from hilbert.metrics.shapes import Array, Kind

__all__ = [
    "Array",
    "BiasCorrected",
    "CorrectedAuc",
    "DeLong",
    "Kind",
    "MeanAndError",
    "PairedTest",
    "Promotion",
    "auc",
    "average_precision",
    "balanced_accuracy",
    "bbc_cv",
    "bootstrap_interval",
    "brier",
    "certainty",
    "confusion_counts",
    "corrected_resampled_ttest",
    "delong",
    "expected_calibration_error",
    "holm",
    "mean_and_se",
    "pooled_auc",
    "pooled_interval",
    "promotion",
    "wilcoxon",
    "wilson_interval",
]

"""Calibrated probabilities: of the documents that are given 0.8, 80 % shall be of that class.

A calibrator is fitted on held-out predictions alone: those of the training part are too sure of themselves.

    none          probabilities as they are
    temperature   softmax_c( log p_c / T + b_c ), T > 0, sum_c b_c = 0. T mends what is too sure (Guo et al. 2017,
                  equation 9); the offsets b mend shifted class frequencies, which class weighting makes and no
                  temperature can (bias-corrected temperature scaling: Alexandari, Kundaje and Shrikumar 2020). For two
                  classes it is Platt's sigmoid (1999) on the log odds, and keeps the order of the documents
    isotonic      for each class a rising curve of p_c, then normalised (Zadrozny and Elkan 2002). Mends any distortion
                  that rises, needs a thousand documents or so, and ties documents that were in order

Shapes: N documents, n predictions, C >= 2 classes, R repeats of a cross-validation. Labels are class numbers, NaN where
missing. A regression has no calibrator.
"""

from hilbert.calibration.calibrator import FEWEST_DOCUMENTS, METHODS, Calibrator, Method, fit_calibrator
from hilbert.calibration.gain import Choice, Gain, Quality, best_method, calibration_gain, cross_fitted, fit_on_repeats

__all__ = [
    "FEWEST_DOCUMENTS",
    "METHODS",
    "Calibrator",
    "Choice",
    "Gain",
    "Method",
    "Quality",
    "best_method",
    "calibration_gain",
    "cross_fitted",
    "fit_calibrator",
    "fit_on_repeats",
]

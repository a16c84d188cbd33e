"""One task's calibrator: fitted, applied, written to JSON and read. See the package for the methods and the shapes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.isotonic import IsotonicRegression

from hilbert.errors import InputError, shown
from hilbert.metrics import Array

Method = Literal["none", "temperature", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
"""The simplest first."""

FEWEST_DOCUMENTS = 20
"""With fewer labelled documents there is no calibrator."""
TEMPERATURES = (0.05, 20.0)
"""What T is kept within."""
SPREAD_OF_TEMPERATURE, SPREAD_OF_OFFSETS = 0.5, 1.5
"""Standard deviations of the normal priors of log T and of the offsets, both around 0.

Twice as wide, they let 60 documents worsen what was right; narrower, they mend less. With 400 it makes no difference.
"""
SURE = 1e-12  # a probability below counts as this much in the fit: one wild document must not decide it

Curve = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Calibrator:
    """Calibrates the probabilities of one task. Make it with `fit_calibrator` or `from_json`.

    Attributes:
        method: "none", "temperature" or "isotonic".
        temperature: T.
        offsets: b [C]; empty for other methods.
        curves: for each class the knots (p, calibrated p) of its curve, linear between them; empty for other methods.
    """

    method: Method = "none"
    temperature: float = 1.0
    offsets: tuple[float, ...] = ()
    curves: tuple[Curve, ...] = ()

    def __call__(self, probabilities: ArrayLike) -> Array:
        """[N, C] -> [N, C], rows that sum to 1. A row's result doesn't depend on other rows, to the last bit."""
        given = np.array(probabilities, dtype=np.float64, order="C")
        classes = len(self.offsets) or len(self.curves)
        if given.ndim != 2 or given.shape[1] != (classes or given.shape[1]):
            raise InputError(f"probabilities must be [documents, {classes or 'classes'}], not {list(given.shape)}")
        match self.method:
            case "none":
                return given
            case "temperature":
                return _softmax(np.log(np.maximum(given, np.finfo(np.float64).tiny)) / self.temperature + self.offsets)
            case "isotonic":
                return _on_curves(given, self.curves)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads; no number loses a digit."""
        match self.method:
            case "none":
                return {"method": "none"}
            case "temperature":
                return {"method": "temperature", "temperature": self.temperature, "offsets": list(self.offsets)}
            case "isotonic":
                return {"method": "isotonic", "curves": [{"from": list(x), "to": list(y)} for x, y in self.curves]}

    @classmethod
    def from_json(cls, content: Any, *, classes: int, where: str) -> "Calibrator":
        """Reads what `to_json` wrote.

        Args:
            content: of the JSON object.
            classes: C of the task.
            where: the file and key it comes from, for messages.

        Raises:
            InputError: anything is missing, superfluous or impossible.
        """
        method = content.get("method") if isinstance(content, Mapping) else None
        if method not in METHODS:
            raise InputError(f'{where}: "method" must be one of {", ".join(METHODS)}, not {shown(method)}')
        keys = {"none": [], "temperature": ["temperature", "offsets"], "isotonic": ["curves"]}[method]
        if set(content) != {"method", *keys}:
            told = " and ".join(f'"{key}"' for key in ["method", *keys])
            raise InputError(f"{where}: must hold {told}, not {', '.join(sorted(map(str, content)))}")
        if method == "temperature":
            (temperature,) = _numbers([content["temperature"]], f"{where}: temperature")
            if not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
                raise InputError(
                    f"{where}: temperature must be {TEMPERATURES[0]} to {TEMPERATURES[1]}, not {temperature}"
                )
            return cls(method, temperature, _numbers(content["offsets"], f"{where}: offsets", count=classes))
        if method == "isotonic":
            return cls(method, curves=_curves(content["curves"], classes, where))
        return cls()


def fit_calibrator(
    labels: ArrayLike, probabilities: ArrayLike, *, method: Method, weights: ArrayLike | None = None
) -> Calibrator:
    """Fit a calibrator on held-out predictions.

    Temperature and offsets minimise the sum over the predictions of weight times -log p(label), plus weak normal priors
    on log T and on the offsets (`SPREAD_OF_TEMPERATURE`, `SPREAD_OF_OFFSETS`): without them T would go to 0 where the
    predictions separate the classes. They weigh as much as a few documents. An isotonic curve stays within 1 / (n + 2)
    of 0 and 1, n the sum of the weights: n documents can't show more (Laplace's rule of succession).

    Args:
        labels: [n] class numbers, NaN where missing: those predictions are left out.
        probabilities: [n, C]; predictions that are NaN are left out too.
        method: how.
        weights: [n], 1 by default. The predictions of one document, of several repeats, should sum to 1.

    Returns:
        The calibrator; of method "none" where a class has no labelled prediction, or the weights sum to less than
        `FEWEST_DOCUMENTS`.

    Raises:
        InputError: shapes that don't fit, an unknown method, labels that are no class, a negative weight.
    """
    known, given, mass = _labelled(labels, probabilities, weights)
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, not {shown(method)}")
    each = np.bincount(known, weights=mass, minlength=given.shape[1])
    if method == "none" or each.min() <= 0 or each.sum() < FEWEST_DOCUMENTS * (1 - 1e-9):
        return Calibrator()
    target = np.eye(given.shape[1])[known]
    if method == "temperature":
        return _fit_temperature(target, np.log(np.maximum(given, SURE)), mass)
    return _fit_curves(target, given, mass)


def _labelled(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.int64], Array, Array]:
    """Class numbers [n], probabilities [n, C] and weights [n] of what has a label, a prediction and a weight."""
    y, given = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    mass = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if y.ndim != 1 or given.ndim != 2 or len(given) != len(y) or mass.shape != y.shape or given.shape[1] < 2:
        told = f"labels {list(y.shape)}, probabilities {list(given.shape)}, weights {list(mass.shape)}"
        raise InputError(f"labels [n], probabilities [n, classes] of two classes or more, weights [n]; not {told}")
    if not (np.isfinite(mass) & (mass >= 0)).all():
        raise InputError("weights must be finite and 0 or more")
    chosen = ~np.isnan(y) & ~np.isnan(given).any(1) & (mass > 0)
    if not np.isin(y[chosen], np.arange(given.shape[1])).all():
        raise InputError(f"labels must be class numbers 0 to {given.shape[1] - 1}, or NaN where missing")
    return y[chosen].astype(np.int64), given[chosen], mass[chosen]


def _fit_temperature(target: Array, log_p: Array, weights: Array) -> Calibrator:
    """By L-BFGS on (log T, b); the prior makes the offsets sum to 0."""
    total = weights.sum()

    def loss(point: Array) -> tuple[float, Array]:
        log_t, offsets = point[0], point[1:]
        scaled = log_p * math.exp(-log_t)
        log_q = log_softmax(scaled + offsets, axis=1)
        error = (np.exp(log_q) - target) * weights[:, None]
        prior = (log_t / SPREAD_OF_TEMPERATURE) ** 2 / 2 + (offsets**2).sum() / SPREAD_OF_OFFSETS**2 / 2
        value = -(target * log_q).sum(1) @ weights + prior
        slope_t = -(error * scaled).sum() + log_t / SPREAD_OF_TEMPERATURE**2
        slope_b = error.sum(0) + offsets / SPREAD_OF_OFFSETS**2
        return value / total, np.append(slope_t, slope_b) / total

    bounds = [tuple(np.log(TEMPERATURES)), *[(None, None)] * target.shape[1]]
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}
    found = minimize(loss, np.zeros(1 + target.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    offsets = found.x[1:] - found.x[1:].mean()
    temperature = float(np.clip(np.exp(found.x[0]), *TEMPERATURES))
    return Calibrator("temperature", temperature, tuple(offsets.tolist()))


def _fit_curves(target: Array, given: Array, weights: Array) -> Calibrator:
    """Isotonic regression of every class against the rest."""
    least = 1 / (weights.sum() + 2)
    curves = []
    for wanted, column in zip(target.T, given.T, strict=True):
        fitted = IsotonicRegression(y_min=least, y_max=1 - least).fit(column, wanted, sample_weight=weights)
        curves.append((tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())))
    return Calibrator("isotonic", curves=tuple(curves))


def _softmax(logits: Array) -> Array:
    """1 / sum_k exp(z_k - z_c), which for two classes rises with z_c in floating point too: [N, C] -> [N, C]."""
    with np.errstate(over="ignore"):
        odds: Array = np.exp(logits[:, None, :] - logits[:, :, None])
    shares: Array = 1 / odds.sum(2)
    return shares


def _on_curves(given: Array, curves: Sequence[Curve]) -> Array:
    moved = np.column_stack([np.interp(column, *curve) for column, curve in zip(given.T, curves, strict=True)])
    total = np.ascontiguousarray(moved).sum(1, keepdims=True)
    lost = total == 0
    return np.where(lost, given, moved / np.where(lost, 1, total))


# --- reading ---------------------------------------------------------------------------------------------------------


def _numbers(values: Any, what: str, *, count: int | None = None) -> tuple[float, ...]:
    """Finite numbers, `count` of them or at least one."""
    numbers = values if isinstance(values, list) else []
    finite = [one for one in numbers if isinstance(one, int | float) and not isinstance(one, bool) and _finite(one)]
    if len(finite) < len(numbers) or len(finite) != (count or max(len(finite), 1)):
        raise InputError(f"{what}: must be {f'{count} ' if count else ''}finite numbers, not {values!r:.80}")
    return tuple(map(float, finite))


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that no float can hold
        return False


def _curves(content: Any, classes: int, where: str) -> tuple[Curve, ...]:
    if not isinstance(content, list) or len(content) != classes:
        count = len(content) if isinstance(content, list) else repr(content)[:80]
        raise InputError(f"{where}: curves must be a list of {classes}, one a class, not {count}")
    curves = []
    for number, curve in enumerate(content):
        what = f"{where}: curve of class {number}"
        if not isinstance(curve, Mapping) or set(curve) != {"from", "to"}:
            raise InputError(f'{what}: must hold "from" and "to"')
        x, y = _numbers(curve["from"], f"{what}, from"), _numbers(curve["to"], f"{what}, to")
        if len(x) != len(y) or (np.diff(x) <= 0).any():
            raise InputError(f'{what}: "from" must rise strictly and be as long as "to"')
        if (np.diff(y) < 0).any() or y[0] < 0 or y[-1] > 1:
            raise InputError(f'{what}: "to" must not fall, and lie within 0 and 1')
        curves.append((x, y))
    return tuple(curves)

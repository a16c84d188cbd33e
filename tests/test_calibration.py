"""Calibration: what it must keep, what it must mend, and that no document has a say in its own."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert.calibration import METHODS, Calibrator, best_method, calibration_gain, fit_calibrator, fit_on_repeats
from hilbert.errors import InputError
from hilbert.metrics import auc

FITTED = [method for method in METHODS if method != "none"]


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def sample(n, classes=2, *, spread=1.5, seed=0):
    """Probabilities [n, C], and labels that are drawn from them: calibrated to the letter."""
    rng = np.random.default_rng(seed)
    p = softmax(spread * rng.standard_normal((n, classes)))
    return (p.cumsum(1) < rng.random((n, 1))).sum(1).clip(max=classes - 1).astype(float), p


def distorted(p, *, by=2.5, shift=(1.0, -0.5, 0.3, 0.1, -0.2)):
    """Too sure of itself, and shifted, as class weighting does."""
    return softmax(by * np.log(p) + np.array(shift)[: p.shape[-1]])


def fitted(method, classes=2, n=300):
    y, p = sample(n, classes)
    return fit_calibrator(y, distorted(p), method=method)


probabilities = st.integers(2, 9).flatmap(
    lambda classes: st.lists(
        st.lists(st.floats(-300, 300), min_size=classes, max_size=classes).map(
            lambda z: softmax(np.array(z) - max(z)).tolist()
        ),
        min_size=1,
        max_size=9,
    )
)


# ---- what it must keep -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@given(rows=probabilities)
@settings(max_examples=40, deadline=None)
def test_rows_are_distributions_each_by_itself(method, rows):
    p = np.array(rows)
    y, seen = sample(60, p.shape[1], spread=3)
    y[: p.shape[1]] = np.arange(p.shape[1])
    calibrate = fit_calibrator(y, seen, method=method)
    assert calibrate.method == method
    found = calibrate(p)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-12)
    order = np.random.default_rng(0).permutation(len(p))
    assert np.array_equal(calibrate(np.asfortranarray(p[order])), found[order])
    assert np.array_equal(np.concatenate([calibrate(row[None]) for row in p]), found)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.floats(0.05, 20), st.floats(-5, 5))
@settings(max_examples=200, deadline=None)
def test_temperature_keeps_the_order_of_two_classes(values, temperature, offset):
    p = np.sort(np.array(values))
    found = Calibrator("temperature", temperature, (-offset, offset))(np.column_stack([1 - p, p]))[:, 1]
    assert (np.diff(found) >= 0).all()


def test_temperature_keeps_the_auc_and_isotonic_ties_but_never_turns():
    y, p = sample(200)
    seen = distorted(p)
    calibrate = fit_calibrator(y, seen, method="temperature")
    assert auc(y, calibrate(seen), "binary") == auc(y, seen, "binary")
    curve = fitted("isotonic")(seen[np.argsort(seen[:, 1])])[:, 1]
    assert (np.diff(curve) >= -1e-12).all()
    assert len(np.unique(curve)) > 5


@pytest.mark.parametrize("classes", [2, 3])
def test_what_is_calibrated_stays(classes):
    y, p = sample(6000, classes)
    for method, most in {"temperature": 0.01, "isotonic": 0.03}.items():
        assert np.abs(fit_calibrator(y, p, method=method)(p) - p).mean() < most


def test_the_names_of_the_classes_don_t_matter():
    y, p = sample(300, 3)
    seen, turn = distorted(p), np.array([2, 0, 1])
    for method in FITTED:
        expected = fit_calibrator(y, seen, method=method)(seen)
        found = fit_calibrator(np.argsort(turn)[y.astype(int)], seen[:, turn], method=method)(seen[:, turn])
        np.testing.assert_allclose(found, expected[:, turn], atol=1e-5)


# ---- what it must mend -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_a_planted_distortion_is_undone_on_new_documents(classes):
    y, p = sample(4000, classes)
    new = sample(1000, classes, seed=1)[1]
    calibrate = fit_calibrator(y, distorted(p), method="temperature")
    assert calibrate.temperature == pytest.approx(2.5, rel=0.05)
    found = {m: np.abs(fit_calibrator(y, distorted(p), method=m)(distorted(new)) - new).mean() for m in METHODS}
    assert found["none"] > 0.1
    assert found["temperature"] < 0.015
    assert found["isotonic"] < 0.04
    assert sum(calibrate.offsets) == pytest.approx(0, abs=1e-9)


def test_a_temperature_alone_would_not_mend_a_shift():
    """Two classes, 1 : 9, trained as if they were 1 : 1: sure by the right amount, and wrong."""
    rng = np.random.default_rng(0)
    true = 1 / (1 + np.exp(-rng.normal(-2.5, 1, 3000)))
    y, p = (rng.random(3000) < true).astype(float), np.column_stack([1 - true, true])
    seen = distorted(p, by=1, shift=(0, np.log(9)))
    calibrate = fit_calibrator(y, seen, method="temperature")
    assert calibrate.offsets[0] - calibrate.offsets[1] == pytest.approx(np.log(9), rel=0.1)
    assert np.abs(calibrate(seen) - p).mean() < 0.01 < np.abs(seen - p).mean() / 10


def test_isotonic_mends_what_no_temperature_can():
    y, p = sample(5000)
    steps = 0.5 + 0.5 * np.sign(p - 0.5) * np.abs(2 * p - 1) ** 0.1  # monotone, no sigmoid
    found = {m: np.abs(fit_calibrator(y, steps, method=m)(steps) - p).mean() for m in FITTED}
    assert found["isotonic"] < 0.03 < found["temperature"]


# ---- awkward predictions ---------------------------------------------------------------------------------------------


def test_perfect_separation_leaves_temperature_and_certainty_finite():
    y = np.repeat([0.0, 1.0], 30)
    p = np.column_stack([1 - y, y]) * 0.8 + 0.1
    found = fit_calibrator(y, p, method="temperature")
    assert 0.1 < found.temperature < 1
    assert found(p)[-1, 1] < 0.9999
    assert fit_calibrator(y, p, method="isotonic")(p).max() == pytest.approx(1 - 1 / 62)
    assert fit_calibrator(1 - y, p, method="temperature").temperature <= 20


def test_one_certain_mistake_is_no_catastrophe():
    y, p = sample(200)
    y[0], p[0] = 1, (1.0, 0.0)
    found = fit_calibrator(y, p, method="temperature")
    assert 0.5 < found.temperature < 5
    assert np.isfinite(found(p)).all()


def test_missing_labels_and_predictions_are_left_out():
    y, p = sample(100)
    more_y, more_p = np.append(y, [np.nan, 0]), np.vstack([p, [0.3, 0.7], [np.nan, np.nan]])
    for method in FITTED:
        expected = fit_calibrator(y, p, method=method)
        assert fit_calibrator(more_y, more_p, method=method) == expected
        assert np.isnan(expected(more_p)[-1]).all()


@pytest.mark.parametrize("method", FITTED)
def test_weights_count_as_repetitions(method):
    y, p = sample(80)
    weights = np.arange(80) % 3
    rows = np.repeat(np.arange(80), weights)
    found = fit_calibrator(y, p, method=method, weights=weights)(p)
    np.testing.assert_allclose(found, fit_calibrator(y[rows], p[rows], method=method)(p), atol=1e-5)


@pytest.mark.parametrize("method", FITTED)
def test_too_little_is_not_calibrated(method):
    y, p = sample(60, 3)
    y[:3] = 0, 1, 2
    assert fit_calibrator(y, p, method=method).method == method
    assert fit_calibrator(y[:19], p[:19], method=method) == Calibrator()
    assert fit_calibrator(y, p, method=method, weights=np.full(60, 0.3)) == Calibrator()
    assert fit_calibrator(np.where(y == 2, np.nan, y), p, method=method) == Calibrator()
    assert fit_calibrator(np.zeros(60), p, method=method) == Calibrator()
    assert fit_calibrator([], np.zeros((0, 2)), method=method) == Calibrator()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [[0.5, 0.5]]), "labels .2., probabilities .1, 2."),
        (([0], [[1.0]]), "two classes or more"),
        (([0, 2], [[0.5, 0.5]] * 2), "class numbers 0 to 1"),
        (([0, 0.5], [[0.5, 0.5]] * 2), "class numbers 0 to 1"),
    ],
)
def test_wrong_input_to_a_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        fit_calibrator(*arguments, method="temperature")


def test_wrong_method_weights_or_width():
    y, p = sample(50)
    with pytest.raises(InputError, match="method must be one of none, temperature, isotonic, not 'platt'"):
        fit_calibrator(y, p, method="platt")
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(InputError, match="weights must be finite and 0 or more"):
            fit_calibrator(y, p, method="none", weights=np.full(50, wrong))
    with pytest.raises(InputError, match=r"must be \[documents, 2\], not \[50, 3\]"):
        fitted("temperature")(np.ones((50, 3)))


# ---- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [2, 4])
def test_json_keeps_every_digit(method, classes):
    y, p = sample(200, classes)
    found = fit_calibrator(y, p, method=method)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Calibrator.from_json(content, classes=classes, where="here") == found


LINE = {"from": [0.0, 1.0], "to": [0.1, 0.9]}


def bent(**changes):
    return {"method": "isotonic", "curves": [LINE, LINE | changes]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, '"method" must be one of none, temperature, isotonic, not None'),
        ({"method": ["none"]}, '"method" must be one of'),
        ({"method": "none", "temperature": 1}, 'must hold "method", not method, temperature'),
        ({"method": "temperature", "temperature": 1}, 'must hold "method" and "temperature" and "offsets"'),
        ({"method": "temperature", "temperature": 0, "offsets": [0, 0]}, "temperature must be 0.05 to 20.0, not 0"),
        ({"method": "temperature", "temperature": True, "offsets": [0, 0]}, "temperature: must be"),
        ({"method": "temperature", "temperature": 1.0, "offsets": [0, 0, 0]}, "offsets: must be 2 finite numbers"),
        ({"method": "temperature", "temperature": 1.0, "offsets": [0, float("nan")]}, "offsets: must be 2 finite"),
        ({"method": "temperature", "temperature": 1.0, "offsets": [0, 10**400]}, "offsets: must be 2 finite"),
        ({"method": "temperature", "temperature": 1.0, "offsets": "00"}, "offsets: must be 2 finite"),
        ({"method": "isotonic", "curves": [LINE]}, "curves must be a list of 2, one a class, not 1"),
        ({"method": "isotonic", "curves": LINE}, "curves must be a list of 2"),
        ({"method": "isotonic", "curves": [LINE, {"from": [0]}]}, 'curve of class 1: must hold "from" and "to"'),
        (bent(to=[]), "curve of class 1, to: must be finite numbers"),
        (bent(to=[0.5]), 'curve of class 1: "from" must rise strictly and be as long'),
        (bent(**{"from": [0.5, 0.5]}), 'curve of class 1: "from" must rise strictly'),
        (bent(to=[0.5, 0.4]), 'curve of class 1: "to" must not fall'),
        (bent(to=[0.5, 1.1]), 'curve of class 1: "to" must not fall, and lie within 0 and 1'),
    ],
)
def test_damaged_json_is_told(content, message):
    with pytest.raises(InputError, match=f"^release/calibration.json, affect: .*{message}"):
        Calibrator.from_json(content, classes=2, where="release/calibration.json, affect")


def test_where_no_curve_leaves_anything_the_row_stays():
    flat = {"from": [0.4, 0.6], "to": [0.0, 1.0]}
    calibrate = Calibrator.from_json({"method": "isotonic", "curves": [flat] * 3}, classes=3, where="here")
    np.testing.assert_array_equal(calibrate([[0.3, 0.3, 0.4], [0.5, 0.4, 0.1]]), [[0.3, 0.3, 0.4], [1.0, 0.0, 0.0]])


# ---- how much it helps -----------------------------------------------------------------------------------------------


def study(n=120, classes=2, repeats=3, folds=5, *, seed=0, distort=True):
    """Labels, scores [R, N, C] with noise of their own in every repeat, folds that keep the pairs together, groups."""
    rng = np.random.default_rng(seed)
    y, p = sample(n, classes, seed=seed)
    groups = np.arange(n) // 2
    noisy = softmax(np.log(p) + 0.1 * rng.standard_normal((repeats, n, classes)))
    fold_of = np.stack([(rng.permutation(n // 2) % folds)[groups] for _ in range(repeats)])
    return {"labels": y, "scores": distorted(noisy) if distort else noisy, "fold_of": fold_of, "groups": groups}


def log_loss(y, p):
    return -np.log(p[np.arange(len(y)), y.astype(int)]).mean()


@pytest.mark.parametrize("method", FITTED)
def test_each_fold_is_calibrated_by_the_other_documents_of_all_repeats(method):
    """Written out, document by document; one group lies in two folds, and some labels and predictions are missing."""
    given = study(60)
    y, p, fold_of = given["labels"], given["scores"], given["fold_of"]
    groups = given["groups"].copy()
    groups[groups == 7] = 3
    y[5], p[1, 8] = np.nan, np.nan
    losses = []
    for r in range(3):
        found = []
        for i in np.flatnonzero(~np.isnan(y) & ~np.isnan(p[r, :, 0])):
            beside = set(groups[fold_of[r] == fold_of[r, i]])
            rows = [(q, j) for q in range(3) for j in range(60) if groups[j] not in beside]
            rows = [(q, j) for q, j in rows if not np.isnan(y[j] + p[q, j, 0])]
            weights = [1 / (~np.isnan(p[:, j, 0])).sum() for _, j in rows]
            seen = np.array([p[q, j] for q, j in rows])
            calibrate = fit_calibrator([y[j] for _, j in rows], seen, method=method, weights=weights)
            found.append(log_loss(y[[i]], calibrate(p[r, [i]])))
        losses.append(np.mean(found))
    gain = calibration_gain(y, p, fold_of=fold_of, groups=groups, method=method)
    assert gain.after.log_loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_gain_is_that_on_new_documents(classes):
    given = study(1500, classes, repeats=2)
    gain = calibration_gain(**given, method="temperature")
    calibrate = fit_on_repeats(given["labels"], given["scores"], method="temperature")
    new = study(4000, classes, repeats=1, seed=9)
    y, p = new["labels"], new["scores"][0]
    assert gain.before.log_loss == pytest.approx(log_loss(y, p), abs=0.1)
    assert gain.after.log_loss == pytest.approx(log_loss(y, calibrate(p)), abs=0.05)
    assert gain.after.log_loss < gain.before.log_loss - 0.15
    assert gain.after.brier < gain.before.brier
    assert gain.after.calibration_error < gain.before.calibration_error / 2


def test_none_changes_nothing():
    gain = calibration_gain(**study(), method="none")
    assert gain.before == gain.after


def test_all_repeats_together_weigh_what_one_does():
    given = study(100, repeats=1)
    one = fit_on_repeats(given["labels"], given["scores"], method="temperature")
    many = fit_on_repeats(given["labels"], np.repeat(given["scores"], 5, axis=0), method="temperature")
    assert many.temperature == pytest.approx(one.temperature, rel=1e-4)
    assert fit_on_repeats(given["labels"][:15], given["scores"][:, :15].repeat(5, 0), method="isotonic") == Calibrator()


def test_the_best_method_is_the_one_that_mends():
    assert best_method(**study(400, distort=False)).method == "none"
    chosen = best_method(**study(400))
    assert chosen.method == "temperature"
    losses = {method: gain.after.log_loss for method, gain in chosen.gains.items()}
    assert list(losses) == list(METHODS)
    assert chosen.reason == "temperature: cross-fitted log loss " + ", ".join(f"{m} {v:.3f}" for m, v in losses.items())
    steps = study(3000, repeats=1, distort=False)
    steps["scores"] = 0.5 + 0.5 * np.sign(steps["scores"] - 0.5) * np.abs(2 * steps["scores"] - 1) ** 0.1
    assert best_method(**steps).method == "isotonic"
    assert best_method(**steps, methods=["temperature", "none"]).method == "temperature"


def test_ties_go_to_the_simplest():
    given = study(14)  # too few: no method changes anything
    assert best_method(**given).method == "none"
    assert best_method(**given, methods=["isotonic", "temperature"]).method == "temperature"


def test_luck_chooses_no_method():
    """Calibrated predictions of few documents: some method is better on them by chance in most studies."""
    chosen = [best_method(**study(80, repeats=2, distort=False, seed=seed)) for seed in range(30)]
    lowest = [min(one.gains, key=lambda method: one.gains[method].after.log_loss) for one in chosen]
    assert sum(method != "none" for method in lowest) > 4
    assert sum(one.method != "none" for one in chosen) <= 3


def test_what_a_group_shares_counts_once():
    """Ten copies of every document are no more evidence than one."""
    given = study(60, repeats=1, distort=False)
    given["scores"] = distorted(given["scores"], by=1.9, shift=(0.0, 0.0))
    copies = {
        "labels": np.repeat(given["labels"], 10),
        "scores": np.repeat(given["scores"], 10, axis=1),
        "fold_of": np.repeat(given["fold_of"], 10, axis=1),
        "methods": ["none", "temperature"],
    }
    together, apart = (best_method(**copies, groups=groups) for groups in (np.repeat(given["groups"], 10), None))
    assert together.gains == apart.gains
    assert (together.method, apart.method) == ("none", "temperature")


def test_wrong_input_to_a_gain():
    given = study(30)
    with pytest.raises(InputError, match=r"fold_of must be \[repeats, N\] \[3, 30\], not \[1, 30\]"):
        calibration_gain(**given | {"fold_of": given["fold_of"][:1]}, method="none")
    with pytest.raises(InputError, match=r"scores .repeats, N, classes. of two classes"):
        calibration_gain(**given | {"scores": given["scores"][..., :1]}, method="none")
    with pytest.raises(InputError, match="no labelled document has a prediction"):
        calibration_gain(**given | {"labels": np.full(30, np.nan)}, method="none")
    with pytest.raises(InputError, match="one group per document"):
        calibration_gain(**given | {"groups": [1]}, method="none")

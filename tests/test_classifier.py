"""The classifier: scikit-learn's rules, one document at a time, families kept together, and messages."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from synthetic import make_store

import hilbert.classifier
from hilbert import HilbertClassifier
from hilbert.classifier import documents_of
from hilbert.errors import InputError
from hilbert.features import FeatureStore
from hilbert.metrics import auc
from hilbert.training import fit

TINY = {
    "model": {"width": 8, "heads": 2, "expert_width": 6, "experts": 2},
    "train": {"epochs": 2, "batch_size": 16, "device": "cpu"},
}
STORE = make_store(48, missing=0.1)
COLUMNS = STORE.documents


def pairs_of(store):
    both = zip(store.audio.split(), store.text.split(), strict=True)
    return [(a if len(a) else None, t if len(t) else None) for a, t in both]


X = pairs_of(STORE)
Y = COLUMNS["affect"].to_numpy()
GROUPS = COLUMNS["group_id"].tolist()


def tiny(**changes):
    return HilbertClassifier(**TINY | changes)


def weights(estimator):
    return torch.cat([value.flatten() for value in estimator.model_.state_dict().values()])


@pytest.fixture(scope="module")
def fitted():
    return tiny().fit(X, Y, groups=GROUPS)


# ---- scikit-learn's rules --------------------------------------------------------------------------------------------


def test_parameters_are_stored_as_given_and_cloned():
    given = {"model": {"width": 4}, "loss": {"cka": 0.0}, "train": {}, "inner_fraction": 0.3, "random_state": 7}
    estimator = HilbertClassifier(**given)
    assert estimator.get_params() == given
    assert all(getattr(estimator, name) is value for name, value in given.items())
    copy = clone(estimator)
    assert copy.get_params() == given
    assert copy.set_params(random_state=8).random_state == 8
    assert estimator.random_state == 7


def test_fitting_changes_no_parameter_and_returns_itself():
    estimator = tiny()
    before = pickle.dumps(estimator.get_params())
    assert estimator.fit(X, Y) is estimator
    assert pickle.dumps(estimator.get_params()) == before
    assert estimator.classes_.tolist() == ["high", "low"]
    assert 1 <= estimator.best_epoch_ <= len(estimator.history_) == 2
    assert {"epoch", "train_total", "inner_loss"} <= estimator.history_[0].keys()


@pytest.mark.parametrize("ask", ["predict", "predict_proba", "transform", "get_feature_names_out"])
def test_nothing_is_told_before_the_fit(ask):
    with pytest.raises(NotFittedError):
        getattr(tiny(), ask)(*[] if ask == "get_feature_names_out" else [X])


def test_tags():
    tags = get_tags(tiny())
    assert tags.estimator_type == "classifier"
    assert tags.target_tags.required
    assert not tags.input_tags.two_d_array


def test_shapes(fitted):
    p = fitted.predict_proba(X)
    assert p.shape == (48, 2)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    assert np.array_equal(fitted.predict(X), fitted.classes_[p.argmax(1)])
    assert fitted.transform(X).shape == (48, 8)
    assert fitted.get_feature_names_out()[[0, 7]].tolist() == ["hilbertclassifier0", "hilbertclassifier7"]
    assert fitted.score(X, Y) == pytest.approx((fitted.predict(X) == Y).mean())


def test_transform_gives_the_joint_embedding(fitted):
    documents = hilbert.classifier.Documents.of(X)
    batch = hilbert.prediction.make_batch(documents, {}, range(48))
    with torch.inference_mode():
        expected = fitted.model_(batch).joint
    np.testing.assert_allclose(fitted.transform(X), expected.numpy(), atol=1e-5)


def test_it_is_the_model_that_training_fits(monkeypatch):
    """Nothing but `hilbert.training.fit` on all documents, none held out."""
    seen = []
    monkeypatch.setattr(hilbert.classifier, "fit", lambda *given: seen.append(given) or fit(*given))
    estimator = tiny(random_state=5, loss={"cka": 0.5}).fit(X, Y)
    config, documents, fold = seen[0]
    assert (config.seed, config.loss.cka, config.model.width, config.train.epochs) == (5, 0.5, 8, 2)
    assert len(fold.held_out) == 0
    assert len(fold.train) + len(fold.inner) == 48
    again = fit(config, documents, fold)
    assert torch.equal(weights(estimator), torch.cat([v.flatten() for v in again.model.state_dict().values()]))


# ---- in scikit-learn's tools -----------------------------------------------------------------------------------------


def test_cross_validation_with_groups():
    x = np.empty(48, dtype=object)
    x[:] = X
    scores = cross_val_score(tiny(), x, Y, groups=GROUPS, cv=GroupKFold(3), scoring="roc_auc")
    assert scores.shape == (3,)
    assert ((scores >= 0) & (scores <= 1)).all()
    inside = {"groups": np.array(GROUPS)}
    found = cross_val_score(tiny(), X, Y, groups=GROUPS, cv=GroupKFold(3), scoring="roc_auc", params=inside)
    assert found.shape == (3,)


def test_cross_validation_on_two_processes(demo_store):
    store = FeatureStore.open(demo_store)
    arguments = {"groups": store.groups, "cv": GroupKFold(2), "method": "predict_proba"}
    one, two = (
        cross_val_predict(tiny(), documents_of(store), store.documents["adult"], n_jobs=jobs, **arguments)
        for jobs in (1, 2)
    )
    np.testing.assert_allclose(two, one, atol=1e-6)


def test_grid_search():
    grid = {"model": [{**TINY["model"], "experts": 1}, {**TINY["model"], "experts": 4}], "random_state": [3]}
    search = GridSearchCV(tiny(), grid, cv=GroupKFold(2), scoring="neg_log_loss").fit(X, Y, groups=GROUPS)
    assert len(search.cv_results_["mean_test_score"]) == 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    assert best.model_.config.model.experts == search.best_params_["model"]["experts"]
    assert torch.equal(weights(best), weights(clone(best).fit(X, Y)))


def swap_nothing(pairs):
    return pairs


def test_pipeline_and_pickle(fitted):
    pipeline = make_pipeline(FunctionTransformer(swap_nothing), tiny()).fit(X, Y, hilbertclassifier__groups=GROUPS)
    copy = pickle.loads(pickle.dumps(pipeline))
    for estimator in (pipeline, copy):
        assert np.array_equal(estimator.predict_proba(X), fitted.predict_proba(X))
    assert np.array_equal(pipeline.transform(X), fitted.transform(X))
    table = tiny().set_output(transform="pandas").fit(X, Y, groups=GROUPS).transform(X)
    assert isinstance(table, pd.DataFrame)
    assert np.array_equal(table.to_numpy(), fitted.transform(X))


# ---- what a result depends on ----------------------------------------------------------------------------------------


def test_a_document_s_result_is_its_own(fitted):
    order = np.random.default_rng(0).permutation(48)
    expected, embedded = fitted.predict_proba(X), fitted.transform(X)
    assert np.array_equal(fitted.predict_proba([X[i] for i in order]), expected[order])
    assert np.array_equal(np.concatenate([fitted.predict_proba([pair]) for pair in X[:9]]), expected[:9])
    assert np.array_equal(fitted.transform([X[i] for i in order[:11]]), embedded[order[:11]])


def test_the_seed_alone_decides():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = tiny().fit(X, Y)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(weights(tiny().fit(X, Y)), weights(one))
    assert not torch.equal(weights(tiny(random_state=1).fit(X, Y)), weights(one))
    drawn = [weights(tiny(random_state=np.random.RandomState(3)).fit(X, Y)) for _ in range(2)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("seed", range(6))
def test_a_group_is_never_on_both_sides(seed, monkeypatch):
    """Looked at from outside: which documents were trained on, which chose the epoch."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(12, 60))
    store = make_store(n, seed=seed)
    groups = rng.integers(0, max(4, n // 4), n).tolist()
    groups[0] = None
    seen = {}

    def spy(config, documents, fold):
        seen["fold"] = fold
        return fit(config, documents, fold)

    monkeypatch.setattr(hilbert.classifier, "fit", spy)
    tiny(random_state=seed, train=TINY["train"] | {"epochs": 1}).fit(pairs_of(store), rng.permutation(n) % 2, groups)
    train, inner = seen["fold"].train.tolist(), seen["fold"].inner.tolist()
    assert sorted(train + inner) == list(range(n))
    assert not {groups[i] for i in train if groups[i] is not None} & {groups[i] for i in inner}
    assert 1 <= len(inner) <= 0.45 * n


def test_the_inner_part_is_stratified_and_as_large_as_asked(monkeypatch):
    folds = []
    monkeypatch.setattr(hilbert.classifier, "fit", lambda *given: folds.append(given[2]) or fit(*given))
    store = make_store(200)
    y = np.arange(200) % 10 == 0
    for fraction in (0.0, 0.1, 0.25, 0.5):
        tiny(inner_fraction=fraction, train=TINY["train"] | {"epochs": 1}).fit(pairs_of(store), y)
        inner = folds[-1].inner
        assert len(inner) == pytest.approx(200 * fraction, abs=1)
        assert y[inner].sum() == pytest.approx(20 * fraction, abs=1)


def test_without_inner_part_the_last_epoch_counts():
    estimator = tiny(inner_fraction=0).fit(X, Y)
    assert estimator.best_epoch_ == 2
    assert "inner_loss" not in estimator.history_[-1]


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (Y.tolist(), ["high", "low"]),
        (pd.Series(Y, index=range(7, 55)), ["high", "low"]),
        (np.where(Y == "high", 1, 0), [0, 1]),
        (np.where(Y == "high", 3.0, -1.0), [-1.0, 3.0]),
        (Y == "high", [False, True]),
        (COLUMNS["spectrum"], ["a", "b", "c"]),
        ([10 + (i % 3) for i in range(48)], [10, 11, 12]),
    ],
)
def test_classes_keep_their_type(y, classes):
    estimator = tiny().fit(X, y)
    assert estimator.classes_.tolist() == classes
    assert [type(one) for one in estimator.classes_.tolist()] == [type(one) for one in classes]
    assert estimator.predict_proba(X[:3]).shape == (3, len(classes))
    assert set(estimator.predict(X).tolist()) <= set(classes)
    assert estimator.model_.config.tasks["label"].classes == tuple(map(str, classes))


def test_columns_are_in_the_order_of_the_classes():
    """Numbers as text sort otherwise than numbers."""
    store = make_store(80, signal=4.0)
    y = np.where(store.documents["affect"] == "high", 9, 10)
    estimator = tiny(train=TINY["train"] | {"epochs": 15, "learning_rate": 0.02}).fit(pairs_of(store), y)
    assert estimator.classes_.tolist() == [9, 10]
    assert auc((y == 10).astype(float), estimator.predict_proba(pairs_of(store)), "binary") > 0.9
    assert estimator.score(pairs_of(store), y) > 0.8


@pytest.mark.parametrize("missing", [None, np.nan, "", pd.NA])
def test_documents_without_a_label_train_the_other_terms_alone(missing, monkeypatch):
    tables = []
    monkeypatch.setattr(hilbert.classifier, "fit", lambda *given: tables.append(given[1].documents) or fit(*given))
    y = Y.astype(object)
    y[:16] = missing
    one = tiny().fit(X, y)
    assert one.classes_.tolist() == ["high", "low"]
    assert torch.equal(weights(tiny().fit(X, y.tolist())), weights(one))
    assert tables[0]["label"].tolist() == [None] * 16 + Y[16:].tolist()
    assert one.score(X, y) == one.score(X[16:], Y[16:])
    changed = [(None if a is None else a + 1, t) for a, t in X[:16]] + X[16:]
    other = tiny().fit(changed, y)
    assert not torch.equal(weights(one), weights(other))


def test_numbers_with_gaps():
    y = np.where(Y == "high", 1.0, 0.0)
    y[::5] = np.nan
    assert tiny().fit(X, y).classes_.tolist() == [0.0, 1.0]


# ---- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": {"expert": 2}}, "^model.expert: unknown; did you mean 'experts'"),
        ({"train": {"zzz": 2}}, "^train.zzz: unknown; known are epochs, "),
        ({"model": {"width": "8"}}, "^model.width: Input should be a valid integer, not '8'"),
        ({"model": {"width": 9, "heads": 2}}, "model.width must be a multiple of model.heads: 9"),
        ({"loss": {"cka": -1, "mi": -2}}, "loss.cka: .* not -1; loss.mi: .* not -2"),
        ({"loss": {"tasks": {"affect": 1.0}}}, "loss.tasks names 'affect', which is not among the tasks .label"),
        ({"train": [("epochs", 2)]}, "^train: must be a mapping"),
        ({"train": {"device": "tpu9"}}, "train.device"),
        ({"random_state": -1}, "^random_state: .* not -1"),
        ({"inner_fraction": 0.6}, "^inner_fraction: must be a number from 0 to 0.5, not 0.6"),
        ({"inner_fraction": None}, "^inner_fraction: must be a number"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(InputError, match=message):
        HilbertClassifier(**parameters).fit(X, Y)


def test_numpy_s_numbers_are_numbers():
    drawn = {"width": np.int64(8), "heads": np.int32(2), "dropout": np.float64(0.1)}
    assert tiny(model=drawn, random_state=np.int64(3)).fit(X, Y).model_.config.model.width == 8


@pytest.mark.parametrize(
    ("x", "y", "groups", "message"),
    [
        (np.zeros((48, 5)), Y, None, r"X must be a list or an object array of pairs .*, not float64 \[48, 5\]"),
        (STORE, Y, None, "X must be a list or an object array of pairs .*, not Store"),
        (pd.DataFrame({"audio": [1]}), Y, None, "not DataFrame"),
        ([], [], None, "y holds no label"),
        ([*X[:-1], (None, None)], Y, None, "document '47': has neither audio nor text"),
        ([X[0][0], *X[1:]], Y, None, "document '0': must be a pair"),
        (X, Y[:-1], None, r"y must hold one label for each of the 48 documents of X, not \[47\]"),
        (X, np.stack([Y, Y]), None, r"one label for each of the 48 documents of X, not \[2, 48\]"),
        (X, [None] * 48, None, "y holds no label"),
        (X, ["a"] * 47 + [""], None, "y holds the class a alone"),
        (X, ["a", 1] * 24, None, "y holds text and numbers"),
        (X, ["a", "a "] * 24, None, "holds the class a alone"),
        (X, ["low", "Low", "high"] * 16, None, "'low', 'Low'"),
        (X, Y, ["f"] * 48, "groups: there are 1; choosing the epoch needs 4"),
        (X, Y, ["f"], "one group per document: 1 groups for 48 documents"),
    ],
)
def test_wrong_documents_labels_and_groups(x, y, groups, message):
    with pytest.raises(InputError, match=message):
        tiny().fit(x, y, groups)


def test_a_continuous_target_is_refused():
    with pytest.raises(ValueError, match="continuous"):
        tiny().fit(X, np.random.default_rng(0).normal(size=48))


def test_other_features_than_at_the_fit_are_refused(fitted):
    with pytest.raises(InputError, match="audio of document '1': 3 features a segment where the model has 7"):
        fitted.predict([X[0], (np.ones((2, 3)), None)])


# ---- a feature store -------------------------------------------------------------------------------------------------


def test_documents_of_a_store_are_its_features(demo_store):
    store = FeatureStore.open(demo_store)
    found = documents_of(store)
    assert found.shape == (125,)
    assert np.shares_memory(found[3][0], store.audio.values)
    for document in (0, 60, 124):
        assert np.array_equal(found[document][0], store.audio[document])
        assert np.array_equal(found[document][1], store.text[document])


def test_documents_of_a_store_know_what_is_missing(tmp_path):
    arrays = {name: getattr(STORE, name).split() for name in ("audio", "text")}
    store = FeatureStore.write(tmp_path / "both", documents=COLUMNS, **arrays)
    lacks = [(audio is None, text is None) for audio, text in documents_of(store)]
    assert lacks == [(audio is None, text is None) for audio, text in X]
    alone = [np.ones((1, 2))] * 48
    texts = FeatureStore.write(tmp_path / "texts", documents=COLUMNS, text=alone)
    assert {audio for audio, _ in documents_of(texts)} == {None}


def test_real_speech_is_told_apart(demo_store):
    store = FeatureStore.open(demo_store)
    estimator = HilbertClassifier(model={"width": 32}, train={"epochs": 12, "device": "cpu"})
    y = store.documents["adult"]
    scores = cross_val_score(
        estimator, documents_of(store), y, groups=store.groups, cv=GroupKFold(3), scoring="roc_auc"
    )
    assert scores.mean() > 0.8

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from hilbert.errors import InputError
from hilbert.folds import PARTS, Fold, check_folds, class_counts, make_folds, splits_hash
from hilbert.groups import group_codes


def cohort(n=120, seed=0, families=False):
    """Ids in no order, three tasks with missing labels, and groups of one to six, some of them missing."""
    rng = np.random.default_rng(seed)
    documents = [f"p{number:04}" for number in rng.permutation(n)]
    tasks = {
        "affect": (rng.choice([0.0, 1.0, np.nan], n, p=[0.6, 0.2, 0.2]), "binary"),
        "spectrum": (rng.choice([0.0, 1.0, 2.0, np.nan], n, p=[0.5, 0.3, 0.1, 0.1]), "multiclass"),
        "severity": (np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)), "regression"),
    }
    names = np.array([f"family {number}" for number in rng.integers(0, n // 3, n)], dtype=object)
    groups = [rng.choice([None, "", float("nan")]) if rng.random() < 0.2 else name for name in names]
    return documents, tasks, groups if families else None


def as_ids(folds, documents):
    return [[{documents[row] for row in getattr(fold, part)} for part in PARTS] for fold in folds]


def held_out_part(folds, n):
    part = np.full(n, -1)
    for fold in folds:
        part[fold.held_out] = fold.index
    return part


def deviation(members, part, n_splits):
    """Mean distance of a fold's class counts from their share."""
    counts = np.array([members[part == split].sum(0) for split in range(n_splits)])
    return np.abs(counts - members.sum(0) / n_splits).mean()


@st.composite
def cohorts(draw):
    n = draw(st.integers(6, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups = [draw(st.sampled_from([None, "", float("nan"), "a", "b", "c", 1, 2, 3, 4])) for _ in range(n)]
    tasks = {
        name: (rng.choice([np.nan, *range(classes)], n), kind)
        for name, classes, kind in draw(
            st.lists(
                st.sampled_from([("x", 2, "binary"), ("y", 5, "multiclass"), ("z", 40, "regression")]),
                unique=True,
            )
        )
    }
    n_groups = len(np.unique(group_codes(groups, n)))
    return [f"d{row}" for row in rng.permutation(n)], tasks, groups, n_groups


@settings(deadline=None, max_examples=60)
@given(cohorts(), st.data())
def test_every_set_of_folds_is_a_cross_validation(cohort, data):
    documents, tasks, groups, n_groups = cohort
    n_splits = data.draw(st.integers(2, 12))
    if n_groups < max(n_splits, 4 if n_splits == 2 else 0):
        with pytest.raises(InputError, match=f"the cohort has {n_groups} groups"):
            make_folds(documents, tasks, n_splits=n_splits, groups=groups)
        return
    folds = make_folds(documents, tasks, n_splits=n_splits, repeats=2, groups=groups)
    assert [(fold.index, fold.repeat) for fold in folds] == [(k, k // n_splits) for k in range(2 * n_splits)]
    codes = group_codes(groups, len(documents))
    for fold in folds:
        parts = [set(codes[getattr(fold, part)]) for part in PARTS]
        assert all(parts)
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert sorted([*fold.train, *fold.inner, *fold.held_out]) == list(range(len(documents)))
    for repeat in (0, 1):
        held_out = [row for fold in folds if fold.repeat == repeat for row in fold.held_out]
        assert sorted(held_out) == list(range(len(documents)))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.booleans())
def test_folds_follow_the_documents_not_their_order(seed, families):
    documents, tasks, groups = cohort(60, families=families)
    order = np.random.default_rng(seed).permutation(len(documents))
    shuffled = [documents[row] for row in order]
    shuffled_tasks = {name: (values[order], kind) for name, (values, kind) in reversed(tasks.items())}
    renamed = [groups[row] and f"the {groups[row]}".replace("the nan", "") for row in order] if families else None
    first = make_folds(documents, tasks, n_splits=5, repeats=2, groups=groups)
    second = make_folds(shuffled, shuffled_tasks, n_splits=5, repeats=2, groups=renamed)
    assert as_ids(first, documents) == as_ids(second, shuffled)
    assert splits_hash(first, documents) == splits_hash(second, shuffled)


def test_folds_are_a_function_of_the_seed():
    documents, tasks, groups = cohort(families=True)
    first, again, other = (make_folds(documents, tasks, groups=groups, seed=seed) for seed in (3, 3, 4))
    assert splits_hash(first, documents) == splits_hash(again, documents) != splits_hash(other, documents)


def test_folds_are_the_same_on_every_machine():
    documents, tasks, groups = cohort(40, families=True)
    digest = splits_hash(make_folds(documents, tasks, n_splits=4, groups=groups), documents)
    assert digest[:12] == "4a1ea0ca3e88"


def test_more_repeats_add_folds_and_repeats_differ():
    documents, tasks, _ = cohort()
    twice = make_folds(documents, tasks, n_splits=5, repeats=2)
    once = make_folds(documents, tasks, n_splits=5)
    assert as_ids(twice[:5], documents) == as_ids(once, documents)
    assert not any(np.array_equal(a.held_out, b.held_out) for a in twice[:5] for b in twice[5:])


def test_a_task_may_be_an_object_with_values_and_a_spec():
    documents, tasks, _ = cohort()
    objects = {name: SimpleNamespace(values=v, spec=SimpleNamespace(kind=kind)) for name, (v, kind) in tasks.items()}
    hashes = {splits_hash(make_folds(documents, given), documents) for given in (tasks, objects)}
    assert len(hashes) == 1


def test_one_task_is_stratified_as_well_as_by_scikit_learn():
    y = np.random.default_rng(0).choice(3, size=310, p=[0.6, 0.3, 0.1])
    members = np.eye(3)[y]
    folds = make_folds([f"{row:03}" for row in range(310)], {"y": (y, "multiclass")}, n_splits=10)
    theirs = np.empty(310, int)
    for split, (_, rows) in enumerate(StratifiedKFold(10, shuffle=True, random_state=0).split(y, y)):
        theirs[rows] = split
    ours = held_out_part(folds, 310)
    assert deviation(members, ours, 10) <= deviation(members, theirs, 10) + 1e-12
    counts = np.array([members[ours == split].sum(0) for split in range(10)])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert set(np.bincount(ours)) == {31}


def test_several_tasks_are_stratified_better_than_by_iterative_stratification():
    ours, theirs = [], []
    for seed in range(5):
        documents, tasks, _ = cohort(150, seed=seed)
        del tasks["severity"]
        columns = [values == label for values, _ in tasks.values() for label in np.unique(values[~np.isnan(values)])]
        members = np.column_stack(columns).astype(float)
        part = np.empty(150, int)
        splitter = MultilabelStratifiedKFold(n_splits=10, shuffle=True, random_state=seed)
        for split, (_, rows) in enumerate(splitter.split(members, members)):
            part[rows] = split
        folds = make_folds(documents, tasks, n_splits=10, seed=seed)
        ours.append([deviation(members, held_out_part(folds, 150), 10), np.std([len(f.held_out) for f in folds])])
        theirs.append([deviation(members, part, 10), np.std(np.bincount(part))])
    assert (np.mean(ours, 0) < np.mean(theirs, 0)).all()


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_groups_are_stratified_better_than_by_scikit_learn():
    ours, theirs = [], []
    for seed in range(5):
        documents, tasks, _ = cohort(200, seed=seed)
        y = np.nan_to_num(tasks["spectrum"][0]).astype(int)
        groups = np.random.default_rng(seed).integers(0, 80, 200)
        members, part = np.eye(3)[y], np.empty(200, int)
        splitter = StratifiedGroupKFold(8, shuffle=True, random_state=seed)
        for split, (_, rows) in enumerate(splitter.split(y, y, groups)):
            part[rows] = split
        folds = make_folds(documents, {"y": (y, "multiclass")}, n_splits=8, groups=list(groups), seed=seed)
        ours.append([deviation(members, held_out_part(folds, 200), 8), np.std([len(f.held_out) for f in folds])])
        theirs.append([deviation(members, part, 8), np.std(np.bincount(part))])
    assert (np.mean(ours, 0) < np.mean(theirs, 0)).all()


def test_regression_is_stratified_on_quintiles():
    values = np.random.default_rng(0).lognormal(size=200)
    folds = make_folds([f"{row:03}" for row in range(200)], {"y": (values, "regression")}, n_splits=10)
    edges = np.quantile(values, [0.2, 0.4, 0.6, 0.8])
    for fold in folds:
        assert (np.bincount(np.searchsorted(edges, values[fold.held_out]), minlength=5) == 4).all()


def test_inner_validation_is_stratified_and_of_the_size_asked_for():
    (documents, tasks, _), deviations = cohort(400), []
    for fraction in (0.1, 0.15, 0.4):
        for fold in make_folds(documents, tasks, n_splits=5, inner_fraction=fraction):
            rest = np.concatenate([fold.train, fold.inner])
            assert len(fold.inner) == pytest.approx(fraction * len(rest), abs=4)
            for values, _ in list(tasks.values())[:2]:
                for label in np.unique(values[~np.isnan(values)]):
                    share = fraction * (values[rest] == label).sum()
                    deviations.append(abs((values[fold.inner] == label).sum() - share))
    assert np.mean(deviations) < 0.5
    assert max(deviations) < 3


@pytest.mark.parametrize(("documents", "expected"), [(1000, 136), (50, 10), (20, 5)])
def test_small_cohorts_give_a_larger_share_to_inner_validation(documents, expected):
    folds = make_folds([f"{row:04}" for row in range(documents)], {}, n_splits=20)
    assert {abs(len(fold.inner) - expected) for fold in folds} <= {0, 1}


def test_a_class_smaller_than_n_splits_is_missing_from_some_folds_and_reported():
    y = np.zeros(30)
    y[:3], y[29] = 1, np.nan
    tasks = {"y": (y, "binary"), "z": (np.where(y == 1, np.nan, 2.5), "regression")}
    folds = make_folds([f"{row:02}" for row in range(30)], tasks, n_splits=5)
    report = class_counts(folds, tasks)
    assert list(report.columns) == ["fold", "part", "task", "class", "documents"]
    assert len(report) == 5 * 3 * 3
    held_out = report[(report.part == "held_out") & (report["class"] == "1")]
    assert sorted(held_out.documents) == [0, 0, 1, 1, 1]
    assert (report.groupby(["fold", "task"]).documents.sum().unstack() == [29, 27]).all(axis=None)
    assert set(report[report.task == "z"]["class"]) == {"labelled"}


def test_folds_cannot_be_changed():
    fold = make_folds(*cohort()[:2])[0]
    assert fold.train.dtype == np.int64
    assert (np.diff(fold.train) > 0).all()
    with pytest.raises(ValueError, match="read-only"):
        fold.held_out[0] = 3


def test_sequences_of_pandas_are_taken_by_position():
    documents, tasks, groups = cohort(families=True)
    backwards = range(len(documents))[::-1]
    folds = make_folds(pd.Series(documents, index=backwards), tasks, groups=pd.Series(groups, index=backwards))
    assert splits_hash(folds, documents) == splits_hash(make_folds(documents, tasks, groups=groups), documents)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_splits": 1}, "n_splits must be 2 or more, not 1"),
        ({"n_splits": 7}, "n_splits is 7, the cohort has 6 groups"),
        ({"groups": ["a", "a", "a", "b", "b", "b"], "n_splits": 2}, "two where n_splits is 2"),
        ({"repeats": 0}, "repeats must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"inner_fraction": 1.0}, "inner_fraction must be between 0 and 1"),
        ({"documents": ["a", "b", "c", "d", "e", "a"]}, "repeated: a"),
        ({"documents": []}, "the cohort has 0 groups"),
        ({"groups": ["a", "b"]}, "2 groups for 6 documents"),
        ({"tasks": {"y": (np.zeros(5), "binary")}}, "task 'y': 5 labels for 6 documents"),
    ],
)
def test_arguments_that_make_no_sense(change, message):
    arguments = {"documents": list("abcdef"), "tasks": {}, "n_splits": 3} | change
    with pytest.raises(InputError, match=message):
        make_folds(arguments.pop("documents"), arguments.pop("tasks"), **arguments)


def test_check_folds_finds_every_fault():
    folds = [Fold([2, 3], [1], [0], 0), Fold([0, 3], [2], [1], 1), Fold([0, 1], [3], [2], 2), Fold([0, 1], [2], [3], 3)]
    check_folds(folds)
    with pytest.raises(InputError, match="group is on both sides"):
        check_folds(folds, ["a", "b", "a", "c"])
    with pytest.raises(InputError, match="held out exactly once"):
        check_folds(folds[:3])
    with pytest.raises(InputError, match="part is empty"):
        check_folds([replace(folds[0], inner=[], train=[1, 2, 3])])
    with pytest.raises(InputError, match="exactly once"):
        check_folds([replace(folds[0], train=[0, 3])])


def test_a_large_cohort_takes_seconds():
    rng = np.random.default_rng(0)
    n = 5000
    tasks = {"a": (rng.integers(0, 2, n), "binary"), "b": (rng.integers(0, 4, n), "multiclass")}
    start = time.process_time()
    assert len(make_folds([f"{row:04}" for row in range(n)], tasks, n_splits=25, repeats=1)) == 25
    assert time.process_time() - start < 10

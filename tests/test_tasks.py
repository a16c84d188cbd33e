"""Labels: classes found or declared, gaps kept as gaps, and every fault told at once."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert.errors import InputError
from hilbert.tasks import Labels, TaskSpec, encode_labels


def table(**columns: list[Any]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"document_id": [f"d{number}" for number in range(count)], **columns}, dtype=object)


def encode(task: str | dict[str, Any], values: list[Any]) -> Labels:
    return encode_labels(table(x=values), {"x": task}, source="documents.csv")["x"]


def test_binary_second_class_is_positive() -> None:
    labels = encode("binary", ["yes", None, "no", "yes"])
    assert labels.spec == TaskSpec("x", "binary", ("no", "yes"))
    np.testing.assert_array_equal(labels.values, [1.0, math.nan, 0.0, 1.0])
    assert labels.labelled.tolist() == [True, False, True, True]
    assert labels.counts() == {"no": 1, "yes": 2}
    assert labels.spec.outputs == 2


def test_declared_classes_keep_their_order() -> None:
    labels = encode({"kind": "multiclass", "classes": ["low", "mid", "high", "extreme"]}, ["high", "low", "mid"])
    assert labels.values.tolist() == [2.0, 0.0, 1.0]
    assert labels.counts() == {"low": 1, "mid": 1, "high": 1, "extreme": 0}
    assert encode({"kind": "binary", "classes": ["yes", "no"]}, ["yes", "no"]).values.tolist() == [0.0, 1.0]
    assert encode({"kind": "binary", "classes": [1, 0]}, ["1", "0"]).values.tolist() == [0.0, 1.0]


def test_numbers_are_sorted_as_numbers() -> None:
    assert encode("multiclass", ["10", "9", "-1", "2.5"]).spec.classes == ("-1", "2.5", "9", "10")
    assert encode("multiclass", ["10", "9", "x"]).spec.classes == ("10", "9", "x")


def test_regression() -> None:
    labels = encode("regression", ["1.5", None, "-2e3", " 4 "])
    np.testing.assert_array_equal(labels.values, [1.5, math.nan, -2000.0, 4.0])
    assert labels.spec == TaskSpec("x", "regression")
    assert labels.counts() == {"labelled": 3}
    assert labels.spec.outputs == 1


def test_tasks_come_in_the_order_asked_for() -> None:
    frame = table(a=["0", "1"], b=["x", "y"])
    assert list(encode_labels(frame, {"b": "binary", "a": "regression"}, source="s")) == ["b", "a"]


@given(st.lists(st.one_of(st.none(), st.sampled_from(["p", "q", "r", "7"])), min_size=2, max_size=20))
def test_codes_and_names_say_the_same(values: list[str | None]) -> None:
    if len({value for value in values if value is not None}) < 2:
        with pytest.raises(InputError):
            encode("multiclass", values)
        return
    labels = encode("multiclass", values)
    decoded = [None if math.isnan(code) else labels.spec.classes[int(code)] for code in labels.values]
    assert decoded == values
    assert sum(labels.counts().values()) == int(labels.labelled.sum())


@pytest.mark.parametrize(
    ("task", "values", "says"),
    [
        ("binry", ["a", "b"], ["'binry'", "did you mean 'binary'?"]),
        ("forest", ["a", "b"], ["'forest'", "binary, multiclass or regression"]),
        (3, ["a", "b"], ["kind is 3"]),
        ({"kind": "binary", "clases": []}, ["a", "b"], ["unknown key 'clases'", "kind and classes"]),
        ("binary", ["a", "b", "c"], ["binary, but there are 3 values: a (1), b (1), c (1)", "multiclass"]),
        ("binary", ["a", None, "a"], ["all labels are a (2)", "two classes"]),
        ("multiclass", ["a", "a"], ["all labels are a (2)"]),
        ("multiclass", [None, None], ["no document has a label"]),
        ({"kind": "binary", "classes": ["a", "b"]}, ["a", "B", "b"], ["row 3: x is 'B'", "classes a, b"]),
        ({"kind": "binary", "classes": ["a", "b", "c"]}, ["a", "b"], ["binary with 3 classes", "positive one second"]),
        ({"kind": "multiclass", "classes": ["a", "a"]}, ["a", "b"], ["each once"]),
        ({"kind": "binary", "classes": [False, True]}, ["no", "yes"], ["quotes", "['no', 'yes']"]),
        ({"kind": "binary", "classes": "ab"}, ["a", "b"], ["write a list"]),
        ({"kind": "regression", "classes": ["1", "2"]}, ["1", "2"], ["a regression has no classes"]),
        (
            "regression",
            ["1", "3,5", "inf", "1e400"],
            ["row 3: x is '3,5'", "row 4: x is 'inf'", "row 5: x is '1e400'", "3.5"],
        ),
        ("regression", ["2", "2.0", None], ["all labels are 2", "constant"]),
    ],
)
def test_faults(task: Any, values: list[str | None], says: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        encode(task, values)
    for part in ["documents.csv", *says]:
        assert part in str(caught.value)


def test_unknown_columns_name_the_nearest_and_all_faults_come_at_once() -> None:
    frame = table(affect=["a", "b"], spectrum=["x", "x"])
    with pytest.raises(InputError) as caught:
        encode_labels(
            frame, {"afect": "binary", "spectrum": "binary", "document_id": "multiclass", "zzz": "binary"}, source="s"
        )
    for part in [
        "'afect'",
        "did you mean 'affect'?",
        "all labels are x (2)",
        "'document_id'",
        "there are: affect, spectrum",
    ]:
        assert part in str(caught.value)


def test_rows_are_lines_of_the_file_where_they_are_known() -> None:
    frame = table(x=["1", "2", "b"])
    frame.index = pd.Index([2, 5, 9], name="row")
    with pytest.raises(InputError, match="row 9: x is 'b'"):
        encode_labels(frame, {"x": "regression"}, source="documents.csv")


def test_no_tasks() -> None:
    with pytest.raises(InputError, match="name at least one label column"):
        encode_labels(table(x=["a"]), {}, source="documents.csv")

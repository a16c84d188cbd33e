"""Several feature stores of a study: of the same documents, in the same order, with the same labels."""

import numpy as np
import pandas as pd
import pytest

from hilbert.errors import InputError
from hilbert.features import FeatureStore
from tune.plan import make_plan
from tune.study_file import parse_study

NAMES = [f"p{number:02d}" for number in range(12)]
DOCUMENTS = pd.DataFrame({"document_id": NAMES, "ill": ["no", "yes"] * 6, "age": ["1"] * 11 + [None]})


def made(folder, *, dim=3, documents=DOCUMENTS):
    rng = np.random.default_rng(dim)
    features = {part: [rng.normal(size=(2, dim)) for _ in range(len(documents))] for part in ("audio", "text")}
    return FeatureStore.write(folder, documents=documents, **features)


def plan_of(folder, *stores):
    content = {
        "study": "s",
        "features": {name: str(folder / name) for name in stores},
        "tasks": {"ill": "binary"},
        "folds": {"n_splits": 2},
        "trials": 2,
    }
    return make_plan(parse_study(content, source="s"))


def test_stores_of_unlike_dimensions_go_together(tmp_path):
    made(tmp_path / "a")
    made(tmp_path / "b", dim=5, documents=DOCUMENTS[["document_id", "age", "ill"]])
    assert set(plan_of(tmp_path, "a", "b").data.stores) == {"a", "b"}


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        (DOCUMENTS[::-1], "the order differs: row 1 is 'p11', there 'p00'"),
        (DOCUMENTS[:10], r"document 'p10' \(and 1 more\) is only in the latter"),
        (DOCUMENTS.replace("p03", "p99"), r"document 'p03' \(and 1 more\)"),
        (DOCUMENTS.drop(columns="age"), "column 'age' is only in the latter"),
        (DOCUMENTS.assign(group_id="g"), "column 'group_id' is only in the former"),
        (
            DOCUMENTS.assign(ill=["no", "yes"] * 5 + ["yes", "no"]),
            "2 documents have another ill, the first 'p10': 'yes', there 'no'",
        ),
        (DOCUMENTS.assign(age="1"), "1 documents have another age, the first 'p11': '1', there None"),
    ],
)
def test_stores_of_other_documents_are_refused_with_the_first_difference(tmp_path, documents, expected):
    made(tmp_path / "a")
    made(tmp_path / "b", dim=5, documents=documents)
    with pytest.raises(InputError, match=f"holds other documents or labels than .*: {expected}"):
        plan_of(tmp_path, "a", "b")


def test_one_store_under_two_names_is_refused(tmp_path):
    made(tmp_path / "a")
    made(tmp_path / "b")
    with pytest.raises(InputError, match="features: 'a' and 'b' hold the same features"):
        plan_of(tmp_path, "a", "b")

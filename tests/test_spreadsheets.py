"""CSV files for people: no cell is a formula, numbers stay numbers, and what is read back is what it was."""

import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_release import STORE, release

from hilbert.spreadsheets import csv_text, escaped, read_csv, unescaped
from tune.plan import make_plan
from tune.predict import _write
from tune.study_file import parse_study
from tune.study_files import named_counts, split_manifest

FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "'=1", "-", "=", "+a", "-x"]
PLAIN = ["", "a", "-1", "+1.5", "-1e-7", "-.5", "1", "'", "'a", "a=b", " =1", None, float("nan"), -1.5, 3, True]


def test_formulas_get_an_apostrophe_and_nothing_else_does():
    for cell in FORMULAS:
        assert escaped(cell) == f"'{cell}"
        assert unescaped(escaped(cell)) == cell
    for cell in PLAIN:
        assert escaped(cell) is cell
        assert unescaped(cell) is cell


@given(st.text(alphabet="'=+-@\t\r\n1.ea\"", max_size=6))
def test_every_text_comes_back(text):
    assert unescaped(escaped(text)) == text
    first = str(escaped(text))[:1]
    assert first not in {"=", "@", "\t", "\r", "\n"}


def test_tables_headers_too(tmp_path):
    frame = pd.DataFrame({"=id": ["=1+1", "b"], "value": [-0.5, 2.0], "x": [None, "-2"]})
    text = csv_text(frame)
    assert text == "'=id,value,x\n'=1+1,-0.5,\nb,2.0,-2\n"
    (tmp_path / "x.csv").write_text(text)
    assert read_csv(tmp_path / "x.csv").to_dict("list") == {
        "=id": ["=1+1", "b"],
        "value": ["-0.5", "2.0"],
        "x": ["", "-2"],
    }
    plain = pd.DataFrame({"a": [1.25, -3.0], "b": ["x", "y"]})
    assert csv_text(plain) == plain.to_csv(index=False)
    assert csv_text(pd.DataFrame(columns=["a"])) == "a\n"


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_predictions_of_people_with_such_names(tmp_path, ending):
    names = [f"=HYPERLINK({number})" for number in range(len(STORE.documents))]
    table = release().predict(STORE, names=names).table()
    path = tmp_path / f"x{ending}"
    _write({"predictions": table}, {"predictions": path})
    if ending == ".csv":
        found = pd.read_csv(io.StringIO(path.read_text()))
        assert found["document_id"].tolist() == [f"'{name}" for name in names]
        numbers = found.select_dtypes("number").columns
        assert len(numbers) > 3
        pd.testing.assert_frame_equal(found[numbers], table[numbers])
    else:
        assert pd.read_parquet(path)["document_id"].tolist() == names


def test_files_of_a_study_are_read_back_as_they_were(demo_store, tmp_path):
    content = {"study": "s", "features": str(demo_store), "tasks": {"adult": "binary"}, "trials": 1}
    plan = make_plan(parse_study(content, source="s"))
    splits = split_manifest(plan)
    splits["document_id"] = [f"{'=+-@'[row % 4]}{name}" for row, name in enumerate(splits["document_id"])]
    (tmp_path / "splits.csv").write_text(csv_text(splits))
    assert read_csv(tmp_path / "splits.csv").equals(splits.astype(str))
    assert named_counts(plan).to_csv(index=False) == csv_text(named_counts(plan))

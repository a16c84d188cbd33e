"""Where commands write: refused before the work where they can't, and no folder or database made on the way."""

import pytest
from sweeps import write_study

from hilbert.errors import InputError
from tune.output import check_file, check_folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["report", "x"], "no study 'x': there is no {here}/mlflow.db"),
        (["report", "x", "--tracking-uri", "sqlite:///a/b/c.db"], "there is no {here}/a/b/c.db"),
        (["compare", "x"], "there is no {here}/mlflow.db"),
        (["select", "x"], "there is no {here}/mlflow.db"),
        (["release", "x", "--name", "y"], "there is no {here}/mlflow.db"),
        (["predict", "models:/x@champion", "{store}", "--output", "p.csv"], "there is no {here}/mlflow.db"),
        (["ui", "x"], "there is no {here}/mlflow.db"),
        (["report", "x", "--output", "a/b/r.html"], "--output a/b/r.html: there is no folder a/b"),
        (["report", "x", "--output", "."], "is a folder"),
        (["compare", "x", "0", "1", "--output", "a/p.png"], "there is no folder a"),
        (["compare", "x", "0", "1", "--output", "p.pdf"], "the picture is a PNG"),
        (["release", "x", "--name", "y", "--output", "a/b"], "there is no folder a"),
        (["predict", "models:/x@champion", "{store}", "--output", "a/p.csv"], "there is no folder a"),
        (["fit", "nowhere.yaml", "--fold", "0", "--output", "a/b"], "there is no folder a"),
    ],
)
def test_nothing_is_made_on_the_way_to_a_refusal(tmp_path, here, demo_store, arguments, expected):
    done = here(*(word.format(store=demo_store) for word in arguments), folder=tmp_path)
    assert done.returncode == 2
    assert expected.format(here=tmp_path) in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_of_another_kind_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; name a folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(InputError, match="there is no folder"):
        check_file(tmp_path / "file" / "r.html")
    check_folder(tmp_path)
    check_folder(tmp_path / "new")
    check_file(tmp_path / "file")


def test_fit_refuses_before_it_trains(tmp_path, here, demo_store):
    write_study(tmp_path, database=False, features=str(demo_store))
    (tmp_path / "file").touch()
    done = here("fit", "study.yaml", "--fold", "0", "--output", "file", folder=tmp_path)
    assert done.returncode == 2
    assert "is a file" in done.stderr
    assert done.stdout == ""

"""What is recorded of a study as a whole."""

import json

import pandas as pd
import pytest
import yaml

from tune.plan import make_plan
from tune.provenance import commit, versions
from tune.redaction import without_passwords
from tune.study_file import parse_study
from tune.study_files import describe_data, named_counts, split_manifest, study_note, write_study_files


@pytest.fixture(scope="module")
def plan(demo_store):
    content = {
        "study": "s",
        "features": str(demo_store),
        "tasks": {"adult": "binary", "age_band": "multiclass"},
        "folds": {"n_splits": 5, "repeats": 2},
        "objective": "pooled_auc",
        "trials": 1,
        "tracking_uri": "http://me:secret@somewhere:5000",
    }
    return make_plan(parse_study(content, source="s"))


def test_the_manifest_says_where_every_document_is_in_every_fold(plan):
    frame = split_manifest(plan)
    assert frame["document_id"].tolist() == list(plan.documents)
    assert list(frame.columns[2:]) == [f"fold_{k}" for k in range(10)]
    for fold in plan.data.folds:
        places = frame[f"fold_{fold.index}"]
        for part in ("train", "inner", "held_out"):
            assert sorted(places.index[places == part]) == sorted(getattr(fold, part))
    crossing = frame.groupby("group_id")[list(frame.columns[2:])].nunique().max(axis=None)
    assert crossing == 1


def test_ids_can_be_replaced_by_hashes(plan):
    plain, hidden = split_manifest(plan), split_manifest(plan, id_key=b"key")
    assert hidden["document_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert not set(plain["group_id"]) & set(hidden["group_id"])
    assert plain.iloc[:, 2:].equals(hidden.iloc[:, 2:])


def test_counts_have_the_classes_names_and_hold_every_document(plan):
    counts = named_counts(plan)
    adult = counts[counts["task"] == "adult"]
    assert set(adult["class"]) == {"no", "yes"}
    assert adult.groupby("fold")["documents"].sum().eq(len(plan.documents)).all()


def test_the_data_are_described_in_numbers(plan, demo_store):
    found = describe_data(plan)
    labels = pd.read_csv(demo_store / "documents.csv")["adult"]
    assert found["documents"] == 125
    assert found["tasks"]["adult"]["classes"] == labels.value_counts().sort_index().to_dict()
    assert found["stores"]["features"]["audio"]["encoder"]["name"] == "opensmile:eGeMAPSv02"
    assert found["folds"]["splits"] == plan.data.splits
    assert "| adult | binary |" in study_note(plan, found)


def test_all_files_are_written_without_passwords(plan, tmp_path):
    write_study_files(
        plan, describe_data(plan), versions(["sweep", "s.yaml", "--tracking-uri", "https://me:secret@x"]), tmp_path
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"study.yaml", "versions.json", "data.json", "splits.csv", "fold_counts.csv"}
    assert not [path for path in tmp_path.iterdir() if "secret" in path.read_text()]
    study = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert study["folds"] == {"n_splits": 5, "repeats": 2}
    found = json.loads((tmp_path / "versions.json").read_text())
    assert found["command"] == "hilbert sweep s.yaml --tracking-uri https://***@x"
    assert found["packages"]["torch"].startswith("2.")


def test_passwords_are_taken_out_of_addresses_alone():
    assert without_passwords("a@b http://u:p@h/x sqlite:////d@e") == "a@b http://***@h/x sqlite:////d@e"


def test_the_commit_is_that_of_the_code():
    found = commit()
    assert found is None or found.removesuffix("-dirty").isalnum()

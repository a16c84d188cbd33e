"""Label cells as a study understands them: classes, gaps and codes, and what that does to the identity of its jobs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from cohorts import store_as_before
from sweeps import Here

from hilbert.classifier import HilbertClassifier
from hilbert.config import TaskConfig
from hilbert.errors import InputError, StoreError, StudyError
from hilbert.folds import make_folds
from hilbert.groups import group_codes
from hilbert.inference import evaluate, missing_codes
from hilbert.predicted import Predicted
from hilbert.release import Release
from hilbert.tasks import Labels, encode_labels
from tune.plan import Plan, label_report, make_plan
from tune.search import Proposal
from tune.space import configuration_hash
from tune.study_file import load_study, parse_study


def encode(task: str | dict[str, Any], values: list[str | None]) -> Labels:
    frame = pd.DataFrame({"document_id": [f"d{number}" for number in range(len(values))], "x": values}, dtype=object)
    return encode_labels(frame, {"x": task}, source="documents.csv")["x"]


# --- labels ----------------------------------------------------------------------------------------------------------


def test_numeric_twins_are_one_class_and_codes_no_class() -> None:
    labels = encode("multiclass", ["1", "1.0", "2", "2.0", "3", "NA"])
    assert labels.counts() == {"1": 2, "2": 2, "3": 1}
    assert labels.missing == {"NA": 1}
    assert labels.notes == ("x: 1.0 1, 2.0 1: the same class as the plain number",)
    assert not labels.literal


def test_invisible_characters_make_no_class() -> None:
    labels = encode("binary", ["low", "low\u200b", "hi\u00adgh", "high"])
    assert labels.counts() == {"high": 2, "low": 2}
    assert labels.notes == ("x: 2 labels held invisible or decomposed characters: removed, or composed",)


def test_a_class_that_looks_like_a_code_stays_where_it_is_declared() -> None:
    labels = encode({"kind": "multiclass", "classes": ["NA", "ZA", "-"]}, ["NA", "ZA", "-", "n/a", None])
    assert labels.counts() == {"NA": 1, "ZA": 1, "-": 1}
    assert labels.missing == {"n/a": 1}


def test_declared_numbers_take_other_spellings() -> None:
    labels = encode({"kind": "binary", "classes": [1, 0]}, ["1.0", "0", "0.0", "NA"])
    np.testing.assert_array_equal(labels.values, [0, 1, 1, np.nan])


def test_words_that_may_be_missing_are_told() -> None:
    labels = encode("multiclass", ["none", "mild", "severe", "unknown", "NA"])
    assert labels.spec.classes == ("mild", "none", "severe", "unknown")
    assert "none 1, unknown 1: taken as classes" in labels.notes[0]
    named = encode({"kind": "multiclass", "missing_values": ["unknown"]}, ["none", "mild", "unknown"])
    assert named.spec.classes == ("mild", "none")
    assert named.named == {"unknown"}


def test_codes_among_numbers_are_told_and_named_ones_are_missing() -> None:
    ages = [str(age) for age in range(20, 40)]
    labels = encode("regression", [*ages, "-99", "999", "NA", "."])
    assert labels.missing == {"NA": 1, ".": 1}
    assert "x: 20 to 39, besides -99 1, 999 1" in labels.notes[0]
    assert "missing_values: [-99, 999]" in labels.notes[0]
    named = encode({"kind": "regression", "missing_values": [-99, "999.0"]}, [*ages, "-99.0", "999"])
    assert named.missing == {"-99.0": 1, "999": 1}
    assert named.notes == ()
    assert np.nanmax(named.values) == 39
    assert "-99 2: taken as a class" in encode("multiclass", ["1", "2", "3", "-99", "-99"]).notes[0]


@pytest.mark.parametrize(
    ("task", "values", "says"),
    [
        ("binary", ["Low", "low", "high"], ["low 1", "Low 1", "differ in case", "classes: ["]),
        ("multiclass", ["01", "1", "2"], ["01 1, 1 1"]),
        ("binary", ["6-7", "6\u20137", "8-9"], ["6-7 1, 6\u20137 1", "dashes"]),  # Excel makes a dash of a hyphen
        ("binary", ["Low", "L\u043ew", "High"], ["Low 1, L\u043ew 1", "look-alike"]),  # a Cyrillic o
        ("binary", ["1", "2", "-99", "-99"], ["binary, but there are 3 values", "missing_values: [-99]"]),
        ("binary", ["yes", "no", "unknown"], ["3 values", "missing_values: [unknown]"]),
        ("binary", ["NA", "yes", "yes"], ["all labels are yes (2)"]),
        ("binary", ["NA", "."], ["no document has a label (NA 1, . 1)"]),
        ("regression", ["1", "none", "2"], ["row 3: x is 'none'"]),
        ("regression", ["1", "1_000", "2"], ["row 3: x is '1_000'"]),
        ({"kind": "regression", "missing_values": [-99]}, ["5", "5", "-99"], ["all labels are 5"]),
        ({"kind": "binary", "classes": [1, 9], "missing_values": [9]}, ["1", "9"], ["'9' is both a class and"]),
        ({"kind": "binary", "missing_values": 9}, ["1", "2"], ["write a list"]),
        ({"kind": "binary", "classes": ["a", "a\u200b"]}, ["a", "b"], ["each once"]),
    ],
)
def test_what_only_the_user_can_know_is_refused(task: Any, values: list[str | None], says: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        encode(task, values)
    for part in says:
        assert part in str(caught.value)


def test_decomposed_classes_keep_their_place_in_the_order() -> None:
    """Composed, é comes after z; a store of before must go on with the classes in the order they had."""
    labels = encode("multiclass", ["e\u0301", "f", "z"])
    assert labels.spec.classes == ("é", "f", "z")
    assert labels.literal


# --- studies ---------------------------------------------------------------------------------------------------------


def table(ages: list[str], groups: list[str] | None = None) -> str:
    rows = [
        f"d{number},{groups[number] if groups else ''},{'low' if number % 2 else 'high'},{age}"
        for number, age in enumerate(ages)
    ]
    return "document_id,group_id,affect,age\n" + "\n".join(rows) + "\n"


AGES = [str(20 + number) for number in range(22)]


def plan_of(folder: Path, documents: str, **changes: Any) -> Plan:
    store = store_as_before(folder / "store", documents)
    content = {
        "study": "s",
        "features": str(store),
        "tasks": {"affect": "binary", "age": "regression"},
        "folds": {"n_splits": 3},
        "trials": 1,
    }
    return make_plan(parse_study(content | changes, source="s.yaml"))


def identity(plan: Plan) -> str:
    config = plan.study.configuration({})
    return plan.job(Proposal(0, {}, config, "features", configuration_hash(config, "features")), 0).identity


def test_codes_belong_to_the_identity_where_they_change_a_label_and_nowhere_else(tmp_path: Path) -> None:
    plain = plan_of(tmp_path, table([*AGES, "-99", "-99"]))
    without_effect = plan_of(tmp_path, table([*AGES, "-99", "-99"]), missing_values=[-7, "x"])
    named, same = (plan_of(tmp_path, table([*AGES, "-99", "-99"]), missing_values=codes) for codes in ([-99], ["-99"]))
    by_task = plan_of(tmp_path, table([*AGES, "-99", "-99"]), missing_values={"age": [-99.0]})
    assert identity(plain) == identity(without_effect) != identity(named)
    assert identity(named) == identity(same) == identity(by_task)
    assert plain.description() == without_effect.description()
    assert "missing_values" not in plain.description()
    assert named.description()["splits"] != plain.description()["splits"]
    assert named.description()["missing_values"] == [-99]
    assert "age (regression): 22 labels from 20 to 41; missing 2 (-99 2)" in label_report(named)
    assert "besides -99 2" in label_report(plain)
    assert named.study.configuration({}).tasks["affect"] == {"kind": "binary", "missing_values": [-99]}


def test_the_identity_of_right_data_is_that_of_before(demo_store: Path) -> None:
    content = {
        "study": "demo",
        "features": str(demo_store),
        "tasks": {"gender": "binary", "adult": "binary", "age_band": "multiclass"},
        "folds": {"n_splits": 5},
        "trials": 1,
    }
    plan = make_plan(parse_study(content, source="s.yaml"))
    assert plan.data.splits.startswith("5807858f28e2")
    assert identity(plan) == "fb3e1291c5736c63c6eb8694"


def test_a_store_of_before_is_understood_and_its_jobs_run_again(tmp_path: Path) -> None:
    severity = ["1", "1.0", "2", "2.0", "3", "NA"] * 4
    groups = ["f1", "f1", *["NA"] * 22]
    rows = "".join(f"d{n},{g},{s}\n" for n, (g, s) in enumerate(zip(groups, severity, strict=True)))
    plan = plan_of(tmp_path, "document_id,group_id,sev\n" + rows, tasks={"sev": "multiclass"})
    assert plan.labels["sev"].counts() == {"1": 8, "2": 8, "3": 4}
    assert len(set(plan.groups)) == 23
    for told in ("missing 4 (NA 4)", "sev: 1.0 4, 2.0 4: the same class", "group_id: NA 22: no group"):
        assert told in label_report(plan)
    other = plan_of(tmp_path, "document_id,group_id,sev\n" + rows.replace("1.0\n", "1\n"), tasks={"sev": "multiclass"})
    assert identity(plan) != identity(other)


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        (table(AGES, ["Fam", "fam", *["x"] * 20]), ["group_id: Fam 1, fam 1", "both sides"]),
        (table(AGES).replace("d1,", "D0,"), ["'D0' and 'd0'"]),
    ],
)
def test_people_of_a_store_of_before_who_may_be_one_are_refused(
    tmp_path: Path, documents: str, says: list[str]
) -> None:
    with pytest.raises(StoreError) as caught:
        plan_of(tmp_path, documents)
    for part in [*says, "extract again"]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        ("-99", ["write a list, [-99, unknown]", "not -99"]),
        ("[no]", ["False is no text and no number; put quotes"]),
        ("[null]", ["None is no text"]),
        ("{agee: [1]}", ["'agee'", "not among the tasks"]),
        ("{age: 1}", ["write a list"]),
    ],
)
def test_wrong_codes_in_a_study_file_are_told(tmp_path: Path, codes: str, says: list[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"study: s\nfeatures: f\ntasks: {{age: regression}}\ntrials: 1\nmissing_values: {codes}\n")
    with pytest.raises(StudyError) as caught:
        load_study(path)
    for part in says:
        assert part in str(caught.value)


def test_a_task_is_found_however_its_name_is_composed(tmp_path: Path) -> None:
    decomposed = "stimmung\u200b e\u0301"
    documents = table(AGES).replace("affect", decomposed)
    plan = plan_of(tmp_path, documents, tasks={"stimmung e\u0301": "binary"}, objective="stimmung \u00e9")
    assert list(plan.labels) == ["stimmung \u00e9"]
    assert plan.study.objective == "stimmung \u00e9"


def test_fit_tells_the_labels_and_what_is_odd(tmp_path: Path, here: Here) -> None:
    store = store_as_before(tmp_path / "store", table([*AGES, "999", "NA"]))
    (tmp_path / "s.yaml").write_text(
        f"study: s\nfeatures: {store}\ntasks: {{affect: binary, age: regression}}\nfolds: {{n_splits: 3}}\n"
        "trials: 1\ntrain: {epochs: 1}\nmodel: {width: 8, heads: 2}\n"
    )
    done = here("fit", "s.yaml", "--fold", "0", folder=tmp_path)
    assert done.returncode == 0
    assert "affect (binary): high 12, low 12; missing 0" in done.stderr
    assert "age (regression): 23 labels from 20 to 999; missing 1 (NA 1)" in done.stderr
    assert "besides 999 1, which look like codes" in done.stderr
    named = here("fit", "s.yaml", "--fold", "0", "--set", "missing_values=[999]", folder=tmp_path)
    assert "age (regression): 22 labels from 20 to 41; missing 2 (999 1, NA 1)" in named.stderr


# --- from Python, and new people -------------------------------------------------------------------------------------


def test_groups_from_python_are_the_same_groups() -> None:
    assert group_codes(["1", 1, 1.0, "1.0", "NA", "NA", "f\u200b", "f"], 8).tolist() == [0, 0, 0, 0, 1, 2, 3, 3]
    with pytest.raises(InputError, match=r"groups: .*differ in case"):
        make_folds([f"d{n}" for n in range(6)], {}, n_splits=2, groups=["A", "a", "b", "c", "d", "e"])
    with pytest.raises(InputError, match="must be unique"):
        make_folds(["Zoe\u0308", "Zo\u00eb", "b", "c"], {}, n_splits=2)


def test_labels_from_python_are_understood(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.standard_normal((2, dim)).astype(np.float32) for dim in (3, 4)) for _ in range(24)]
    y = ["low", "low\u200b", "high", "NA"] * 6
    small = {"model": {"width": 8, "heads": 2}, "train": {"epochs": 1}, "inner_fraction": 0}
    model = HilbertClassifier(**small).fit(pairs, y)
    assert model.classes_.tolist() == ["high", "low"]
    assert "NA 6: counted as missing labels" in caplog.text
    HilbertClassifier(**small).fit(pairs, [0, 1, 1, -99] * 6)
    assert "-99 6: look like codes" in caplog.text


def test_labels_of_new_people_count_as_they_did_in_training(caplog: pytest.LogCaptureFixture) -> None:
    tasks = {"sev": TaskConfig(kind="binary", classes=("1", "2")), "age": TaskConfig(kind="regression")}
    predicted = Predicted(
        documents=list("abcdef"),
        tasks=tasks,
        scores={"sev": np.tile([0.4, 0.6], (6, 1)), "age": np.arange(6.0)[:, None]},
        embeddings=[],
        gates=[],
        attention={},
        segments={},
    )
    documents = pd.DataFrame(
        {"sev": ["1", "1.0", "2", "NA", "9", None], "age": ["1", "2", "3", "NA", "-99", "old"]}, dtype=object
    )
    table = evaluate(predicted, documents, missing={"age": ["-99"]}).set_index("task")
    assert table.loc["sev", "labelled"] == 3
    assert table.loc["age", "labelled"] == 3
    for told in (
        "age: counted as missing: NA 1, -99 1",
        "doesn't know count as missing: old 1",
        "sev: counted as missing",
    ):
        assert told in caplog.text


def test_codes_of_a_release_are_those_of_its_study_and_of_its_extraction() -> None:
    tasks = {"age": {"kind": "regression", "missing_values": [-99]}, "sev": "binary"}
    release = SimpleNamespace(made={"configuration": {"tasks": tasks}, "missing": ["-7"]}, tasks=dict.fromkeys(tasks))
    assert missing_codes(cast("Release", release)) == {"age": ["-99", "-7"], "sev": ["-7"]}
    assert missing_codes(cast("Release", SimpleNamespace(made={}, tasks={"sev": None}))) == {"sev": []}

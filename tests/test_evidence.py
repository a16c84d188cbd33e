"""All held-out predictions of a study, as MLflow has them: what is there, what is missing, and why."""

import shutil
import sqlite3

import numpy as np
import pandas as pd
import pytest
from contests import TASKS, make, ran, table, write
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import Recorded, Trial, record
from servers import Server
from sweeps import hilbert

from hilbert.errors import InputError
from hilbert.metrics import auc, bbc_cv
from tune.evidence import gather_evidence, named, trial_number
from tune.tracking import connect

pytestmark = pytest.mark.timeout(300)

SHAPES = [
    {"group": 3, "seed": 1},
    {"repeats": 3, "n_splits": 2},
    {"abandoned": {0: [3], 1: [0, 3]}},
    {"failed": {2: [4]}},
]


def same(found, made):
    assert list(found.trials) == list(made.trials)
    assert found.configurations == made.configurations
    order = [made.documents.index(name) for name in found.documents]
    assert [made.groups[row] for row in order] == list(found.groups)
    np.testing.assert_array_equal(found.fold_of, made.fold_of[:, order])
    assert (found.repeats, found.folds, found.tasks) == (made.repeats, made.folds, made.tasks)
    for task in made.tasks:
        np.testing.assert_array_equal(found.labels[task], made.labels[task][order])
        np.testing.assert_array_equal(found.scores[task], made.scores[task][:, :, order])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_was_recorded_is_read_back(tmp_path, shape):
    made = make([1, 2, 0.5], **shape)
    found = gather_evidence(write(made, tmp_path), "made")
    same(found, made)
    assert found.missing == {}
    assert [found.fold_aucs(trial) for trial in found.trials] == [made.fold_aucs(trial) for trial in made.trials]


def test_the_order_of_rows_has_no_influence(tmp_path):
    made = make([1, 2, 0.5], repeats=2)
    tables = {number: table(made, number).sample(frac=1, random_state=number) for number in made.trials}
    same(gather_evidence(write(made, tmp_path, tables=tables), "made"), made)


def test_a_server_is_read_by_many_threads_to_the_same_end(tmp_path):
    made, server = make([1] * 12), Server(tmp_path / "server")
    write(made, tmp_path)
    shutil.move(tmp_path / "mlflow.db", server.folder / "m.db")
    shutil.move(tmp_path / "mlartifacts", server.folder / "artifacts")
    place = (tmp_path / "mlartifacts").as_uri()
    with sqlite3.connect(server.folder / "m.db") as database:
        for table_name, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table_name} SET {column} = replace({column}, ?, 'mlflow-artifacts:')", [place])
    database.close()
    with server:
        same(gather_evidence(connect(server.uri), "made"), made)


def test_fold_aucs_are_those_of_the_folds_that_ran():
    made = make([1, 2], abandoned={1: [0, 3]}, repeats=2)
    for trial in made.trials:
        for task, values in made.fold_aucs(trial).items():
            assert len(values) == made.folds == 10
            for fold, value in enumerate(values):
                rows = made.fold_of[fold // 5] == fold
                scores = made.scores[task][trial, fold // 5, rows]
                expected = auc(made.labels[task][rows], scores, TASKS[task].kind) if fold in ran(made, trial) else None
                assert value == expected
    assert ran(made, 1) == [0, 3]


@pytest.mark.parametrize("objective", ["mean_auc", "pooled_auc", "kind"])
def test_a_folds_score_is_what_racing_compares(objective):
    made = make([1, 2], objective=objective, documents=15, abandoned={1: [2]})
    aucs, scores = made.fold_aucs(0), made.fold_scores(0)
    assert None in aucs["kind"]
    for fold, score in enumerate(scores):
        defined = [values[fold] for values in aucs.values() if values[fold] is not None]
        assert score == (aucs["kind"][fold] if objective == "kind" else pytest.approx(np.mean(defined)))
    assert [fold for fold, score in enumerate(made.fold_scores(1)) if score is not None] in ([2], [])


def test_what_was_handed_out_can_be_changed_without_harm():
    made = make([1])
    made.fold_aucs(0)["affect"][0] = None
    assert made.fold_aucs(0)["affect"][0] is not None


# ---- without the luck of the choice ----------------------------------------------------------------------------------


def test_failed_configurations_are_no_part_of_the_choice():
    made = make([5, 0.1, 0.2], failed={0: [1]}, group=2)
    found = made.bias_corrected()
    kinds = {task: spec.kind for task, spec in TASKS.items()}
    alone = bbc_cv(made.labels, {task: s[1:] for task, s in made.scores.items()}, kinds, groups=made.groups)
    assert found.objective == alone.objective
    assert found.winner == alone.winner + 1 == 2
    assert made.choices == 2
    assert made.bias_corrected() is found


def test_those_that_racing_gave_up_are_part_of_the_choice():
    made = make([0.5, 0.6, 0.4], abandoned={2: [0, 1]})
    assert made.choices == 3
    assert made.bias_corrected() != make([0.5, 0.6], abandoned={}).bias_corrected()


def test_a_single_task_is_corrected_by_what_was_chosen_by():
    found = make([0.5, 0.6, 0.4], objective="affect").bias_corrected()
    assert found.objective == found.tasks["affect"]


def test_without_a_whole_configuration_nothing_is_corrected():
    assert make([1, 1], abandoned={0: [0], 1: [0, 1]}).bias_corrected() is None


# ---- what is missing -------------------------------------------------------------------------------------------------


def one_score(value):
    def change(frame):
        frame.loc[3, "score"] = value
        return frame

    return change


def renamed(column, value):
    def change(frame):
        frame.loc[0, column] = value
        return frame

    return change


def other_label(frame):
    rows = (frame["task"] == "affect") & frame["label"].notna()
    frame.loc[rows, "label"] = frame.loc[rows, "label"].map({"no": "yes", "yes": "no"})
    return frame


DAMAGES = {
    "twice": lambda frame: pd.concat([frame, frame.iloc[:1]]),
    "no number": one_score(np.nan),
    "no number, but infinite": one_score(np.inf),
    "lacks some classes": lambda frame: frame.drop(index=0),
    "names documents or classes": renamed("document_id", "stranger"),
    "names documents or classes of 'affect'": renamed("class", "perhaps"),
    "other documents in a fold": lambda frame: frame.assign(fold=(frame["fold"] + 1) % 5),
    "other documents in a fold than": lambda frame: frame.assign(fold=frame["fold"] + 5),
    "no column 'score'": lambda frame: frame.drop(columns="score"),
    "other labels of 'affect'": other_label,
    "no class of the study": lambda frame: frame.assign(label=frame["label"].replace("yes", "maybe")),
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A study in which the predictions of all configurations but the first and the last are damaged."""
    made = make([1] * (len(DAMAGES) + 2))
    tables = {number: change(table(made, number)) for number, change in enumerate(DAMAGES.values(), start=1)}
    return made, gather_evidence(write(made, tmp_path_factory.mktemp("damaged"), tables=tables), "made")


@pytest.mark.parametrize("reason", DAMAGES)
def test_damaged_predictions_are_left_out_with_the_reason(damaged, reason):
    _, found = damaged
    number = 1 + list(DAMAGES).index(reason)
    assert reason.split(",")[0] in found.missing[number]
    assert number not in found.configurations


def test_what_is_not_damaged_is_there(damaged):
    made, found = damaged
    ends = [0, len(DAMAGES) + 1]
    assert list(found.trials) == list(found.configurations) == ends
    assert list(found.missing) == list(range(1, len(DAMAGES) + 1))
    for task, scores in found.scores.items():
        np.testing.assert_array_equal(scores, made.scores[task][ends])
        np.testing.assert_array_equal(found.labels[task], made.labels[task])


@pytest.mark.parametrize("name", ["predictions.parquet", "configuration.json"])
def test_a_configuration_whose_artifact_is_gone_is_left_out(tmp_path, name):
    made = make([1, 2, 0.5])
    client = write(made, tmp_path)
    first = sorted(tmp_path.glob(f"mlartifacts/*/artifacts/{name}"))[0]
    first.unlink()
    found = gather_evidence(client, "made")
    assert len(found.trials) == 2
    (reason,) = found.missing.values()
    assert name in reason
    (lost,) = found.missing
    with pytest.raises(InputError, match=f"t00{lost} .*has no predictions; these have"):
        found.row(lost)


def test_configurations_of_which_nothing_is_expected_are_not_missing(tmp_path):
    made = make([1, 2], failed={1: range(5)})
    client = write(made, tmp_path, tables={1: None})
    experiment = client.get_experiment_by_name("made").experiment_id
    running = client.create_run(experiment, tags={"hilbert.level": "trial", "hilbert.trial": "2"})
    client.log_metric(running.info.run_id, "cv/folds_done", 2)
    found = gather_evidence(client, "made")
    assert (list(found.trials), found.missing) == ([0], {})


# ---- nothing to be had -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, write(make([1]), folder)


def refused(client, *parts):
    with pytest.raises(InputError) as caught:
        gather_evidence(client, "made")
    for part in parts:
        assert part in str(caught.value)


def test_a_study_without_any_predictions_says_where_they_should_be(tmp_path):
    made = make([1, 2])
    client = write(made, tmp_path)
    for path in tmp_path.glob("mlartifacts/*/artifacts/*.parquet"):
        path.unlink()
    refused(client, "of none of its 2 configurations", "mlartifacts", "t000: ", "within reach")


def test_a_study_that_has_only_begun_says_so(tmp_path):
    client = write(make([1], failed={}), tmp_path, tables={0: None})
    (run,) = client.search_runs([client.get_experiment_by_name("made").experiment_id], "tags.`hilbert.level` = 'trial'")
    client.update_run(run.info.run_id, status="RUNNING")
    refused(client, "no configuration yet", "hilbert sweep")


def test_an_older_study_without_files_says_what_writes_them(tmp_path):
    client = record(Recorded(["x"], [Trial({}, {0: {"x": 0.5}})], 1), tmp_path)
    refused(client, "study/splits.csv", "hilbert sync made")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("splits.csv", lambda text: text.replace("held_out", "train")),
        ("splits.csv", lambda text: text.replace("fold_4", "fold_5")),
        ("splits.csv", lambda text: text + text.splitlines()[1] + "\n"),
        ("splits.csv", lambda text: ""),
        ("data.json", lambda text: text.replace('"affect"', '"effect"')),
        ("data.json", lambda text: text.replace('"binary"', '"multiple"')),
        ("data.json", lambda text: text[:-1]),
    ],
)
def test_damaged_files_are_named(whole, name, change):
    folder, client = whole
    path = folder / "mlartifacts" / "study" / name
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    refused(client, name, "hilbert sync made")
    path.write_text(text)


def test_an_unknown_study_is_refused(whole):
    _, client = whole
    with pytest.raises(InputError, match="no study 'other'"):
        gather_evidence(client, "other")


# ---- names -----------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 60)))
@settings(max_examples=60, deadline=None)
def test_names_say_the_numbers_in_order_and_all_of_them(trials):
    found = []
    for part in filter(None, named(list(trials)).split(", ")):
        first, *last = (trial_number(name) for name in part.split(" to "))
        found += range(first, (last or [first])[0] + 1)
    assert found == sorted(trials)


@pytest.mark.parametrize(("text", "number"), [("14", 14), ("t014", 14), ("T3", 3), (" 7 ", 7), ("0", 0)])
def test_a_configuration_is_named_by_its_number(text, number):
    assert trial_number(text) == number


@pytest.mark.parametrize("text", ["", "t", "-1", "1.5", "best", "t 1", "١٤", "9" * 40])
def test_anything_else_names_none(text):
    assert trial_number(text) is None


def test_studies_read_from_a_foreign_folder(tmp_path):
    """The command works from wherever, on hashed ids: nothing but MLflow is asked."""
    write(make([1, 2]), tmp_path / "there")
    (tmp_path / "here").mkdir()
    uri = f"sqlite:///{tmp_path}/there/mlflow.db"
    done = hilbert("compare", "made", "0", "1", "--csv", "--tracking-uri", uri, folder=tmp_path / "here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fold,objective/t000,objective/t001,objective/difference,affect/t000")
    assert done.stderr == ""
    assert list((tmp_path / "here").iterdir()) == []

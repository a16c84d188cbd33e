"""Studies that a version recorded which counted AUCs of models without a class: read, compared and reported anew."""

import io
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from contests import TASKS, make, table, write
from synthetic import make_store
from test_cli import refused

from hilbert.features import FeatureStore
from hilbert.metrics import pooled_auc
from tune.card import _raw
from tune.challenge import _differences
from tune.comparison import ranking
from tune.contest import best_trial, pair
from tune.evidence import gather_evidence
from tune.job import JobRecord
from tune.plan import fold_report, make_plan
from tune.recount import recounted
from tune.report.data import undefined_folds
from tune.report.material import gather
from tune.report.predicted import by_task, of_trial, untrained_folds, without_folds
from tune.selection import summarise
from tune.study_file import parse_study

pytestmark = pytest.mark.timeout(300)


def with_rare(made, cases, task="affect"):
    """The same with these documents of the second class alone."""
    labels = np.zeros(len(made.documents))
    labels[list(cases)] = 1
    labels[0] = np.nan
    return replace(made, labels={**made.labels, task: labels})


def one_case(**shape):
    """A study whose one case is held out in one fold."""
    made = make([1, 2, 0.5], **shape)
    made = with_rare(made, [7])
    frame = made.study.trials.drop(columns=[name for name in made.study.trials if name.startswith("affect/")])
    return replace(made, study=replace(made.study, trials=frame))


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """As an older version recorded it: an AUC wherever the held-out part holds every class."""
    client = write(one_case(objective="age"), tmp_path_factory.mktemp("old"))
    runs = client.search_runs([client.get_experiment_by_name("made").experiment_id], "tags.`hilbert.level` = 'trial'")
    assert all("affect/auc_mean" in run.data.metrics for run in runs)
    return client


def test_the_one_case_counts_nowhere(old):
    made, found = one_case(), gather_evidence(old, "made")
    assert sum(value is not None for value in made.fold_aucs(0)["affect"]) == 1  # by the old rule
    fold = int(found.fold_of[0, found.documents.index(made.documents[7])])
    assert found.untrained_folds("affect") == {fold}
    assert found.untrained_folds("kind") == found.untrained_folds("age") == set()
    assert found.fold_aucs(1)["affect"] == [None] * 5
    assert found.fold_aucs(1)["kind"] == made.fold_aucs(1)["kind"]
    frame = found.study.trials
    assert frame[["affect/auc_mean", "affect/auc_pooled", "cv/auc_mean", "cv/auc_pooled"]].isna().all(axis=None)
    assert (frame["affect/auc_folds"] == 0).all()
    assert frame["kind/auc_mean"].notna().all()
    assert _raw(found, "affect", 0) == (None, None)
    compared = pair(found, 0, 1)
    assert compared.tasks["affect"].pooled == (None, None)
    assert compared.tasks["affect"].delong is None
    assert compared.tasks["kind"].tested.folds == 5
    corrected = found.bias_corrected()
    assert corrected is not None
    assert (corrected.tasks["affect"], corrected.tasks["age"] is None) == (None, False)


def test_an_objective_that_speaks_of_it_ranks_nobody(old):
    found = gather_evidence(old, "made")
    assert best_trial(found) is not None
    of_all = replace(found, study=replace(found.study, objective="mean_auc"))
    assert best_trial(of_all) is None
    assert ranking(of_all.study)["rank"].isna().all()
    assert of_all.bias_corrected() is None
    mine, theirs = ({task: scores[row] for task, scores in found.scores.items()} for row in (0, 1))
    of_it = replace(found, study=replace(found.study, objective="affect"))
    assert _differences(of_it, mine, theirs) == [None] * 5
    assert None not in _differences(of_all, mine, theirs)  # of the other tasks


def test_compare_shows_none_of_it(old, here):
    shown = here("compare", "made", "--tracking-uri", old.tracking_uri)
    assert shown.returncode == 0, shown.stderr
    assert "(1)" not in shown.stdout  # folds that counted
    written = here("compare", "made", "--csv", "--tracking-uri", old.tracking_uri)
    table = pd.read_csv(io.StringIO(written.stdout))
    assert table[["affect/auc_mean", "affect/auc_pooled", "cv/auc_mean"]].isna().all(axis=None)
    assert table["kind/auc_mean"].notna().all()


def test_the_report_shows_none_of_it(old):
    material = gather(old, "made")
    assert material.jobs["affect/auc"].isna().all()
    assert material.jobs["kind/auc"].notna().all()
    (fold,) = material.untrained["affect"]
    assert ["affect", str(fold), "its training part lacks a class"] in undefined_folds(material).rows
    shown = material.predicted["affect"]
    assert np.isnan(shown.labels[shown.folds == fold]).all()
    assert not np.isnan(shown.labels[shown.folds != fold]).all()
    assert shown.interval() is None


def test_predictions_that_are_read_alone_are_masked_by_the_splits(old):
    made, found = one_case(), gather_evidence(old, "made")
    splits = pd.DataFrame({"document_id": made.documents})
    for fold in range(made.folds):
        splits[f"fold_{fold}"] = np.where(made.fold_of[0] == fold, "held_out", "train")
    alone = by_task(table(made, 1), list(TASKS), None)["affect"]
    folds = untrained_folds(alone, splits)
    assert folds == found.untrained_folds("affect")
    np.testing.assert_array_equal(without_folds(alone, folds).labels, of_trial(found, 1)["affect"].labels)


def test_a_repeat_that_separates_the_cases_counts(tmp_path):
    """Two cases: together in one fold of a repeat, apart in the other."""
    made = make([1, 2], repeats=2, n_splits=4, seed=3)
    fold_of = made.fold_of
    first, second = np.triu_indices(len(made.documents), 1)
    wanted = (fold_of[0, first] == fold_of[0, second]) & (fold_of[1, first] != fold_of[1, second]) & (first > 0)
    cases = [int(first[wanted][0]), int(second[wanted][0])]
    found = gather_evidence(write(with_rare(made, cases), tmp_path), "made")
    assert found.untrained_folds("affect") == {int(fold_of[0, cases[0]])}
    assert sum(value is not None for value in found.fold_aucs(0)["affect"]) == 2
    assert found.study.trials["affect/auc_folds"].tolist() == [2, 2]
    labels = found.counted_labels("affect")
    assert pooled_auc([labels[1]], [found.scores["affect"][0, 1]], "binary") is not None
    assert found.pooled_aucs(0, range(8))["affect"] is None  # of one repeat it is undefined
    assert found.study.trials["affect/auc_pooled"].isna().all()


def test_what_is_right_is_left_as_it_was_recorded(tmp_path):
    made = make([1, 2, 0.5])
    found = gather_evidence(write(made, tmp_path), "made")
    aucs = {trial: found.fold_aucs(trial) for trial in found.trials}
    pooled = {trial: {task: found.study.trials[f"{task}/auc_pooled"][trial] for task in TASKS} for trial in aucs}
    assert recounted(found.study.trials, aucs, pooled) is found.study.trials


def test_estimates_of_an_older_version_are_dropped_with_its_means(tmp_path):
    made = with_rare(make([1, 2, 0.5], abandoned={2: [0, 1]}, objective="kind"), [7])
    found = gather_evidence(write(made, tmp_path), "made")
    assert "cv/auc_corrected" not in found.study.trials


# ---- a study file on its data ----------------------------------------------------------------------------------------

STUDY = {"study": "rare", "tasks": {"affect": "binary", "rare": "binary"}, "folds": {"n_splits": 3}, "trials": 1}


@pytest.fixture
def study_of(tmp_path):
    """A study on 24 documents, some of which are cases of `rare`."""

    def build(cases, **changes):
        store = make_store(24, seed=1)
        documents = store.documents.drop(columns=["group_id"])
        documents["rare"] = [str(int(row in cases)) for row in range(24)]
        parts = {name: getattr(store, name).split() for name in ("audio", "text")}
        FeatureStore.write(tmp_path / "store", documents=documents, overwrite=True, **parts)
        return parse_study(STUDY | {"features": str(tmp_path / "store")} | changes, source="study.yaml")

    return build


def test_one_case_is_refused_before_the_sweep_and_the_message_says_what_helps(study_of, here, tmp_path):
    study = study_of({5})
    (tmp_path / "study.yaml").write_text(study.model_dump_json(exclude_unset=True))
    for command in ("sweep", "fit --fold 0"):
        message = refused(partial(here, folder=tmp_path), *command.split()[:1], "study.yaml", *command.split()[1:])
        assert "'rare' is undefined" in message
        assert "1 of 24 labelled documents is '1', in 1 group" in message
        assert "objective: affect" in message
        assert "leave 'rare' out of tasks" in message
    assert not (tmp_path / "studies" / "rare" / "jobs").exists()


def test_two_cases_are_told_of_before_the_sweep(study_of):
    report = fold_report(make_plan(study_of({5, 9}, objective="affect", folds={"n_splits": 5})))
    assert "its AUC counts in 5 of 5 folds\n" in report
    assert "its AUC counts in 2 of 5 folds; no 1 held out in" in report
    assert "warning: the mean AUC of rare is one of 2 folds" in report


def test_records_of_an_older_version_are_counted_anew(study_of):
    plan = make_plan(study_of({5}, objective="affect"))
    fold = next(k for k, part in enumerate(plan.data.folds) if 5 in part.held_out)
    held = plan.data.folds[fold].held_out
    scores = {task: [[0.5, 0.5]] * len(held) for task in ("affect", "rare")}
    labels = {task: found.values[held].tolist() for task, found in plan.labels.items()}
    old = JobRecord("a", fold, 0.0, 1.0, labels=labels, scores=scores, auc={"affect": 0.5, "rare": 1.0})
    found = plan.counted(old)
    assert (found.auc, found.untrained) == ({"affect": 0.5, "rare": None}, ["rare"])
    kinds = {task: one.spec.kind for task, one in plan.labels.items()}
    assert summarise([found], kinds, plan.data.folds).series["fold/rare_auc"] == {}
    failed = replace(old, error="boom", auc={})
    assert plan.counted(failed) is failed

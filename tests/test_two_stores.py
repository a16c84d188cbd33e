"""A study of two feature stores of unlike dimensions and encoders, from its first proposal to predictions."""

import csv
import io
from pathlib import Path

import pytest
from in_process import InProcess, uri, well
from sweeps import write_study

from hilbert.features import FeatureStore
from tune.space import FEATURES
from tune.study_file import load_study
from tune.sweep import extended, run_sweep, sync_study
from tune.tracking import connect, search_runs

pytestmark = [pytest.mark.timeout(200), pytest.mark.filterwarnings("ignore")]

KEPT, NEW = range(70), range(70, 100)


@pytest.fixture
def study(monkeypatch, tmp_path, demo_store):
    """Two stores of the same people, new people for each, and a study of both."""
    monkeypatch.chdir(tmp_path)
    whole = FeatureStore.open(demo_store)
    narrow = {name: [getattr(whole, name)[i][:, ::3] for i in range(len(whole))] for name in ("audio", "text")}
    encoders = {"audio_encoder": "own:narrow-audio", "text_encoder": "own:narrow-text"}
    other = FeatureStore.write("narrow-all", documents=whole.documents, **narrow, **encoders)
    for store, name in ((whole, "wide"), (other, "narrow")):
        store.write_part(name, KEPT)
        store.write_part(f"new-{name}", NEW)
    search = {"train.learning_rate": {"choices": [1e-3, 1e-6]}, "loss.cka": {"low": 0, "high": 1}}
    features = {"wide": "wide", "b/narrow": "narrow"}
    changes = {"features": features, "search": search, "racing": "successive-halving", "folds": {"n_splits": 5}}
    write_study(tmp_path, tasks={"gender": "binary"}, trials=4, **changes)
    return InProcess(monkeypatch)


def trials():
    client = connect(uri())
    found = search_runs(client, client.get_experiment_by_name("quick").experiment_id, "tags.`hilbert.level` = 'trial'")
    return {int(run.data.tags["hilbert.trial"]): run for run in found}


def test_a_study_of_two_stores_goes_the_whole_way(study, here):
    study.sweep(well, "fold_jobs=4")  # stopped in the middle of the first configuration
    first = list(study.ran)
    assert study.sweep().complete
    assert not set(first) & set(study.ran)
    parameters = {number: run.data.params for number, run in trials().items()}
    own = {"loss.cka": "0.1", "train.learning_rate": "0.001"}
    assert [parameters[0], parameters[1]] == [{FEATURES: "b/narrow", **own}, {FEATURES: "wide", **own}]
    given_up = [number for number, run in trials().items() if "hilbert.abandoned" in run.data.tags]
    ran = len(first) + len(study.ran)
    assert (ran < 20) == bool(given_up)
    run_sweep(extended(load_study("study.yaml"), 1), uri=uri())
    assert sorted(trials()) == [0, 1, 2, 3, 4]
    sync_study(load_study("study.yaml"), uri=uri())
    assert sorted(trials()) == [0, 1, 2, 3, 4]
    commands(here)


def commands(here):
    done = here("compare", "quick")
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("by features") :]
    assert "wide" in table
    assert "b/narrow" in table
    rows = list(csv.DictReader(io.StringIO(here("compare", "quick", "--csv").stdout)))
    assert {row["params.features"] for row in rows} == {"wide", "b/narrow"}
    assert here("report", "quick").returncode == 0
    page = Path("quick-report.html").read_text(encoding="utf-8")
    assert "b/narrow" in page
    assert "own:narrow-text" in page
    assert here("select", "quick", "--rule", "one-se").returncode == 0
    best = {row["params.features"]: row["trial"] for row in reversed(rows) if row["rank"]}
    for place in best:
        released_and_predicted(here, place, best[place])
    if len(best) == 2:
        loser = next(trial for place, trial in best.items() if trial != rows[0]["trial"])
        done = here("release", "quick", "--name", "model", "--trial", loser, "--require-better")
        assert done.returncode == 1
        assert "not released" in done.stderr


def released_and_predicted(here, place, trial):
    mine, other = ("wide", "narrow") if place == "wide" else ("narrow", "wide")
    done = here("release", "quick", "--name", "model", "--trial", trial)
    assert done.returncode == 0, done.stderr
    done = here("predict", "models:/model@champion", f"new-{other}", "--output", f"{other}-by-{mine}.csv")
    assert done.returncode == 2
    assert "of another encoder than 'model' was trained with" in done.stderr
    assert not Path(f"{other}-by-{mine}.csv").exists()
    done = here("predict", "models:/model@champion", f"new-{mine}", "--output", f"{mine}.csv")
    assert done.returncode == 0, done.stderr
    assert len(Path(f"{mine}.csv").read_text().splitlines()) == len(NEW) + 1

"""The command line: help, exit codes, and one clear message for everything that a user can get wrong."""

import shutil
import subprocess
import sys

import bad_data
import pytest
import yaml
from cohorts import write_cohort
from sweeps import QUICK, hilbert

from hilbert import __version__
from hilbert.features import FeatureStore


def refused(here, *arguments):
    """The message of a command that must be refused."""
    code, out, err = here(*arguments)
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert err.count("hilbert: ") == 1
    return err


@pytest.mark.parametrize("command", ["", "extract", "sweep", "fit", "compare"])
def test_help_tells_what_a_command_does(here, command):
    code, out, _ = here(*filter(None, [command]), "--help")
    assert code == 0
    assert "usage: hilbert" in out
    assert len(out.splitlines()) > 8


def test_help_answers_without_heavy_imports():
    code = (
        "import sys, tune.cli\n"
        "try: tune.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted({'torch', 'ray', 'mlflow', 'optuna', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == ""


def test_version(here):
    assert here("--version")[1].strip() == f"hilbert {__version__}"


@pytest.mark.parametrize("case", bad_data.COHORTS, ids=lambda case: case.name)
def test_a_wrong_cohort_is_refused(here, tmp_path, case):
    case.make(tmp_path / "cohort")
    message = refused(here, "extract", tmp_path / "cohort", tmp_path / "store", "--audio", "opensmile:eGeMAPSv02")
    for part in case.expected:
        assert part in message
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("case", bad_data.STORES, ids=lambda case: case.name)
def test_a_wrong_store_is_refused(here, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    case.make(tmp_path / "store")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(QUICK | {"features": "store", "tasks": {"affect": "binary"}}))
    code, out, err = here("fit", "study.yaml", "--fold", 0)
    if code == 2:  # sizes and shapes are looked at on opening; altered bytes only where everything is read
        assert out == ""
        assert "Traceback" not in err
        return
    pytest.fail(f"accepted: {err}")


@pytest.fixture
def study(tmp_path, demo_store, monkeypatch):
    """A function that writes a study file on the demo's features and returns its path."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        content = QUICK | {"features": str(demo_store)} | changes
        path = tmp_path / "study.yaml"
        path.write_text(
            yaml.safe_dump({name: value for name, value in content.items() if value is not None}, sort_keys=False)
        )
        return path

    return write


BAD_STUDIES = [
    ({"features": "nowhere"}, ["nowhere", "no such feature store", "hilbert extract"]),
    ({"features": None}, ["features", "missing"]),
    ({"tasks": {"gendr": "binary"}}, ["gendr", "did you mean 'gender'"]),
    ({"tasks": {"gender": "binry"}}, ["gender", "did you mean 'binary'"]),
    ({"tasks": {"age_band": "binary"}}, ["age_band", "binary", "multiclass"]),
    ({"tasks": {"gender": "regression"}}, ["gender", "numbers"]),
    ({"tasks": {"gender": {"kind": "binary", "classes": ["f", "x"]}}}, ["row", "gender", "f, x"]),
    ({"tasks": {"cv": "binary"}}, ["'cv' can't name a task"]),
    ({"folds": {"n_splits": 200}}, ["n_splits", "200", "125"]),
    ({"folds": {"n_splits": 25}}, ["age_band", "undefined", "pooled_auc"]),
    ({"model": {"heads": 3}}, ["model.width must be a multiple of model.heads"]),
    ({"trails": 3}, ["trails", "did you mean 'trials'"]),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_STUDIES, ids=[str(case[0])[:40] for case in BAD_STUDIES])
@pytest.mark.parametrize("command", [["sweep"], ["fit", "--fold", "0"]], ids=["sweep", "fit"])
def test_a_wrong_study_is_refused_before_anything_runs(here, study, tmp_path, command, changes, expected):
    message = refused(here, *command, study(**changes))
    for part in expected:
        assert part in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.yaml"]


def test_a_fold_that_is_not_there_is_refused(here, study):
    assert "folds 0 to 2" in refused(here, "fit", study(), "--fold", 3)


def test_a_study_that_is_not_there_is_refused_with_those_that_are(here, tmp_path):
    message = refused(here, "compare", "parents", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db")
    assert "no study 'parents'" in message
    assert "--tracking-uri" in message


def test_a_tracking_server_that_does_not_answer_is_named(here, study, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    message = refused(here, "sweep", study(), "--tracking-uri", "http://127.0.0.1:9")
    assert "MLflow at http://127.0.0.1:9 can't be used" in message


def test_fit_prints_aucs_and_saves_the_model(here, study, tmp_path):
    code, out, err = here("fit", study(), "--fold", 1, "--set", "train.epochs=1", "--output", "model")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "task,auc,labelled_held_out"
    assert [line.split(",")[0] for line in lines[1:]] == ["gender", "adult", "age_band"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "epochs.csv",
        "model.safetensors",
        "predictions.csv",
    ]


def test_extract_runs_twice_and_says_what_it_made(here, tmp_path):
    cohort = write_cohort(tmp_path / "cohort")
    code, out, err = here("extract", cohort, tmp_path / "store", "--audio", "opensmile:eGeMAPSv02")
    if code == 2:  # document b has no audio at all: without a text encoder nothing would be left of it
        assert "b" in err
    shutil.rmtree(tmp_path / "cohort")
    cohort = write_cohort(
        tmp_path / "cohort",
        documents="document_id,affect\na,low\nc,high\n",
        segments="document_id,segment,audio\na,0,one.wav\nc,0,sub/two.wav\n",
    )
    for _ in range(2):
        code, out, err = here("extract", cohort, tmp_path / "store", "--audio", "opensmile:eGeMAPSv02")
        assert code == 0, err
        assert "audio: 2 segments of 2 documents, 88 features each" in out
    assert len(FeatureStore.open(tmp_path / "store")) == 2


@pytest.mark.timeout(300)
def test_sweep_as_a_script_is_the_same_command(tmp_path):
    """What `ray submit` runs: `tune/` comes first on the path then."""
    import tune.sweep

    done = subprocess.run(
        [sys.executable, tune.sweep.__file__, "nowhere.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "nowhere.yaml: no such study file" in done.stderr


def test_an_interrupted_command_says_so(tmp_path):
    done = hilbert("compare", folder=tmp_path)
    assert done.returncode == 2
    assert "usage" in done.stderr

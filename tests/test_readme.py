"""What the README shows is what works."""

import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from cohorts import write_cohort, write_wave
from sweeps import run

from hilbert.cohort import Cohort
from tune.options import make_parser
from tune.study_file import load_study, parse_study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(start):
    """The indented block that begins with a line."""
    lines = README.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    " + start))
    rest = lines[first:]
    end = next((n for n, line in enumerate(rest) if line and not line.startswith("    ")), len(rest))
    return "\n".join(line[4:] for line in rest[:end]).strip() + "\n"


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    code = block("from hilbert.features import FeatureStore")
    shutil.copytree(ROOT / "demo" / "speechocean", tmp_path / "demo" / "speechocean")
    monkeypatch.chdir(tmp_path)
    exec(
        compile(
            code.replace("FitConfig(tasks=tasks)", "FitConfig(tasks=tasks, train={'epochs': 2})"), "README", "exec"
        ),
        {},
    )
    assert "train_total" in capsys.readouterr().out
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.timeout(400)
def test_the_second_example_runs_and_its_last_release_is_refused(tmp_path):
    """As a shell runs it, with fewer configurations, folds and epochs."""
    shutil.copytree(ROOT / "demo", tmp_path / "demo")
    smaller = "hilbert sweep demo/release.yaml --set trials=2 train.epochs=3 folds.n_splits=3"
    lines = block("export MLFLOW_TRACKING_URI").replace("hilbert sweep demo/release.yaml", smaller)
    *script, last = lines.replace("compare voices 5 0", "compare voices 1 0").strip().splitlines()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = ["bash", "-euc", "\n".join(script)]
    done = run(shell, folder=tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    assert "Publish" in done.stdout
    assert pd.read_csv(tmp_path / "predicted.csv").shape == (25, 1 + 3 + 3 + 7)
    assert (tmp_path / "predicted.segments.csv").exists()
    assert (tmp_path / "releases" / "speaker" / "1" / "model_card.md").exists()
    refused = run(["bash", "-euc", f"{script[0]}\n{last}"], folder=tmp_path, PATH=path)
    assert refused.returncode == 1
    assert "not shown to be better" in refused.stderr
    assert not (tmp_path / "releases" / "speaker" / "2").exists()


def test_the_classifier_example_runs(tmp_path, monkeypatch, capsys):
    code = block("from sklearn.model_selection import GroupKFold").replace('"epochs": 30', '"epochs": 2')
    shutil.copytree(ROOT / "demo" / "speechocean", tmp_path / "demo" / "speechocean")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README", "exec"), {})
    assert capsys.readouterr().out.count("0.") == 5


def test_the_study_file_is_right():
    study = parse_study(yaml.safe_load(block("study: mine")), source="README")
    assert study.tasks == {"affect": "binary", "age": "regression"}


def test_the_cohort_tables_are_right(tmp_path):
    write_cohort(tmp_path, documents=block("document_id,group_id,affect"), segments=block("document_id,segment,audio"))
    for name in ("p001", "p002"):
        write_wave(tmp_path / "audio" / f"{name}.wav", 20)
    assert Cohort.load(tmp_path).document_ids == ["p001", "p002", "p003"]


def test_every_command_of_the_readme_exists():
    shown = set(re.findall(r"^ {4}.*?hilbert (\w+)", README, flags=re.M)) - {"import"}
    told = set(re.findall(r"`hilbert (\w+)", README))
    assert shown | told == set(make_parser()._subparsers._group_actions[0].choices)


@pytest.mark.parametrize("path", ["demo/study.yaml", "demo/release.yaml", "benchmarks/demo_cohort.yaml"])
def test_shipped_study_files_are_right(path):
    assert load_study(ROOT / path).search

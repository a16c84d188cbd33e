"""The house: imports go one way, and the folder `mlflow/` does not shadow the package of that name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("hilbert", "tune")
PLATFORM = {"ray", "optuna", "mlflow", "tune"}

# What a module may import of its own package, in layers: a module may import from the layers before its own.
HILBERT = [
    {"errors", "numeric", "files", "repeatable", "cells"},
    {"reading", "label_cells", "exports", "levels", "containers"},
    {"tables", "groups", "config", "ragged", "temporary", "spreadsheets", "plausible", "verified", "recordings"},
    {"people"},
    {"tasks", "segment_table", "audio", "store_files", "class_weights", "estimators", "documents"},
    {"store_checks", "columns"},
    {"losses", "metrics", "folds", "features", "cohort", "encoders", "attention", "pooling", "experts", "batches"},
    {"shards", "model", "calibration"},
    {"remarks"},
    {"extraction", "prediction", "objective", "learned"},
    {"trainer", "predicted", "release_files"},
    {"training", "release"},
    {"inference", "classifier"},
]
TUNE = [
    {"redaction", "shadowing", "streams", "own_ray"},
    {"terminal"},
    {
        *("options", "bars", "encoding", "space", "formats", "racing", "guard", "provenance", "packing", "gpu_memory"),
        *("database", "output", "tokens"),
    },
    {"stores", "checkpoints", "journal", "study_yaml", "address", "artifacts", "combinations"},
    {"job", "search", "study_file", "importance", "estimates", "room", "cluster"},
    {"predictions", "plots", "selection", "ledger", "records", "jobs", "lost", "workers"},
    {"searcher", "archive", "counting"},
    {"failures"},
    {"tracking", "privacy", "scheduling", "plan", "entries", "notes", "submit"},
    {"recount", "recorded"},
    {"design"},
    {"evidence", "extract"},
    {"contest", "tried"},
    {"progress", "comparison", "leaderboard", "runs", "study_files", "refit", "registry", "served"},
    {"choice"},
    {"recorder", "ui", "report", "side_by_side"},
    {"sweep", "candidate"},
    {"single", "challenge", "card"},
    {"release", "predict"},
    {"cli"},
]
ONLY_IN = {
    "ray": {
        "tune/own_ray.py",
        "tune/scheduling.py",
        "tune/searcher.py",
        "tune/workers.py",
        "tune/encoding.py",
        "tune/extract.py",
        "tune/jobs.py",
    },
    "optuna": {"tune/search.py", "tune/importance.py"},
    "mlflow": {
        "tune/tracking.py",
        "tune/artifacts.py",
        "tune/runs.py",
        "tune/recorder.py",
        "tune/registry.py",
        "tune/served.py",
    },
}


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports(path):
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def layer_of(path, package, layers):
    name = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
    found = [number for number, layer in enumerate(layers) if name in layer]
    assert len(found) == 1, f"{path.relative_to(ROOT)} has no layer: give it one here"
    return name, found[0]


@pytest.mark.parametrize(("package", "layers"), [("hilbert", HILBERT), ("tune", TUNE)])
def test_imports_go_one_way(package, layers):
    for path in modules(package):
        if path.relative_to(ROOT / package).parts == ("__init__.py",):
            continue
        name, mine = layer_of(path, package, layers)
        for target in imports(path):
            if target == package or not target.startswith(f"{package}."):
                continue
            other = target.split(".")[1]
            theirs = [number for number, layer in enumerate(layers) if other in layer]
            if path.name == "sweep.py" and other == "cli":
                continue  # as a script, `ray submit` runs it, it is the command itself
            assert not theirs or theirs[0] < mine or other == name, (
                f"{path.relative_to(ROOT)} imports {target}, which is not below it"
            )


def test_hilbert_never_imports_the_platform():
    for path in modules("hilbert"):
        assert not {name.split(".")[0] for name in imports(path)} & PLATFORM, path


def test_each_part_of_the_platform_is_imported_in_one_place():
    for path in modules("tune"):
        name = str(path.relative_to(ROOT))
        for package, places in ONLY_IN.items():
            used = any(target.split(".")[0] == package for target in imports(path))
            assert not used or name in places, f"{name} imports {package}"


def test_files_of_tune_shadow_no_standard_module():
    """`python tune/sweep.py` puts `tune/` first on the path."""
    names = {path.stem for path in modules("tune")} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)


def test_a_fit_needs_no_platform():
    code = (
        "import sys, hilbert.training, hilbert.extraction\n"
        "print(*sorted({'ray', 'optuna', 'mlflow', 'tune'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == ""


def test_the_mlflow_folder_holds_no_python():
    assert list((ROOT / "mlflow").iterdir())
    assert not list((ROOT / "mlflow").rglob("*.py"))


def test_the_real_mlflow_is_imported_from_the_repository():
    code = "import mlflow; print(mlflow.__version__, mlflow.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    assert str(ROOT / "mlflow") not in done.stdout


def test_distributions_hold_hilbert_and_tune_alone():
    from tomllib import loads

    from setuptools import find_packages

    find = loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    found = {name.split(".")[0] for name in find_packages(str(ROOT), include=find["include"])}
    assert found == set(PACKAGES)


def test_no_file_is_longer_than_one_concept():
    for package in PACKAGES:
        for path in modules(package):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_the_repository_speaks_of_itself_alone():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".json", ""} and path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")
            for word in ("/wo" + "rk/", "/ro" + "ot/", "pip.co" + "nf"):
                assert word not in text, f"{name} holds {word}"

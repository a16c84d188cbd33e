"""What all tests share: one thread a process, a Ray of their own, the demo's real features, and studies swept once."""

import os
import shutil
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="hilbert-ray-")  # no test finds what another Ray has left behind
os.environ["HILBERT_CACHE"] = tempfile.mkdtemp(prefix="hilbert-cache-")  # the user's own is left alone

import pytest
import torch
from sweeps import Done, Here, Swept, sweep_once

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


def pytest_unconfigure() -> None:
    for folder in ("RAY_TMPDIR", "HILBERT_CACHE"):
        shutil.rmtree(os.environ[folder], ignore_errors=True)


@pytest.fixture(scope="session")
def demo_store() -> Path:
    """The shipped features of 125 real speakers."""
    return ROOT / "demo" / "speechocean"


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test session have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def quick_sweep(shared_folder: Path, demo_store: Path) -> Swept:
    """The quick study on the demo's features, swept with one worker; to be copied."""
    return sweep_once(shared_folder / "quick", features=str(demo_store))


@pytest.fixture(scope="session")
def hashed_sweep(shared_folder: Path, demo_store: Path) -> Swept:
    """The same with two workers and hashed ids; to be copied."""
    resources = {"workers": 2}
    return sweep_once(shared_folder / "hashed", "--hash-ids", features=str(demo_store), resources=resources)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs a command in this process, which has imported all that takes seconds."""
    from tune.cli import main

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments: str | Path, folder: Path | None = None) -> Done:
        if folder is not None:
            monkeypatch.chdir(folder)
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's: help and wrong usage
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests may take longest come first, so that no core is idle at the end."""
    limits: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0), marker.args[0] if marker else 0)
    items.sort(key=lambda item: -limits[item.path])

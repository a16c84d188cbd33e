"""What all tests share: one thread a process, and a folder of the demo's real features."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def demo_store() -> Path:
    """The shipped features of 125 real speakers."""
    return ROOT / "demo" / "speechocean"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests may take longest come first, so that no core is idle at the end."""
    limits: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0), marker.args[0] if marker else 0)
    items.sort(key=lambda item: -limits[item.path])

"""Which cluster a sweep joins, and what it says where none answers."""

import socket

import pytest
import ray

from hilbert.errors import StudyError
from tune.scheduling import ray_cluster
from tune.space import ResourcesConfig


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """An address at which nobody listens, in a world without other clusters."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def joined():
    with ray_cluster(ResourcesConfig()):
        raise AssertionError("nobody is there")


def test_a_cluster_that_died_is_told_at_once_and_how_to_forget_it(nobody, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(nobody)
    with pytest.raises(
        StudyError, match=f"no Ray cluster answers at {nobody}.*ray_current_cluster; 'ray stop' forgets"
    ):
        joined()
    assert not ray.is_initialized()


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_a_cluster_that_is_named_and_not_there_is_told_at_once(nobody, monkeypatch, form):
    monkeypatch.setenv("RAY_ADDRESS", form.format(nobody))
    with pytest.raises(StudyError, match=r"no Ray cluster answers at .*: RAY_ADDRESS names it"):
        joined()
    assert not ray.is_initialized()

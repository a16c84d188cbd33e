"""Which cluster a sweep joins, and what it says where none answers."""

import socket
import sys

import pytest
import ray
from sweeps import run

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


CRITICAL = """
import threading
import time
import ray
from tune.scheduling import ray_cluster
from tune.space import ResourcesConfig

def forget():
    while references:
        ring = [references.pop()]
        ring.append(ring)  # freed by the garbage collector, in the thread that happens to call it
        if len(references) % 1000 == 0:
            time.sleep(0.005)

with ray_cluster(ResourcesConfig(workers=1)):
    references = [ray.put(number) for number in range(50)]
    references = [ray.ObjectRef(one.binary()) for one in references for _ in range(20_000)]
    busy = threading.Thread(target=forget)
    busy.start()
assert references, "it was busy all the time"
references.clear()
busy.join()
print("all is well")
"""


@pytest.mark.timeout(200)
def test_a_busy_thread_does_not_end_the_process_that_leaves_ray(tmp_path):
    script = tmp_path / "leave.py"
    script.write_text(CRITICAL)
    done = run([sys.executable, script], folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr

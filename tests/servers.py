"""Processes that tests start, stop and kill: sweeps, MLflow servers, Ray clusters.

Each is started in a session of its own, by which all that comes out of it is found, and ended, whoever its parent is.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sweeps import LIMIT, command, environment

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
for cpus in sys.stdin:
    print(cluster.add_node(num_cpus=int(cpus)).all_processes["raylet"][0].process.pid, flush=True)
"""


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    """Returns as soon as the condition holds; `process` must not end before."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.stderr.read() if process.stderr else ''}")
        assert time.monotonic() < deadline
        time.sleep(0.05)


def session(leader: int) -> dict[int, tuple[int, str]]:
    """Parent and title of every process in the session that `leader` began, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            _, parent, _, number = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            title = (entry / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
        except (OSError, ValueError):  # it has ended meanwhile, or is no process
            continue
        if int(number) == leader and title:
            found[int(entry.name)] = (int(parent), title)
    return found


def at_work(leader: int) -> dict[int, int]:
    """The workers of a session that train a fold job right now, each with its parent: the raylet of its node."""
    found = session(leader)
    return {process: parent for process, (parent, title) in found.items() if _is_training(title)}


def _is_training(title: str) -> bool:
    return title.startswith("ray::") and title.endswith(".train")


def kill(*processes: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Sends processes a signal; one may have ended already."""
    for process in processes:
        try:
            os.kill(process, how)
        except ProcessLookupError:
            continue


def end(process: subprocess.Popen[str]) -> None:
    """Kills a process and the whole session that it began."""
    while found := session(process.pid):
        kill(*found)
        process.poll()
        time.sleep(0.02)
    process.wait(LIMIT)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


@contextmanager
def started(*arguments: str | Path, folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs in `folder`; nothing of it is left afterwards."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """A real MLflow server on this machine, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[str] | None = None
        folder.mkdir()

    @property
    def uri(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it answers."""
        arguments = [f"--port={self.port}", "--workers=1", f"--backend-store-uri=sqlite:///{self.folder}/m.db"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments, f"--artifacts-destination={self.folder}/artifacts"],
            env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        wait_for(self.answers, self.process)

    def answers(self) -> bool:
        """Whether it takes connections."""
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Kills it."""
        if self.process is not None:
            end(self.process)
        self.process = None


class RayCluster:
    """A Ray cluster on this machine, whose head has one CPU; it outlives the sweeps that use it.

    Its temporary folder is its own, where no other Ray on this machine finds it: it is reached by its address alone.
    """

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory(prefix="hilbert-ray-")
        folder = Path(self.folder.name)
        with (folder / "said").open("wb") as said, (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CLUSTER],
                env=environment(RAY_TMPDIR=self.folder.name),
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        try:
            self.address = self._answer(0)
        except BaseException:
            self.__exit__()
            raise
        self.nodes = 0
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self.folder.cleanup()

    def add_node(self, cpus: int = 1) -> int:
        """Lets a node join; returns the process id of its raylet."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{cpus}\n")
        self.process.stdin.flush()
        self.nodes += 1
        return int(self._answer(self.nodes))

    def lose_node(self, raylet: int) -> None:
        """Kills a node: its raylet and all that this one has started."""
        kill(raylet, *(process for process, (parent, _) in session(self.process.pid).items() if parent == raylet))

    def at_work(self) -> dict[int, int]:
        """The workers that train a fold job right now, each with the raylet of its node."""
        return at_work(self.process.pid)

    def _answer(self, number: int) -> str:
        """A line of what the cluster's process has said."""
        said, log = Path(self.folder.name) / "said", Path(self.folder.name) / "log"
        wait_for(lambda: said.read_text().count("\n") > number or self.process.poll() is not None)
        assert self.process.poll() is None, log.read_text()
        return said.read_text().splitlines()[number]

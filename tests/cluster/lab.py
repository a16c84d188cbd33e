"""A lab of fake computers (netns.sh), and the real commands that are given on its laptop."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("netns.sh")
HEAD, WORKERS = "10.77.0.10", ("10.77.0.11", "10.77.0.12")
PROJECT = ("hilbert", "tune", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "demo/speechocean")
LIMIT = 240.0
PACKAGES = {"sshd": "openssh-server", "rsync": "rsync", "ip": "iproute2", "unshare": "util-linux", "curl": "curl"}


def why_impossible() -> str:
    """Why this machine can't hold the lab; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = {
        package for name, package in PACKAGES.items() if not shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    }
    if missing:
        return f"not installed: {', '.join(sorted(missing))}"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces are not permitted here: {tried.stderr.strip()}" if tried.returncode else ""


class Lab:
    """Laptop, head and workers, with nothing in common but a network."""

    def __init__(self) -> None:
        self.folder = Path("/var/tmp") / f"hilbert-lab-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
        self.environment = Path(sys.prefix)

    def do(self, *words: str) -> None:
        """Calls the script: up, down, crash HOST, boot HOST, plug HOST, unplug HOST."""
        done = subprocess.run(
            [str(SCRIPT), *words],
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr

    def command(self, host: str, *words: str) -> list[str]:
        """A command line that runs there."""
        return [str(SCRIPT), "run", host, *words]

    def start(self, host: str, *words: str, output: Path) -> "subprocess.Popen[bytes]":
        """Starts a command there, on the laptop in the project's folder."""
        with output.open("ab") as file:
            return subprocess.Popen(
                self.command(host, *words),
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, host: str, *words: str, limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
        """Runs a command there to its end."""
        return subprocess.run(
            self.command(host, *words),
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )

    def home(self, host: str) -> Path:
        """A computer's home folder, as seen from outside."""
        return self.folder / host / "home"

    def records(self, study: str) -> dict[str, dict[str, Any]]:
        """What the study's fold jobs found, by identity, without times."""
        return records(self.home("head") / "project" / "studies" / study / "jobs")

    def nodes(self) -> int:
        """Nodes that are alive, as the head sees it."""
        done = self.run("head", "bash", "-ic", "ray list nodes --format json --limit 100 --filter state=ALIVE")
        try:
            return len(json.loads(done.stdout[done.stdout.index("[") :]))
        except ValueError:
            return 0

    def make_project(self, cluster: Path, *studies: Path) -> None:
        """What a user has on the laptop: the project, study files, and the cluster's file with this lab's addresses."""
        project = self.home("laptop") / "project"
        for name in PROJECT:
            source, target = ROOT / name, project / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        content = yaml.safe_load(cluster.read_text(encoding="utf-8"))
        content["provider"] |= {"head_ip": HEAD, "worker_ips": list(WORKERS)}
        content["auth"]["ssh_user"] = "root"
        content["file_mounts"] |= {f"~/project/{study.name}": study.name for study in studies}
        (project / "lab.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=1000), encoding="utf-8")
        for study in studies:
            shutil.copy(study, project)

    def _variables(self) -> dict[str, str]:
        there = str(Path("~root").expanduser() / "project")
        given = {"LAB": self.folder, "ENVIRONMENT": self.environment, "CHECKOUT": ROOT, "FOLDER": there}
        return os.environ | {name: str(value) for name, value in given.items()}


@contextmanager
def lab() -> Iterator[Lab]:
    """A lab, and nothing of it afterwards, also where the tests are terminated, nor of one that was killed before."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    made = Lab()
    made.do("down")
    shutil.rmtree(made.folder, ignore_errors=True)
    try:
        made.do("up")
        yield made
    finally:
        made.do("down")


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of fold jobs without what differs from run to run: times, and the machine's load."""
    found = {}
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for name in ("started", "seconds", "checksum"):
            del content[name]
        content["epochs"].pop("seconds", None)
        found[path.name] = content
    return found


def eventually(
    condition: Callable[[], Any], limit: float = LIMIT, *, unless: Sequence["subprocess.Popen[bytes]"] = ()
) -> Any:
    """Returns the condition's value as soon as it holds; none of the processes may end before."""
    deadline = time.monotonic() + limit
    while not (found := condition()):
        for process in unless:
            assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found

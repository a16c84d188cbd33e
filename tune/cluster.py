"""A cluster as the laptop sees it: its file, `ray up`, and an ssh tunnel to its head. Needs Ray's command, not its package.

The job server of a Ray cluster runs programs for whoever reaches it. It listens on the head's own address 127.0.0.1
alone; what reaches it comes through ssh, and with the cluster's token.
"""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from hilbert.errors import HilbertError, InputError
from tune.guard import end_guarded, start_guarded

HERE = "127.0.0.1"
LAST_LINES = 12
"""Of the output of a command that failed."""
TUNNEL_LIMIT = 60.0
"""Seconds that ssh has to open a tunnel."""


class ClusterError(HilbertError):
    """The cluster can't be started or reached."""


@dataclass(frozen=True)
class ClusterFile:
    """What of a cluster file, as `ray up` takes it, a submission needs.

    Attributes:
        path: the file.
        mounts: folders and files that `ray up` copies: those here, resolved, by where they go on the cluster.
        workers: nodes that the cluster starts by itself, beside the head; the others come when they are asked for.
    """

    path: Path
    mounts: Mapping[str, Path]
    workers: int

    def place_of(self, folder: Path) -> PurePosixPath:
        """Where a folder of this computer lies on the cluster.

        Raises:
            InputError: `ray up` doesn't copy it there.
        """
        found = [(target, source) for target, source in self.mounts.items() if folder.is_relative_to(source)]
        if not found:
            raise InputError(
                f"{self.path}: file_mounts doesn't bring {folder} to the cluster, only {_listed(self.mounts)}; run the "
                "command in a folder that it does, or say with --folder where the cluster has this one"
            )
        target, source = max(found, key=lambda mount: len(mount[1].parts))
        return PurePosixPath(target) / folder.relative_to(source).as_posix()


def read_cluster_file(path: Path) -> ClusterFile:
    """Reads a cluster file; Ray itself checks the rest of it.

    Raises:
        InputError: there is none, or it is not one, or something that it copies to the cluster is missing.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such cluster file; --cluster names the file that 'ray up' takes") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: can't be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not isinstance(content.get("provider"), dict):
        raise InputError(f"{path}: a cluster file has the keys 'cluster_name' and 'provider'; this is not one")
    mounts = {str(target): Path(source).expanduser() for target, source in (content.get("file_mounts") or {}).items()}
    for target, source in mounts.items():
        if not source.exists():
            advice = "; 'ray get-auth-token --generate' makes the token" if source.name == "auth_token" else ""
            raise InputError(f"{path}: file_mounts: {target}: there is no {source} here{advice}")
    resolved = {target: source.resolve() for target, source in mounts.items()}
    return ClusterFile(path, resolved, workers_at_once(content))


def workers_at_once(content: Mapping[str, Any]) -> int:
    """How many workers a cluster starts before anybody asks for them: its listed machines, or `min_workers`."""
    provider = content["provider"]
    if provider.get("type") == "local":
        return len(provider.get("worker_ips") or [])
    head = content.get("head_node_type")
    kinds = content.get("available_node_types") or {}
    return sum(int(kind.get("min_workers") or 0) for name, kind in kinds.items() if name != head)


def ray_up(cluster: ClusterFile, *, restart: bool) -> None:
    """Starts a cluster, or brings one that runs up to date; what it says goes to stderr as it comes.

    Args:
        cluster: its file.
        restart: begin anew what runs of Ray on the head, and with it all jobs; needed where nothing runs.

    Raises:
        ClusterError: `ray up` failed; with its last lines.
    """
    command = [ray_command(), "up", "--yes", str(cluster.path), *([] if restart else ["--no-restart"])]
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stderr.write(line)
            last.append(line)
    if process.returncode:
        raise ClusterError(
            f"'{shlex.join(['ray', *command[1:]])}' failed with exit code {process.returncode}; its last lines:\n"
            + "".join(last).rstrip()
        )


@contextmanager
def tunnel(cluster: Path) -> Iterator[str]:
    """An ssh tunnel to the job server of the cluster's head, kept open within the context; yields its address here.

    Raises:
        ClusterError: the head is not known, or doesn't take the connection; with what Ray says.
    """
    port = free_port()
    with tempfile.TemporaryFile() as output:
        command = [ray_command(), "dashboard", str(cluster), "--port", str(port)]
        process = start_guarded(command, environment=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}, output=output)
        try:
            deadline = time.monotonic() + TUNNEL_LIMIT
            while not is_open(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    said = output.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
                    raise ClusterError(f"no connection to the head of {cluster}:\n" + "\n".join(said))
                time.sleep(0.1)
            yield f"http://{HERE}:{port}"
        finally:
            end_guarded(process)


def ray_command() -> str:
    """Ray's command, of the environment that this process runs in."""
    beside = Path(sysconfig.get_path("scripts")) / "ray"
    found = str(beside) if beside.exists() else shutil.which("ray")
    if not found:
        raise ClusterError("Ray's command 'ray' is not installed: pip install 'ray[default,tune]'")
    return found


def free_port() -> int:
    """A port of this computer that nobody listens on."""
    with socket.socket() as found:
        found.bind((HERE, 0))
        return int(found.getsockname()[1])


def is_open(port: int) -> bool:
    """Whether somebody listens on a port of this computer."""
    with socket.socket() as tried:
        return tried.connect_ex((HERE, port)) == 0


def in_shell(path: str) -> str:
    """A path as a shell takes it, a leading `~` left to mean its home."""
    if path == "~":
        return "~"
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


def _listed(mounts: Mapping[str, Path]) -> str:
    return ", ".join(str(source) for source in mounts.values()) or "nothing"

"""A cluster as the laptop sees it: its file, `ray up`, and an ssh tunnel to its head. Needs no more than Ray's command.

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter

from hilbert.errors import HilbertError, InputError
from hilbert.reading import Content, checked, content_of, explained
from tune.guard import end_guarded, start_guarded
from tune.tokens import close_token

HERE, JOB_SERVER_PORT = "127.0.0.1", 8265
SSH_OPTIONS = (  # as Ray's own
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ExitOnForwardFailure=yes",
    "IdentitiesOnly=yes",
    "LogLevel=ERROR",
    "ServerAliveCountMax=3",
    "ServerAliveInterval=5",
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
)
LARGEST_FILE = 1 << 20
"""Bytes of a cluster file, at most."""
LAST_LINES = 12
"""Of the output of a command that failed."""
TUNNEL_LIMIT = 60.0
"""Seconds that ssh has to open a tunnel."""


class ClusterError(HilbertError):
    """The cluster can't be started or reached."""


class UnreachableError(ClusterError):
    """The head doesn't take a connection, or there is none."""


@dataclass(frozen=True)
class ClusterFile:
    """What of a cluster file, as `ray up` takes it, a submission needs.

    Attributes:
        path: the file.
        mounts: folders and files that `ray up` copies: where they go on the cluster, to where they are here.
        workers: nodes that the cluster starts by itself, beside the head; the others come when they are asked for.
        ssh: how ssh reaches the head, where the file says which machine it is; else only Ray knows.
    """

    path: Path
    mounts: Mapping[str, Path]
    workers: int
    ssh: Sequence[str] = ()

    def folder_of(self, paths: Sequence[Path]) -> str:
        """The folder of the cluster that stands for this one: what runs there finds the same relative paths.

        Args:
            paths: what must be found there, relative to this folder.

        Raises:
            InputError: `ray up` doesn't copy one of them, or copies them to different folders.
        """
        folders = {path: self._folder(path) for path in paths}
        if len(set(folders.values())) > 1:
            places = ", ".join(f"{path} below {folder}" for path, folder in folders.items())
            raise InputError(f"{self.path}: file_mounts: must bring all to one folder, and brings {places}")
        return next(iter(folders.values()))

    def _folder(self, path: Path) -> str:
        there = [(place, source) for place, source in self.mounts.items() if path.absolute().is_relative_to(source)]
        if not there:
            raise InputError(
                f"{self.path}: file_mounts doesn't bring {path} to the cluster; add the line "
                f'"~/project/{path}": {path}'
            )
        place, source = max(there, key=lambda mount: len(mount[1].parts))
        whole = PurePosixPath(place) / path.absolute().relative_to(source).as_posix()
        if whole.parts[-len(path.parts) :] != path.parts:
            raise InputError(f"{self.path}: file_mounts: brings {path} to {whole}, which must end like {path} itself")
        return str(PurePosixPath(*whole.parts[: -len(path.parts)]))


def read_cluster_file(path: Path) -> ClusterFile:
    """Reads a cluster file; Ray itself checks the rest of it.

    Raises:
        InputError: there is none, or it is not one, or something that it copies to the cluster is missing.
    """
    content = _content(path)
    try:
        mounts = {name: Path(source).expanduser() for name, source in (content.get("file_mounts") or {}).items()}
    except RuntimeError as error:  # ~somebody
        raise InputError(f"{path}: file_mounts: {error}") from None
    for target, source in mounts.items():
        if not source.exists():
            advice = "; 'ray get-auth-token --generate' makes the token" if source.name == "auth_token" else ""
            raise InputError(f"{path}: file_mounts: {target}: there is no {source} here{advice}")
    close_token()
    found = {target: Path(os.path.abspath(source)) for target, source in mounts.items()}  # noqa: PTH100
    return ClusterFile(path, found, workers_at_once(content), way_to_head(content))


def _content(path: Path) -> dict[str, Any]:
    """What is in a cluster file, checked as far as it is read here."""
    if not os.path.lexists(path):
        raise InputError(f"{path}: no such cluster file; --cluster names the file that 'ray up' takes")
    with explained(path, InputError, "--cluster names the file that 'ray up' takes"):
        text = content_of(path, largest=LARGEST_FILE)
    try:
        content = yaml.safe_load(text.decode())
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # no UTF-8, no such date, nested too deeply
        raise InputError(f"{path}: can't be read as YAML ({' '.join(str(error).split())[:300]})") from None
    if not isinstance(content, dict) or not isinstance(content.get("provider"), dict):
        raise InputError(f"{path}: a cluster file has the keys 'cluster_name' and 'provider'; this is not one")
    with explained(path, InputError, "see 'ray up'"):
        checked(content, _CLUSTER)
    return content


class _Provider(Content):
    type: str | None = None
    head_ip: str | None = None
    worker_ips: list[str] | None = None


class _Auth(Content):
    ssh_user: str | None = None
    ssh_private_key: str | None = None
    ssh_proxy_command: str | None = None


class _NodeType(Content):
    min_workers: Annotated[int, Field(ge=0, le=100_000)] | None = None


class _Cluster(Content):
    provider: _Provider
    auth: _Auth | None = None
    file_mounts: dict[str, str] | None = None
    head_node_type: str | None = None
    available_node_types: dict[str, _NodeType] | None = None


_CLUSTER = TypeAdapter(_Cluster)


def workers_at_once(content: Mapping[str, Any]) -> int:
    """How many workers a cluster starts before anybody asks for them: its listed machines, or `min_workers`."""
    provider = content["provider"]
    if provider.get("type") == "local":
        return len(provider.get("worker_ips") or [])
    head = content.get("head_node_type")
    kinds = content.get("available_node_types") or {}
    return sum(int(kind.get("min_workers") or 0) for name, kind in kinds.items() if name != head)


def way_to_head(content: Mapping[str, Any]) -> list[str]:
    """The arguments by which ssh reaches the head of a cluster of listed machines; none for others.

    Ray finds such a head by a file in /tmp that it wrote when it started it: not any more after this computer rebooted.
    """
    head, auth = content["provider"].get("head_ip"), content.get("auth") or {}
    if not head:
        return []
    key = ["-i", str(Path(auth["ssh_private_key"]).expanduser())] if auth.get("ssh_private_key") else []
    proxy = ["-o", f"ProxyCommand={auth['ssh_proxy_command']}"] if auth.get("ssh_proxy_command") else []
    return [*key, *proxy, f"{auth['ssh_user']}@{head}" if auth.get("ssh_user") else str(head)]


def ray_up(cluster: ClusterFile, *, restart: bool) -> None:
    """Starts a cluster, or brings one that runs up to date; what it says goes to stderr as it comes.

    Args:
        cluster: its file.
        restart: begin anew what runs of Ray on the head, and with it all jobs; needed where nothing runs.

    Raises:
        ClusterError: `ray up` failed; with its last lines.
    """
    command = [ray_command(), "up", "--yes", "--log-style", "pretty", *([] if restart else ["--no-restart"])]
    command.append(str(cluster.path))
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
def tunnel(cluster: ClusterFile) -> Iterator[str]:
    """An ssh tunnel to the job server of the cluster's head, kept open within the context; yields its address here.

    Raises:
        UnreachableError: the head is not known, or doesn't take the connection; with what ssh or Ray says.
    """
    port = free_port()
    with tempfile.TemporaryFile() as output:
        process = start_guarded(
            tunnel_command(cluster, port), environment=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}, output=output
        )
        try:
            deadline = time.monotonic() + TUNNEL_LIMIT
            while not is_open(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    said = output.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
                    raise UnreachableError(f"no connection to the head of {cluster.path}:\n" + "\n".join(said))
                time.sleep(0.1)
            yield f"http://{HERE}:{port}"
        finally:
            end_guarded(process)


def tunnel_command(cluster: ClusterFile, port: int) -> list[str]:
    """Opens a port of this computer that leads to the job server."""
    if not cluster.ssh:
        return [ray_command(), "dashboard", str(cluster.path), "--port", str(port)]
    options = [word for option in SSH_OPTIONS for word in ("-o", option)]
    return ["ssh", "-N", *options, "-L", f"{HERE}:{port}:{HERE}:{JOB_SERVER_PORT}", *cluster.ssh]


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

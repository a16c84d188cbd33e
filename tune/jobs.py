"""Sweeps as jobs of a Ray cluster: they run on its head, and go on when whoever submitted them has gone.

A job is named `hilbert-STUDY-N`, N counted from 1 for every study: Ray takes a name once, so that of two who submit the
same study at once only one starts it. Speaks to the job server over HTTP; nothing of this process joins the cluster.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobSubmissionClient
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from hilbert.errors import InputError
from tune.cluster import ClusterError

ACTIVE = frozenset({"PENDING", "RUNNING"})
LOST = (OSError, RuntimeError, RayStateApiException, asyncio.TimeoutError)
"""What Ray's clients raise when the server doesn't answer; aiohttp's errors of connections are OSErrors."""
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""A job is stopped as by Ctrl-C: the sweep keeps what is finished, and MLflow has all of it."""


@dataclass(frozen=True)
class Job:
    """A sweep that was submitted. `exit_code` is None while it runs, and where Ray lost it."""

    name: str
    status: str
    command: str
    exit_code: int | None = None
    message: str = ""

    @property
    def active(self) -> bool:
        """Whether it runs or is about to."""
        return self.status in ACTIVE


@dataclass(frozen=True)
class Attach:
    """The sweep runs already: follow this job."""

    name: str


@dataclass(frozen=True)
class Start:
    """Nothing of the study runs: submit a job of this name."""

    name: str


def decide(study: str, jobs: Iterable[Job], command: str | None = None) -> Attach | Start:
    """Whether a study's sweep is followed or started.

    Args:
        study: name of the study.
        jobs: all jobs that the cluster knows.
        command: what is to run; a sweep that runs with another one is not taken for it. None: whatever runs.

    Raises:
        InputError: the study runs with other arguments.
    """
    pattern = re.compile(re.escape(f"hilbert-{study}-") + r"(\d+)")
    mine = {int(match[1]): job for job in jobs if (match := pattern.fullmatch(job.name))}
    for _, job in sorted(mine.items()):
        if job.active and command not in (None, job.command):
            raise InputError(
                f"study {study!r} is running with other arguments:\n  {job.command}\nnot\n  {command}\n"
                "give those to follow it, or stop it first with --stop"
            )
        if job.active:
            return Attach(job.name)
    return Start(f"hilbert-{study}-{max(mine, default=0) + 1}")


class JobServer:
    """The job server of a cluster, at an address such as http://127.0.0.1:8265."""

    def __init__(self, address: str) -> None:
        """Connects.

        Raises:
            ClusterError: no job server answers there.
            InputError: it refuses the token.
        """
        use_token()
        os.environ.pop("RAY_ADDRESS", None)  # it would go before the address
        self.address = address
        try:
            self.client = JobSubmissionClient(address)
        except LOST as error:
            if "401" in str(error) or "403" in str(error) or "nauthenticated" in str(error):
                raise InputError(
                    f"the cluster refuses the token of this computer, {token_file()}: it must be that of the cluster"
                ) from None
            raise ClusterError(f"no job server answers at {address}: {first_line(error)}") from None

    def jobs(self) -> list[Job]:
        """All jobs that the cluster knows, of others too."""
        return [_job(found) for found in self.client.list_jobs() if found.submission_id]

    def job(self, name: str) -> Job:
        """How a job is.

        Raises:
            RuntimeError: the cluster knows no such job: it has been started anew.
        """
        return _job(self.client.get_job_info(name))

    def submit(self, name: str, command: str) -> None:
        """Starts a job, unless somebody has just started the one of this name."""
        try:
            self.client.submit_job(
                entrypoint=command, submission_id=name, runtime_env={"env_vars": STOPPING}, metadata={"hilbert": "sweep"}
            )
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise ClusterError(f"the cluster didn't take the job: {first_line(error)}") from None

    def stop(self, name: str) -> None:
        """Asks a job to end; returns at once."""
        self.client.stop_job(name)

    def follow(self, name: str, write: Callable[[str], object], *, skip: int = 0) -> int:
        """Writes what a job says, from the beginning, until it ends.

        Args:
            name: the job.
            write: takes the text as it comes.
            skip: characters that have been written before.

        Returns:
            How many characters there are by now.
        """
        seen = 0

        async def read() -> None:
            nonlocal seen
            async for text in self.client.tail_job_logs(name):
                write(text[max(0, skip - seen) :])
                seen += len(text)

        try:
            asyncio.run(read())
        except LOST:
            return max(seen, skip)
        return seen

    def usable(self, cpus: float, gpus: float) -> tuple[int, int]:
        """How many nodes there are, and how many of them are large enough for a fold job."""
        nodes = [node.resources_total for node in list_nodes(self.address, timeout=10) if node.state == "ALIVE"]
        return len(nodes), sum(_has(there, "CPU", cpus) and _has(there, "GPU", gpus) for there in nodes)


def use_token() -> None:
    """Speaks to clusters with this computer's token, if it has one."""
    if token_file().exists() or "RAY_AUTH_TOKEN" in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def token_file() -> Path:
    """Where Ray keeps the token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _has(there: dict[str, float], kind: str, amount: float) -> bool:
    return float(there.get(kind, 0)) + 1e-9 >= amount


def _job(found: "JobDetails") -> Job:  # type: ignore[name-defined]  # noqa: F821
    return Job(
        name=found.submission_id or "",
        status=str(found.status.value),
        command=found.entrypoint,
        exit_code=found.driver_exit_code,
        message=found.message or "",
    )

"""Sweeps as jobs of a Ray cluster: they run on its head, and go on when whoever submitted them has gone.

A job is named `hilbert-STUDY-N`, N counted from 1 for every study: Ray takes a name once, so that of two who submit the
same study at once only one starts it. Speaks to the job server over HTTP; nothing of this process joins the cluster.
"""

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from hilbert.errors import HilbertError, InputError, shown
from tune.cluster import ClusterError
from tune.redaction import printable
from tune.tokens import token_file, use_token

use_token()

from ray.exceptions import AuthenticationError  # noqa: E402
from ray.job_submission import JobSubmissionClient  # noqa: E402
from ray.util.state import list_nodes  # noqa: E402
from ray.util.state.exception import RayStateApiException  # noqa: E402

ACTIVE = frozenset({"PENDING", "RUNNING"})
LOST = (OSError, RuntimeError, RayStateApiException, aiohttp.ClientError)
"""What Ray's clients raise when the server doesn't answer."""
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""A job is stopped as by Ctrl-C: the sweep keeps what is finished, and MLflow has all of it."""


class UnknownJobError(HilbertError):
    """The cluster knows no job of this name."""


@dataclass(frozen=True)
class Job:
    """A job: `exit_code` is None while it runs, and where Ray lost it; `started` is in milliseconds."""

    name: str
    status: str
    command: str
    exit_code: int | None = None
    message: str = ""
    started: int = 0

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
                f"study {shown(study)} is running with other arguments:\n  {job.command}\nnot\n  {command}\n"
                "give those to follow it, or stop it first with --stop"
            )
        if job.active:
            return Attach(job.name)
    return Start(f"hilbert-{study}-{max(mine, default=0) + 1}")


class JobServer:
    """The job server of a cluster, at an address such as http://127.0.0.1:8265.

    Whatever is asked of it raises `ClusterError` where it doesn't answer.
    """

    def __init__(self, address: str) -> None:
        """Connects.

        Raises:
            ClusterError: no job server answers there.
            InputError: it refuses the token.
        """
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)  # they would go before the address
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        self.address = address
        with self._answering():
            self.client = JobSubmissionClient(address)

    def jobs(self) -> list[Job]:
        """All jobs that the cluster knows, of others too."""
        with self._answering():
            return [_job(found) for found in self.client.list_jobs() if found.submission_id]

    def busy(self) -> bool:
        """Whether anything runs on the cluster, submitted or not."""
        with self._answering():
            return any(found.status.value in ACTIVE for found in self.client.list_jobs())

    def job(self, name: str) -> Job:
        """How a job is.

        Raises:
            UnknownJobError: the cluster knows no such job: it has been started anew.
        """
        with self._answering():
            try:
                return _job(self.client.get_job_info(name))
            except RuntimeError as error:
                if "does not exist" in str(error):
                    raise UnknownJobError(name) from None
                raise

    def submit(self, name: str, command: str, variables: Mapping[str, str]) -> None:
        """Starts a job, unless somebody has just started the one of this name.

        Args:
            name: the job.
            command: for a shell on the head.
            variables: its environment there, beside what is there.
        """
        environment = {"env_vars": {**variables, **STOPPING}}
        with self._answering():
            try:
                self.client.submit_job(entrypoint=command, submission_id=name, runtime_env=environment)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise

    def stop(self, name: str) -> None:
        """Asks a job to end; returns at once."""
        with self._answering():
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
        with self._answering():
            nodes = [node.resources_total for node in list_nodes(self.address, timeout=10) if node.state == "ALIVE"]
        return len(nodes), sum(_has(there, "CPU", cpus) and _has(there, "GPU", gpus) for there in nodes)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise InputError(
                f"the cluster refuses this computer: {first_line(error)}; {token_file()} must hold the cluster's token"
            ) from None
        except LOST as error:
            raise ClusterError(f"the job server at {self.address} doesn't do it: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])[:300]


def _has(there: dict[str, float], kind: str, amount: float) -> bool:
    return float(there.get(kind, 0)) + 1e-9 >= amount


def _job(found: Any) -> Job:
    return Job(
        name=found.submission_id or "",
        status=str(found.status.value),
        command=found.entrypoint,
        exit_code=found.driver_exit_code,
        message=found.message or "",
        started=found.start_time or 0,
    )

"""`hilbert submit`: a sweep on a cluster, from a laptop that may be closed meanwhile.

    laptop: hilbert submit  --ray up, ssh-->  head: job server, `hilbert sweep` as a job  -->  workers: fold jobs

The job runs on the head and needs the laptop no more. The same command follows it again; when it has ended, however,
the same command starts it anew, and the sweep goes on from what is finished.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from hilbert.errors import InputError, shown
from tune.cluster import ClusterError, ClusterFile, UnreachableError, in_shell, ray_up, read_cluster_file, tunnel
from tune.jobs import Attach, Job, JobServer, Start, UnknownJobError, decide
from tune.options import DONE, FAILED, INTERRUPTED
from tune.redaction import has_password, printable
from tune.space import Study, is_url
from tune.study_file import load_study
from tune.terminal import tell

ASK_EVERY = 2.0
"""Seconds between two looks at something that is waited for."""
ANSWER_LIMIT = 60.0
"""Seconds that the job server has to answer after `ray up`."""
FIRST_LOOK = 10.0
"""Seconds that it has before, where the head may not run Ray at all."""
PATIENCE = 600.0
"""Seconds without a connection after which nobody waits any longer; the job goes on."""
SET_ADDRESS = "tracking_uri="
"""What an override of the study file's address begins with."""
SETTLING = 15.0
"""Seconds between the end of a job's output and its status."""


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; `cluster` or `address` is given.

    Attributes:
        study: the study.
        command: what runs on the head.
        cluster: its file.
        address: of a job server that is reached without one.
        up: start the cluster, or bring it up to date, with `ray up`.
        wait: minutes to wait for nodes.
        again: the command that attaches again.
        variables: the command's environment: a tracking address with a password, which others shall not read there.
    """

    study: Study
    command: str
    cluster: ClusterFile | None
    address: str | None
    up: bool
    wait: float
    again: str
    variables: Mapping[str, str] = field(default_factory=dict)


def request(options: argparse.Namespace) -> Request:
    """Checks what was asked for, before anything is started.

    Raises:
        InputError: a file is missing or wrong, or lies where the cluster can't have it.
    """
    study = load_study(options.study, options.overrides)
    cluster = read_cluster_file(options.cluster) if options.cluster else None
    file = within(options.study, "the study file")
    needed = [
        file,
        *(
            within(Path(store), "features")
            for store in study.stores.values()
            if not is_url(store) and not Path(store).is_absolute()
        ),
    ]
    if options.folder:
        folder = options.folder
    elif cluster:
        folder = cluster.folder_of(needed)
    else:
        raise InputError("--address alone doesn't tell where the cluster has this folder: add --folder PATH")
    return Request(
        study,
        sweep_command(folder, file, options),
        cluster,
        options.address,
        options.up,
        options.wait,
        shlex.join(["hilbert", *again(options)]),
        {"MLFLOW_TRACKING_URI": uri} if (uri := _secret_address(options)) else {},
    )


def within(path: Path, what: str) -> Path:
    """A path as seen from this folder, so that it means the same on the cluster.

    Raises:
        InputError: it lies elsewhere.
    """
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - a link keeps its name
    if not whole.is_relative_to(Path.cwd()):
        raise InputError(
            f"{path}: {what} must lie in this folder, {Path.cwd()}, to be found on the cluster too: run the command in "
            "the folder of your project"
        )
    return whole.relative_to(Path.cwd())


def sweep_command(folder: str, study: Path, options: argparse.Namespace) -> str:
    """The command line on the cluster, for a shell there."""
    secret = _secret_address(options)
    words = ["hilbert", "sweep", study.as_posix(), *_changes(options, passwords=False)]
    where = f" # recording to {printable(secret)}" if secret else ""  # so that commands of other addresses differ
    return f"cd {in_shell(folder)} && exec {shlex.join(words)}{where}"


def _secret_address(options: argparse.Namespace) -> str | None:
    """The tracking address, where it holds a password."""
    given = [word.removeprefix(SET_ADDRESS) for word in options.overrides if _is_secret_address(word)]
    uri: str | None = options.tracking_uri or (given[-1] if given else None)
    return uri if uri and has_password(uri) else None


def _is_secret_address(override: str) -> bool:
    return override.startswith(SET_ADDRESS) and has_password(override)


def again(options: argparse.Namespace) -> list[str]:
    """The command line that follows the same sweep again."""
    where = ["--cluster", str(options.cluster)] if options.cluster else ["--address", options.address]
    folder = ["--folder", options.folder] if options.folder else []
    return ["submit", str(options.study), *_changes(options), *where, *folder, *([] if options.up else ["--no-up"])]


def _changes(options: argparse.Namespace, *, passwords: bool = True) -> list[str]:
    """The options that both commands have; without `passwords` no tracking address that holds one."""
    uri = options.tracking_uri
    overrides = [word for word in options.overrides if passwords or not _is_secret_address(word)]
    found = ["--set", *overrides] if overrides else []
    found += ["--tracking-uri", uri] if uri and (passwords or not has_password(uri)) else []
    return found + (["--hash-ids"] if options.hash_ids else [])


def submit(asked: Request) -> int:
    """Submits a sweep, or finds it running, and follows it to its end; returns its exit code.

    Raises:
        InputError: it runs with other arguments, or the cluster refuses the token.
        ClusterError: the cluster can't be started or reached, or no node comes.
    """
    name: str | None = None
    try:
        name = _running(asked) or _started(asked)
        return _follow(asked, name)
    except KeyboardInterrupt:
        say("\ndetached; the sweep goes on" if name else "\ninterrupted; no sweep was started")
        if name:
            say(f"follow it again: {asked.again}\nend it:          {asked.again} --stop")
        return INTERRUPTED


def stop(asked: Request) -> int:
    """Ends a study's sweep as Ctrl-C would; returns when it has ended.

    Raises:
        InputError: nothing of the study runs.
        ClusterError: the cluster can't be reached.
    """
    with _server(asked, FIRST_LOOK) as server:
        found = decide(asked.study.study, server.jobs())
        if not isinstance(found, Attach):
            raise InputError(f"no sweep of study {shown(asked.study.study)} runs on the cluster")
        say(f"stopping {found.name} ...")
        server.stop(found.name)
        while server.job(found.name).active:
            time.sleep(ASK_EVERY / 4)
    say(f"stopped; what is finished is kept, and the sweep goes on from there with: {asked.again}")
    return DONE


def say(text: str) -> None:
    """Progress and advice, beside the sweep's own output."""
    tell(text)


@contextmanager
def _server(asked: Request, limit: float) -> Iterator[JobServer]:
    """The cluster's job server, through a tunnel or where it was said to be; it may take `limit` seconds to answer."""
    with tunnel(asked.cluster) if asked.cluster else nullcontext(asked.address or "") as address:
        deadline = time.monotonic() + limit
        while True:
            try:
                server = JobServer(address)
                break
            except ClusterError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(ASK_EVERY / 4)
        yield server


def _running(asked: Request) -> str | None:
    """Name of the study's job, if one runs; brings the cluster up if none does."""
    busy = False
    try:
        with _server(asked, FIRST_LOOK) as server:
            busy = server.busy()
            found = decide(asked.study.study, server.jobs(), asked.command)
            if isinstance(found, Attach):
                say(f"{found.name} is running: following it")
                return found.name
    except ClusterError as error:
        listed = asked.cluster is not None and bool(asked.cluster.ssh)
        if not asked.up or asked.cluster is None or (listed and isinstance(error, UnreachableError)):
            raise  # a head that ssh doesn't reach now is not to be restarted as soon as it does
    if asked.up and asked.cluster:
        say("ray up: others work on the cluster, so that it only gets new files ..." if busy else "ray up ...")
        ray_up(asked.cluster, restart=not busy)
    return None


def _started(asked: Request) -> str:
    """Submits the sweep as soon as there is a node for it; the name of its job."""
    with _server(asked, ANSWER_LIMIT) as server:
        if asked.cluster is None or asked.cluster.workers:
            _wait_for_nodes(server, asked)
        else:
            say("nodes come when the sweep asks for them")
        found = decide(asked.study.study, server.jobs(), asked.command)
        if isinstance(found, Start):
            server.submit(found.name, asked.command, asked.variables)
            say(f"submitted {found.name}: {asked.command}\nCtrl-C leaves it running; to end it: {asked.again} --stop")
        if asked.cluster:
            say(f"MLflow is at http://localhost:5000 while this is open: ray attach {asked.cluster.path} -p 5000")
        return found.name


def _wait_for_nodes(server: JobServer, asked: Request) -> None:
    resources = asked.study.resources
    needs = f"{resources.cpus_per_job:g} CPUs and {resources.gpus_at_first:g} GPUs"
    deadline = time.monotonic() + 60 * asked.wait
    said = None
    while True:
        nodes, usable = server.usable(resources.cpus_per_job, resources.gpus_at_first)
        if (nodes, usable) != said:
            say(f"nodes: {nodes} there, {usable} of them large enough for a fold job ({needs})")
            said = (nodes, usable)
        if usable:
            return
        if time.monotonic() > deadline:
            raise ClusterError(
                f"no node that is large enough for a fold job ({needs}) joined within {asked.wait:g} minutes; "
                f"there are {nodes} nodes, the head included: 'ray monitor' and the log files on the head tell why"
            )
        time.sleep(ASK_EVERY)


def _follow(asked: Request, name: str) -> int:
    """Writes what the job says until it ends, through as many connections as it takes; returns its exit code."""
    written, started, last_seen = 0, 0, time.monotonic()
    while True:
        try:
            with _server(asked, FIRST_LOOK) as server:
                job, last_seen = server.job(name), time.monotonic()
                if job.started != started:  # the head was started anew, and somebody went on with the sweep
                    started, written = job.started, 0
                written = server.follow(name, _write, skip=written)
                job = _ended(server, name)
                if not job.active:
                    return exit_code(job)
        except UnknownJobError:
            raise ClusterError(
                f"the cluster has been started anew and knows {name} no more; go on with: {asked.again}"
            ) from None
        except ClusterError:
            if time.monotonic() - last_seen > PATIENCE:
                raise ClusterError(
                    f"no connection for {PATIENCE / 60:g} minutes; the sweep may go on; see: {asked.again}"
                ) from None
        say("connection lost; trying again (Ctrl-C detaches) ...")
        time.sleep(ASK_EVERY)


def _ended(server: JobServer, name: str) -> Job:
    """The job after its output ended, which is a moment before its status says so."""
    deadline = time.monotonic() + SETTLING
    while (job := server.job(name)).active and time.monotonic() < deadline:
        time.sleep(ASK_EVERY / 10)
    return job


def exit_code(job: Job) -> int:
    """What a job that has ended means for the shell; says why, where its output doesn't."""
    if job.status == "SUCCEEDED":
        return DONE
    if job.status == "STOPPED":
        say("the sweep was stopped; what is finished is kept")
        return INTERRUPTED
    if job.exit_code is None or job.exit_code < 0:
        say(f"the cluster ended the job: {job.message}")
    return job.exit_code if job.exit_code and job.exit_code > 0 else FAILED


def _write(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()

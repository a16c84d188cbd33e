"""The `hilbert` command in a process of its own that has imported everything already.

Imports take a command six seconds of which its work often needs one. Here one process, the nursery, imports for all
commands of a test process; a command is a fork of it, with its own arguments, folder, environment and output. What is
about signals belongs to `servers.started` and `sweeps.stop_after`, whose processes begin from nothing, and so does what
has other variables of those that are read on import.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

IMPORTS = (
    *("tune.sweep", "tune.comparison", "tune.release", "tune.predict", "tune.report", "matplotlib.pyplot"),
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"),
)
READ_ON_IMPORT = ("PYTHON", "RAY_", "OMP_", "HF_")
"""What variables begin with that count when a process starts, and not later."""
AT_FIRST = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
"""The environment of the nursery: this process's own before any test has changed it."""


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a command with this environment can be a fork: it has the nursery's variables, where these count."""
    found, expected = (
        {name: value for name, value in variables.items() if name.startswith(READ_ON_IMPORT)}
        for variables in (environment, AT_FIRST)
    )
    return found == expected


class Nursery:
    """The client of the process that has imported everything; one command at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=AT_FIRST, bufsize=0
        )

    def run(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], limit: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end.

        Raises:
            TimeoutExpired: it took longer than `limit` seconds, and was killed.
        """
        assert self.process.stdin is not None
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            outputs = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
            asked = {"arguments": arguments, "folder": str(folder), "environment": dict(environment)}
            self.process.stdin.write(json.dumps(asked | {"outputs": outputs}).encode() + b"\n")
            command, deadline = self._answer(limit), time.monotonic() + limit
            try:
                code = self._answer(deadline - time.monotonic())
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(command, signal.SIGKILL)
                self._answer(limit)
                raise
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(arguments, code, *texts)

    def _answer(self, limit: float) -> int:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit)[0]:
            raise subprocess.TimeoutExpired("hilbert", limit)
        return int(self.process.stdout.readline())  # of a file without a buffer: the next line can still be waited for

    def end(self) -> None:
        """Ends the process: nothing is asked any more."""
        self.process.communicate()


@cache
def nursery() -> Nursery:
    """That of this test process, which ends with it."""
    found = Nursery()
    atexit.register(found.end)
    return found


def serve() -> list[str]:
    """Forks a command for every line on stdin; returns in the fork, with the arguments of its command."""
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # what is shared stays shared: no fork collects it
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if not (process := os.fork()):
            return become(**asked)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
    sys.exit()


def become(arguments: list[str], folder: str, environment: Mapping[str, str], outputs: Sequence[str]) -> list[str]:
    """Makes of this process one that was started with such arguments, folder, environment and outputs."""
    import tune.cli

    for place, name in enumerate([os.devnull, *outputs]):
        file = os.open(name, os.O_RDWR)
        os.dup2(file, place)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # of the new environment
    sys.path[0] = folder
    sys.argv[:] = [tune.cli.__file__, *arguments]
    return arguments


if __name__ == "__main__":
    given = serve()
    from tune.cli import main

    sys.exit(main(given))

"""Runs a command that must not outlive whoever started it: `python -P tune/guard.py COMMAND ...`.

The guard reads its standard input, which its parent holds open and writes nothing to. When the parent ends, in
whatever way, killed outright too, the system closes it, and the guard ends the command with all processes below it.
Both run in a session of their own, so that a Ctrl-C in the terminal reaches the parent alone.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PATIENCE = 5.0
"""Seconds that the command has to end by itself, before it is killed."""


def start_guarded(
    command: Sequence[str], *, environment: Mapping[str, str], output: IO[bytes], folder: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Starts a command under a guard, in this folder or another one; `output` gets what it prints.

    End it with `end_guarded`.
    """
    return subprocess.Popen(
        [sys.executable, "-P", __file__, *command],  # a user's own modules are no part of it
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end_guarded(process: "subprocess.Popen[bytes]") -> None:
    """Ends a guarded command; returns when it has ended."""
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


def guard(command: Sequence[str]) -> int:
    """Runs the command until it ends or standard input does; returns its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # sent to the whole group; ignoring it would be inherited
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    return process.wait()


def _end_with_parent(process: "subprocess.Popen[bytes]") -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    os._exit(guard(sys.argv[1:]) & 0xFF)  # Python's own way out waits for the thread that reads

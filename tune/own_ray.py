"""A Ray of our own: on this computer, for this process, reached from no other computer, and watched.

its folder      private, of a path that Ray's sockets find short enough, gone with this process
its ports       on 127.0.0.1 alone; a request needs the token, but for Ray's metrics
its processes   if the server or the scheduler dies, this process says so at once, and ends
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from hilbert.errors import HilbertError, StudyError
from hilbert.temporary import temporary_folder, temporary_place

SOCKET = "/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store"
"""The longest path of a socket below Ray's folder: its session is named like this."""
LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that the system allows a socket's path."""
SHORT = Path("/tmp")
"""Where a folder with a long path gets a short name, too."""
LOOK_EVERY = 0.2
"""Seconds between two looks at Ray's processes."""
END_OF_RAY = ("Raylet is terminated", "has been marked dead")
"""What is in Ray's own words about it."""
FAILED = 1


@contextmanager
def own_ray(options: Mapping[str, Any], *, leave: Callable[[], None]) -> Iterator[None]:
    """A Ray that runs on this computer until the block ends.

    Args:
        options: of `ray.init`.
        leave: shuts it down.

    Raises:
        HilbertError: it can't be started.
    """
    with folder_for_ray() as folder:
        try:
            with _on_loopback():
                ray.init(address="local", include_dashboard=False, _temp_dir=str(folder), **options)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise HilbertError(f"Ray can't be started on this computer: {reason}") from None
        done = threading.Event()
        watch = threading.Thread(
            target=_watch, args=(_processes(), done, folder / "session_latest" / "logs"), daemon=True
        )
        watch.start()
        try:
            with _without_pages():
                yield
        finally:
            done.set()  # from now on its processes may end
            watch.join()
            leave()


@contextmanager
def folder_for_ray() -> Iterator[Path]:
    """A private folder below RAY_TMPDIR, else below TMPDIR or /tmp; under a short name, where its own is too long.

    Raises:
        StudyError: it can't be made, or /tmp isn't there for the short name.
    """
    place = _place()
    with temporary_folder(place.absolute()) as folder:
        if _fits(folder):
            yield folder
            return
        if not os.access(SHORT, os.W_OK | os.X_OK):
            raise StudyError(
                f"{place}: too long a path for Ray's sockets, and {SHORT} can't be written; set RAY_TMPDIR to a folder "
                f"whose path has {LONGEST_PATH - len(SOCKET) - len(folder.name) - 1} bytes at most"
            )
        with temporary_folder(SHORT) as beside:
            (beside / "ray").symlink_to(folder)
            yield beside / "ray"


def _place() -> Path:
    """The folder for temporary files that the user has named, or the system has.

    Raises:
        StudyError: the user's for Ray can't be written.
    """
    named = os.environ.get("RAY_TMPDIR")
    if not named:
        return temporary_place()
    with suppress(OSError):
        Path(named).mkdir(parents=True, exist_ok=True)
    if not os.access(named, os.W_OK | os.X_OK):
        raise StudyError(f"RAY_TMPDIR={named}: can't be written; name a folder for Ray's temporary files")
    return Path(named)


def _fits(folder: Path) -> bool:
    return sys.platform == "win32" or len(os.fsencode(folder)) + len(SOCKET) <= LONGEST_PATH


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray takes 127.0.0.1 for this computer's address, as it does on macOS and Windows, and listens there alone.

    `_node_ip_address` doesn't do: Ray replaces 127.0.0.1 by an address that others reach.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _without_pages() -> Iterator[None]:
    """Keeps from the terminal what Ray tells of its own end: pages of its log, beside our one line."""
    worker = ray._private.worker
    write = worker.print_to_stdstream

    def print_to_stdstream(data: dict[str, Any], **options: Any) -> None:
        if not any(mark in line for line in data["lines"] for mark in END_OF_RAY):
            write(data, **options)

    worker.print_to_stdstream = print_to_stdstream
    try:
        yield
    finally:
        worker.print_to_stdstream = write


def _processes() -> dict[str, "subprocess.Popen[bytes]"]:
    """The processes without which Ray is dead, by their names."""
    started = ray._private.worker._global_node.all_processes
    names = (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET)
    return {name: started[name][0].process for name in names if name in started}


def _watch(processes: Mapping[str, "subprocess.Popen[bytes]"], done: threading.Event, logs: Path) -> None:
    """Ends this process as soon as one of Ray's has died: Ray would do so later, after a minute or pages of logs."""
    while not done.wait(LOOK_EVERY):
        for name, process in processes.items():
            if process.poll() is not None and not done.is_set():
                with suppress(OSError, ValueError):
                    sys.stdout.flush()
                    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress display hides it
                    sys.stderr.write(f"{show_cursor}\n{obituary(name, process.returncode, logs)}\n")
                    sys.stderr.flush()
                os._exit(FAILED)  # neither what waits for Ray nor Ray's own way out comes back


def obituary(name: str, code: int, logs: Path) -> str:
    """What to say of a process of Ray's that died; `code` as `subprocess` has it."""
    try:
        why = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    except ValueError:
        why = f"signal {-code}"
    memory = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
    return (
        f"hilbert: {name}, a process of Ray on this computer, has died ({why}{memory}), and nothing can go on without "
        f"it; what is finished is kept, and the same command goes on from there. Ray's logs until then: {logs}"
    )

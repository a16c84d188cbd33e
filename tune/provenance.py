"""What a study was run with: versions, code and command, as far as they matter for repeating it."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hilbert
from tune.redaction import without_passwords

PACKAGES = ("hilbert", "torch", "numpy", "scikit-learn", "transformers", "ray", "optuna", "mlflow")


def versions(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command, python, platform, the packages that results depend on, and the commit of the code.

    Args:
        arguments: of the `hilbert` command; this process's own, if left out.
    """
    return {
        "command": without_passwords(shlex.join(["hilbert", *(sys.argv[1:] if arguments is None else arguments)])),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": commit(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """Commit of the code, with `-dirty` where files have been changed since; None outside of a checkout."""
    folder = Path(hilbert.__file__).parent
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") if tracked else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

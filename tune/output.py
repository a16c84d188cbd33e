"""Where `--output` may write: checked before the work is done. No folder is made on the way."""

import os
from pathlib import Path

from hilbert.errors import InputError


def check_file(path: Path) -> None:
    """Checks that a file can be written.

    Raises:
        InputError: it is a folder, lies in none, or the folder can't be written.
    """
    if path.is_dir():
        raise InputError(f"--output {path}: is a folder; name a file in it")
    _check_parent(path)


def check_folder(path: Path) -> None:
    """Checks that files can be written to a folder, which need not be there itself.

    Raises:
        InputError: it is a file, lies in no folder, or can't be written.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--output {path}: is a file; name a folder")
    if not path.is_dir():
        _check_parent(path)
    elif not os.access(path, os.W_OK):
        raise InputError(f"--output {path}: can't be written; name another")


def _check_parent(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}; make it first, or name another")
    if not os.access(parent, os.W_OK):
        raise InputError(f"--output {path}: the folder {path.parent} can't be written; name another")

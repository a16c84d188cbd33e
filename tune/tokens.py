"""Ray's token: the secret without which a Ray cluster runs nothing for anybody. Who can read it can run programs."""

import os
import secrets
import stat
import sys
from pathlib import Path

from hilbert.files import PRIVATE, write_bytes
from tune.terminal import tell

BYTES = 32
"""Of randomness, as Ray's own."""


def use_token() -> None:
    """Speaks to clusters with this computer's token, if it has one. Before Ray is imported, which asks once."""
    if token_file().exists() or "RAY_AUTH_TOKEN" in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def token_file() -> Path:
    """Where Ray keeps the token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()


def private_token() -> None:
    """Makes the token for a Ray of our own, where there is none: Ray would write it for all to read.

    Where it can't be written, this process and those that it starts share one that nobody keeps.
    """
    if sys.platform == "win32" or os.environ.get("RAY_AUTH_MODE") == "disabled" or "RAY_AUTH_TOKEN" in os.environ:
        return
    path, token = token_file(), secrets.token_hex(BYTES)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, token.encode(), mode=PRIVATE)
        except OSError:
            os.environ["RAY_AUTH_TOKEN"] = token
    close_token()


def close_token() -> None:
    """Takes from others the right to read the token, and says so where they had it."""
    path = token_file()
    try:
        found = path.stat()
        if not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or found.st_uid != os.getuid():
            return
        path.chmod(PRIVATE)
    except OSError:  # there is none, or it lies where modes can't be changed
        return
    tell(
        f"{path}, Ray's token, could be read by other users of this computer, and can't any more; if you don't trust "
        "them, delete it before the next sweep or 'ray up', and a new one is made"
    )

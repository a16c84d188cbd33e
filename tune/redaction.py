"""What may be shown and kept of a text: no passwords, and nothing that a terminal would take for a command.

An address is recognised by its form, `scheme://user:password@host`, wherever it stands. Of passwords that this form
doesn't show in full (with blanks, or repeated without their escapes) this process keeps a list: see `remember`.
"""

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote

HIDDEN = "***"
SHORTEST = 8
"""Characters of a plain word that is hidden wherever it stands, not in its address alone."""

_ADDRESS = re.compile(r"(?<=://)[^\s/?#][^\s]*")
_SECRET_NAME = (
    r"(?:[\w-]*[_-])?(?:password|passwd|passphrase|pwd|token|secret|signature|sig|credential"
    r"|(?:api|access|secret)[_-]?key)"
)
_OPTION = re.compile(rf"(?i)(?<![\w-])({_SECRET_NAME}|sslpassword)(=|[\"']\s*:\s*[\"'])([^&\s\"',;)]+)")
_CONTROL = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # a terminal's title, links
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, the cursor
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"  # what is left; marks that turn the order of letters
)
_known: set[str] = set()


def printable(text: str) -> str:
    """`text` as it may be shown: see `without_passwords` and `plain`."""
    return plain(without_passwords(text))


def plain(text: str) -> str:
    """`text` without control characters, but for tabs and ends of lines."""
    return _CONTROL.sub("", text)


def without_passwords(text: str) -> str:
    """`text` with user and password of every address replaced, and the values of options that are called so."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _ADDRESS.sub(lambda found: _without_user(found[0]), text)
    return _OPTION.sub(rf"\1\2{HIDDEN}", text)


def has_password(text: str) -> bool:
    """Whether a text holds something that isn't to be shown."""
    return without_passwords(text) != text


def remember(uri: str) -> None:
    """Has what is secret in an address hidden from now on, wherever this process shows or keeps it."""
    _, _, rest = uri.partition("://")
    for secret in _secrets(rest):
        word = re.fullmatch(r"\w+", secret)
        if not word or (len(secret) >= SHORTEST and uri.count(secret) == 1):
            _known.add(secret)


def _secrets(rest: str) -> Iterable[str]:
    """Passwords of an address without its scheme, as they stand there and without escapes."""
    found = []
    if re.match(r"[^:/?#\s@]*:", rest) and "@" in rest:
        _, _, after = rest.partition(":")
        found += [after.partition("@")[0], after.rpartition("@")[0]]
    names = re.compile(rf"(?i){_SECRET_NAME}|sslpassword")
    found += [value for name, value in parse_qsl(rest.partition("?")[2]) if names.fullmatch(name)]
    return [secret for one in found for secret in (one, unquote(one)) if len(secret) > 2]


def _without_user(rest: str) -> str:
    """An address after `://`, as far as a blank; a password may hold @, / and #, where it wasn't escaped."""
    if re.match(r"[^:/?#@]*@", rest):
        return f"{HIDDEN}@{rest.partition('@')[2]}"
    if re.match(r"[^:/?#@]*:", rest) and "@" in rest:
        return f"{HIDDEN}@{rest.rpartition('@')[2]}"
    return rest

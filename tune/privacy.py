"""What is recorded of errors, commands and places: no folder of this computer, and where ids are hashed, no id.

Code is named as in its package, `hilbert/training.py`, whoever installed it where. Other files and folders are named
from the folder that the command runs in; what lies outside of it by its name alone, `.../parents`.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hilbert.errors import shown
from tune.predictions import hashed
from tune.space import is_url

ELSEWHERE = ".../"
"""Begins the name of what lies outside of the folder that the command runs in."""
_FRAME = re.compile(r"^\s*File \".*\", line \d+", re.M)
_LIBRARY = r"/(?:(?:site|dist)-packages|lib(?:64)?/python3\.\d+)/"
_INSTALLED = re.compile(rf"(?<=File \")/[^\"]*{_LIBRARY}|(?<![\w.:/~%-])/[^\s'\"]*{_LIBRARY}")
_ADDRESS = re.compile(r"(?<=sqlite:///)/[^\s'\"]+|(?<=file://)/[^\s'\"]+")
_OURS = re.compile(r"(?<=File \")/[^\"]*/((?:hilbert|tune)/[^\"]*)")
_OTHER_FRAME = re.compile(r"(File \")/[^\"]*/(?=[^\"/]*\", line \d)")
_QUOTED = re.compile(r"(?<=['\"])/[^'\"\n]+(?=['\"])")
_PATH = re.compile(r"(?<![\w.:/~%-])/(?:[^\s/'\":,;()\[\]{}<>|]+/)+[^\s/'\":,;()\[\]{}<>|]*")


def packaged(text: str) -> str:
    """`text`, a traceback of whatever computer, with the files of code named as in their package."""
    text = _INSTALLED.sub("", text)
    text = _OURS.sub(r"\1", text)
    return _OTHER_FRAME.sub(rf"\1{ELSEWHERE}", text)


def placeless(text: str, known: Iterable[str] = ()) -> str:
    """`text` without the folders of this computer; `known` are some that may stand in it, and may hold blanks."""
    text = packaged(text)
    for folder in dict.fromkeys(str(found) for found in (Path.cwd(), Path.cwd().resolve())):
        text = text.replace(f"{folder}/", "").replace(folder, ".")
    for folder in sorted(known, key=len, reverse=True):
        text = text.replace(folder, place(folder))
    text = text.replace(f"{Path.home()}/", ELSEWHERE)
    text = _ADDRESS.sub(lambda found: place(found[0]), text)
    text = _QUOTED.sub(lambda found: place(found[0]), text)
    return _PATH.sub(lambda found: place(found[0]), text)


def place(path: str) -> str:
    """A file or folder, or one behind `hf:`, as seen from this folder; elsewhere its name alone; URLs as they are."""
    scheme, colon, rest = path.partition(":") if re.match(r"\w+:/(?!/)", path) else ("", "", path)
    if path.startswith("sqlite:////"):
        return f"sqlite:///{place(path.removeprefix('sqlite:///'))}"
    if is_url(path) or not rest.startswith("/"):
        return path
    whole, _, options = rest.partition("?")
    here = next((one for one in (Path.cwd(), Path.cwd().resolve()) if Path(whole).is_relative_to(one)), None)
    named = ELSEWHERE + Path(whole).name if here is None else Path(whole).relative_to(here).as_posix()
    return f"{scheme}{colon}{named}{options and '?' + options}"


def command(line: str) -> str:
    """A command line whose arguments are placeless."""
    words = (re.match(r"(--?[\w-]+=|[\w.]+=)?(.*)", word, re.S) for word in shlex.split(line))
    return shlex.join(f"{found[1] or ''}{place(found[2])}" for found in words if found)


def without_ids(groups: Mapping[str, str], key: bytes) -> Callable[[str], str]:
    """What replaces ids of documents and groups in a text, by the hashes that replace them elsewhere.

    Args:
        groups: group of every document.
        key: of the hashes.
    """
    names = {*groups, *groups.values()} - {""}

    @cache
    def known() -> tuple[re.Pattern[str], Mapping[str, str]]:
        forms = {form: hashed(name, key) for name in names for form in _forms(name)}
        either = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        return re.compile(rf"(?<!\w)(?:{either})(?!\w)"), forms

    def replaced(text: str) -> str:
        pattern, forms = known()
        lines = text.split("\n")  # a frame names code, and the number of a line may be that of a document
        return "\n".join(
            line if _FRAME.match(line) else pattern.sub(lambda found: forms[found[0]], line) for line in lines
        )

    return replaced if names else str


def _forms(name: str) -> set[str]:
    """How a name may stand in a message: as it is, with escapes, cut."""
    cut = shown(name)
    return {name, repr(name)[1:-1]} | ({cut} if cut != repr(name) else set())


def private_study(content: Mapping[str, Any]) -> dict[str, Any]:
    """A study file without places outside of this folder: features by their names, no address of a server or store."""
    found = {key: value for key, value in content.items() if key != "tracking_uri"}
    if str(found.get("storage", "")).startswith("/"):
        found["storage"] = place(found["storage"])
        if found["storage"].startswith(ELSEWHERE):
            del found["storage"]
    stores = found["features"]
    one = isinstance(stores, str)
    return {**found, "features": place(stores) if one else {name: place(there) for name, there in stores.items()}}


def private_encoders(encoders: Mapping[str, Any]) -> dict[str, Any]:
    """Descriptions of encoders by modality, without the folders in which these lie."""
    return {
        name: {**told, "name": place(told["name"])} if told and isinstance(told.get("name"), str) else told
        for name, told in encoders.items()
    }

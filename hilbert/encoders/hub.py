"""The Hugging Face hub: whether it answers, and what to do where it doesn't. Asked before transformers asks for files.

Left alone, the hub's client tries for most of a minute, for every file, and tells each attempt twice.
"""

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from hilbert.errors import EncoderError

logger = logging.getLogger(__name__)

ATTEMPTS = 3
ANSWERS_WITHIN = 5.0
"""Seconds that the hub has to answer."""
PAUSE = 2.0
"""Seconds between two attempts."""
CHATTY = ("huggingface_hub", "httpx", "httpx2", "urllib3")


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Nothing but errors from the hub's client."""
    loggers = {found: found.level for found in map(logging.getLogger, CHATTY)}
    for found in loggers:
        found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for found, level in loggers.items():
            found.setLevel(level)


def only_local(model: str, revision: str | None) -> bool:
    """Whether a model is to be read from the copy on this computer, since the hub can't be asked.

    Args:
        model: its id on the hub.
        revision: branch, tag or commit; None is main.

    Raises:
        EncoderError: the hub can't be asked, and there is no copy.
    """
    if constants.HF_HUB_OFFLINE:
        reason = "the hub may not be asked (HF_HUB_OFFLINE=1, or TRANSFORMERS_OFFLINE=1)"
    else:
        reason = _silence(f"{constants.ENDPOINT}/{model}/resolve/{revision or 'main'}/config.json")
    if not reason:
        return False
    if not isinstance(huggingface_hub.try_to_load_from_cache(model, "config.json", revision=revision), str):
        raise EncoderError(
            f"{reason}, and {Path(constants.HF_HUB_CACHE)} holds no copy of the model; connect this computer to the "
            "hub (HTTPS_PROXY names a proxy, HF_ENDPOINT another hub), or name a folder with the model, hf:FOLDER, or "
            "set HF_HOME to where models were downloaded before"
        )
    if not constants.HF_HUB_OFFLINE:
        logger.warning("%s: %s; the copy on this computer is taken", model, reason)
    return True


def commit_of(model: str, revision: str | None) -> str | None:
    """The commit of a model's copy on this computer, which names its folder there; None where it can't be told.

    Args:
        model: its id on the hub.
        revision: branch, tag or commit; None is main.
    """
    found = huggingface_hub.try_to_load_from_cache(model, "config.json", revision=revision)
    commit = Path(found).parent.name if isinstance(found, str) else ""
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else None


def _silence(address: str) -> str:
    """Why the hub doesn't answer; empty if it does, whatever it says."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            huggingface_hub.get_session().head(address, timeout=ANSWERS_WITHIN)
        except Exception as error:  # of the client's, of its proxy's, or of the system
            said = " ".join(str(error).split())[:200] or type(error).__name__
        else:
            return ""
        if attempt < ATTEMPTS:
            logger.warning(
                "no answer from %s (%s); trying again, %d of %d", constants.ENDPOINT, said, attempt + 1, ATTEMPTS
            )
            time.sleep(PAUSE)
    return f"the hub at {constants.ENDPOINT} doesn't answer ({said})"

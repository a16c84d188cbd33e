"""Telling pickles from other files."""

import io
import pickletools


def is_pickle(content: bytes) -> bool:
    """Whether the bytes are a pickle, or a zip, as torch packs them."""
    if content[:2] == b"PK":
        return True
    try:
        list(pickletools.genops(io.BytesIO(content)))
    except ValueError:
        return False
    return True

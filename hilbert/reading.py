"""Reading files that this program wrote or that come from others, so that no damage to them does harm.

    open_regular      a file that is one: no pipe, device, socket or folder, and nothing waits for one
    content_of        its bytes, once its size is known to be sane
    parse_json        strict JSON: UTF-8, no key twice, no NaN or Infinity, not nested deeply
    read_json         the same, checked by a schema
    read_array        a .npy file whose header claims what the file holds, before memory is taken
    check_safetensors a .safetensors file whose header is of a sane size

What is wrong comes as a `Fault`; `explained` makes of it the one message that a user reads.
"""

import ast
import errno
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from hilbert.errors import LONGEST_VALUE, InputError, shown

T = TypeVar("T")
Array = npt.NDArray[Any]

LARGEST_JSON = 1 << 24
"""Bytes of a JSON file of ours, at most, unless a caller knows better."""
DEEPEST = 64
"""Levels of nested lists and objects in JSON, at most."""
LONGEST_HEADER = 10_000
"""Bytes of an array's header, at most: NumPy's own limit."""
LARGEST_TENSORS_HEADER = 1 << 24
"""Bytes of a safetensors header, at most: a hundred thousand tensors."""
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MAGIC, VERSION_1 = b"\x93NUMPY", (1, 0)
NUMBERS = re.compile(r"[<>=|]?(f[248]|[iu][1248])")


class Fault(ValueError):  # noqa: N818 (it is the file's)
    """What is wrong with a file, in words that follow its name."""


class Missing(Fault):
    """It isn't there."""


class Unreadable(Fault):
    """It is there, and the system doesn't let this process read it: nothing is known of its content."""


class Damaged(Fault):
    """It isn't what it must be."""

    def __init__(self, words: str) -> None:
        super().__init__(f"damaged, {words}")


class Content(BaseModel):
    """Base of what a JSON file must hold: strict about types, open to keys that later versions add."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


@contextmanager
def explained(path: Path | str, error: type[InputError], remedy: str) -> Iterator[None]:
    """Makes of a fault the one message for users.

    Args:
        path: the file.
        error: what is raised.
        remedy: what would be right, such as "copy the whole release again".
    """
    try:
        yield
    except Unreadable as fault:
        raise error(f"{path}: {fault}; mend its permissions, or copy it again") from None
    except Fault as fault:
        raise error(f"{path}: {fault}; {remedy}") from None


# ---- files -----------------------------------------------------------------------------------------------------------


def open_regular(path: Path) -> io.BufferedReader:
    """Opens an ordinary file, or a link to one, to read; never waits for a pipe's other end.

    Raises:
        Fault: there is none, it is something else, or it can't be read.
    """
    try:
        _check_regular(os.stat(path).st_mode)  # noqa: PTH116 (before it is opened: opening a device may do something)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise Missing("missing") from None
    except NotADirectoryError:
        raise Missing("missing") from None
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENODEV}:
            raise Damaged("not an ordinary file") from None
        if error.errno == errno.ELOOP:
            raise Damaged("a link that leads back to itself") from None
        raise Unreadable(f"can't be read ({error.strerror or error})") from None
    file = os.fdopen(descriptor, "rb")
    try:
        _check_regular(os.fstat(descriptor).st_mode)
        os.set_blocking(descriptor, True)
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise Damaged("a folder where a file must be")
    if not stat.S_ISREG(mode):
        raise Damaged("not an ordinary file, but a pipe, a socket or a device")


def content_of(path: Path, *, largest: int = LARGEST_JSON) -> bytes:
    """The bytes of an ordinary file.

    Raises:
        Fault: as `open_regular`, or it is larger than `largest` bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise Damaged(f"{size:,} bytes, where such a file has {largest:,} at most")
        try:
            return file.read(size)
        except OSError as error:  # of the disk
            raise Unreadable(f"can't be read ({error.strerror or error})") from None


# ---- JSON ------------------------------------------------------------------------------------------------------------


def parse_json(content: bytes, *, constants: bool = False) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN or Infinity, at most `DEEPEST` levels, all texts encodable.

    Args:
        content: of the file.
        constants: NaN and Infinity may stand in it, as in what is there for people.

    Raises:
        Damaged: it is something else.
    """
    parsed = parse_flat_json(content, constants=constants)
    level = [parsed]
    for _ in range(DEEPEST):
        level = [
            child
            for part in level
            if isinstance(part, dict | list)
            for child in (part.values() if isinstance(part, dict) else part)
            if isinstance(child, dict | list)
        ]
        if not level:
            return parsed
    raise Damaged(f"nested more than {DEEPEST} levels deep")


def parse_flat_json(content: bytes, *, constants: bool = False) -> Any:
    """As `parse_json`, for callers that check the levels themselves: fast with many numbers."""
    try:
        parsed = (_LENIENT if constants else _STRICT).decode(content.decode())
        if b"\\u" in content and SURROGATE.search(content):
            json.dumps(parsed, ensure_ascii=False).encode()
    except RecursionError:
        raise Damaged("nested too deeply") from None
    except UnicodeDecodeError:
        raise Damaged("not JSON (not UTF-8 text)") from None
    except UnicodeEncodeError:
        raise Damaged("not JSON (half a character, of a surrogate pair)") from None
    except ValueError as error:
        words = "a number of too many digits" if "digits" in str(error) else str(error)
        raise Damaged(f"not JSON ({words})") from None
    return parsed


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {shown(twice)} stands twice")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number)
_LENIENT = json.JSONDecoder(object_pairs_hook=_object)


def read_json(path: Path, schema: TypeAdapter[T], *, largest: int = LARGEST_JSON) -> T:
    """A JSON file's content, as a schema has it.

    Raises:
        Fault: as `content_of` and `parse_json`, or it doesn't fit the schema.
    """
    return checked(parse_json(content_of(path, largest=largest)), schema)


def checked(content: Any, schema: TypeAdapter[T]) -> T:
    """Parsed JSON as a schema has it.

    Raises:
        Damaged: it doesn't fit; with the first key that doesn't.
    """
    try:
        return schema.validate_python(content)
    except ValidationError as error:
        raise Damaged(first_fault(error)) from None


def first_fault(error: ValidationError) -> str:
    """The first thing that a schema finds wrong: the key, the value, what would be right."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{shown(key)} is missing"
    words = fault["msg"].removeprefix("Value error, ")
    named = key if key.isprintable() and len(key) <= LONGEST_VALUE else shown(key)
    where = f"{named}: " if key else ""
    return f"{where}{words}" if fault["type"] == "value_error" else f"{where}{words}, not {shown(fault['input'])}"


# ---- arrays ----------------------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """What a .npy file says of itself: type, shape, and the bytes before the numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


def read_array(path: Path, *, mapped: bool) -> Array:
    """A plain array from a .npy file that holds what its header claims, neither more nor less.

    Args:
        path: the file.
        mapped: memory-mapped and read-only, rather than read.

    Raises:
        Fault: as `open_regular`, or it is no such file.
    """
    with open_regular(path) as file:
        header, size = read_header(file), os.fstat(file.fileno()).st_size
    claimed = header.offset + math.prod(header.shape) * header.dtype.itemsize
    if claimed != size:
        raise Damaged(f"{size:,} bytes, where its header claims {claimed:,}")
    try:
        array: Array = np.load(path, mmap_mode="r" if mapped and size > header.offset else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:  # it changed meanwhile
        raise Damaged(f"not a plain NumPy array ({error})") from None
    return array


def read_header(file: BinaryIO) -> Header:
    """The header of a .npy file, from its beginning; of format 1.0, which holds all plain arrays.

    Raises:
        Damaged: it isn't one.
    """
    start = file.read(len(MAGIC) + 4)
    if start[: len(MAGIC)] != MAGIC or tuple(start[len(MAGIC) : -2]) != VERSION_1:
        raise Damaged("not a plain NumPy array (.npy, format 1.0)")
    length = int.from_bytes(start[-2:], "little")
    descr, shape, order = _header(file.read(min(length, LONGEST_HEADER)))
    if not isinstance(shape, tuple) or any(type(size) is not int or not 0 <= size < 2**48 for size in shape):
        raise Damaged(f"not a plain NumPy array: its header claims the shape {shown(shape)}")
    if not isinstance(descr, str) or not NUMBERS.fullmatch(descr) or not isinstance(order, bool):
        raise Damaged(f"not a plain NumPy array of numbers, but of {shown(descr)}")
    return Header(np.dtype(descr), shape, len(start) + length)


def _header(text: bytes) -> tuple[Any, Any, Any]:
    """Type, shape and order as a header's text has them."""
    try:
        found = ast.literal_eval(text.decode("latin-1"))
        return found["descr"], found["shape"], found["fortran_order"]
    except (ValueError, SyntaxError, KeyError, IndexError, TypeError, MemoryError, RecursionError):
        raise Damaged("not a plain NumPy array: its header can't be read") from None


def check_safetensors(path: Path) -> None:
    """Looks at the length of a safetensors file's header; the rest is the library's.

    Raises:
        Fault: as `open_regular`, or the header is larger than the file, or than any model's.
    """
    with open_regular(path) as file:
        size, field = os.fstat(file.fileno()).st_size, file.read(8)
    length = int.from_bytes(field, "little")
    if len(field) < 8 or length > size - 8:
        raise Damaged(f"not a safetensors file: {size:,} bytes, where its header claims {length + 8:,} or more")
    if length > LARGEST_TENSORS_HEADER:
        raise Damaged(f"its header claims {length:,} bytes, and {LARGEST_TENSORS_HEADER:,} are the most that one has")

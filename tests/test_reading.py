"""Files that are read: what isn't right is said in one fault, at once, and before memory is taken for it."""

import json
import os
import resource
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import bad_data
import numpy as np
import pytest

from hilbert.errors import StoreError
from hilbert.features import FeatureStore
from hilbert.reading import (
    DEEPEST,
    Damaged,
    Fault,
    Missing,
    check_safetensors,
    content_of,
    explained,
    parse_json,
    read_array,
)


@contextmanager
def little_memory(room=1 << 30):
    """Within it, this process gets so many bytes at most beyond what it has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# ---- what is no file -------------------------------------------------------------------------------------------------


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


STRANGE = {
    "a folder": (Path.mkdir, "folder where a file"),
    "a pipe": (os.mkfifo, "a pipe"),
    "a socket": (a_socket, "a socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "a dangling link": (lambda path: path.symlink_to("nothing"), "missing"),
    "a ring of links": (lambda path: path.symlink_to(path.name), "leads back to itself"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path, what, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    make, words = STRANGE[what]
    make(Path("x"))
    started = time.monotonic()
    with pytest.raises(Fault, match=words):
        content_of(Path("x"))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("name", ["manifest.json", "documents.csv", "audio.npy", "text_offsets.npy"])
def test_a_store_of_which_a_file_is_none(tmp_path, name, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad_data.write_store(Path("store"))
    path = Path("store", name)
    path.unlink()
    STRANGE[what][0](path)
    with pytest.raises(StoreError, match=name):
        FeatureStore.open("store")


def test_a_file_that_is_larger_than_any_such_file_is_not_read(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with little_memory(), pytest.raises(Damaged, match="1,099,511,627,776 bytes, where such a file has"):
        content_of(tmp_path / "large")
    with pytest.raises(StoreError, match=r"x\.json: missing; mend it"), explained("x.json", StoreError, "mend it"):
        raise Missing("missing")


# ---- JSON ------------------------------------------------------------------------------------------------------------

NO_JSON = {
    "empty": b"",
    "cut": b'{"a": [1, 2',
    "two": b"{} {}",
    "latin-1": b'{"a": "\xe9"}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "zeros": bytes(100),
    "NaN": b'{"a": NaN}',
    "infinity": b"[-Infinity]",
    "key twice": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "half a character": b'{"a": "\\ud800"}',
    "too many digits": b"[" + b"9" * 5000 + b"]",
    "200,000 brackets": b"[" * 200_000 + b"]" * 200_000,
    "200,000 braces": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "a little too deep": b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1),
}


@pytest.mark.parametrize("what", NO_JSON)
def test_what_is_no_json_of_ours(what):
    with pytest.raises(Damaged, match="damaged, ") as caught:
        parse_json(NO_JSON[what])
    assert len(str(caught.value)) < 300


def test_what_is_json_comes_as_it_is():
    for content in ({"a": [1.5, None, "é😀"]}, 10**400, [[]] * 3, json.loads("[" * DEEPEST + "]" * DEEPEST)):
        assert parse_json(json.dumps(content).encode()) == content
    assert parse_json(b'"\\ud83d\\ude00"') == "😀"


# ---- the manifest of a store -----------------------------------------------------------------------------------------

HUGE = 10**400
MANIFESTS = {
    "an encoder that is a name": lambda m: m["modalities"]["audio"].update(encoder="x"),
    "dimensions below 0": lambda m: m["modalities"]["audio"].update(dim=-1),
    "dimensions beyond all": lambda m: m["modalities"]["audio"].update(dim=HUGE),
    "segments true": lambda m: m["modalities"]["audio"].update(segments=True),
    "segments a list": lambda m: m["modalities"]["text"].update(segments=[3]),
    "bytes below 0": lambda m: m["files"]["audio.npy"].update(bytes=-4),
    "bytes beyond all": lambda m: m["files"]["audio.npy"].update(bytes=HUGE),
    "no extraction": lambda m: m.pop("extraction"),
    "a window that is a text": lambda m: m["extraction"].update(window="long"),
    "a cohort that is a list": lambda m: m.update(cohort=[1]),
    "no modality": lambda m: m.update(modalities={}),
    "another modality": lambda m: m["modalities"].update(video=m["modalities"]["text"]),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_says_what_none_can(tmp_path, what):
    folder = bad_data.write_store(tmp_path).folder
    content = json.loads((folder / "manifest.json").read_text())
    MANIFESTS[what](content)
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"manifest\.json: damaged, .*extract the features again"):
        FeatureStore.open(folder)


# ---- arrays ----------------------------------------------------------------------------------------------------------


def array_file(path, header, rest=b"", version=b"\x01\x00"):
    text = header.encode("latin-1")
    path.write_bytes(b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + rest)
    return path


def said(descr="'<f4'", shape="(4, 2)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


ARRAYS = {
    "a terabyte": said(shape="(250000000000,)"),
    "more than any": said(shape="(10000000000000000000000, 10)"),
    "rows below 0": said(shape="(-4, -2)"),
    "rows of a text": said(shape="('4', 2)"),
    "a shape that is a number": said(shape="8"),
    "none with a wild shape": said(shape="(0, 1000000000000000000000)"),
    "objects": said(descr="'|O'"),
    "texts": said(descr="'<U8'"),
    "records": said(descr="[('a', '<f4')]"),
    "no type": said(descr="'<f3'"),
    "an order that is none": said(order="None"),
    "code": "__import__('os').getcwd()",
    "brackets": "(" * 9_000,
    "a sum": "+".join("1" * 4_000),
    "another object": "[1, 2]",
    "no text": "\x00\xff" * 20,
}


@pytest.mark.parametrize("what", ARRAYS)
@pytest.mark.parametrize("mapped", [True, False])
def test_an_array_that_claims_what_it_does_not_hold(tmp_path, what, mapped):
    path = array_file(tmp_path / "x.npy", ARRAYS[what], bytes(32) if "(4, 2)" in ARRAYS[what] else b"")
    with little_memory(), pytest.raises(Damaged):
        read_array(path, mapped=mapped)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04" * 9])
def test_what_is_no_array(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(Damaged, match="not a plain NumPy array"):
        read_array(tmp_path / "x.npy", mapped=True)


def test_arrays_come_back_as_they_were(tmp_path):
    for array in (
        np.arange(12.0).reshape(3, 4),
        np.zeros((0, 7), np.float16),
        np.arange(3),
        np.asfortranarray([[1, 2]]),
    ):
        np.save(tmp_path / "x.npy", array)
        for mapped in (True, False):
            found = read_array(tmp_path / "x.npy", mapped=mapped)
            assert found.dtype == array.dtype
            assert np.array_equal(found, array)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes() + b"\0")
    with pytest.raises(Damaged, match="its header claims 144"):
        read_array(tmp_path / "x.npy", mapped=False)


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", [2**63, 10**9, 9])
def test_a_header_of_weights_that_is_longer_than_the_file(tmp_path, claim):
    path = tmp_path / "x.safetensors"
    path.write_bytes(claim.to_bytes(8, "little") + b"{}")
    with pytest.raises(Damaged, match="10 bytes, where its header claims"):
        check_safetensors(path)


def test_a_header_of_weights_that_is_longer_than_any(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((10**8).to_bytes(8, "little"))
        file.truncate(10**8 + 8)
    with pytest.raises(Damaged, match="100,000,000 bytes, and"):
        check_safetensors(path)

"""Feature stores that lie elsewhere: a URL in place of a folder, copied once a node, then memory-mapped like any other.

    s3://bucket/mine  -- once a node, under a lock -->  CACHE/mine-<hash>/  -- memory-mapped -->  all jobs of the node

The hash is of the URL and of what is in the store. So a worker, who was told the fingerprint, asks nobody when the
copy is there; and a store that was replaced where it lies is another copy. A download is only ever appended to, goes
on where it was cut short, and is renamed when every byte is what the manifest says (SHA-256).

`s3://`, `gs://` and `abfs://` are Arrow's own; `fsspec+PROTOCOL://` is whatever fsspec knows. Keys and regions come
from the environment, the configuration files or the machine's role, as usual there.
"""

import hashlib
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from filelock import FileLock, Timeout

from hilbert import verified
from hilbert.errors import StoreError, shown
from hilbert.features import FeatureStore
from hilbert.files import make_real, write_text
from hilbert.reading import LARGEST_JSON
from hilbert.store_checks import entries
from hilbert.store_files import MANIFEST, fingerprint_of, parse_manifest
from tune.bars import counted
from tune.space import is_url
from tune.terminal import console

PART = 1 << 24
"""Bytes of one request."""
AT_ONCE = 8
"""Requests at once."""
TIMEOUTS = {"connect_timeout": 10.0, "request_timeout": 30.0}
"""Seconds to connect, and without a single byte."""
ATTEMPTS = 6
"""Of every request, with growing pauses: about 20 seconds."""
MB = 1_000_000
LARGE = 1_000 * MB
"""Bytes that take long enough to read that one is told."""

S3_OPTIONS = ("region", "scheme", "endpoint_override")
"""What a URL may say after its `?`; Arrow's names."""
REASONS = {
    "NO_SUCH_BUCKET": "there is no such bucket",
    "Bucket '": "there is no such bucket",
    "ACCESS_DENIED": "access denied: this machine needs credentials that may read it (AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, ~/.aws, or the machine's role)",
    "NETWORK_CONNECTION": "no connection: check the network, the region, and AWS_ENDPOINT_URL if it isn't Amazon's",
}
"""What Arrow's errors mean, by a part of them."""


@dataclass(frozen=True)
class Remote:
    """A store where it lies.

    Attributes:
        location: its URL.
        system: the file system that it lies in, one of Arrow's.
        path: its folder there.
        manifest: the content of its manifest.json.
        text: the same, as it was written.
    """

    location: str
    system: Any
    path: str
    manifest: Mapping[str, Any]
    text: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file but the manifest."""
        return {name: int(entry["bytes"]) for name, entry in self.manifest["files"].items()}

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())


def full_location(location: str | Path) -> str:
    """Where a store lies, wherever it is said: a URL, or a folder's absolute path."""
    return str(location).rstrip("/") if is_url(str(location)) else str(Path(location).absolute())


def cache_folder() -> Path:
    """Where this node keeps its copies: HILBERT_CACHE, else below the user's cache."""
    return verified.cache_folder() / ("" if os.environ.get("HILBERT_CACHE") else "stores")


def local_folder(location: str | Path, fingerprint: str | None = None) -> Path:
    """The folder to open a store in: an ordinary folder is itself, what lies elsewhere is copied to this node once.

    Args:
        location: a folder, or a URL.
        fingerprint: what must be in it, as a fold job knows: if the copy is there, nobody is asked. Without it the
            store is looked at where it lies, and a download shows its progress on stderr.

    Raises:
        StoreError: nothing can be read there, it is no feature store or a damaged one, another than the one with this
            fingerprint, or there is no room for it.
    """
    if not is_url(str(location)):
        return Path(location)
    location = full_location(location)
    if fingerprint is not None and _is_whole(folder := _copy(location, fingerprint), fingerprint):
        return folder
    remote = look_at(location)
    found = fingerprint_of(remote.manifest)
    if fingerprint not in {None, found}:
        raise StoreError(f"{location}: the store was replaced since this work began; start again with the new one")
    folder = _copy(location, found)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder, remote, shown=fingerprint is None):
            if not _is_whole(folder, found):
                _download(remote, folder, shown=fingerprint is None)
            elif (folder / MANIFEST).read_text(encoding="utf-8") != remote.text:  # other words on the same features
                write_text(folder / MANIFEST, remote.text)
    except OSError as error:
        raise StoreError(
            f"{location}: can't be copied to {folder.parent} ({error.strerror or error}); make room there, or name"
            " another folder by HILBERT_CACHE"
        ) from None
    return folder


def open_location(location: str | Path) -> FeatureStore:
    """Opens a store, wherever it lies: see `local_folder`.

    Raises:
        StoreError: as `local_folder` and `FeatureStore.open`.
    """
    return FeatureStore.open(local_folder(location))


def open_verified(location: str | Path) -> FeatureStore:
    """Opens a store, and compares every byte with its manifest, once on a computer; tells whoever waits for it.

    Raises:
        StoreError: as `open_location` and `FeatureStore.verify`.
    """
    store = open_location(location)
    size = sum(store.manifest["files"][name]["bytes"] for name in store.unverified)
    if size > LARGE:
        _say(f"reading {location} ({_shown(size)}) once, to compare it with its manifest ...")
    store.verify()
    return store


def look_at(location: str) -> Remote:
    """Reads a store's manifest where it lies.

    Raises:
        StoreError: there is none, or it can't be read.
    """
    from pyarrow import fs  # not before it is needed: it starts Amazon's client

    with _explained(location):
        system, path = _filesystem(location)
        try:
            with system.open_input_stream(f"{path}/{MANIFEST}") as stream:
                content: bytes = stream.read(LARGEST_JSON + 1)
        except FileNotFoundError:
            with suppress(FileNotFoundError):
                system.get_file_info(fs.FileSelector(path))  # says so where there is no such bucket
            how = f"upload one with 'aws s3 sync FOLDER {location}'" if location.startswith("s3:") else "copy one there"
            raise StoreError(f"{location}: no feature store there, {MANIFEST} is missing; {how}") from None
    return Remote(location, system, path, parse_manifest(content, f"{location}/{MANIFEST}"), content.decode())


# ---- where it lies ---------------------------------------------------------------------------------------------------


def _filesystem(location: str) -> tuple[Any, str]:
    """The file system of a URL, and the path within it."""
    from pyarrow import fs

    parts = urlsplit(location)
    if parts.password or (parts.scheme == "s3" and parts.username):
        raise StoreError(
            f"{parts.scheme}://...{parts.netloc.rpartition('@')[2]}{parts.path}: a location is recorded, and must hold"
            " no password; keys come from the environment (AWS_ACCESS_KEY_ID), ~/.aws, or the machine's role"
        )
    if parts.scheme != "s3":
        found: tuple[Any, str] = fs.FileSystem.from_uri(location)
        return found
    options = dict(parse_qsl(parts.query))
    unknown = sorted(options.keys() - set(S3_OPTIONS))
    if unknown:
        raise StoreError(f"{location}: unknown option {shown(unknown[0])}; known are {', '.join(S3_OPTIONS)}")
    return _s3(parts.netloc, **options), f"{parts.netloc}{unquote(parts.path)}".rstrip("/")


def _s3(bucket: str, *, region: str = "", scheme: str = "", endpoint_override: str = "") -> Any:
    """Arrow's client, for Amazon or the server that AWS_ENDPOINT_URL names; its constructor doesn't read that."""
    from pyarrow import fs

    environ = os.environ
    endpoint = endpoint_override or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    told, _, host = endpoint.rpartition("://")
    if not region:
        given = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        region = (given or "us-east-1") if endpoint else fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        region=region,
        endpoint_override=host.rstrip("/") or None,
        scheme=scheme or told or "https",
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **TIMEOUTS,
    )


@contextmanager
def _explained(location: str) -> Iterator[None]:
    """One sentence for whatever a file system may say."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, ValueError, ImportError) as error:  # Arrow's and fsspec's are among these
        said = re.sub(r" \(Request ID: [^)]*\)", "", " ".join(str(error).split()))  # so that the same fault reads alike
        reason = next((words for mark, words in REASONS.items() if mark in said), None)
        known = "" if reason else "; a store lies in a folder, or at s3://, gs://, abfs:// or fsspec+PROTOCOL://"
        raise StoreError(f"{location}: can't be read: {f'{reason} ({said})' if reason else said}{known}") from None


# ---- the copy --------------------------------------------------------------------------------------------------------


def _copy(location: str, fingerprint: str) -> Path:
    """The folder of the copy."""
    name = re.sub(r"[^\w.-]", "_", urlsplit(location).path.rstrip("/").rpartition("/")[2]) or "store"
    mark = hashlib.sha256(f"{location} {fingerprint}".encode()).hexdigest()[:16]
    return cache_folder() / f"{name}-{mark}"


def _is_whole(folder: Path, fingerprint: str) -> bool:
    """Whether the copy is there, and is what was compared when it was made."""
    try:
        store = FeatureStore.open(folder)
        store.verify()
    except StoreError:
        return False
    return store.fingerprint == fingerprint


@contextmanager
def _locked(folder: Path, remote: Remote, *, shown: bool) -> Iterator[None]:
    """One process of a node downloads, the others wait; a process that ends lets go."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if shown:
            _say(f"waiting for another process that downloads {remote.location} ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(remote: Remote, folder: Path, *, shown: bool) -> None:
    """Copies a store beside its place in the cache, compares it with its manifest, and renames it."""
    partial = folder.with_name(f"{folder.name}.partial")
    there = _there(partial)
    _check_room(remote, partial.parent, remote.size - there)
    _check_remote(remote)
    make_real(partial)
    (partial / MANIFEST).write_text(remote.text, encoding="utf-8", newline="")
    _copy_files(remote, partial, shown=shown)
    try:
        store = FeatureStore.open(partial, verify="sha256")
    except StoreError as error:
        shutil.rmtree(partial)
        if there:  # what an earlier process has left may have been damaged
            _download(remote, folder, shown=shown)
            return
        told = str(error).replace(str(partial), remote.location)
        raise StoreError(f"{told} (the copy was made anew: it is damaged where it lies, or changes now)") from None
    if folder.exists():
        shutil.rmtree(folder)  # damaged; whoever has it open keeps what they have
    partial.replace(folder)
    verified.remember(entries(folder, store.manifest, store.stamps))


def _there(partial: Path) -> int:
    """Bytes that an earlier download has left."""
    return sum(path.stat().st_size for path in partial.glob("*.*") if path.name != MANIFEST)


def _check_remote(remote: Remote) -> None:
    """Whether all files are there, with the manifest's sizes, before hours of copying."""
    with _explained(remote.location):
        found = remote.system.get_file_info([f"{remote.path}/{name}" for name in remote.sizes])
    for (name, size), info in zip(remote.sizes.items(), found, strict=True):
        if not info.is_file:
            raise StoreError(f"{remote.location}/{name}: missing; upload the store again ('aws s3 sync')")
        if info.size is not None and info.size != size:
            raise StoreError(
                f"{remote.location}/{name}: {info.size} bytes, the manifest says {size}; upload the store again"
            )


def _check_room(remote: Remote, cache: Path, needed: int) -> None:
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise StoreError(
            f"{remote.location}: needs {_shown(needed)} in {cache}, where {_shown(free)} are free; make room, or name a"
            " folder on a larger disk by HILBERT_CACHE"
        )


def _copy_files(remote: Remote, partial: Path, *, shown: bool) -> None:
    if shown:
        _say(f"downloading {remote.location} ({_shown(remote.size)}) to {partial.parent}")
    bar = counted(console(), "MB", round(remote.size / MB)) if shown else nullcontext(_nothing)
    done = _there(partial)
    with bar as report:
        report(round(done / MB))
        for name, size in remote.sizes.items():
            with (partial / name).open("ab") as target:
                for part in _parts(remote, name, target.tell(), size):
                    target.write(part)
                    done += len(part)
                    report(round(done / MB))
                target.flush()
                os.fsync(target.fileno())


def _parts(remote: Remote, name: str, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a file from `start` to `end`, in order; a few parts are asked for at once."""
    if start >= end:
        return
    with (
        _explained(remote.location),
        remote.system.open_input_file(f"{remote.path}/{name}") as source,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        asked: deque[Future[bytes]] = deque()
        for offset in range(start, end, PART):
            asked.append(pool.submit(source.read_at, min(PART, end - offset), offset))
            if len(asked) == AT_ONCE:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()


def _nothing(_done: int) -> None:
    """Progress that nobody sees."""


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / MB:.1f} MB"


def _say(words: str) -> None:
    console().print(words, style="dim", highlight=False, soft_wrap=True)

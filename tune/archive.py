"""A study's own folder: what is finished lies here as soon as it is done, whatever happens afterwards.

study.json                     what the study was begun with: a changed one is refused
study_file.json                the study file as it was last run with
versions.json                  command, versions and commit that it was last run with
proposals.journal              Optuna's journal
jobs/<identity>.json           record of a fold job, with a checksum; written beside, then renamed
jobs/<identity>.failed.json    record of its last failure
checkpoints/<identity>.pt      state of a long fold job that is running
abandoned.json                 numbers of the trials that racing has given up
stopped.json                   the error by which the first jobs of a sweep failed alike, so that it was stopped
id_key, id_key.sha256          key of the hashes that replace document ids, and its own hash
lock                           held by the sweep that runs

What is damaged and can be made again is set aside under its name with `.damaged` at its end, never deleted, and named;
what can't be made again is refused.
"""

import hashlib
import itertools
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import Field, TypeAdapter

from hilbert.errors import HilbertError, StudyError
from hilbert.files import NEW_FILE, PRIVATE, write_bytes
from hilbert.reading import Damaged, Fault, Missing, Unreadable, content_of, explained, read_json
from tune.job import JobRecord
from tune.journal import LARGEST as LARGEST_JOURNAL
from tune.journal import damaged_lines
from tune.records import LARGEST as LARGEST_RECORD
from tune.records import sealed, unsealed
from tune.redaction import has_password, without_passwords

T = TypeVar("T")
ID_KEY, ID_KEY_HASH = "id_key", "id_key.sha256"
ID_KEY_LENGTH = 32
"""Bytes of the key of hashed ids."""
OTHERS = 0o077
"""Permissions of everybody but the owner."""
_OBJECT = TypeAdapter(dict[str, Any])
_STOPPED = TypeAdapter(dict[str, str])
_NUMBERS = TypeAdapter(list[Annotated[int, Field(strict=True, ge=0, lt=2**31)]])


class ArchiveError(HilbertError):
    """The study's folder can't be written any more."""


def print_to_stderr(words: str) -> None:
    """Says something beside the results."""
    print(f"hilbert: {words}", file=sys.stderr)


class Archive:
    """The folder of one study.

    Args:
        folder: the folder.
        say: what is told of damaged files goes there; to stderr by default.
    """

    def __init__(self, folder: Path, *, say: Callable[[str], None] = print_to_stderr) -> None:
        self.folder, self.say = folder, say

    @property
    def checkpoints(self) -> Path:
        """Where long fold jobs keep their state."""
        return self.folder / "checkpoints"

    @property
    def journal(self) -> Path:
        """Where the search keeps its proposals."""
        return self.folder / "proposals.journal"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder where it is missing, and keeps a second sweep out; a process that ends lets go.

        Raises:
            StudyError: another process holds the study, or the folder can't be made.
        """
        try:
            for name in ("jobs", "checkpoints"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"can't be written ({error.strerror}); name another folder"
            raise StudyError(f"storage: {self.folder}: {reason}") from None
        lock = FileLock(self.folder / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StudyError(f"{self.folder}: another sweep of this study is running; wait for it or stop it") from None
        try:
            self._mend_journal()
            yield
        finally:
            lock.release()

    def _mend_journal(self) -> None:
        """Takes out lines that are damaged, and frees a lock whose holder is dead.

        Raises:
            StudyError: it can't go on from the other lines.
        """
        self.journal.with_name(f"{self.journal.name}.lock").unlink(missing_ok=True)
        remedy = (
            f"copy it from a backup; or give the study another name (study: ...) and copy {self.folder / 'jobs'} into"
            " the new one's folder, so that no fold job of the same configuration runs again"
        )
        if not os.path.lexists(self.journal):
            return
        with explained(self.journal, StudyError, remedy):
            good, bad = damaged_lines(content_of(self.journal, largest=LARGEST_JOURNAL))
        if len(bad) == 1 and not bad[0].endswith(b"\n"):  # cut short by a crash or a full disk
            os.truncate(self.journal, sum(map(len, good)))
        elif bad:
            aside = self._free(self.journal)
            _write(aside, b"".join(bad))
            _write(self.journal, b"".join(good))
            self.say(f"{self.journal}: {len(bad)} damaged lines are set aside as {aside.name}; the search goes on")

    def begin(self, description: Mapping[str, Any]) -> None:
        """Notes what the study is, or compares it with what it was begun with.

        Raises:
            StudyError: it has changed; the message says in what.
        """
        path = self.folder / "study.json"
        content: dict[str, Any] = json.loads(json.dumps(description))
        if not os.path.lexists(path):
            _write(path, json.dumps(content, indent=2).encode())
            return
        remedy = (
            "it guards the study's results from those of other data: copy it from a backup; or, where neither study"
            " file nor data have changed since, delete it, and the same command goes on"
        )
        with explained(path, StudyError, remedy):
            before = read_json(path, _OBJECT)
        changes = _differences(before, content)
        if changes:
            raise StudyError(
                f"{path}: the study was begun with something else: {'; '.join(changes[:5])}. "
                "Results of the two can't be compared: give the new one another name (study: ...), or change it back"
            )

    def abandoned(self) -> set[int]:
        """Numbers of the trials that racing has given up."""
        known = self._read("abandoned.json", _NUMBERS, "racing judges again what it gave up")
        return set(known or ())

    def abandon(self, trial: int) -> None:
        """Notes that racing has given a trial up."""
        _write(self.folder / "abandoned.json", json.dumps(sorted({*self.abandoned(), trial})).encode())

    def forget_failure(self, identity: str) -> None:
        """Takes away the record of a failure."""
        self._record_file(identity, failed=True).unlink(missing_ok=True)

    @property
    def has_results(self) -> bool:
        """Whether any fold job has succeeded."""
        return any(not path.name.endswith(".failed.json") for path in (self.folder / "jobs").glob("*.json"))

    def stopped_on(self) -> str:
        """How the fold jobs failed for which the sweep was stopped; empty where it wasn't, or has gone on since."""
        known = self._read("stopped.json", _STOPPED, "what failed alike is no longer known")
        return (known or {}).get("error", "")

    def stop_on(self, error: str) -> None:
        """Notes it."""
        _write(self.folder / "stopped.json", json.dumps({"error": error}).encode())

    def forget_stop(self) -> None:
        """Notes that the study has gone on to its end."""
        (self.folder / "stopped.json").unlink(missing_ok=True)

    def keep_study_file(self, content: Mapping[str, Any]) -> None:
        """Notes the study file, without the password of its tracking address; others can't read one that it needs."""
        uri = content.get("tracking_uri")
        kept = json.dumps({**content, "tracking_uri": uri and without_passwords(uri)}, indent=2)
        mode = PRIVATE if has_password(kept) else NEW_FILE
        _write(self.folder / "study_file.json", kept.encode(), mode=mode)

    def keep_versions(self, content: Mapping[str, Any]) -> None:
        """Notes what the study is run with: see `tune.provenance`."""
        _write(self.folder / "versions.json", json.dumps(content, indent=2).encode())

    def versions(self) -> dict[str, Any]:
        """What the study was last run with; empty where that was not noted."""
        return self._read("versions.json", _OBJECT, "the next sweep notes the versions anew") or {}

    def study_file(self) -> dict[str, Any]:
        """The study file as it was last run with.

        Raises:
            StudyError: no study has been run here, or the file is damaged.
        """
        path = self.folder / "study_file.json"
        if not os.path.lexists(path):
            raise StudyError(f"{self.folder}: no study has been run here; --storage names another folder")
        with explained(path, StudyError, "'hilbert sweep' with the study file writes it anew"):
            return read_json(path, _OBJECT)

    @property
    def has_id_key(self) -> bool:
        """Whether document ids have been replaced by hashes before."""
        return any(os.path.lexists(self.folder / name) for name in (ID_KEY, ID_KEY_HASH))

    def id_key(self) -> bytes:
        """The key of the hashes that replace document ids: made once, kept here, never recorded.

        Raises:
            StudyError: it is lost or damaged; with another key a person would have another hash than before.
        """
        path, known = self.folder / ID_KEY, self.folder / ID_KEY_HASH
        if not self.has_id_key:
            _write(path, secrets.token_bytes(ID_KEY_LENGTH), mode=PRIVATE)
        remedy = "copy it from a backup: by another key, a person would have another hash than what is recorded"
        with explained(path, StudyError, remedy):
            key = content_of(path, largest=1 << 10)
            if len(key) != ID_KEY_LENGTH:
                raise Damaged(f"{len(key)} bytes, where a key has {ID_KEY_LENGTH}")
            digest = hashlib.sha256(key).hexdigest().encode()
            if not os.path.lexists(known):
                _write(known, digest, mode=PRIVATE)
            elif content_of(known, largest=1 << 10) != digest:
                raise Damaged(f"it isn't the key whose SHA-256 {known.name} has")
        self._make_private(path)
        return key

    def _make_private(self, path: Path) -> None:
        if path.stat().st_mode & OTHERS:
            try:
                path.chmod(PRIVATE)
            except OSError as error:
                self.say(f"{path}: others than you can read it ({error.strerror}); let its owner 'chmod 600' it")
            else:
                self.say(f"{path}: could be read by others than you, and can't be any more")

    def save(self, record: JobRecord) -> None:
        """Keeps a record."""
        _write(self._record_file(record.identity, failed=bool(record.error)), sealed(record))

    def load(
        self, identity: str, *, failed: bool = False, misfit: Callable[[JobRecord], str] = lambda _: ""
    ) -> JobRecord | None:
        """The record of a fold job that is done; with `failed` also of one that failed; None where there is none.

        Args:
            identity: of the fold job.
            failed: see above.
            misfit: why a record can't be the job's; empty where it can. Such a one is damaged.
        """
        for of_failed in (False, True) if failed else (False,):
            path = self._record_file(identity, failed=of_failed)
            try:
                record = unsealed(content_of(path, largest=LARGEST_RECORD), identity, failed=of_failed)
                if words := misfit(record):
                    raise Damaged(words)  # noqa: TRY301 (it is handled as any other)
            except Missing:
                continue
            except Damaged as fault:
                self._set_aside(path, fault, "its fold job runs again")
            except Unreadable as fault:
                raise StudyError(f"{path}: {fault}; mend its permissions") from None
            else:
                return record
        return None

    def _record_file(self, identity: str, *, failed: bool) -> Path:
        return self.folder / "jobs" / f"{identity}.{'failed.json' if failed else 'json'}"

    def _read(self, name: str, schema: TypeAdapter[T], then: str) -> T | None:
        """A JSON file that the study can do without; None where there is none, or it is damaged and set aside."""
        path = self.folder / name
        try:
            return read_json(path, schema)
        except Missing:
            return None
        except Damaged as fault:
            self._set_aside(path, fault, then)
            return None
        except Unreadable as fault:
            raise StudyError(f"{path}: {fault}; mend its permissions") from None

    def _set_aside(self, path: Path, fault: Fault, then: str) -> None:
        """Renames what is damaged, and says so with what comes `then`."""
        aside = self._free(path)
        try:
            path.rename(aside)
        except OSError as error:
            raise ArchiveError(f"{path}: {fault}; it can't be set aside ({error.strerror}); move it away") from None
        self.say(f"{path}: {fault}; set aside as {aside.name}, {then}")

    @staticmethod
    def _free(path: Path) -> Path:
        """A free name for what is set aside."""
        names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
        return next(name for name in names if not os.path.lexists(name))


def _write(path: Path, content: bytes, *, mode: int = NEW_FILE) -> None:
    """Writes a file atomically: see `hilbert.files.write_bytes`.

    Raises:
        ArchiveError: the disk is full, or can't be written.
    """
    try:
        write_bytes(path, content, mode=mode)
    except OSError as error:
        raise ArchiveError(
            f"{path}: can't be written ({error.strerror}); the sweep stops, what is finished is kept. "
            "Make room, and the same command goes on"
        ) from None


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two descriptions, by dotted names."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            change
            for key in sorted(before.keys() | now.keys())
            for change in _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if before == now else [f"{name} was {_shown(before)}, now {_shown(now)}"]


def _shown(value: Any) -> str:
    return "not there" if value is None else json.dumps(value)

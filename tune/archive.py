"""A study's own folder: what is finished lies here as soon as it is done, whatever happens afterwards.

study.json                     what the study was begun with: a changed one is refused
study_file.json                the study file as it was last run with
versions.json                  command, versions and commit that it was last run with
proposals.journal              Optuna's journal
jobs/<identity>.json           record of a fold job; written beside, then renamed
jobs/<identity>.failed.json    record of its last failure
checkpoints/<identity>.pt      state of a long fold job that is running
abandoned.json                 numbers of the trials that racing has given up
id_key                         key of the hashes that replace document ids
lock                           held by the sweep that runs
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hilbert.errors import HilbertError, StudyError
from hilbert.files import NEW_FILE, PRIVATE, write_bytes
from tune.job import JobRecord
from tune.redaction import has_password, without_passwords


class ArchiveError(HilbertError):
    """The study's folder can't be written any more."""


class Archive:
    """The folder of one study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
        """Cuts off a last line that a crash or a full disk has cut short, and frees a lock whose holder is dead."""
        self.journal.with_name(f"{self.journal.name}.lock").unlink(missing_ok=True)
        content = self.journal.read_bytes() if self.journal.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.journal, whole)

    def begin(self, description: Mapping[str, Any]) -> None:
        """Notes what the study is, or compares it with what it was begun with.

        Raises:
            StudyError: it has changed; the message says in what.
        """
        path = self.folder / "study.json"
        content: dict[str, Any] = json.loads(json.dumps(description))
        if not path.exists():
            _write(path, json.dumps(content, indent=2).encode())
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        changes = _differences(before, content)
        if changes:
            raise StudyError(
                f"{path}: the study was begun with something else: {'; '.join(changes[:5])}. "
                "Results of the two can't be compared: give the new one another name (study: ...), or change it back"
            )

    def abandoned(self) -> set[int]:
        """Numbers of the trials that racing has given up."""
        path = self.folder / "abandoned.json"
        return set(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else set()

    def abandon(self, trial: int) -> None:
        """Notes that racing has given a trial up."""
        _write(self.folder / "abandoned.json", json.dumps(sorted({*self.abandoned(), trial})).encode())

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
        path = self.folder / "versions.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def study_file(self) -> dict[str, Any]:
        """The study file as it was last run with.

        Raises:
            StudyError: no study has been run here.
        """
        path = self.folder / "study_file.json"
        if not path.exists():
            raise StudyError(f"{self.folder}: no study has been run here; --storage names another folder")
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    @property
    def has_id_key(self) -> bool:
        """Whether document ids have been replaced by hashes before."""
        return (self.folder / "id_key").exists()

    def id_key(self) -> bytes:
        """The key of the hashes that replace document ids: made once, kept here, never recorded."""
        path = self.folder / "id_key"
        if not path.exists():
            _write(path, secrets.token_bytes(32), mode=PRIVATE)
        return path.read_bytes()

    def save(self, record: JobRecord) -> None:
        """Keeps a record."""
        ending = "failed.json" if record.error else "json"
        _write(self.folder / "jobs" / f"{record.identity}.{ending}", record.to_json())

    def load(self, identity: str, *, failed: bool = False) -> JobRecord | None:
        """The record of a fold job that is done; with `failed` also of one that failed; None where there is none."""
        for ending in ("json", "failed.json") if failed else ("json",):
            path = self.folder / "jobs" / f"{identity}.{ending}"
            if path.exists():
                return JobRecord.from_json(path.read_bytes())
        return None


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

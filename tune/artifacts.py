"""Artifacts of MLflow, read and written where the tracking server or store says that they lie.

A server is believed in what it names, but for folders of this computer: these it could only know to spy on them, or to
overwrite them, unless it shares a disk with this computer. Then whoever runs the command says which folder that is.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hilbert.errors import InputError, shown
from tune.redaction import without_passwords

if TYPE_CHECKING:
    from mlflow import MlflowClient

SHARED = "HILBERT_SHARED_ARTIFACTS"
"""The variable that names a folder which a tracking server shares with this computer."""
LOCAL = ("", "file")
INDIRECT = ("runs", "models")
"""Addresses that the server is asked about again; no location of artifacts is one."""


def check_location(uri: str, location: str) -> None:
    """Refuses a location of artifacts on this computer's disk that a server names.

    Args:
        uri: tracking address.
        location: what it names.

    Raises:
        InputError: it is a folder here, and not within the one that `SHARED` names.
    """
    if not _is_server(uri):
        return
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", location)
    scheme = found[1].lower() if found else ""
    if scheme not in (*LOCAL, *INDIRECT) or (scheme in LOCAL and _is_shared(location)):
        return
    raise InputError(
        f"MLflow at {without_passwords(uri)} names a place on this computer for its artifacts, {shown(location)}:"
        " nothing is read from there or written to it, since a server could name any. Let it keep artifacts itself"
        " (mlflow server --artifacts-destination FOLDER); or name the store in the place of the server (--tracking-uri"
        " sqlite:////FOLDER/mlflow.db); or, where both computers share a disk, the folder of artifacts in the variable"
        f" {SHARED}"
    )


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _is_shared(location: str) -> bool:
    shared = os.environ.get(SHARED)
    path = Path(url2pathname(urlsplit(location).path if location.lower().startswith("file:") else location))
    return bool(shared) and path.resolve().is_relative_to(Path(str(shared)).resolve())


def artifacts(uri: str, location: str) -> Any:
    """MLflow's repository of the artifacts at a location.

    Raises:
        InputError: see `check_location`.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    check_location(uri, location)
    return get_artifact_repository(location, tracking_uri=uri)


def make_client(uri: str) -> "MlflowClient":
    """A client that reads and writes artifacts of runs by way of `artifacts`."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    class Client(MlflowClient):  # type: ignore[misc]
        """Asks for the place of a run's artifacts once, so that what was checked is what is used."""

        def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
            """Copies a file or folder of a run's artifacts into the folder `dst_path`."""
            if not _is_server(uri):
                return str(super().download_artifacts(run_id, path, dst_path))
            place = self.get_run(run_id).info.artifact_uri
            try:
                return str(artifacts(uri, place).download_artifacts(path, dst_path))
            except MlflowException as error:
                raise MlflowException(f"{path}: {' '.join(str(error).split())}", error.error_code) from error

        def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
            """Copies a folder's content to a run's artifacts."""
            if _is_server(uri):
                artifacts(uri, self.get_run(run_id).info.artifact_uri).log_artifacts(local_dir, artifact_path)
            else:
                super().log_artifacts(run_id, local_dir, artifact_path)

    return Client(tracking_uri=uri)

"""MLflow's model registry: putting a release in, making it the champion, and getting one out.

A release is stored as an MLflow model, models from code and safetensors, among the artifacts of the trial that it was
made from. A version is `pending` until the alias points to it: the alias is moved last, by one request, so that whoever
loads `models:/NAME@champion` gets the old champion or the new one. What an interrupted release left is taken away.
"""

import importlib.metadata
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import hilbert
from hilbert.documents import Documents
from hilbert.errors import HilbertError, InputError
from hilbert.release import Release
from hilbert.release_files import MANIFEST
from hilbert.temporary import temporary_folder
from tune.artifacts import artifacts, check_location
from tune.tracking import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
STATE, PENDING, READY = "hilbert.state", "pending", "ready"
STALE = 600.0
"""Seconds after which a version that is still pending was left by an interrupted release."""
REQUIREMENTS = ("torch", "numpy", "pandas", "scipy", "scikit-learn", "pydantic", "safetensors", "pyarrow")
"""Packages that predicting from features needs, besides `hilbert`, whose code is stored with the model."""


class RegistryError(HilbertError):
    """The registry refuses, or doesn't answer; it is as it was before."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model: its name and number, and its tags."""

    name: str
    version: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """What loads it."""
        return f"models:/{self.name}/{self.version}"


# ---- putting in ------------------------------------------------------------------------------------------------------


def write_model(release_folder: Path, target: Path) -> None:
    """Writes a release as an MLflow model into `target`, with its code, a signature and an example; no pickle."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    release = Release.load(release_folder)
    example = _example(release)
    segments = Array(Array(DataType.double))
    inputs = Schema([ColSpec(DataType.string, "document_id"), ColSpec(segments, "audio"), ColSpec(segments, "text")])
    answer = release.predict(_documents(release, example)).table()
    kinds = [DataType.double if pd.api.types.is_float_dtype(kind) else DataType.string for kind in answer.dtypes]
    outputs = Schema([ColSpec(kind, str(name)) for kind, name in zip(kinds, answer.columns, strict=True)])
    with temporary_folder() as folder:
        code = folder / "hilbert"
        shutil.copytree(Path(hilbert.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(Path(__file__).parent / "served.py"),
            artifacts={"release": str(release_folder)},
            code_paths=[str(code)],
            signature=ModelSignature(inputs=inputs, outputs=outputs),
            input_example=example,
            pip_requirements=[f"{name}=={_plain_version(name)}" for name in REQUIREMENTS],
        )
    written = Model.load(str(target))
    for artifact in written.flavors["python_function"]["artifacts"].values():
        artifact["uri"] = artifact["path"]  # MLflow notes the folder of this computer that it was copied from
    written.save(str(target / "MLmodel"))


def _plain_version(package: str) -> str:
    """Without the build's name, as in 2.13.0+cpu, which no index knows."""
    return importlib.metadata.version(package).partition("+")[0]


def _example(release: Release) -> pd.DataFrame:
    """One made-up document: what a request looks like, and nobody's data."""
    rows: dict[str, Any] = {name: np.zeros((2, dim)).tolist() for name, dim in release.dims.items()}
    return pd.DataFrame({"document_id": ["example"], **{name: [value] for name, value in rows.items()}})


def _documents(release: Release, rows: pd.DataFrame) -> Documents:
    pairs = list(zip(rows["audio"], rows["text"], strict=True))
    return Documents.of(pairs, audio_dim=release.dims["audio"], text_dim=release.dims["text"])


@contextmanager
def offered(
    client: "MlflowClient", name: str, run: str, model: Path, *, tags: Mapping[str, str], description: str
) -> Iterator[Registered]:
    """A model stored among a run's artifacts, as a version that is pending; `promote` makes it count.

    If the block fails or is interrupted before that, all of it is taken away again.

    Raises:
        RegistryError: MLflow refuses or doesn't answer.
    """
    place = f"releases/{name}/{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    source = ""
    try:
        source = f"{client.get_run(run).info.artifact_uri}/{place}"
        client.log_artifacts(run, str(model), place)
        _sweep_out(client, name)
        yield _create(client, name, source, run, tags, description)
    except BaseException as error:
        if source:
            with suppress(Exception):  # if MLflow doesn't answer any more, the next release does it
                _withdraw(client, name, source)
        if isinstance(error, HilbertError) or not isinstance(error, Exception):
            raise
        raise RegistryError(f"MLflow at {client.tracking_uri}: {first_line(error)}") from error


def _create(
    client: "MlflowClient", name: str, source: str, run: str, tags: Mapping[str, str], description: str
) -> Registered:
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it is there already; if it is something else, the next request says so
        client.create_registered_model(name)
    marked: dict[str, Any] = {**tags, STATE: PENDING}
    return _registered(client.create_model_version(name, source, run, tags=marked, description=description))


def promote(client: "MlflowClient", version: Registered) -> None:
    """Makes a version the champion: the one request that counts.

    Raises:
        RegistryError: it could not be; the champion is who it was.
    """
    try:
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
    except Exception as error:
        now = champion(client, version.name)  # the answer may have been lost, and not the request
        if now is None or now.version != version.version:
            raise RegistryError(f"MLflow at {client.tracking_uri}: {first_line(error)}") from error
    with suppress(Exception):  # a mark for people; the alias is what counts
        client.set_model_version_tag(version.name, version.version, STATE, READY)


def _withdraw(client: "MlflowClient", name: str, source: str) -> None:
    """Takes away what was made of `source`, unless it is the champion by now; and a model without versions."""
    current = champion(client, name)
    versions = client.search_model_versions(f"name = '{name}'")
    for version in versions:
        if version.source == source:
            if current is not None and current.version == str(version.version):
                return
            client.delete_model_version(name, version.version)
    if all(version.source == source for version in versions):
        with suppress(Exception):
            client.delete_registered_model(name)
    artifacts(client.tracking_uri, source).delete_artifacts()


def _sweep_out(client: "MlflowClient", name: str) -> None:
    """Takes away what interrupted releases of this name have left: versions that are pending for long."""
    current = champion(client, name)
    for version in client.search_model_versions(f"name = '{name}'"):
        old = time.time() - version.creation_timestamp / 1000 > STALE
        leads = current is not None and current.version == str(version.version)
        if version.tags.get(STATE) == PENDING and old and not leads:
            client.delete_model_version(name, version.version)


# ---- getting out -----------------------------------------------------------------------------------------------------


def champion(client: "MlflowClient", name: str) -> Registered | None:
    """The version that the alias points to; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return _registered(client.get_model_version_by_alias(name, CHAMPION))
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise RegistryError(f"MLflow at {client.tracking_uri}: {first_line(error)}") from error


def _registered(version: "ModelVersion") -> Registered:
    return Registered(version.name, str(version.version), dict(version.tags))


def fetch(client: "MlflowClient", model: str, folder: Path) -> Path:
    """Copies a release out of MLflow into `folder`; returns where it lies there.

    Args:
        client: of the tracking server or store.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN` or `runs:/RUN/PATH`.
        folder: is there.

    Raises:
        InputError: there is no such model, or it is no release of HILBERT.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        if model.startswith("models:/"):
            source = _source(client, model)
        else:
            run, _, path = model.removeprefix("runs:/").partition("/")
            source = f"{client.get_run(run).info.artifact_uri}/{path or 'releases'}"
        check_location(client.tracking_uri, source)
        local = Path(download_artifacts(source, dst_path=str(folder), tracking_uri=client.tracking_uri))
    except (MlflowException, OSError) as error:
        raise InputError(
            f"{model}: not to be had from MLflow at {client.tracking_uri} ({first_line(error)}); write"
            " models:/NAME@champion, models:/NAME/VERSION, runs:/RUN, or a release's folder"
        ) from None
    found = sorted(path.parent for path in local.rglob(MANIFEST))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(local)) for path in found)
        raise InputError(f"{model}: {f'holds several releases, name one: {names}' if found else 'holds no release'}")
    return found[0]


def _source(client: "MlflowClient", model: str) -> str:
    name, at, alias = model.removeprefix("models:/").partition("@")
    if at:
        version: Any = client.get_model_version_by_alias(name, alias)
    else:
        name, _, number = name.rpartition("/")
        version = client.get_model_version(name, number)
    return str(client.get_model_version_download_uri(version.name, version.version))

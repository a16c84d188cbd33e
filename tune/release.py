"""`hilbert release`: from a study's chosen configuration to a model that others can load.

    candidate    the chosen configuration, its data, its held-out predictions
    judge        with --require-better: is it better than the champion, on the same folds?
    train        one model on all documents, or the folds' models as an ensemble
    calibrate    on held-out predictions alone
    publish      folder, registry, alias

Nothing is published before all is trained, and the alias is moved last.
"""

import itertools
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from hilbert.calibration import METHODS, Calibrator, best_method, fit_on_repeats
from hilbert.errors import HilbertError, InputError, shown
from hilbert.features import FeatureStore
from hilbert.files import unforeseen
from hilbert.learned import LearnedFrom
from hilbert.model import Hilbert
from hilbert.release import Release
from hilbert.temporary import temporary_folder
from tune.bars import counted
from tune.candidate import Candidate, make_candidate
from tune.card import model_card, summary_line
from tune.challenge import Verdict, challenge
from tune.job import open_store
from tune.output import check_folder
from tune.privacy import command, private_encoders
from tune.provenance import versions
from tune.refit import Material, fit_folds, member_folder, refit
from tune.registry import Registered, champion, offered, promote, write_model

Client = Any
"""An `mlflow.MlflowClient`; MLflow itself is not imported here."""
How = Literal["refit", "ensemble"]
REPRODUCED = 1e-3
"""Largest difference of a score between a fold's model trained again and what the sweep recorded of it."""


class NotBetterError(HilbertError):
    """The candidate isn't shown to be better than the champion."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        study: name of the study.
        name: of the registered model.
        trial: which configuration; None takes the one that was selected, or the best.
        how: one model refitted on all documents, or all folds' models together.
        require_better: refuse unless it is better than the present champion.
        calibration: `auto`, `temperature`, `isotonic` or `none`.
        features: folder of the feature store, where it isn't where the study file says.
        output: folder of the release; `releases/NAME/VERSION` by default.
        licence: of the model, for its card.
        intended_use: of the model, for its card.
    """

    study: str
    name: str
    trial: str | None = None
    how: How = "refit"
    require_better: bool = False
    calibration: str = "auto"
    features: str | None = None
    output: Path | None = None
    licence: str | None = None
    intended_use: str | None = None


@dataclass(frozen=True)
class Released:
    """Where a release lies: its folder, and its version in the registry."""

    folder: Path
    version: Registered


def release(client: Client, request: Request, console: Console) -> Released:
    """Releases a study's chosen configuration.

    Args:
        client: of the tracking server or store, which holds the registry too.
        request: what is asked for.
        console: where progress goes.

    Raises:
        InputError: the study, the trial, the data or the request is wrong.
        NotBetterError: `require_better`, and it isn't.
        RegistryError: MLflow refuses; the registry is as it was.
    """
    _check(request)
    candidate = make_candidate(client, request.study, request.trial, features=request.features)
    console.print(candidate.words, highlight=False, soft_wrap=True)
    verdict = _judge(client, request, candidate, console)
    with temporary_folder() as beside:
        models, made = _train(candidate, request.how, beside, console)
        calibrators, gains = _calibrate(candidate, request.calibration)
        made |= {"calibration": gains, "champion": None if verdict is None else verdict.to_json()}
        finished = _assemble(request, candidate, models, calibrators, made)
        card = model_card(finished, candidate.evidence, licence=request.licence, intended_use=request.intended_use)
        folder = beside / request.name
        finished.save(folder, card=card)
        rival = None if verdict is None else verdict.champion
        return _publish(client, request, candidate, finished, folder, beside=beside, rival=rival)


def _check(request: Request) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", request.name):
        raise InputError(f"--name {shown(request.name)}: letters, digits, '_', '-' and '.', such as affect")
    if request.output is not None:
        if request.output.exists():
            raise InputError(f"--output {request.output}: is there already; name a new folder")
        check_folder(request.output)


def _judge(client: Client, request: Request, candidate: Candidate, console: Console) -> Verdict | None:
    if not request.require_better:
        return None
    present = champion(client, request.name)
    if present is None:
        console.print(f"{shown(request.name)} has no champion yet: there is nothing to be better than", highlight=False)
        return None
    verdict = challenge(client, candidate, present, console)
    if not verdict.better:
        raise NotBetterError(f"not released: {verdict.words}; {present.uri} stays the champion")
    console.print(verdict.words, highlight=False, soft_wrap=True)
    return verdict


# ---- training --------------------------------------------------------------------------------------------------------


def _train(candidate: Candidate, how: How, folder: Path, console: Console) -> tuple[Sequence[Hilbert], dict[str, Any]]:
    """The models, and how they were made."""
    material = Material(candidate.config, candidate.store, candidate.fingerprint)
    if how == "refit":
        epochs = candidate.epochs
        with counted(console, "epochs on all documents", epochs) as report:
            model = refit(material, epochs=epochs, stream=len(candidate.folds), report=report)
        return [model], {"how": how, "epochs": epochs, "best_epochs": list(candidate.best_epochs)}
    with counted(console, "folds", len(candidate.folds)) as report:
        records = fit_folds(material, candidate.folds, models=folder / "members", report=report)
    off = candidate.largest_difference(records)
    if off > REPRODUCED:
        console.print(
            f"the folds' models, trained again here, differ from the sweep's by up to {off:.1g} in a score: AUCs and"
            " calibration are the sweep's, of another machine or version of torch",
            style="yellow",
        )
    models = [Hilbert.from_pretrained(member_folder(folder / "members", fold.index)) for fold in candidate.folds]
    return models, {"how": how, "epochs": [record.best_epoch for record in records], "reproduced_within": off}


def _calibrate(candidate: Candidate, method: str) -> tuple[dict[str, Calibrator], dict[str, Any]]:
    """Each task's calibrator, of the configuration's held-out predictions, and by how much it helps elsewhere."""
    evidence, calibrators, gains = candidate.evidence, dict[str, Calibrator](), dict[str, Any]()
    for task, spec in evidence.tasks.items():
        if spec.kind == "regression":
            continue
        labels, scores = evidence.labels[task], candidate.counted_scores(task)
        methods = [one for one in METHODS if method in {"auto", one}]
        if np.isnan(scores[:, ~np.isnan(labels)]).all():
            calibrators[task] = Calibrator()
            continue
        choice = best_method(labels, scores, fold_of=evidence.fold_of, groups=evidence.groups, methods=methods)
        calibrators[task] = fit_on_repeats(labels, scores, method=choice.method)
        gain = choice.gains[choice.method]
        gains[task] = {"method": calibrators[task].method, "before": asdict(gain.before), "after": asdict(gain.after)}
    return calibrators, gains


def _assemble(
    request: Request,
    candidate: Candidate,
    models: Sequence[Hilbert],
    calibrators: Mapping[str, Calibrator],
    made: Mapping[str, Any],
) -> Release:
    store = open_store(candidate.store, candidate.fingerprint)
    extraction = store.manifest["extraction"] or {}
    made_with = versions()
    if candidate.hashed:
        made_with["command"] = command(made_with["command"])
    return Release(
        name=request.name,
        members=models,
        calibrators=calibrators,
        encoders=private_encoders(store.encoders) if candidate.hashed else store.encoders,
        window=extraction.get("window"),
        dtype=store.manifest["modalities"]["audio"]["dtype"],
        made={**candidate.to_json(), **made, "versions": made_with},
        learned=_learned(models[0], store, with_ids=not candidate.hashed),
    )


def _learned(model: Hilbert, store: FeatureStore, *, with_ids: bool) -> LearnedFrom:
    """Whom the models have learned from; ids, which can be guessed, stay out where the study hides them."""
    groups = store.documents.get("group_id") if with_ids else None
    names = store.document_ids if with_ids else []
    return LearnedFrom.of(model, store, names=names, groups=None if groups is None else groups.tolist())


# ---- publishing ------------------------------------------------------------------------------------------------------


def _publish(
    client: Client,
    request: Request,
    candidate: Candidate,
    finished: Release,
    folder: Path,
    *,
    beside: Path,
    rival: Registered | None,
) -> Released:
    """Stores the release: artifacts, version, folder, and the alias last, if `rival` is still the champion."""
    model = beside / f"{request.name}-mlflow"
    write_model(folder, model)
    tags = {
        "hilbert.study": request.study,
        "hilbert.trial": str(candidate.trial),
        "hilbert.splits": candidate.plan.data.splits,
        "hilbert.how": request.how,
    }
    with offered(client, request.name, candidate.run, model, tags=tags, description=summary_line(finished)) as version:
        place = request.output or _free(Path("releases") / request.name / version.version)
        try:
            _copy(folder, place)
            _check_rival(client, rival)
            promote(client, version)
        except BaseException:
            if not _leads(client, version):
                shutil.rmtree(place, ignore_errors=True)
            raise
    return Released(place, version)


def _check_rival(client: Client, rival: Registered | None) -> None:
    """Whether the champion that was compared with still is."""
    if rival is not None and not _leads(client, rival):
        raise NotBetterError(f"not released: {rival.uri} isn't the champion any more; compare with the new one")


def _leads(client: Client, version: Registered) -> bool:
    """Whether a version is known to be the champion."""
    try:
        present = champion(client, version.name)
    except HilbertError:
        return False
    return present is not None and present.version == version.version


def _free(folder: Path) -> Path:
    """The folder, or where it is there already, of another registry's version, the next name that is free."""
    names = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return folder if not folder.exists() else next(name for name in names if not name.exists())


def _copy(folder: Path, place: Path) -> None:
    """Copies a folder beside its place, then renames it."""
    partial = unforeseen(place)
    try:
        shutil.copytree(folder, partial)
        partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

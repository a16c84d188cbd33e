"""What is recorded of a study as a whole: files in the experiment's artifact folder `study/`, and its note.

study.yaml        the study file, as it was run last
versions.json     command, versions, commit: see `tune.provenance`
data.json         documents, groups, classes, encoders and fingerprints of the feature stores, splits
splits.csv        one row a document: where it is in every fold, train, inner or held_out
fold_counts.csv   labelled documents of each class in every part of every fold
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from hilbert.features import FeatureStore
from hilbert.files import write_text
from hilbert.folds import PARTS, check_folds, class_counts
from hilbert.spreadsheets import csv_text
from hilbert.tasks import Labels
from tune.job import open_store
from tune.plan import Plan
from tune.predictions import hashed
from tune.privacy import command, private_encoders, private_study
from tune.redaction import without_passwords

FOLDER = "study"


def write_study_files(
    plan: Plan, data: Mapping[str, Any], versions: Mapping[str, Any], folder: Path, *, id_key: bytes | None = None
) -> None:
    """Writes them into `folder`.

    Args:
        plan: the study.
        data: of `describe_data`.
        versions: of `tune.provenance.versions`.
        folder: is there.
        id_key: replaces the ids of documents and groups by hashes with this key; folders of this computer are left out
            too.
    """
    study = plan.study.model_dump(mode="json", exclude_unset=True)
    if id_key:
        study = private_study(study)
        versions = {**versions, "command": command(versions["command"])} if versions.get("command") else versions
    text = yaml.safe_dump(study, sort_keys=False, allow_unicode=True)
    (folder / "study.yaml").write_text(without_passwords(text), encoding="utf-8")
    (folder / "versions.json").write_text(json.dumps(versions, indent=2), encoding="utf-8")
    (folder / "data.json").write_text(json.dumps(data, indent=2), encoding="utf-8")
    write_text(folder / "splits.csv", csv_text(split_manifest(plan, id_key=id_key)))
    write_text(folder / "fold_counts.csv", csv_text(named_counts(plan)))


def split_manifest(plan: Plan, *, id_key: bytes | None = None) -> pd.DataFrame:
    """Columns `document_id`, `group_id` (a document without a group has its own), `fold_0`, ...; one row a document."""
    frame = pd.DataFrame({"document_id": plan.documents, "group_id": plan.groups})
    if id_key:
        frame = frame.map(lambda name: hashed(name, id_key))
    places = {}
    for fold in plan.data.folds:
        places[f"fold_{fold.index}"] = np.full(len(frame), "", dtype=object)
        for part in PARTS:
            places[f"fold_{fold.index}"][getattr(fold, part)] = part
    return pd.concat([frame, pd.DataFrame(places)], axis=1)


def named_counts(plan: Plan) -> pd.DataFrame:
    """`hilbert.folds.class_counts` with the classes' names."""
    counts = class_counts(plan.data.folds, plan.labels)
    names = {
        (task, str(number)): name
        for task, found in plan.labels.items()
        for number, name in enumerate(found.spec.classes or ())
    }
    pairs = zip(counts["task"], counts["class"].astype(str), strict=True)
    return counts.assign(**{"class": [names.get(pair, pair[1]) for pair in pairs]})


def describe_data(plan: Plan, *, private: bool = False) -> dict[str, Any]:
    """The data in numbers; no id.

    Args:
        plan: the study.
        private: leave out the folders that encoders lie in.

    Raises:
        InputError: a group is on both sides of a split.
    """
    check_folds(plan.data.folds, plan.groups)
    study = plan.study
    return {
        "documents": len(plan.documents),
        "groups": len(set(plan.groups)),
        "stores": {
            name: _describe_store(open_store(location, plan.data.fingerprints[name]), private=private)
            for name, location in plan.data.stores.items()
        },
        "tasks": {task: _describe_labels(found) for task, found in plan.labels.items()},
        "folds": {
            "n_splits": study.folds.n_splits,
            "repeats": study.folds.repeats,
            "seed": study.folds.seed,
            "splits": plan.data.splits,
        },
        "group_crossings": 0,  # checked above
    }


def _describe_store(store: FeatureStore, *, private: bool) -> dict[str, Any]:
    encoders = private_encoders(store.encoders) if private else store.encoders
    parts = {
        name: {"encoder": encoder, "dim": getattr(store, name).dim, "segments": len(getattr(store, name).values)}
        for name, encoder in encoders.items()
    }
    return {"fingerprint": store.fingerprint, **parts}


def _describe_labels(labels: Labels) -> dict[str, Any]:
    known = labels.values[~np.isnan(labels.values)]
    content: dict[str, Any] = {"kind": labels.spec.kind, "missing": int(np.isnan(labels.values).sum())}
    if labels.spec.kind == "regression":
        return content | {"labelled": len(known), "mean": float(known.mean()), "deviation": float(known.std())}
    counts = np.bincount(known.astype(np.int64), minlength=len(labels.spec.classes)).tolist()
    return content | {"classes": dict(zip(labels.spec.classes, counts, strict=True))}


def study_note(plan: Plan, data: Mapping[str, Any]) -> str:
    """The experiment's description, Markdown; `data` is that of `describe_data`."""
    study = plan.study
    folds = data["folds"]
    repeated = f" ({folds['n_splits']} parts, {folds['repeats']} times)" if folds["repeats"] > 1 else ""
    lines = [
        f"{data['documents']} documents in {data['groups']} groups; {len(plan.data.folds)} folds{repeated}, the same"
        " for every configuration; no group is on both sides of a split.",
        "",
        f"Configurations are ranked by `{study.objective}`, racing: `{study.racing}`.",
        "",
        "| task | kind | classes | missing |",
        "|---|---|---|---|",
    ]
    for task, found in data["tasks"].items():
        classes = ", ".join(f"{name} {count}" for name, count in found.get("classes", {}).items())
        lines.append(f"| {_cell(task)} | {found['kind']} | {_cell(classes)} | {found['missing']} |")
    lines += ["", "| features | fingerprint | audio | text |", "|---|---|---|---|"]
    for name, store in data["stores"].items():
        encoders = (_cell((store[part]["encoder"] or {}).get("name") or "unknown") for part in ("audio", "text"))
        lines.append(f"| {_cell(name)} | `{store['fingerprint'][:16]}` | {' | '.join(encoders)} |")
    lines += ["", "The study file, the splits, class counts by fold and all versions lie in its artifacts, `study/`."]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|")

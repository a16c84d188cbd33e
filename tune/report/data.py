"""What a study stood on, and what it left out: data, splits, failures, gaps. Plain values, as in `tables`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tune.formats import with_error
from tune.report.material import Material
from tune.report.tables import Table
from tune.report.words import UNKNOWN, known, trial_name
from tune.selection import is_whole

# ---- what was excluded -----------------------------------------------------------------------------------------------


def failures(material: Material) -> Table:
    """Fold jobs that failed."""
    failed = material.jobs[material.jobs["status"] == "FAILED"]
    rows = [
        [trial_name(row["trial"]), str(row["fold"]), row["error"] or "see error.txt"] for _, row in failed.iterrows()
    ]
    return Table(["configuration", "fold", "kind of error"], rows)


def given_up(material: Material) -> Table:
    """Configurations that racing gave up."""
    frame, folds = material.ranking[material.ranking["abandoned"].ne("")], len(material.folds)
    rows = [
        [
            trial_name(row["trial"]),
            f"{row['cv/folds_done']} of {folds}",
            with_error(known(row["cv/auc_corrected"]), None),
        ]
        for _, row in frame.iterrows()
    ]
    return Table(["configuration", "folds run", "estimate"], rows)


def unfinished(material: Material) -> list[str]:
    """Configurations without a result that neither failed nor were given up."""
    frame = material.ranking
    rest = frame[~is_whole(frame) & frame["abandoned"].eq("") & frame["status"].ne("FAILED")]
    unranked = frame[is_whole(frame) & frame["rank"].isna()]
    return [trial_name(number) for number in [*rest["trial"], *unranked["trial"]]]


def undefined_folds(material: Material) -> Table:
    """Folds in which a task's AUC doesn't count, and why."""
    rows = []
    for task in material.study.tasks:
        done = material.jobs[material.jobs["status"] == "FINISHED"]
        folds = sorted(int(fold) for fold in done.loc[done[f"{task}/auc"].isna(), "fold"].unique())
        rows += [[task, str(fold), _why_undefined(material, task, fold)] for fold in folds]
    return Table(["task", "fold", "why"], rows)


def _why_undefined(material: Material, task: str, fold: int) -> str:
    if fold in material.untrained.get(task, ()):
        return "its training part lacks a class"
    counts = held_out_counts(material, task)
    if counts is None:
        return UNKNOWN
    missing = [str(name) for name in counts.columns if counts.loc[fold, name] == 0]
    few = "too few labels" if list(counts.columns) == ["labelled"] else ""
    return f"not held out: {', '.join(missing)}" if missing else few


def missing_labels(material: Material) -> Table | None:
    """How many documents have no label, by task; None where it isn't recorded."""
    data = material.files.data
    if data is None:
        return None
    rows = [
        [task, str(found["missing"]), f"{found['missing'] / max(data['documents'], 1):.1%}"]
        for task, found in data["tasks"].items()
        if found["missing"]
    ]
    return Table(["task", "documents without a label", "share"], rows)


# ---- data and splits -------------------------------------------------------------------------------------------------


def held_out_counts(material: Material, task: str) -> pd.DataFrame | None:
    """Held-out documents of a task: row = fold, column = class by its name; None where it isn't recorded."""
    counts, data = material.files.counts, material.files.data
    if counts is None:
        return None
    rows = counts[(counts["part"] == "held_out") & (counts["task"] == task)]
    table = rows.pivot_table(index="fold", columns="class", values="documents", aggfunc="sum", sort=False, fill_value=0)
    classes = list((data or {}).get("tasks", {}).get(task, {}).get("classes") or {})
    if classes and not set(table.columns) <= set(classes):  # numbers, not names
        table.columns = [classes[int(name)] for name in table.columns]
    return table


def class_table(material: Material) -> Table | None:
    """Documents of each class, and how many of them the folds hold out."""
    data = material.files.data
    if data is None:
        return None
    rows = []
    for task, found in data["tasks"].items():
        counts = held_out_counts(material, task)
        named = found.get("classes") or {"labelled": data["documents"] - found["missing"]}
        for name, number in named.items():
            parts = [] if counts is None or name not in counts else [int(n) for n in counts[name]]
            rows.append([task, found["kind"], str(name), str(number), _spread(parts) if parts else UNKNOWN])
    return Table(["task", "kind", "class", "documents", "held out in a fold"], rows)


def store_table(material: Material) -> Table | None:
    """Feature stores: fingerprint, encoders, dimensions."""
    data = material.files.data
    if data is None:
        return None
    rows = []
    for name, store in data["stores"].items():
        rows += [[name, part, _encoder(store[part])] for part in ("audio", "text") if store.get(part)]
        rows.append([name, "fingerprint", str(store["fingerprint"])])
    return Table(["features", "", ""], rows)


def _encoder(part: Mapping[str, Any]) -> str:
    encoder = part["encoder"] or {}
    if isinstance(encoder, str):
        encoder = {"name": encoder}
    details = [f"{name} {encoder[name]}" for name in ("revision", "layer", "pooling") if encoder.get(name) is not None]
    return ", ".join([str(encoder.get("name", UNKNOWN)), f"{part['dim']} dimensions", *details])


def split_words(material: Material) -> list[str]:
    """How the documents were split, and that no group is on both sides: counted anew from the table of the splits."""
    data, splits = material.files.data, material.files.splits
    found = []
    if data is not None:
        folds = data["folds"]
        repeats = folds.get("repeats", 1)
        again = f", {repeats} times anew" if repeats > 1 else ""
        found.append(f"{folds['n_splits']} folds{again}, seed {folds['seed']}, hash of the splits {folds['splits']}.")
    if splits is None:
        return [*found, "The table of the splits was not recorded: that no group crosses a split can't be shown here."]
    columns = [name for name in splits.columns if name.startswith("fold_")]
    sizes = {part: [int((splits[name] == part).sum()) for name in columns] for part in ("train", "inner", "held_out")}
    told = ", ".join(f"{part.replace('_', '-')} {_spread(number)}" for part, number in sizes.items())
    found.append(f"Documents in a fold's parts: {told}.")
    return [*found, _crossings(splits, columns), *_held_out_once(splits, columns)]


def _spread(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"


def crossings(splits: pd.DataFrame, columns: Sequence[str]) -> tuple[int, int]:
    """How many groups there are, and how many times one stands in more than one part of a fold."""
    alone = splits["group_id"].eq("")
    groups = splits["group_id"].where(~alone, np.arange(len(splits)).astype(str) + "\n")
    parts = splits[list(columns)].groupby(groups).nunique()
    return len(parts), int((parts > 1).sum().sum())


def _crossings(splits: pd.DataFrame, columns: Sequence[str]) -> str:
    groups, crossed = crossings(splits, columns)
    if crossed:
        return f"WRONG: groups stand {crossed} times in more than one part of a fold. Don't trust this study's numbers."
    return (
        f"No group crosses a split: each of the {groups} groups stands in a single part of each of the {len(columns)}"
        " folds (counted anew for this report, document by document)."
    )


def _held_out_once(splits: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    times = (splits[list(columns)] == "held_out").sum(axis=1)
    if times.nunique() != 1:
        return ["WRONG: not every document is held out equally often."]
    return [f"Every document is held out exactly {'once' if times.iloc[0] == 1 else f'{times.iloc[0]} times'}."]

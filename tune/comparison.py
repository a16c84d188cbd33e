"""`hilbert compare`: the configurations of a study, ranked, as a table for people and as CSV for programs."""

import pandas as pd
from rich.console import Console
from rich.table import Table

from tune.formats import LOG, duration, with_error
from tune.selection import is_whole, objective_metric, rank
from tune.tracking import ReadStudy

PARAMS = "params."
FEATURES = PARAMS + "features"
CAPTION = "AUC: mean over folds ± standard error; below it, pooled over all folds (folds that counted)"


def ranking(study: ReadStudy) -> pd.DataFrame:
    """One row a configuration, best first: rank, trial, status, metrics by their MLflow names, `params.<name>`.

    Only complete configurations have a rank.
    """
    ranked = rank(study.trials, study.objective)
    metrics = ["cv/auc_mean", "cv/auc_se", "cv/auc_pooled", "cv/folds_done"]
    for task in study.tasks:
        metrics += [f"{task}/auc_{part}" for part in ("mean", "se", "pooled", "folds")]
    metrics += ["cv/auc_corrected", "cost/seconds", "cost/gpu_seconds"]
    parameters = parameter_columns(ranked)
    frame = ranked.reindex(columns=["trial", "status", *metrics, *parameters, "failed_folds", "abandoned", "run"])
    for name in ("cv/folds_done", *(f"{task}/auc_folds" for task in study.tasks)):
        frame[name] = frame[name].astype("Int64")
    complete = is_whole(ranked)
    frame.insert(0, "rank", complete.cumsum().where(complete).astype("Int64"))
    return frame


def show(study: ReadStudy, console: Console) -> None:
    """Prints the ranking; with several feature stores also the best of each."""
    frame = ranking(study)
    parameters = parameter_columns(frame)
    table = Table(
        title=f"{study.name}: by {study.objective}",
        title_justify="left",
        caption=CAPTION,
        caption_justify="left",
    )
    for column in headings(study):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    for _, row in frame.iterrows():
        values = "  ".join(f"{name.removeprefix(PARAMS)} {parameter(row[name])}" for name in parameters)
        table.add_row(*cells(row, study), values)
    console.print(table)
    _groups(frame, study, console)
    _failures(frame, console)


def parameter_columns(frame: pd.DataFrame) -> list[str]:
    """Columns of the searched parameters, sorted; the logarithms that MLflow's plots need are left out."""
    names = {str(name) for name in frame.columns if str(name).startswith(PARAMS)}
    return sorted(name for name in names if name.removesuffix(LOG) not in names - {name})


def headings(study: ReadStudy) -> list[str]:
    """What stands above `cells`."""
    return ["rank", "trial", "all tasks", *study.tasks, "time"]


def cells(row: pd.Series, study: ReadStudy) -> list[str]:
    """A row of the ranking as people read it; AUCs in two lines, see `CAPTION`."""
    folds = _text(row["cv/folds_done"])
    found = [
        str(row["rank"]) if pd.notna(row["rank"]) else "given up" if row["abandoned"] else row["status"].lower(),
        f"t{row['trial']:03d}",
        _auc(row["cv/auc_mean"], row["cv/auc_se"], row["cv/auc_pooled"], folds),
    ]
    if row["abandoned"]:
        found[2] = f"about {with_error(_known(row['cv/auc_corrected']), None)}\n({folds})"
    for task in study.tasks:
        parts = (row[f"{task}/auc_{part}"] for part in ("mean", "se", "pooled", "folds"))
        mean, error, pooled, counted = parts
        found.append(_auc(mean, error, pooled, _text(counted)))
    seconds = _known(row["cost/seconds"])
    return [*found, "" if seconds is None else duration(seconds)]


def _auc(mean: float, error: float, pooled: float, folds: str) -> str:
    """Two lines: mean and standard error; AUC of the pooled predictions and how many folds counted."""
    if _known(mean) is None and _known(pooled) is None and folds in {"", "0"}:
        return ""
    return f"{with_error(_known(mean), _known(error))}\n{with_error(_known(pooled), None)} ({folds})"


def _groups(frame: pd.DataFrame, study: ReadStudy, console: Console) -> None:
    """The best configuration on each feature store."""
    if FEATURES not in frame or frame[FEATURES].nunique() < 2:
        return
    column = objective_metric(study.objective)
    table = Table(title="by features", title_justify="left")
    for name in ("features", "configurations", "best trial", f"best {column}", f"mean {column}"):
        table.add_column(name, justify="right")
    complete = frame[frame["rank"].notna()]
    for features, group in sorted(complete.groupby(FEATURES), key=lambda pair: pair[1]["rank"].min()):
        best = group.iloc[0]
        values = (f"{best[column]:.4f}", f"{group[column].mean():.4f}")
        table.add_row(str(features), str(len(group)), f"t{best['trial']:03d}", *values)
    console.print(table)


def _failures(frame: pd.DataFrame, console: Console) -> None:
    for _, row in frame[frame["failed_folds"].fillna("").ne("")].iterrows():
        console.print(
            f"t{row['trial']:03d} is not ranked: folds {row['failed_folds']} failed (see their error.txt in MLflow)",
            style="red",
        )


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def _text(value: str | int | float) -> str:
    return "" if pd.isna(value) else str(value)


def parameter(value: str) -> str:
    """A parameter's value, numbers to four digits."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _text(value)
    return f"{number:.4g}"

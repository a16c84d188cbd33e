"""`hilbert compare`: the configurations of a study, ranked, as a table for people and as CSV for programs.

Below it what the winner is worth without the luck of having been picked, and who can't be told from it.
"""

from collections.abc import Mapping, Sequence
from math import nan

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hilbert.metrics import BiasCorrected, CorrectedAuc
from tune.contest import LEVEL, Contest, contest
from tune.evidence import Evidence, named
from tune.formats import LOG, duration, with_error
from tune.selection import POOLED_AUC, is_whole, objective_metric, rank
from tune.tracking import ReadStudy
from tune.tried import Tried, tried

PARAMS = "params."
FEATURES = PARAMS + "features"
ALL_TASKS = "all tasks"
PARAMETERS_WIDTH = 40
"""Columns that the parameters need to be worth showing."""
CAPTION = "AUC: mean over folds ± standard error; below it, pooled over all folds (folds that counted)"


def ranking(study: ReadStudy) -> pd.DataFrame:
    """One row a configuration, best first: rank, trial, status, metrics by their MLflow names, `params.<name>`.

    Only complete configurations have a rank, and of trials that repeat one, see `repeats`, only one.
    """
    ranked = rank(study.trials, study.objective)
    metrics = ["cv/auc_mean", "cv/auc_se", "cv/auc_pooled", "cv/folds_done"]
    for task in study.tasks:
        metrics += [f"{task}/auc_{part}" for part in ("mean", "se", "pooled", "folds")]
    metrics += ["cv/auc_corrected", "cost/seconds", "cost/gpu_seconds"]
    parameters = parameter_columns(ranked)
    frame = ranked.reindex(
        columns=["trial", "status", *metrics, *parameters, "failed_folds", "abandoned", "repeats", "run"]
    )
    for name in ("cv/folds_done", *(f"{task}/auc_folds" for task in study.tasks)):
        frame[name] = frame[name].astype("Int64")
    complete = is_whole(ranked) & ranked[objective_metric(study.objective)].notna()
    frame.insert(0, "rank", complete.cumsum().where(complete).astype("Int64"))
    return frame


def show(study: ReadStudy, console: Console) -> None:
    """Prints the ranking, as much of it as there is room for; with several feature stores also the best of each."""
    everyone = ranking(study)
    frame = everyone[everyone["repeats"].isna()]
    table, left_out = _fitting(frame, study, console)
    console.print(table)
    if left_out:
        console.print(
            f"No room for {', '.join(left_out)}: in a wider terminal, a file, or with --csv.", style="dim", markup=False
        )
    again = everyone.loc[everyone["repeats"].notna(), "trial"].tolist()
    if again:
        console.print(
            f"{len(again)} of the {len(everyone)} trials repeat one of these {len(frame)} configurations, and aren't"
            f" shown: {named(again)}.",
            highlight=False,
        )
    _groups(frame, study, console)
    _failures(frame, console)


def _fitting(frame: pd.DataFrame, study: ReadStudy, console: Console) -> tuple[Table, list[str]]:
    """The table with as many columns as the console has room for, and the names of the others."""
    names = headings(study)
    objective = 3 + list(study.tasks).index(study.objective) if study.objective in study.tasks else 2
    choices = [(list(range(len(names))), parameters) for parameters in (True, False)]
    for place in reversed(range(2, len(names))):  # first the time, then the last task, but never the objective
        if place != objective:
            choices.append(([other for other in choices[-1][0] if other != place], False))
    room = console.options.update(max_width=10_000)
    for places, parameters in choices:
        needed = Measurement.get(console, room, _table(frame, study, places, parameters=False)).maximum
        if needed + parameters * PARAMETERS_WIDTH <= console.width:
            break
    left_out = [name for place, name in enumerate(names) if place not in places]
    return _table(frame, study, places, parameters=parameters), left_out + ["parameters"] * (not parameters)


def _table(frame: pd.DataFrame, study: ReadStudy, places: Sequence[int], *, parameters: bool) -> Table:
    """The ranking with those of its columns that stand in these places."""
    table = Table(
        title=f"{study.name}: by {study.objective}",
        title_justify="left",
        caption=CAPTION,
        caption_justify="left",
    )
    names = headings(study)
    for place in places:
        table.add_column(names[place], justify="right", no_wrap=True)
    if parameters:
        table.add_column("parameters", overflow="fold")
    searched = parameter_columns(frame)
    for _, row in frame.iterrows():
        found = cells(row, study)
        values = "  ".join(f"{name.removeprefix(PARAMS)} {parameter(row[name])}" for name in searched)
        table.add_row(*(found[place] for place in places), *[values] * parameters)
    return table


# ---- the winner ------------------------------------------------------------------------------------------------------


def with_tests(frame: pd.DataFrame, found: Contest | None) -> pd.DataFrame:
    """The ranking with each configuration tested against the winner, in columns `winner/...` at its end.

    `winner/difference` is the winner's mean over the folds that both ran less the configuration's own.
    """
    rivals = {} if found is None else {rival.trial: rival for rival in found.rivals}
    columns = {"difference": "difference", "p": "p", "p_wilcoxon": "wilcoxon", "p_holm": "holm"}
    tests = {
        f"winner/{name}": [getattr(rivals.get(trial), value, None) for trial in frame["trial"]]
        for name, value in columns.items()
    }
    return frame.assign(**{name: pd.Series(values, frame.index, dtype="float64") for name, values in tests.items()})


def show_winner(evidence: Evidence, console: Console) -> None:
    """Prints what the winner is worth on new documents, and who can't be told from it."""
    if evidence.missing:
        trial, why = next(iter(evidence.missing.items()))
        console.print(
            f"Left out of what follows, since their predictions can't be had: {named(list(evidence.missing))}"
            f" (t{trial:03d}: {why})",
            style="red",
            markup=False,
        )
    found = contest(evidence)
    if found is None:
        console.print("No complete configuration with predictions: there is no winner to speak of.", highlight=False)
        return
    corrected = evidence.bias_corrected()
    if corrected is None:
        console.print("The AUC of pooled predictions is undefined, hence no bias-corrected number.", highlight=False)
    else:
        _corrected(evidence, found.winner, corrected, console)
    _rivals(found, console)


def _corrected(evidence: Evidence, winner: int, found: BiasCorrected, console: Console) -> None:
    """The winner's AUCs with and without the luck of the choice, and which of them to publish."""
    study, by_pooled = evidence.study, evidence.trials[found.winner]
    row = study.trials[study.trials["trial"] == winner].iloc[0]
    table = Table(title=f"\nThe winner, t{winner:03d}", title_justify="left", box=SIMPLE)
    table.add_column("AUC")
    for column in ("mean over folds", "pooled", "bias-corrected", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    rows: Mapping[str, tuple[str, CorrectedAuc | None]] = {
        **({} if study.objective in study.tasks else {ALL_TASKS: ("cv", found.objective)}),
        **{task: (task, found.tasks[task]) for task in study.tasks},
    }
    for name, (prefix, auc) in rows.items():
        mean, error, pooled = (_known(row.get(f"{prefix}/auc_{part}", nan)) for part in ("mean", "se", "pooled"))
        numbers = ("undefined", "") if auc is None else (f"{auc.corrected:.4f}", _interval(auc.interval))
        chosen = name in {ALL_TASKS, study.objective}
        table.add_row(name, with_error(mean, error), with_error(pooled, None), *numbers, style="bold" if chosen else "")
    console.print(table)
    told = to_publish(study.objective, tried(evidence), found)
    console.print(told, style="bold", highlight=False, markup=False)
    if evidence.choices > 1 and study.objective != POOLED_AUC:
        also = "would have picked it too" if by_pooled == winner else f"would have picked t{by_pooled:03d}"
        console.print(f"The mean over folds picked t{winner:03d}; pooled predictions {also}.", highlight=False)


def to_publish(objective: str, of: Tried, found: BiasCorrected) -> str:
    """The sentence that says which number to publish."""
    auc = found.objective
    if of.choices == 1:
        return of.without_choice(f"{auc.winner:.4f}")
    what = "AUC of pooled predictions" + (f" of {objective}" if objective in found.tasks else "")
    return (
        f"Publish {auc.corrected:.4f} {_interval(auc.interval)}: the {what} to expect of the best of {of.choices}"
        f" configurations on new documents.{of.caution}"
    )


def _rivals(found: Contest, console: Console) -> None:
    """Who can't be told from the winner."""
    if not found.rivals:
        return
    winner = f"t{found.winner:03d}"
    lines = [f"\nNot distinguishable from {winner}: {named(found.alike) or 'none'}."]
    if found.worse:
        lines.append(f"Worse than {winner}: {named(found.worse)}.")
    if found.untested:
        lines.append(f"Too few folds in common, or one difference on all, hence no test: {named(found.untested)}.")
    if found.left_out:
        lines.append(f"Not compared: {named(found.left_out)}.")
    console.print("\n".join(lines), highlight=False)
    console.print(
        f"Corrected resampled t-test by fold, Holm over {found.tested}, at {LEVEL:g}. {winner} was picked by these very"
        " numbers, which flatters it: more of the others may be as good.",
        style="dim",
        highlight=False,
    )


def _interval(found: tuple[float, float]) -> str:
    return f"[{found[0]:.4f}, {found[1]:.4f}]"


# ---- the ranking, cell by cell ---------------------------------------------------------------------------------------


def parameter_columns(frame: pd.DataFrame) -> list[str]:
    """Columns of the searched parameters, sorted; the logarithms that MLflow's plots need are left out."""
    names = {str(name) for name in frame.columns if str(name).startswith(PARAMS)}
    return sorted(name for name in names if name.removesuffix(LOG) not in names - {name})


def headings(study: ReadStudy) -> list[str]:
    """What stands above `cells`."""
    return ["rank", "trial", ALL_TASKS, *study.tasks, "time"]


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
    """The best configuration on each feature store, and how many racing gave up there."""
    if FEATURES not in frame or frame[FEATURES].nunique() < 2:
        return
    column = objective_metric(study.objective)
    table = Table(title="by features", title_justify="left")
    for name in ("features", "configurations", "given up", "best trial", f"best {column}", f"mean {column}"):
        table.add_column(name, justify="right")
    last = len(frame) + 1  # a store without a complete configuration comes last
    for features, group in sorted(frame.groupby(FEATURES), key=lambda pair: pair[1]["rank"].fillna(last).min()):
        complete, given_up = group[group["rank"].notna()], int(group["abandoned"].astype(bool).sum())
        values: tuple[str, ...] = ("", "", "")
        if len(complete):
            best = complete.iloc[0]
            values = (f"t{best['trial']:03d}", f"{best[column]:.4f}", f"{complete[column].mean():.4f}")
        table.add_row(Text(str(features)), str(len(complete)), str(given_up), *values)
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

"""`hilbert select`: which configuration of a study is used from here on, chosen by a rule or by hand, with its reasons.

best        the highest objective
one-se      the simplest whose objective is not lower than the best's by more than one standard error of the best's fold
            scores (Breiman, Friedman, Olshen and Stone 1984; Hastie, Tibshirani and Friedman 2009, section 7.10)
pareto      of those that no other one dominates over the tasks' AUCs, the one whose largest loss against the best of
            any task is smallest (minimax regret)

Only complete configurations are chosen. The choice is recorded in MLflow: the experiment's tag `hilbert.selected` has
the number, the run's tags and its note say by which rule and why. The experiment's tag is the one that counts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hilbert.errors import LONGEST_VALUE, InputError, shown
from hilbert.metrics import Array, mean_and_se
from tune.evidence import Client, Evidence, named, trial_number
from tune.runs import log_batch
from tune.selection import POOLED_AUC, is_whole, objective_metric, rank
from tune.tracking import NOTE, TRIAL, ReadStudy, search_runs

BEST, ONE_SE, PARETO, BY_HAND = "best", "one-se", "pareto", "by hand"
RULES = (BEST, ONE_SE, PARETO)
COMPLEXITY = ("experts", "width", "expert width", "layers", "losses")
"""What makes a configuration more complex than another, in this order; later ones count where all before are equal.
The losses are the weights above 0 among contrastive, CKA and mi, and moe where there are several experts."""
WEIGHTS = ("contrastive", "cka", "mi")

SELECTED, REASONS = "hilbert.selected", "hilbert.selected_because"
PARAGRAPH = re.compile(r"\A([^\n]*)\n\n\*\*Selected\*\*[^\n]*")
"""Of a note: its first line, which the recorder rewrites, and the paragraph after it."""
LONGEST_REASON = 1000
"""Characters: a note in MLflow has an end."""
SHOWN = 12
"""Configurations of a table that people read."""


@dataclass(frozen=True)
class Choice:
    """A configuration that was chosen.

    Attributes:
        trial: its number.
        rule: one of `RULES`, or `BY_HAND`.
        reasons: why, in sentences.
    """

    trial: int
    rule: str
    reasons: str


@dataclass(frozen=True)
class Decision:
    """A choice, and the table that it was made by: one row a candidate, best first, with its number in `trial`."""

    choice: Choice
    table: pd.DataFrame


# ---- rules -----------------------------------------------------------------------------------------------------------


def choose(evidence: Evidence, rule: str) -> Decision:
    """Chooses a configuration by a rule.

    Raises:
        InputError: no such rule, no configuration is complete, or the rule can't be applied to them.
    """
    if rule not in RULES:
        raise InputError(f"no rule {shown(rule)}; there are {', '.join(RULES)}")
    study = evidence.study
    ranked = _complete(study)
    candidates = ranked[ranked["trial"].isin(evidence.trials)].reset_index(drop=True)
    if not len(candidates):
        raise InputError(f"study {shown(study.name)} has no complete configuration, of which one could be chosen")
    trial, reasons, table = {BEST: _best, ONE_SE: _one_se, PARETO: _pareto}[rule](evidence, candidates)
    lost = sorted(set(ranked["trial"]) & set(evidence.missing))
    if lost:
        reasons += f" Left out, since their predictions can't be had: {named(lost)}."
    return Decision(Choice(trial, rule, reasons), table)


def by_hand(study: ReadStudy, trial: int | str, *, because: str = "") -> Decision:
    """Chooses a configuration by its number, 14, or its name, t014.

    Raises:
        InputError: there is no such configuration, it isn't complete, or the reason is too long for a note.
    """
    complete = _complete(study)
    usable = f"complete ones are {named(complete['trial'].tolist()) or 'none'}"
    number = trial_number(str(trial))
    found = study.trials[study.trials["trial"] == number]
    if number is None or not len(found):
        told = trial if len(str(trial)) <= LONGEST_VALUE else shown(trial)
        raise InputError(f"study {shown(study.name)} has no configuration {told}; {usable}")
    if number not in set(complete["trial"]):
        raise InputError(f"t{number:03d} can't be chosen: {_why_not(found.iloc[0], study)}; {usable}")
    because = " ".join(because.split())
    if len(because) > LONGEST_REASON:
        raise InputError(f"--because has {len(because)} characters; {LONGEST_REASON} are the most that a note has room")
    place = complete["trial"].tolist().index(number) + 1
    metric = objective_metric(study.objective)
    value = complete[metric].iloc[place - 1]
    reasons = f"chosen by hand, rank {place} of {len(complete)} by {metric}, {value:.4f}"
    table = complete[["trial", metric]]
    return Decision(Choice(number, BY_HAND, f"{reasons}: {because}" if because else f"{reasons}."), table)


def complexity(configuration: Mapping[str, Any]) -> tuple[int, ...]:
    """How complex a configuration is, see `COMPLEXITY`: tuples compare as configurations do."""
    model, loss = configuration["model"], configuration["loss"]
    terms = sum(loss[name] > 0 for name in WEIGHTS) + (loss["moe"] > 0 and model["experts"] > 1)
    return (model["experts"], model["width"], model["expert_width"], model["layers"], terms)


def _complete(study: ReadStudy) -> pd.DataFrame:
    """The configurations that have a rank, best first."""
    ranked = rank(study.trials, study.objective)
    complete = ranked[is_whole(ranked) & ranked[objective_metric(study.objective)].notna()]
    return complete.reset_index(drop=True)


def _why_not(row: "pd.Series[Any]", study: ReadStudy) -> str:
    """Why a configuration isn't complete."""
    if pd.notna(row.get("repeats")):
        return f"it repeats the configuration of t{row['repeats']:03d}, which can"
    if row["abandoned"]:
        return f"racing gave it up {row['abandoned'].split(':')[0]}"
    if row["failed_folds"]:
        return f"folds {row['failed_folds']} failed"
    if row["status"] not in {"FINISHED", "FAILED"}:
        return "not all of its folds have run"
    return f"its {objective_metric(study.objective)} is undefined"


def _best(evidence: Evidence, candidates: pd.DataFrame) -> tuple[int, str, pd.DataFrame]:
    metric = objective_metric(evidence.study.objective)
    first = candidates.iloc[0]
    reasons = f"rank 1 of {len(candidates)} by {metric}, {first[metric]:.4f}."
    return int(first["trial"]), reasons, candidates[["trial", metric]]


def _one_se(evidence: Evidence, candidates: pd.DataFrame) -> tuple[int, str, pd.DataFrame]:
    metric = objective_metric(evidence.study.objective)
    best = candidates.iloc[0]
    error = standard_error(evidence, int(best["trial"]))
    if error is None:
        raise InputError(
            f"the standard error of t{best['trial']:03d} is undefined, since fewer than two folds have a score; use"
            " --rule best"
        )
    limit = best[metric] - error
    sizes = [complexity(evidence.configurations[trial]) for trial in candidates["trial"]]
    table = candidates[["trial", metric]].assign(within=candidates[metric] >= limit)
    table = table.assign(**{name: [size[place] for size in sizes] for place, name in enumerate(COMPLEXITY)})
    place = min(np.flatnonzero(table["within"]), key=lambda row: (sizes[row], row))
    chosen = table.iloc[place]
    within = int(table["within"].sum())
    which = f"the simplest of {within} configurations" if within > 1 else "the only configuration"
    reasons = (
        f"{which} within one standard error of the best, t{best['trial']:03d}: {metric} {chosen[metric]:.4f} against"
        f" {best[metric]:.4f} - {error:.4f} = {limit:.4f};"
        f" {', '.join(f'{name} {value}' for name, value in zip(COMPLEXITY, sizes[place], strict=True))}."
    )
    return int(chosen["trial"]), reasons, table


def standard_error(evidence: Evidence, trial: int) -> float | None:
    """Standard error of a configuration's fold scores, over the folds in which all that it maximises is defined.

    That of `cv/auc_se`, or of the one task. Where such folds are fewer than two, over all that have a score.
    """
    aucs, scores = evidence.fold_aucs(trial), evidence.fold_scores(trial)
    needed = [evidence.study.objective] if evidence.study.objective in aucs else list(aucs)
    whole = [
        score if all(aucs[task][fold] is not None for task in needed) else None for fold, score in enumerate(scores)
    ]
    error = mean_and_se(whole).standard_error
    return mean_and_se(scores).standard_error if error is None else error


def _pareto(evidence: Evidence, candidates: pd.DataFrame) -> tuple[int, str, pd.DataFrame]:
    study = evidence.study
    columns = {task: column for task in study.tasks if (column := _task_metric(candidates, task, study.objective))}
    if not columns:
        raise InputError(f"no task of study {shown(study.name)} has an AUC that all complete configurations have")
    values = candidates[list(columns.values())].to_numpy(dtype=np.float64)
    front = pareto_front(values)
    regrets = values.max(0) - values[front]  # the best of each task lies on the front
    largest = regrets.max(1)
    chosen = int(largest.argmin())  # best objective first
    table = candidates.iloc[np.array(front)][["trial", objective_metric(study.objective), *columns.values()]]
    table = table.loc[:, ~table.columns.duplicated()].assign(regret=largest).reset_index(drop=True)
    worst = list(columns)[int(regrets[chosen].argmax())]
    trial = int(table["trial"].iloc[chosen])
    reasons = (
        f"of {len(front)} configurations that no other one dominates, the one whose largest loss against the best of a"
        f" task is smallest: {largest[chosen]:.4f}, on {worst}."
        if len(front) > 1
        else f"the best of {len(candidates)} on every task."
    )
    return trial, reasons, table


def _task_metric(candidates: pd.DataFrame, task: str, objective: str) -> str | None:
    """The mean over folds, or the pooled AUC where that is maximised or a mean is undefined."""
    for part in ("pooled",) if objective == POOLED_AUC else ("mean", "pooled"):
        column = f"{task}/auc_{part}"
        if column in candidates and candidates[column].notna().all():
            return column
    return None


def pareto_front(values: Array) -> Sequence[int]:
    """Rows that no other row dominates: is as high in all columns and higher in one. Equal rows are all there."""
    at_least = (values[:, None] >= values[None]).all(2)  # [i, j]: i is as high as j
    dominated = (at_least & ~at_least.T).any(0)
    return [int(row) for row in np.flatnonzero(~dominated)]


# ---- the record ------------------------------------------------------------------------------------------------------


def record_choice(client: Client, study: str, choice: Choice) -> None:
    """Records a choice in place of an earlier one.

    The chosen run is marked first, in one request, then the experiment, and earlier marks are taken away last: whatever
    a crash leaves, the experiment's tag names a run that says why, and the same again cleans up.
    """
    experiment = client.get_experiment_by_name(study).experiment_id
    runs = search_runs(client, experiment, f"tags.`hilbert.level` = '{TRIAL}'")
    (chosen,) = (run for run in runs if int(run.data.tags["hilbert.trial"]) == choice.trial)
    note = _with_paragraph(chosen.data.tags.get(NOTE, ""), choice)
    tags = {NOTE: note, SELECTED: choice.rule, REASONS: choice.reasons}
    log_batch(client, chosen.info.run_id, tags=tags)
    client.set_experiment_tag(experiment, SELECTED, str(choice.trial))
    for run in runs:
        if run.info.run_id != chosen.info.run_id:
            _unmark(client, run)


def selected(client: Client, study: str) -> Choice | None:
    """The configuration that was chosen last; None where none was.

    Raises:
        InputError: there is no such study, or its chosen configuration is gone.
    """
    experiment = client.get_experiment_by_name(study)
    number = None if experiment is None else experiment.tags.get(SELECTED)
    if number is None:
        return None
    condition = f"tags.`hilbert.level` = '{TRIAL}' and tags.`hilbert.trial` = '{number}'"
    runs = search_runs(client, experiment.experiment_id, condition)
    if not runs:
        raise InputError(f"study {shown(study)}: t{int(number):03d}, which was selected, is gone; select another one")
    tags = runs[0].data.tags
    return Choice(int(number), tags.get(SELECTED, BY_HAND), tags.get(REASONS, ""))


def _with_paragraph(note: str, choice: Choice) -> str:
    """A note with the paragraph that says what was chosen and why, right after its first line."""
    first, _, rest = PARAGRAPH.sub(r"\1", note).partition("\n")
    how = "" if choice.rule == BY_HAND else f" by `{choice.rule}`"
    return f"{first}\n\n**Selected**{how}: {choice.reasons}\n{rest}"


def _unmark(client: Client, run: Any) -> None:
    """Takes away what says that a run was chosen; its tag last, so that a crash leaves it to be found."""
    tags = run.data.tags
    note = tags.get(NOTE, "")
    if PARAGRAPH.match(note):
        client.set_tag(run.info.run_id, NOTE, PARAGRAPH.sub(r"\1", note))
    for tag in (REASONS, SELECTED):
        if tag in tags:
            client.delete_tag(run.info.run_id, tag)


# ---- on the terminal -------------------------------------------------------------------------------------------------


def show_choice(decision: Decision, console: Console) -> None:
    """Prints the table that a choice was made by, and its reasons."""
    choice, frame = decision.choice, decision.table
    table = Table(box=SIMPLE)
    for name in frame.columns:
        table.add_column(Text(str(name).replace("/auc_", "\n")), justify="right", overflow="fold")
    shown = frame[(frame.index < SHOWN) | (frame["trial"] == choice.trial)]
    for row in shown.to_dict("records"):
        cells = (Text(_cell(str(name), value)) for name, value in row.items())
        table.add_row(*cells, style="bold" if row["trial"] == choice.trial else "")
    console.print(table)
    if len(shown) < len(frame):
        console.print(f"and {len(frame) - len(shown)} more", style="dim", highlight=False)
    console.print(f"t{choice.trial:03d}, {choice.rule}: {choice.reasons}", highlight=False, markup=False)


def _cell(name: str, value: Any) -> str:
    if name == "trial":
        return f"t{value:03d}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

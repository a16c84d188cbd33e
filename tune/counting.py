"""Which folds count for which task, said before anything runs: see `hilbert.folds.defined_folds`."""

from collections.abc import Mapping, Sequence

import numpy as np

from hilbert.errors import StudyError, shown
from hilbert.folds import Defined, Fold
from hilbert.tasks import Labels
from tune.formats import in_runs
from tune.selection import POOLED_AUC, undefined_tasks
from tune.space import Study

FEWEST = 3
"""Folds of which a mean isn't called one of few; it is too where they are less than half."""


def check_defined(study: Study, labels: Mapping[str, Labels], folds: Sequence[Fold], groups: Sequence[str]) -> None:
    """Refuses a study whose objective has no value, whatever the configuration.

    Args:
        study: the study file.
        labels: of the tasks.
        folds: all folds.
        groups: of each document.

    Raises:
        StudyError: a task that is maximised has no AUC that counts.
    """
    undefined = undefined_tasks(labels, folds, study.objective)
    if not undefined:
        return
    task = undefined[0]
    rarest, documents, of_groups = _rarest(labels[task], groups)
    verb = "is" if documents == 1 else "are"
    told = f"{documents} of {int(labels[task].labelled.sum())} labelled documents {verb} {shown(rarest)}"
    told += f", in {of_groups} group"
    if labels[task].spec.kind == "regression":
        told = f"{documents} documents are labelled, in {of_groups} group"
    raise StudyError(
        f"objective {study.objective}: the AUC of {shown(task)} is undefined. {_why(study.objective, len(folds))};"
        f" {told}{'s' if of_groups > 1 else ''}. {_what_helps(study, labels, folds, task, of_groups)}"
    )


def _rarest(labels: Labels, groups: Sequence[str]) -> tuple[str, int, int]:
    """The class in fewest groups, then of fewest documents: its name, its documents and its groups."""
    parts = [labels.values == number for number in range(len(labels.spec.classes))] or [labels.labelled]
    names = labels.spec.classes or ("labelled",)
    sizes = [(len(set(np.array(groups)[mine])), int(mine.sum())) for mine in parts]
    number = sizes.index(min(sizes))
    return names[number], sizes[number][1], sizes[number][0]


def _why(objective: str, folds: int) -> str:
    if objective == POOLED_AUC:
        return "The documents that are held out where all classes are trained don't hold all classes"
    return f"None of the {folds} folds both trains on all classes and holds all of them out"


def _what_helps(study: Study, labels: Mapping[str, Labels], folds: Sequence[Fold], task: str, groups: int) -> str:
    others = [name for name in labels if name != task and name not in undefined_tasks(labels, folds, study.objective)]
    without = f"maximise another task (objective: {others[0]})" if others else "maximise another task"
    without += f", or leave {shown(task)} out of tasks"
    if groups < 2:
        return f"No split can both train on that class and hold it out: {without}"
    helps = []
    if study.objective != POOLED_AUC and task not in undefined_tasks(labels, folds, POOLED_AUC):
        helps.append(f"objective: {POOLED_AUC}")
    if study.folds.n_splits > 2:
        helps.append("fewer and larger folds (folds: {n_splits: 3, repeats: 5})")
    return _sentence(f"{' or '.join(helps)} may help; else {without}" if helps else without)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def counting_lines(task: str, labels: Labels, folds: Sequence[Fold], defined: Defined) -> list[str]:
    """In how many folds a task's AUC counts, why not in the others, and a warning where these are few."""
    counted, most = int(defined.scored.sum()), len(folds)
    reasons: dict[str, list[int]] = {}
    for fold, trained, scored in zip(folds, defined.trained, defined.scored, strict=True):
        if not trained:
            reasons.setdefault(f"{_lacking(labels, fold.train)} to train on", []).append(fold.index)
        elif not scored:
            reasons.setdefault(f"{_lacking(labels, fold.held_out)} held out", []).append(fold.index)
    told = "".join(f"; {why} in {in_runs(found)}" for why, found in reasons.items())
    lines = [f"  its AUC counts in {counted} of {most} folds{told}"]
    if counted < most and (counted < FEWEST or 2 * counted < most):
        lines.append(f"  warning: the mean AUC of {task} is one of {counted} folds: it depends on few documents")
    return lines


def _lacking(labels: Labels, rows: np.ndarray) -> str:
    """What a part lacks, in words."""
    if labels.spec.kind == "regression":
        return "no two different values"
    present = set(labels.values[rows][labels.labelled[rows]].astype(int).tolist())
    missing = [name for number, name in enumerate(labels.spec.classes) if number not in present]
    return f"no {', '.join(missing)}"

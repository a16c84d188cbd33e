"""What the winner is worth without the luck of its choice, who can't be told from it, and which one was selected.

All of it needs every configuration's predictions, `tune.evidence`. Where they can't be had a verdict says why instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hilbert.metrics import BiasCorrected, CorrectedAuc
from tune.choice import BY_HAND
from tune.comparison import ALL_TASKS
from tune.contest import LEVEL, Contest, Rival, contest
from tune.evidence import named
from tune.report.material import Material
from tune.report.words import Interval, counted, ends, known, objective_words, trial_name
from tune.selection import POOLED_AUC, objective_metric
from tune.tried import Tried, tried

NO_WINNER = "no complete configuration has both a value of the objective and predictions that can be had"
UNDEFINED = "the AUC of pooled predictions is undefined in this cohort, or in most resamples of it"


@dataclass(frozen=True)
class Verdict:
    """What all configurations' predictions say of the winner.

    Attributes:
        contest: the winner against all others.
        corrected: its AUCs without the luck of the choice.
        of: how many configurations it was picked from, and what became of the others.
        by_pooled: number of the configuration that pooled predictions would have picked.
        missing: numbers of the configurations whose predictions can't be had.
        why_not: why `corrected` is None; empty where it isn't, or where nothing is ranked.
    """

    contest: Contest | None = None
    corrected: BiasCorrected | None = None
    of: Tried = field(default_factory=lambda: Tried(0))
    by_pooled: int | None = None
    missing: Sequence[int] = ()
    why_not: str = ""

    @property
    def rivals(self) -> Mapping[int, Rival]:
        """The configurations that were tested against the winner, by number."""
        return {} if self.contest is None else {rival.trial: rival for rival in self.contest.rivals}


def judge(material: Material) -> Verdict:
    """The verdict on a study's winner."""
    evidence = material.evidence
    if material.winner is None:
        return Verdict()
    if evidence is None:
        return Verdict(why_not=material.no_evidence)
    found = contest(evidence)
    if found is None:
        return Verdict(why_not=NO_WINNER)
    corrected, missing = evidence.bias_corrected(), list(evidence.missing)
    if corrected is None:
        return Verdict(found, of=tried(evidence), missing=missing, why_not=UNDEFINED)
    return Verdict(found, corrected, tried(evidence), evidence.trials[corrected.winner], missing)


class Worth(NamedTuple):
    """The winner's AUC of pooled predictions, of a task or the mean over all.

    Attributes:
        name: of the task, or `ALL_TASKS`.
        raw: as it is.
        interval: the 95 % interval of `raw`.
        corrected: without the luck of the choice; None where it can't be told.
        chosen_by: whether the winner was chosen by this one.
    """

    name: str
    raw: float | None
    interval: Interval
    corrected: CorrectedAuc | None
    chosen_by: bool


def worth(material: Material, verdict: Verdict, intervals: Mapping[str, Interval]) -> list[Worth]:
    """The objective's row first, unless it is a task's; `intervals` has `ALL_TASKS` too."""
    study, winner, found = material.study, material.winner, verdict.corrected
    if winner is None:
        return []
    over_all = study.objective not in study.tasks and len(study.tasks) > 1
    names = [*([ALL_TASKS] if over_all else []), *study.tasks]
    corrected = {} if found is None else {ALL_TASKS: found.objective, **found.tasks}
    return [
        Worth(
            name,
            known(winner[f"{'cv' if over_all and place == 0 else name}/auc_pooled"]),
            intervals.get(name),
            corrected.get(name),
            chosen_by=place == 0 if over_all else name == study.objective or len(names) == 1,
        )
        for place, name in enumerate(names)
    ]


# ---- sentences -------------------------------------------------------------------------------------------------------


def caution(material: Material, verdict: Verdict, found: Sequence[Worth]) -> str:
    """The honest sentences: what not to publish, and what instead."""
    if material.winner is None:
        return ""
    if len(material.ranking) == 1:
        return "A single configuration was tried: its numbers chose nothing, and can be published."
    text = "The best of many looks better than it is: these same numbers were used to pick it. "
    if verdict.corrected is None:
        text += "Don't read them as the AUC to expect of new people."
        text += f" What to expect can't be told: {verdict.why_not}."
    elif verdict.of.choices == 1:
        text = verdict.of.without_choice("the winner's AUC")
    else:
        text += _to_publish(material, verdict.corrected, verdict.of.choices, found) + verdict.of.caution
    objective = material.study.objective
    values = material.ranking.loc[material.ranking["rank"].notna(), objective_metric(objective)]
    if len(values) > 2:
        median = f"{objective_words(objective)} {values.median():.4f}"
        text += f" The median of the {len(values)} complete configurations: {median}."
    return text


def _to_publish(material: Material, corrected: BiasCorrected, choices: int, found: Sequence[Worth]) -> str:
    """The sentence that says which number to publish, and instead of which."""
    tasks, objective = material.study.tasks, material.study.objective
    what = "AUC of pooled predictions"
    if objective in tasks:
        what += f" of {objective}"
    elif len(tasks) > 1:
        what += ", mean over the tasks,"
    auc = corrected.objective
    raw = next((row.raw for row in found if row.chosen_by), None)
    instead = "" if raw is None else f", not {raw:.4f}"
    text = (
        f"Publish {auc.corrected:.4f} (95 % interval {ends(auc.interval)}){instead}: the {what} to expect of the best"
        f" of {counted(choices, 'configuration')} on new people"
    )
    return f"{text}; and of each task the bias-corrected number." if len(tasks) > 1 else f"{text}."


def notes(material: Material, verdict: Verdict) -> list[str]:
    """What else to know of the corrected numbers."""
    if verdict.contest is None or verdict.corrected is None:
        return []
    found = []
    if verdict.missing:
        found.append(f"Left out, since their predictions can't be had: {named(verdict.missing)}.")
    if verdict.of.choices > 1 and material.study.objective != POOLED_AUC:
        winner, other = verdict.contest.winner, verdict.by_pooled
        text = f"The mean over folds picked {trial_name(winner)}; the pooled AUC, which is corrected, would have picked"
        if other in {winner, None}:
            found.append(f"{text} it too.")
        else:
            found.append(f"{text} {trial_name(other)}: a corrected number may be higher than the winner's own.")
    return found


def rivalry(verdict: Verdict) -> str:
    """Who can't be told from the winner; empty where there is nobody else."""
    found = verdict.contest
    if found is None or not found.rivals:
        return ""
    others = {
        "Worse": found.worse,
        "Too few folds in common for a test": found.untested,
        "Not compared": found.left_out,
    }
    told = [
        f"Not distinguishable from {trial_name(found.winner)}: {named(found.alike) or 'none'}.",
        *(f"{name}: {named(who)}." for name, who in others.items() if who),
    ]
    return " ".join(
        [
            *told,
            "By the differences on the folds that both ran: corrected resampled t-test (Nadeau and Bengio 2003), "
            f"adjusted by Holm for {counted(found.tested, 'comparison')}, at {LEVEL:g}. The winner was picked by these "
            "very numbers, which flatters it: more of the others may be as good. Those that racing gave up have few "
            "folds to be told by.",
        ]
    )


def selection(material: Material) -> str:
    """Which configuration `hilbert select` chose, and why; empty where none was."""
    chosen = material.selected
    if chosen is None:
        return ""
    how = "" if chosen.rule == BY_HAND else f" by {chosen.rule}"
    return f"{trial_name(chosen.trial)} was selected for use{how}: {chosen.reasons.rstrip('.')}."


def chosen_in_short(material: Material) -> str:
    """One sentence of it for the summary."""
    chosen, winner = material.selected, material.winner
    if chosen is None or winner is None:
        return ""
    if chosen.trial == winner["trial"]:
        return f"{trial_name(chosen.trial)} was also selected for use."
    return f"Selected for use is another one, {trial_name(chosen.trial)}; the figures here are the best one's."

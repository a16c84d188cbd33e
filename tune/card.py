"""The model card of a release, Markdown: for those who use the model, and for those who judge whether to.

After Mitchell et al. 2019, "Model cards for model reporting".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hilbert.metrics import CorrectedAuc, pooled_auc, pooled_interval
from hilbert.release import Release
from tune.contest import best_trial
from tune.evidence import Evidence
from tune.tried import tried

RESAMPLES = 1000
UNSTATED = (
    "Not stated by those who released it. Ask them before you use the model for anything but research on its data."
)


def model_card(release: Release, evidence: Evidence, *, licence: str | None, intended_use: str | None) -> str:
    """The card.

    Args:
        release: what is released.
        evidence: the held-out predictions of its study.
        licence: of the model.
        intended_use: of the model.
    """
    made = release.made
    parts = [
        f"# {release.name}",
        _what(release),
        "## Intended use",
        intended_use or UNSTATED,
        "## Cohort",
        _cohort(made),
        "## How well it predicts",
        _quality(release, evidence),
        "## Calibration",
        _calibration(made),
        "## Limits",
        _limits(release),
        "## How it was made",
        _making(release),
        "## Licence",
        licence or "Not stated. The features' encoders have licences of their own.",
        "## How to use it",
        _usage(release),
    ]
    return "\n\n".join(parts) + "\n"


def summary_line(release: Release) -> str:
    """The release in a line, for the registry's page."""
    made = release.made
    how = "one model of all documents" if made["how"] == "refit" else f"ensemble of {len(release.members)} fold models"
    return f"t{made['trial']:03d} of study {made['study']}: {how}, {made['documents']} documents"


def _what(release: Release) -> str:
    tasks = ", ".join(
        f"`{task}` ({', '.join(spec.classes) if spec.classes else 'a number'})" for task, spec in release.tasks.items()
    )
    return (
        "A HILBERT model: from a person's recording and its transcript, cut into segments and encoded by frozen"
        f" encoders, to one embedding of {release.members[0].config.model.width} dimensions, and from it {tasks}.\n\n"
        + "\n".join(_encoder(name, release.encoders[name]) for name in ("audio", "text"))
    )


def _encoder(modality: str, description: Mapping[str, Any]) -> str:
    name, revision = description.get("name"), description.get("revision")
    return f"- {modality}: `{name}`, revision `{revision}`" if name else f"- {modality}: features of unknown origin"


def _cohort(made: Mapping[str, Any]) -> str:
    rows = ["| task | labelled documents by class | without a label |", "|---|---|---|"]
    for task, counts in made["classes"].items():
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        rows.append(f"| {_cell(task)} | {_cell(shown)} | {made['documents'] - sum(counts.values())} |")
    kept = (
        "`learned_from.json` holds keyed hashes of their segments' features and of their ids, so that `hilbert predict`"
        " leaves these people out where it says how good it is. Whoever has this folder can test whether somebody whose"
        " recording they have is among them, or guess ids; the hashes of two releases can't be compared."
    )
    return f"{made['documents']} documents in {made['groups']} groups.\n\n" + "\n".join(rows) + f"\n\n{kept}"


def _quality(release: Release, evidence: Evidence) -> str:
    trial = release.made["trial"]
    row, folds = evidence.row(trial), release.made["folds"]
    corrected = evidence.bias_corrected()
    rows = ["| task | AUC, pooled [95 % interval] | AUC, corrected for the choice [95 % interval] |", "|---|---|---|"]
    for task in evidence.tasks:
        raw, interval = _raw(evidence, task, row)
        found = None if corrected is None else corrected.tasks[task]
        shown = "undefined" if raw is None or found is None else _shifted(raw, found)
        rows.append(f"| {_cell(task)} | {_auc(raw, interval)} | {shown} |")
    repeated = f", {folds['repeats']} times" if folds["repeats"] > 1 else ""
    of = tried(evidence)
    lines = [
        f"Held-out predictions of {folds['n_splits']}-fold cross-validation{repeated}, groups never split."
        " For several classes the AUC is the mean of each against the rest; for a number the concordance index.",
        "\n".join(rows),
        f"The configuration was chosen among {of.choices} by these same folds: on average the first number is too good."
        " **Publish the second**: the optimism of picking the best is estimated by BBC-CV (Tsamardinos et al. 2018)."
        f"{of.caution}"
        if of.choices > 1
        else of.without_choice("the first number"),
    ]
    if best_trial(evidence) != trial:
        lines.append("It isn't the best of them: what is taken off is what it would be for the best, hence careful.")
    how = release.made["how"]
    lines.append(
        "These numbers are of models trained on the folds' training parts. "
        + (
            "What is released was trained once more, on all documents, and has not been scored on anybody."
            if how == "refit"
            else "What is released is the mean of those models, and has not been scored on anybody as such."
        )
    )
    return "\n\n".join(lines)


def _raw(evidence: Evidence, task: str, row: int) -> tuple[float | None, tuple[float, float] | None]:
    """Pooled AUC of a configuration with its interval."""
    scores, kind = evidence.scores[task][row], evidence.tasks[task].kind
    labels, repeats = list(evidence.counted_labels(task)), list(range(evidence.repeats))
    value = pooled_auc(labels, list(scores), kind, repeats=repeats)
    interval = pooled_interval(
        labels,
        list(scores),
        kind,
        documents=[list(evidence.documents)] * evidence.repeats,
        groups=dict(zip(evidence.documents, evidence.groups, strict=True)),
        repeats=repeats,
        resamples=RESAMPLES,
    )
    return value, interval


def _shifted(raw: float, best: CorrectedAuc) -> str:
    """A configuration's AUC less the optimism of the best."""
    optimism = best.winner - best.corrected
    low, high = (float(np.clip(end - best.winner + raw, 0, 1)) for end in best.interval)
    return _auc(float(np.clip(raw - optimism, 0, 1)), (low, high))


def _auc(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _calibration(made: Mapping[str, Any]) -> str:
    if not made["calibration"]:
        return "Nothing to calibrate by: the tasks are numbers, or no held-out prediction counts."
    rows = [
        "| task | method | Brier score | calibration error | log loss |",
        "|---|---|---|---|---|",
    ]
    for task, gain in made["calibration"].items():
        cells = (
            f"{gain['before'][name]:.3f} → {gain['after'][name]:.3f}"
            for name in ("brier", "calibration_error", "log_loss")
        )
        rows.append(f"| {_cell(task)} | {gain['method']} | {' | '.join(cells)} |")
    return (
        "Fitted on held-out predictions. Before → after; the latter by cross-fitting, each fold's predictions"
        " calibrated by the others'. Lower is better.\n\n" + "\n".join(rows)
    )


def _limits(release: Release) -> str:
    made = release.made
    smallest = {task: min(counts.values()) for task, counts in made["classes"].items() if counts}
    task = min(smallest, key=lambda name: smallest[name])
    lines = [
        f"- Learned from {made['documents']} documents; the rarest class of `{task}` has {smallest[task]}."
        " Other recording conditions, languages, ages or ways of asking are not covered by the numbers above.",
        "- Probabilities hold for people who are like the cohort, with its shares of the classes.",
        "- Attention and experts' weights show what the model looked at. They are no causes.",
        "- A prediction is no diagnosis.",
    ]
    if len(release.members) > 1:
        lines.append("- An ensemble has no one embedding: `--embeddings` needs a release with `--how refit`.")
    return "\n".join(lines)


def _making(release: Release) -> str:
    made, packages = release.made, release.made["versions"]["packages"]
    epochs = made["epochs"]
    trained = (
        f"refitted on all documents for {epochs} epochs, the median of the folds' best epochs"
        if made["how"] == "refit"
        else f"the models of all {len(release.members)} folds, their probabilities averaged"
    )
    study = f"`{made['study']}` (objective `{made['objective']}`)"
    rows = [
        f"- configuration t{made['trial']:03d} of study {study}: {made['reason']}",
        f"- {trained}; seed {made['configuration']['seed']}, seed of the folds {made['folds']['seed']}",
        f"- features `{made['fingerprint'][:16]}`, splits `{made['splits'][:12]}`",
        f"- versions: {', '.join(f'{name} {version}' for name, version in packages.items() if version)}"
        f", python {made['versions']['python']}",
    ]
    if made.get("champion"):
        rows.append(f"- {made['champion']['verdict']}")
    if release.window:
        rows.append(f"- recordings were cut into windows of {release.window:g} s")
    return "\n".join(rows) + "\n\nThe whole configuration is in `release.json`."


def _usage(release: Release) -> str:
    return (
        f"    hilbert predict models:/{release.name}@champion cohort/ --output predictions.csv\n\n"
        "or, without MLflow, with this folder in its place; in Python:\n\n"
        "    import hilbert\n\n"
        '    hilbert.predict("this/folder", "cohort/").table()'
    )


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|")

"""The study file: what is searched, on which data, over which folds.

`tune.study_file` reads it. `Study.configuration` turns one proposal of the search into the configuration of a fit.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from hilbert.cells import tidy
from hilbert.config import FitConfig, LossConfig, ModelConfig, Section, Seed, TrainConfig
from hilbert.errors import shown

Value = bool | int | float | str
Parameters = dict[str, Value]
"""A proposal: the searched parameters by their dotted names."""

SECTIONS: Mapping[str, type[BaseModel]] = {"model": ModelConfig, "loss": LossConfig, "train": TrainConfig}
FEATURES = "features"
"""Name of the searched parameter that chooses among several feature stores."""
OBJECTIVES = ("mean_auc", "pooled_auc")
MOST_FOLDS, MOST_TRIALS, MOST_MINUTES, MOST_GPUS = 100_000, 1_000_000, 10_000_000, 1024
"""Bounds of a study file's numbers, far above anything that one would run."""
LONGEST_NAME = 200
"""Characters of a task's or a store's name: MLflow's own limit is 250 for what is called after it."""
RESERVED = frozenset({"cv", "fold", "cost", "epoch", *OBJECTIVES})


class Choices(Section):
    """A parameter that takes one of some values."""

    choices: Annotated[list[Value], Field(min_length=1, max_length=500)]
    """The values, in any order."""

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: list[Value]) -> list[Value]:
        if len({(isinstance(choice, bool), choice) for choice in choices}) < len(choices):  # 1 and 1.0 are the same
            raise ValueError(f"choices must differ from each other: {shown(choices)}")
        return choices

    def samples(self) -> list[Value]:
        """Values to check before anything runs."""
        return list(self.choices)


class Range(Section):
    """A number between two bounds, both included; a whole one where the value that it stands for is whole."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    log: bool = False
    """Search on a logarithmic scale."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low >= self.high:
            raise ValueError(f"low must be less than high, both finite: low is {self.low}, high is {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 where log is true: it is {self.low}")
        return self

    def samples(self) -> list[Value]:
        """Values to check before anything runs."""
        return [self.low, self.high]


Parameter = Choices | Range


class FoldsConfig(Section):
    """How the documents are split: section `folds`."""

    n_splits: Annotated[int, Field(ge=2, le=MOST_FOLDS)] = 25
    """Parts that are held out in turn."""
    repeats: Annotated[int, Field(ge=1, le=MOST_FOLDS)] = 1
    """How often the documents are split anew; the folds are `n_splits * repeats`."""
    seed: Seed = 0
    """Seed of the splits."""
    inner_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of a fold's other documents that chooses the epoch (inner validation)."""

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if self.n_splits * self.repeats > MOST_FOLDS:
            raise ValueError(f"folds: {self.n_splits} * {self.repeats} are too many: {MOST_FOLDS:,} at most")
        return self


class ResourcesConfig(Section):
    """What one fold job occupies: section `resources`."""

    cpus_per_job: Annotated[float, Field(gt=0, le=10_000)] = 1
    """Processor cores, as Ray counts them; a job computes on one thread."""
    gpus_per_job: float | Literal["auto"] = 0
    """GPUs; 0.25 lets four jobs share one. `auto`: as many share one as its memory holds, which the first jobs show,
    and fewer after one ran out of it; a computer of its own that has no GPU runs the jobs on processors."""
    workers: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Fold jobs at once, at most; without it as many as fit on the cluster. The results don't depend on it."""
    minutes_for_nodes: Annotated[float, Field(ge=0, le=MOST_MINUTES)] = 20
    """How long a sweep on a cluster waits for a first node that a fold job fits on."""
    retries: Annotated[int, Field(ge=0, le=1000)] = 1
    """How often a fold job is run again that failed: that raised, hung, or whose worker died. The loss of a whole node
    doesn't count."""
    minutes_per_job: Annotated[float, Field(gt=0, le=MOST_MINUTES)] | None = None
    """A fold job that takes longer counts as hanging and is ended; without it, none is."""

    @field_validator("gpus_per_job", mode="before")
    @classmethod
    def _part_or_whole(cls, gpus: object) -> object:
        if isinstance(gpus, int | float) and not isinstance(gpus, bool):
            fits = 0 <= gpus <= 1 or (1 < gpus <= MOST_GPUS and float(gpus).is_integer())
        else:
            fits = gpus == "auto"
        if not fits:
            raise ValueError(
                "gpus_per_job must be auto, a share of a GPU (0 to 1) or whole GPUs"
                f" ({MOST_GPUS} at most): it is {shown(gpus)}"
            )
        return gpus

    @property
    def gpus_at_first(self) -> float:
        """GPUs of the first fold job."""
        return 1.0 if self.gpus_per_job == "auto" else self.gpus_per_job


class Study(Section):
    """A study file."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    """Name of the study: an MLflow experiment, and a folder of finished fold jobs."""
    features: str | Annotated[dict[str, str], Field(min_length=1)]
    """Folder of the feature store, or its URL (s3://bucket/folder); or several by name: the search chooses."""
    tasks: Annotated[dict[str, str | dict[str, Any]], Field(min_length=1)]
    """Label column to its kind: `binary`, `multiclass`, `regression`, or `{kind: binary, classes: [no, yes]}`."""
    missing_values: list[int | float | str] | dict[str, list[int | float | str]] | None = None
    """Codes that stand for a missing label, as -99 or unknown, beside the usual ones such as NA: of all tasks, or by
    task. A cell counts that holds the same text or the same number."""
    folds: FoldsConfig = FoldsConfig()
    """The splits."""
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 20
    """Configurations to try."""
    objective: str = "mean_auc"
    """What is maximised: `mean_auc`, the mean over the tasks of the mean over folds; one task's name, for its mean over
    folds; or `pooled_auc`, the mean over the tasks of the AUC of all held-out predictions together, which is defined
    where folds are too small to hold every class."""
    model: ModelConfig = ModelConfig()
    """Values of the architecture that are not searched."""
    loss: LossConfig = LossConfig()
    """Values of the losses that are not searched."""
    train: TrainConfig = TrainConfig()
    """Values of the training that are not searched."""
    search: dict[str, Choices | Range] = Field(default_factory=dict)
    """Dotted name of a value to where it is searched."""
    hours: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """Hours after which no further fold job is started, counted anew each time the command runs."""
    fold_jobs: Annotated[int, Field(ge=1, le=MOST_FOLDS * MOST_TRIALS)] | None = None
    """Fold jobs after which no further one is started, those of earlier runs included."""
    racing: Literal["none", "wilcoxon", "successive-halving"] = "successive-halving"
    """How a configuration that can't be hoped for is given up before all its folds have run; see `tune/racing.py`."""
    resources: ResourcesConfig = ResourcesConfig()
    """What a fold job occupies."""
    seed: Seed = 0
    """Seed of the search and of the fits."""
    storage: str = "studies"
    """Folder in which the study keeps its finished fold jobs and its proposals, in a folder of its name."""
    tracking_uri: str | None = None
    """MLflow server or store; the command line and the variable MLFLOW_TRACKING_URI go first."""

    @field_validator("tasks")
    @classmethod
    def _names_fit_metrics(cls, given: dict[str, Any]) -> dict[str, Any]:
        tasks = {tidy(name): wanted for name, wanted in given.items()}
        if len(tasks) < len(given):
            raise ValueError(f"tasks: {', '.join(map(shown, given))}: two are one task, written in two ways")
        for name in tasks:
            if name in RESERVED or len(name) > LONGEST_NAME or not re.fullmatch(r"[\w.-][\w. -]*", name):
                raise ValueError(
                    f"tasks: {shown(name)} can't name a task, since metrics are called after it: use letters, digits, "
                    f"'_', '-', '.', spaces, at most {LONGEST_NAME} of them, none of {', '.join(sorted(RESERVED))}"
                )
        return tasks

    @field_validator("features")
    @classmethod
    def _names_fit_parameters(cls, features: str | dict[str, str]) -> str | dict[str, str]:
        for name in features if isinstance(features, dict) else ():
            if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
                raise ValueError(
                    f"features: {shown(name)} can't name a store: write a word, {LONGEST_NAME} characters at most"
                )
        return features

    @field_validator("objective")
    @classmethod
    def _composed(cls, objective: str) -> str:
        return tidy(objective)

    @field_validator("missing_values", mode="before")
    @classmethod
    def _codes(cls, codes: object) -> object:
        lists = list(codes.values()) if isinstance(codes, dict) else [codes]
        for one in lists if codes is not None else ():
            right = "write a list, [-99, unknown], or one for each task, {age: [-99]}"
            if not isinstance(one, list):
                raise ValueError(f"missing_values: {right}, not {shown(one)}")  # noqa: TRY004 (pydantic takes this one)
            wrong = [code for code in one if isinstance(code, bool) or not isinstance(code, int | float | str)]
            if wrong:
                raise ValueError(f"missing_values: {shown(wrong[0])} is no text and no number; put quotes around it")
        return {tidy(str(task)): one for task, one in codes.items()} if isinstance(codes, dict) else codes

    @model_validator(mode="after")
    def _codes_of_known_tasks(self) -> Self:
        for task in self.missing_values if isinstance(self.missing_values, dict) else ():
            if task not in self.tasks:
                raise ValueError(f"missing_values names {shown(task)}, which is not among the tasks")
        return self

    @property
    def labels(self) -> dict[str, str | dict[str, Any]]:
        """The tasks, each with its codes for a missing label."""
        named = self.missing_values or []
        codes = {task: named.get(task) if isinstance(named, dict) else named for task in self.tasks}
        return {task: _with_codes(wanted, codes[task]) for task, wanted in self.tasks.items()}

    @property
    def stores(self) -> dict[str, str]:
        """Folders or URLs of the feature stores by name; a single one is called `features`."""
        return self.features if isinstance(self.features, dict) else {FEATURES: self.features}

    @property
    def parameters(self) -> dict[str, Parameter]:
        """All that is searched, the choice among several feature stores included."""
        if len(self.stores) == 1:
            return dict(self.search)
        return {FEATURES: Choices(choices=sorted(self.stores)), **self.search}

    @property
    def defaults(self) -> Parameters:
        """The searched parameters at the values that the file's sections give them, as far as these can be proposed."""
        found = {name: getattr(getattr(self, name.split(".")[0]), name.split(".")[1]) for name in self.search}
        admitted = {name: _admitted(self.search[name], value) for name, value in found.items()}
        return {name: value for name, value in admitted.items() if value is not None}

    @property
    def firsts(self) -> list[Parameters]:
        """The first proposals: the file's own values, on each feature store; none where one is outside the search."""
        defaults = self.defaults
        if not self.parameters or len(defaults) < len(self.search):
            return []
        if len(self.stores) == 1:
            return [defaults]
        return [{FEATURES: store, **defaults} for store in sorted(self.stores)]

    @property
    def logarithmic(self) -> list[str]:
        """The parameters that are searched on a log scale."""
        return [name for name, value in self.search.items() if isinstance(value, Range) and value.log]

    def is_whole(self, name: str) -> bool:
        """Whether a searched value is a whole number."""
        section, key = name.split(".")
        default = getattr(getattr(self, section), key)
        return isinstance(default, int) and not isinstance(default, bool)

    def store(self, parameters: Parameters) -> str:
        """Name of the feature store that a proposal uses."""
        return str(parameters.get(FEATURES, next(iter(self.stores))))

    def configuration(self, parameters: Parameters) -> FitConfig:
        """The configuration of a proposal.

        Raises:
            ValidationError: the values don't go together, as a width that is not a multiple of the heads.
        """
        sections = {name: getattr(self, name).model_dump() for name in SECTIONS}
        for name, value in parameters.items():
            if name != FEATURES:
                section, key = name.split(".")
                sections[section][key] = value
        return FitConfig.model_validate({"tasks": self.labels, "seed": self.seed, **sections})


def _with_codes(wanted: str | dict[str, Any], codes: Sequence[int | float | str] | None) -> str | dict[str, Any]:
    if not codes:
        return wanted
    declared = {"kind": wanted} if isinstance(wanted, str) else wanted
    return {**declared, "missing_values": [*declared.get("missing_values", ()), *codes]}


def identity_of(config: FitConfig) -> dict[str, Any]:
    """What a configuration is known by: all of it but the codes for missing labels, whose effect the labels show."""
    told = config.model_dump(mode="json")
    for task, wanted in told["tasks"].items():
        if isinstance(wanted, dict) and wanted.pop("missing_values", None) is not None and list(wanted) == ["kind"]:
            told["tasks"][task] = wanted["kind"]
    return told


def is_url(location: str) -> bool:
    """Whether a feature store is named by a URL, as in s3://bucket/folder, and not by its folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location) is not None


def configuration_hash(config: FitConfig, store: str) -> str:
    """Identity of a configuration on a feature store: 12 hexadecimal digits."""
    told = json.dumps([store, identity_of(config)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _admitted(parameter: Parameter, value: Value) -> Value | None:
    """A value as the search proposes it: one of the choices may be written 1 where the value is 1.0; None: outside."""
    if isinstance(parameter, Choices):
        equal = (choice for choice in parameter.choices if _same(choice, value))
        return next(equal, None)
    return value if isinstance(value, int | float) and parameter.low <= value <= parameter.high else None


def _same(a: Value, b: Value) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)

"""The study file: what is searched, on which data, over which folds.

A study file is YAML, validated completely before anything runs. Any value in it may be overridden by its dotted
name (`train.epochs=5`). `Study.configuration` turns one proposal of the search into the configuration of a fit.
"""

import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from hilbert.config import Count, FitConfig, LossConfig, ModelConfig, Positive, Section, TrainConfig
from hilbert.errors import StudyError

Value = bool | int | float | str
Parameters = dict[str, Value]
"""A proposal: the searched parameters by their dotted names."""

SECTIONS: Mapping[str, type[BaseModel]] = {"model": ModelConfig, "loss": LossConfig, "train": TrainConfig}
FEATURES = "features"
"""Name of the searched parameter that chooses among several feature stores."""
MOST_COMBINATIONS = 4096


class Choices(Section):
    """A parameter that takes one of some values."""

    choices: Annotated[list[Value], Field(min_length=1)]
    """The values, in any order."""

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: list[Value]) -> list[Value]:
        if len({json.dumps(choice) for choice in choices}) < len(choices):
            raise ValueError(f"choices must differ from each other: {choices}")
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

    n_splits: Annotated[int, Field(ge=2)] = 25
    """Parts that are held out in turn."""
    repeats: Positive = 1
    """How often the documents are split anew; the folds are `n_splits * repeats`."""
    seed: Count = 0
    """Seed of the splits."""
    inner_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of a fold's other documents that chooses the epoch (inner validation)."""


class ResourcesConfig(Section):
    """What one fold job occupies: section `resources`."""

    cpus_per_job: Annotated[float, Field(gt=0)] = 1
    """Processor cores, as Ray counts them; a job computes on one thread."""
    gpus_per_job: Annotated[float, Field(ge=0)] = 0
    """GPUs; 0.25 lets four jobs share one."""
    workers: Positive | None = None
    """Fold jobs at once, at most; without it as many as fit on the cluster. The results don't depend on it."""


class Study(Section):
    """A study file."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    """Name of the study: an MLflow experiment, and a folder of finished fold jobs."""
    features: str | Annotated[dict[str, str], Field(min_length=1)]
    """Folder of the feature store, or several by name, among which the search chooses."""
    tasks: Annotated[dict[str, str | dict[str, Any]], Field(min_length=1)]
    """Label column to its kind: `binary`, `multiclass`, `regression`, or `{kind: binary, classes: [no, yes]}`."""
    folds: FoldsConfig = FoldsConfig()
    """The splits."""
    trials: Positive = 20
    """Configurations to try."""
    objective: str = "mean_auc"
    """What is maximised: `mean_auc`, the mean over the tasks, or one task's name."""
    model: ModelConfig = ModelConfig()
    """Values of the architecture that are not searched."""
    loss: LossConfig = LossConfig()
    """Values of the losses that are not searched."""
    train: TrainConfig = TrainConfig()
    """Values of the training that are not searched."""
    search: dict[str, Choices | Range] = Field(default_factory=dict)
    """Dotted name of a value to where it is searched."""
    racing: Literal["none"] = "none"
    """Whether hopeless configurations are given up early. This version evaluates every configuration on every fold."""
    resources: ResourcesConfig = ResourcesConfig()
    """What a fold job occupies."""
    seed: Count = 0
    """Seed of the search and of the fits."""
    storage: str = "studies"
    """Folder in which the study keeps its finished fold jobs and its proposals, in a folder of its name."""
    tracking_uri: str | None = None
    """MLflow server or store; the command line and the variable MLFLOW_TRACKING_URI go first."""

    @property
    def stores(self) -> dict[str, str]:
        """Folders of the feature stores by name; a single one is called `features`."""
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
        return {name: value for name, value in found.items() if _admits(self.search[name], value)}

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
        return FitConfig.model_validate({"tasks": self.tasks, "seed": self.seed, **sections})


def configuration_hash(config: FitConfig, store: str) -> str:
    """Identity of a configuration on a feature store: 12 hexadecimal digits."""
    content = json.dumps([store, config.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _admits(parameter: Parameter, value: Value) -> bool:
    if isinstance(parameter, Choices):
        return any(value == choice and type(value) is type(choice) for choice in parameter.choices)
    return isinstance(value, int | float) and parameter.low <= value <= parameter.high


# ---- reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number (YAML 1.1 asks for 1.0e-3) and a key may not stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds a mapping, refusing repeated keys."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Reads and checks a study file.

    Args:
        path: the YAML file. Paths within it are taken from the folder that the command runs in.
        overrides: `key=value`, the key dotted, the value in YAML.

    Raises:
        StudyError: with the file, the key, and what would be right.
    """
    content = _read(Path(path))
    for override in overrides:
        _override(content, override)
    return parse_study(content, source=str(path))


def parse_study(content: Mapping[str, Any], *, source: str) -> Study:
    """Checks the content of a study file; `source` names it in messages.

    Raises:
        StudyError: with the key, and what would be right.
    """
    try:
        study = Study.model_validate(dict(content))
        FitConfig.model_validate({"tasks": study.tasks, "loss": study.loss.model_dump()})
    except ValidationError as error:
        raise StudyError(f"{source}: " + "; ".join(_explain(error, content))) from None
    _check_objective(study, source)
    _check_search(study, source)
    return study


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: can't be read as a text file ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise StudyError(f"{path}{where}: not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: a study file is a mapping of keys to values, such as 'study: parents'")
    return {str(key): value for key, value in content.items()}


def _override(content: dict[str, Any], override: str) -> None:
    """Applies `train.epochs=5` in place."""
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise StudyError(f"--set {override}: must be key=value, such as train.epochs=5")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise StudyError(f"--set {override}: the value is not valid YAML") from None
    first, _, rest = name.strip().partition(".")
    if rest:
        inner = content.setdefault(first, {})
        if not isinstance(inner, dict):
            raise StudyError(f"--set {override}: {first} has no keys of its own; write {first}=VALUE")
        target, key = inner, rest
        if first != "search" and "." in rest:
            outer, _, key = rest.partition(".")
            target = inner.setdefault(outer, {})
    else:
        target, key = content, first
    target[key] = value


def _nearest(unknown: str, known: Iterable[str]) -> str:
    candidates = sorted(known)
    close = difflib.get_close_matches(unknown, candidates, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(candidates)}"


def _fields(location: Sequence[str | int]) -> Iterable[str]:
    """Keys that are known at a place of the study file."""
    model: type[BaseModel] = Study
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return (*Choices.model_fields, *Range.model_fields)
        model = annotation
    return model.model_fields


def _explain(error: ValidationError, content: Mapping[str, Any]) -> list[str]:
    """One sentence for each fault: the key, the value, what would be right."""
    faults: dict[str, list[str]] = {}
    for fault in error.errors():
        location = [part for part in fault["loc"] if part not in {"Choices", "Range", "str", "dict[str,str]"}]
        key = ".".join(str(part) for part in location)
        if location[:1] == ["search"]:
            key = ".".join(str(part) for part in location[:2])
            faults.setdefault(key, [_explain_search(key, content)])
        elif fault["type"] == "extra_forbidden":
            faults.setdefault(key, []).append(
                f"unknown key {key!r}; {_nearest(str(location[-1]), _fields(location[:-1]))}"
            )
        elif fault["type"] == "missing":
            faults.setdefault(key, []).append(f"key {key!r} is missing")
        elif fault["type"] == "value_error":
            faults.setdefault(key, []).append(str(fault["msg"]).removeprefix("Value error, "))
        else:
            faults.setdefault(key, []).append(f"{key}: {fault['msg']}, not {fault['input']!r}")
    return [sentences[0] for sentences in faults.values()]


def _explain_search(key: str, content: Mapping[str, Any]) -> str:
    """Why a searched parameter is wrong: tried against the form it seems to have."""
    value = content["search"].get(key.removeprefix("search.")) if isinstance(content["search"], dict) else None
    form = "it must be {low: ..., high: ...}, with log: true for a logarithmic scale, or {choices: [...]}"
    if not isinstance(value, dict):
        return f"{key}: {form}, not {value!r}"
    try:
        (Choices if "choices" in value else Range).model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"][:1])
        if fault["type"] == "extra_forbidden":
            return f"{key}: unknown key {name!r}; {form}"
        if fault["type"] == "value_error":
            return f"{key}: {str(fault['msg']).removeprefix('Value error, ')}"
        return f"{key}.{name}: {fault['msg']}; {form}" if name else f"{key}: {fault['msg']}; {form}"
    return f"{key}: {form}"


def _check_objective(study: Study, source: str) -> None:
    if study.objective not in {"mean_auc", *study.tasks}:
        known = ("mean_auc", *study.tasks)
        raise StudyError(
            f"{source}: objective: unknown objective {study.objective!r}; {_nearest(study.objective, known)}"
        )


def _check_search(study: Study, source: str) -> None:
    """Every searched name exists, and every bound and choice is a legal value in some combination."""
    known = {f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields} - {"loss.tasks"}
    for name in study.search:
        if name not in known:
            raise StudyError(f"{source}: search.{name}: no such parameter; {_nearest(name, known)}")
    for section, model in SECTIONS.items():
        searched = {name.split(".")[1]: p for name, p in study.search.items() if name.split(".")[0] == section}
        for key, parameter in searched.items():
            for value in parameter.samples():
                _check_value(study, model, section, key, value, searched, source)
    if not study.parameters and study.trials > 1:
        raise StudyError(
            f"{source}: trials is {study.trials} but search is empty: nothing differs between them; write trials: 1"
        )


def _check_value(
    study: Study,
    model: type[BaseModel],
    section: str,
    key: str,
    value: Value,
    searched: Mapping[str, Parameter],
    source: str,
) -> None:
    """Tries one value of a searched parameter with every combination of the others in its section."""
    base = getattr(study, section).model_dump() | {key: value}
    others = {other: p.samples() for other, p in searched.items() if other != key}
    error: ValidationError | None = None
    for combination in itertools.islice(itertools.product(*others.values()), MOST_COMBINATIONS):
        try:
            model.model_validate(base | dict(zip(others, combination, strict=True)))
        except ValidationError as found:
            error = found
        else:
            return
    assert error is not None
    fault = next((f for f in error.errors() if f["loc"][-1:] == (key,)), error.errors()[0])
    message = str(fault["msg"]).removeprefix("Value error, ")
    raise StudyError(f"{source}: search.{section}.{key}: {value!r} can't be used: {message}")

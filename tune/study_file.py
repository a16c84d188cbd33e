"""Reading a study file: YAML, overrides from the command line, and one clear message for whatever is wrong."""

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hilbert.config import FitConfig
from hilbert.errors import LONGEST_VALUE, StudyError, shown
from tune.space import FEATURES, OBJECTIVES, SECTIONS, Choices, Parameter, Range, Study, Value
from tune.study_yaml import YamlFault, parse_yaml, read_yaml

MOST_COMBINATIONS = 4096
BRANCHES = r"(Choices|Range|str)$|dict\["
"""What pydantic adds to a place where a value may be of several kinds."""
MOST_FAULTS = 10
"""Faults that a message names."""


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
    content = _without_empty_sections(content)
    try:
        study = Study.model_validate(content)
        FitConfig.model_validate({"tasks": study.tasks, "loss": study.loss.model_dump()})
    except ValidationError as error:
        raise StudyError(f"{source}: " + "; ".join(_explain(error, content))) from None
    _check_objective(study, source)
    _check_search(study, source)
    return study


def _without_empty_sections(content: Mapping[str, Any]) -> dict[str, Any]:
    """A key without a value is the same as none: `train:` with nothing below it."""
    found = {key: value for key, value in content.items() if value is not None or key not in Study.model_fields}
    loss = found.get("loss")
    if isinstance(loss, dict) and loss.get("tasks", ()) is None:
        found["loss"] = {key: value for key, value in loss.items() if key != "tasks"}
    return found


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise StudyError(f"{path}: a study file is a mapping of keys to values, such as 'study: parents'")
    return content


def _override(content: dict[str, Any], override: str) -> None:
    """Applies `train.epochs=5` in place."""
    name, equals, text = override.partition("=")
    path = _path(name.strip())
    if not equals or not all(path):
        raise StudyError(f"--set {shown(override)}: must be key=value, such as train.epochs=5")
    try:
        value = parse_yaml(text)
    except YamlFault as error:
        raise StudyError(f"--set {shown(override)}: {error}") from None
    for depth, key in enumerate(path[:-1], start=1):
        inner = content.get(key)
        if not isinstance(inner, dict | None):
            above = ".".join(path[:depth])
            raise StudyError(f"--set {shown(override)}: {above} has no keys of its own; write {above}=VALUE")
        content[key] = dict(inner or {})  # its own: an alias may stand for the same mapping elsewhere
        content = content[key]
    content[path[-1]] = value


def _path(name: str) -> list[str]:
    """The keys that a dotted name goes through; names of parameters, tasks and feature stores may hold dots."""
    first, *rest = name.split(".", 1)
    if not rest or first in {"search", FEATURES}:
        return [first, *rest]
    if first == "tasks":
        task, dot, key = rest[0].rpartition(".")
        return [first, task, key] if dot and key in {"kind", "classes"} else [first, *rest]
    return [first, *rest[0].split(".", 1 if first == "loss" else -1)]


def _nearest(unknown: str, known: Iterable[str]) -> str:
    candidates = sorted(known)
    close = difflib.get_close_matches(unknown, candidates, n=1, cutoff=0.5)
    return f"did you mean {shown(close[0])}?" if close else f"known are {', '.join(candidates)}"


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
    faults: dict[str, str] = {}
    for fault in error.errors():
        if fault["loc"][-1:] == ("str",) and isinstance(fault["input"], dict):
            continue  # what may be a text or a mapping, and is a mapping
        location = [part for part in fault["loc"] if not re.match(BRANCHES, str(part))]
        key = ".".join(str(part) for part in location)
        if location[:1] == ["search"]:
            key = ".".join(str(part) for part in location[:2])
            faults.setdefault(key, _explain_search(key, content["search"]))
        else:
            faults.setdefault(key, _explain_fault(key, location, fault))
    told = list(faults.values())
    return told if len(told) <= MOST_FAULTS else [*told[:MOST_FAULTS], f"and {len(told) - MOST_FAULTS} faults more"]


def _explain_fault(key: str, location: Sequence[str | int], fault: ErrorDetails) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"unknown key {shown(key)}; {_nearest(str(location[-1]), _fields(location[:-1]))}"
    if fault["type"] == "missing":
        return f"key {shown(key)} is missing"
    if fault["type"] == "value_error":
        return message
    quotes = ""
    if fault["type"] == "string_type" and isinstance(fault["input"], bool | int | float):
        quotes = "; YAML reads no, yes, on, off and numbers as such: put quotes around a word"
    return f"{_cut(key)}: {message}, not {shown(fault['input'])}{quotes}"


def _cut(key: str) -> str:
    return key if len(key) <= LONGEST_VALUE else shown(key)


def _explain_search(key: str, search: object) -> str:
    """Why a searched parameter is wrong: tried against the form it seems to have."""
    if not isinstance(search, dict):
        return f"search: must be a mapping of names, such as loss.cka, to where they are searched, not {shown(search)}"
    value, key = search.get(key.removeprefix("search.")), _cut(key)
    form = "it must be {low: ..., high: ...}, with log: true for a logarithmic scale, or {choices: [...]}"
    if not isinstance(value, dict):
        return f"{key}: {form}, not {shown(value)}"
    try:
        (Choices if "choices" in value else Range).model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"][:1])
        if fault["type"] == "extra_forbidden":
            return f"{key}: unknown key {shown(name)}; {form}"
        if fault["type"] == "value_error":
            return f"{key}: {str(fault['msg']).removeprefix('Value error, ')}"
        return f"{key}.{name}: {fault['msg']}; {form}" if name else f"{key}: {fault['msg']}; {form}"
    return f"{key}: {form}"


def _check_objective(study: Study, source: str) -> None:
    known = (*OBJECTIVES, *study.tasks)
    if study.objective not in known:
        raise StudyError(
            f"{source}: objective: unknown objective {shown(study.objective)}; {_nearest(study.objective, known)}"
        )


def _check_search(study: Study, source: str) -> None:
    """Every searched name exists, and every bound and choice is a legal value in some combination."""
    known = {f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields} - {"loss.tasks"}
    for name in study.search:
        if name not in known:
            raise StudyError(f"{source}: search.{_cut(name)}: no such parameter; {_nearest(name, known)}")
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
    raise StudyError(f"{source}: search.{section}.{key}: {shown(value)} can't be used: {message}")

"""Reading a study file: YAML, overrides from the command line, and one clear message for whatever is wrong."""

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hilbert.config import FitConfig
from hilbert.errors import StudyError, shown
from tune.space import OBJECTIVES, SECTIONS, Choices, Parameter, Range, Study, Value

MOST_COMBINATIONS = 4096


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
            faults.setdefault(key, []).append(f"{key}: {fault['msg']}, not {shown(fault['input'])}")
    return [sentences[0] for sentences in faults.values()]


def _explain_search(key: str, content: Mapping[str, Any]) -> str:
    """Why a searched parameter is wrong: tried against the form it seems to have."""
    value = content["search"].get(key.removeprefix("search.")) if isinstance(content["search"], dict) else None
    form = "it must be {low: ..., high: ...}, with log: true for a logarithmic scale, or {choices: [...]}"
    if not isinstance(value, dict):
        return f"{key}: {form}, not {shown(value)}"
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
    raise StudyError(f"{source}: search.{section}.{key}: {shown(value)} can't be used: {message}")

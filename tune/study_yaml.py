"""YAML as people write it by hand, read within bounds: whatever is wrong is one message with its line.

It is YAML 1.1 with merge keys (`<<: *base`), except where that surprises: 1e-3 is a number, keys are what is written,
a date is a text, and 012 (ten) and 1:30 (ninety) are refused. Aliases are counted as what they stand for, so that a
few lines can't stand for millions.
"""

import re
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from hilbert.errors import StudyError, shown

MOST_BYTES = 1_000_000
MOST_NODES = 20_000
"""Values of a file, keys among them, aliases counted as what they stand for."""
DEEPEST = 32
"""Lists and mappings within each other."""
LONGEST_NUMBER = 100
"""Characters of a number."""

PREFIX = "tag:yaml.org,2002:"
MERGE = PREFIX + "merge"
KNOWN_TAGS = frozenset(PREFIX + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))
TEMPLATE = "is {{...}} a template that was to be filled in? In YAML it is a mapping as a key"
SURPRISES = {
    r"[-+]?0[0-9_]+": "in YAML a leading 0 makes an octal number",
    r"[-+]?[0-9][0-9_]*(:[0-9.]+)+": "in YAML colons make a number of base 60",
}


class _Loader(yaml.SafeLoader):
    """The loader: see the module."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.nodes = 0
        self.depth = 0
        self.sizes: dict[int, int] = {}  # nodes that a finished node stands for, by its id

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Composes a node, counting."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self.nodes
        if self.depth >= DEEPEST:
            raise _fault(f"more than {DEEPEST} lists and mappings within each other", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.sizes:
                raise _fault(f"*{event.anchor} stands within what it stands for", event.start_mark)
            self.nodes += self.sizes[id(node)]
        else:
            self.nodes += 1
            self.sizes[id(node)] = self.nodes - before
        if self.nodes > MOST_NODES:
            raise _fault(f"more than {MOST_NODES:,} values, aliases counted as what they stand for", event.start_mark)
        if node is not None and node.tag not in KNOWN_TAGS:
            raise _fault(f"the tag {shown(node.tag.replace(PREFIX, '!!'))} has no meaning here", event.start_mark)
        return node

    def flatten_mapping(self, node: MappingNode) -> None:
        """Puts the pairs of merged mappings before a mapping's own, of which no key may stand twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = _key(key)
            if name in seen:
                raise _fault(f"key {shown(name)} stands twice", key.start_mark)
            seen.add(name)
        super().flatten_mapping(node)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: ARG002
        """Builds a mapping whose keys are the texts that are written."""
        if not isinstance(node, MappingNode):
            raise _fault("a mapping of keys to values is needed here", node.start_mark)
        self.flatten_mapping(node)
        return {_key(key): self.construct_object(value, deep=True) for key, value in node.value}

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Builds a value, with a message for those that only look like one."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError, LookupError):  # !!int x
            raise _fault(f"{shown(node.value)} is no {node.tag.removeprefix(PREFIX)}", node.start_mark) from None

    def construct_number(self, node: ScalarNode) -> int | float:
        """Builds a number that reads the same to people."""
        text = str(self.construct_scalar(node))
        if len(text) > LONGEST_NUMBER:
            raise _fault(f"a number of {len(text)} characters", node.start_mark)
        for pattern, why in SURPRISES.items():
            if re.fullmatch(pattern, text):
                raise _fault(f"{text}: {why}; put quotes around it, or write a plain number", node.start_mark)
        whole = node.tag == PREFIX + "int"
        return int(self.construct_yaml_int(node)) if whole else float(self.construct_yaml_float(node))


def _key(node: Node) -> str:
    if not isinstance(node, ScalarNode):
        raise _fault(f"a key must be a word; {TEMPLATE}", node.start_mark)
    return str(node.value)


class _Fault(yaml.MarkedYAMLError):
    """What is wrong in our own words."""


def _fault(problem: str, mark: Any) -> _Fault:
    return _Fault(problem=problem, problem_mark=mark)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in {PREFIX + "timestamp", PREFIX + "value"}]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    PREFIX + "float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
for _kind in ("int", "float"):
    _Loader.add_constructor(PREFIX + _kind, _Loader.construct_number)


class YamlFault(ValueError):  # noqa: N818
    """A text that is no YAML, or beyond the bounds; the message begins with the line where one is known."""


def parse_yaml(text: str) -> Any:
    """The value that a YAML text stands for.

    Raises:
        YamlFault: see there.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        raise YamlFault(_told(error, text)) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise YamlFault(f"line {line}: a character that no text has, {shown(chr(error.character))}") from None
    except RecursionError:
        raise YamlFault("too many lists and mappings within each other") from None


def _told(error: yaml.MarkedYAMLError, text: str) -> str:
    problem, mark = " ".join(str(error.problem).split()), error.problem_mark
    if "expected a single document" in str(error.context):
        problem = "a second document begins ('---'); write one"
    elif not isinstance(error, _Fault):
        template = mark is not None and "{{" in "".join(text.splitlines()[mark.line :][:1])
        problem = f"not valid YAML: {problem}{f'; {TEMPLATE}' if template else ''}"
    if mark is None:
        return problem
    return f"line {mark.line + 1}: {problem}"


def read_yaml(path: Path) -> Any:
    """The value that a study file stands for.

    Raises:
        StudyError: it is missing, no regular file, no text in UTF-8, too long, or no YAML: with its line.
    """
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode):  # a pipe would be waited for
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise StudyError(f"{path}: is {what}; a study file is a text in YAML")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise StudyError(f"{path}: more than {MOST_BYTES:,} bytes, and a study file has less")
        return parse_yaml(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file") from None
    except UnicodeDecodeError as error:
        why = f"byte {error.start + 1}: {error.reason}"
        raise StudyError(f"{path}: can't be read as a text file; save it as UTF-8 ({why})") from None
    except OSError as error:
        raise StudyError(f"{path}: can't be read as a text file ({error.strerror})") from None
    except YamlFault as error:
        raise StudyError(f"{path}, {error}") from None

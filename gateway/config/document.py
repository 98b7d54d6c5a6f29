"""From the configuration file's bytes to a plain tree, with every oddity of YAML met by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from .faults import Faults, Step, one_line, where

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
"""Values after aliases are written out: a few lines of YAML can stand for billions."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")


class Unreadable(Exception):
    """The file has no tree; the text is the whole fault."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: ``off`` and ``no`` are words, ``1:30`` is text, dates are text.

    PyYAML has YAML 1.1, in which a backend named ``no`` becomes False."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to begin without any


_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(f"(?:{_BOOL.pattern})$"), list("tTfF"))
_Loader.add_implicit_resolver(
    f"{_TAG}int", re.compile(f"(?:{_INT.pattern})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+0123456789.")
)
_Loader.add_implicit_resolver(
    f"{_TAG}null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"<<$"), ["<"])


def read(path: Path) -> str:
    """The file's text. Raises Unreadable: absent, no permission, over 1 MiB, not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise Unreadable(f"{path}: is over 1 MiB; this is not a configuration file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Unreadable(f"{path}:{line}: is not UTF-8 text; save it as UTF-8") from None


def parse(text: str, name: str, faults: Faults) -> dict[str, Any]:
    """The tree of a YAML text: dicts, lists, str, int, float, bool and None. An empty text is an
    empty mapping. ``name`` is the file's, for faults. Keys given twice and tags are noted in
    ``faults``; raises Unreadable when there is no tree at all."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        tree = None if node is None else _Plain(faults).value(node, ())
    except ReaderError as error:
        raise Unreadable(f"{name}: character {error.position} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        raise Unreadable(_syntax(error, text, name)) from None
    except RecursionError:
        raise Unreadable(f"{name}: is nested too deeply") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise Unreadable(f"{name}: must be a mapping with sections such as 'backends:'")
    return cast(dict[str, Any], tree)


def _syntax(error: yaml.MarkedYAMLError, text: str, name: str) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"{name}: is not YAML: {one_line(error.problem or 'unreadable')}"
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    hint = ""
    if "\t" in line[: mark.column + 1]:
        hint = "; indent with spaces, never with tabs"
    elif "${" in line:
        hint = '; inside [ ] and { } write "${VAR}" in quotes'
    problem = one_line(error.problem or "unreadable")
    return f"{name}:{mark.line + 1}:{mark.column + 1}: is not YAML: {problem}{hint}"


class _Plain:
    """Writes a node graph out as plain values, counting them, so that aliases stay bounded."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.count = 0

    def value(self, node: Node, path: tuple[Step, ...]) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_NODES} values once aliases are written out",
                problem_mark=node.start_mark,
            )
        if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return self.mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self.scalar(node, path)
        self.faults.add(path, "has a YAML tag (!…); remove the tag")
        return None

    def scalar(self, node: ScalarNode, path: tuple[Step, ...]) -> Any:
        text = node.value
        match node.tag.removeprefix(_TAG):
            case "str" | "merge":
                return text
            case "null":
                return None
            case "bool" if _BOOL.fullmatch(text):
                return text.lower() == "true"
            case "int" if _INT.fullmatch(text):
                return int(text, 16 if "x" in text else 10)
            case "float" if _FLOAT.fullmatch(text):
                return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        self.faults.add(path, "has a YAML tag (!…) that does not fit; remove the tag")
        return None

    def mapping(self, node: MappingNode, path: tuple[Step, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self.faults.add(path, f"has a list or mapping as a key on line {line}")
                continue
            key = key_node.value
            if key in lines:
                self.twice((*path, key), lines[key], line)
            elif key_node.tag == f"{_TAG}merge":
                merged = self.merged(value_node, path)
            else:
                found[key] = self.value(value_node, (*path, key))
            lines.setdefault(key, line)
        return merged | found

    def merged(self, node: Node, path: tuple[Step, ...]) -> dict[str, Any]:
        """What ``<<`` brings in: one mapping, or a list of them of which earlier ones win."""
        value = self.value(node, path)
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            self.faults.add((*path, "<<"), "must be an alias of a mapping, or a list of such")
            return {}
        return {key: item for source in reversed(sources) for key, item in source.items()}

    def twice(self, path: tuple[Step, ...], first: int, second: int) -> None:
        self.faults.add_line(
            f"{where(path)}: is given twice, on line {first} and again on line {second};"
            " remove one of them"
        )

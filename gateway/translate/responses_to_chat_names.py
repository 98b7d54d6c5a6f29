"""What tools are called: a chat has plain functions, a response has groups and free text too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.core.types import Doc

TEXT = "input"
"""The one argument of the function that stands for a tool which takes a free text."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the client knows it. ``free``: it takes a text, not arguments."""

    name: str
    namespace: str = ""
    free: bool = False


def flat(name: str, namespace: Any) -> str:
    """The name in a chat of a tool that may belong to a group. vLLM says it in the same way
    (tool_parsers/utils.py, ``flat_namespace_tool_name``)."""
    return f"{namespace}__{name}" if namespace else name


def tools_of(doc: Doc) -> dict[str, Tool]:
    """The tools of a request, checked before, that a chat knows otherwise, by their names there."""
    found: dict[str, Tool] = {}
    for tool in doc.get("tools") or ():
        grouped = tool.get("type") == "namespace"
        space = tool["name"] if grouped else ""
        for member in tool["tools"] if grouped else (tool,):
            free = member.get("type") == "custom"
            if grouped or free:
                found[flat(member["name"], space)] = Tool(member["name"], space, free)
    return found

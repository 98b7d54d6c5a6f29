"""Messages' tools and the choice among them as those of a chat completion."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Doc

from .fields import Losses, cannot, items, obj, text, wrong

CHOICES = {"auto": "auto", "any": "required", "none": "none"}

_HINTS = ("eager_input_streaming", "input_examples", "defer_loading")
"""They help a model or a client but forbid nothing."""


def _tool(tool: Doc, where: str, lost: Losses) -> Doc:
    if tool.get("type", "custom") not in ("custom", None):
        raise cannot(
            f"{where}.type",
            f"'{tool['type']}' is a tool that Anthropic itself provides",
            "Give a tool of your own with a name and an input_schema, or ask a model of a backend"
            " with 'runtime: anthropic'.",
        )
    if tool.get("allowed_callers") not in (None, ["direct"]):
        raise cannot(
            f"{where}.allowed_callers", "it lets code call the tool", "Leave it out, or 'direct'."
        )
    for hint in _HINTS:
        if tool.get(hint):
            lost.note(f"tools.{hint}")
    lost.cached(tool, "tools")
    function: dict[str, Any] = {"name": text(tool.get("name"), f"{where}.name")}
    if tool.get("description") is not None:
        function["description"] = text(tool["description"], f"{where}.description")
    function["parameters"] = obj(tool.get("input_schema"), f"{where}.input_schema")
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _choice(choice: Doc) -> Any:
    kind = choice.get("type")
    if kind == "tool":
        name = text(choice.get("name"), "tool_choice.name")
        return {"type": "function", "function": {"name": name}}
    if kind not in CHOICES:
        raise wrong("tool_choice.type", "'tool_choice.type' has to be auto, any, tool or none.")
    return CHOICES[kind]


def tools(doc: Doc, lost: Losses) -> dict[str, Any]:
    """``tools``, ``tool_choice`` and ``parallel_tool_calls``, as far as the client gave them."""
    given = items(doc.get("tools") or [], "tools")
    out: dict[str, Any] = {}
    if given:
        out["tools"] = [_tool(tool, at, lost) for tool, at in given]
    if doc.get("tool_choice") is None:
        return out
    choice = obj(doc["tool_choice"], "tool_choice")
    asked = _choice(choice)
    if given or asked not in ("auto", "none"):
        out["tool_choice"] = asked
    if given and choice.get("disable_parallel_tool_use"):
        out["parallel_tool_calls"] = False
    return out

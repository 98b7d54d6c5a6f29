"""The tools of a chat completion, and the choice among them, as Messages have them."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Doc

from .fields import cannot, items, obj, text, wrong

CHOICES = {"auto": "auto", "required": "any", "none": "none"}

_REMEDY = "Give a tool of the type 'function'."


def _tool(tool: Doc, where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise cannot(f"{where}.type", f"it is a tool of the type {tool.get('type')!r}", _REMEDY)
    where = f"{where}.function"
    function = obj(tool.get("function"), where)
    schema = function.get("parameters")
    out: dict[str, Any] = {"name": text(function.get("name"), f"{where}.name")}
    if function.get("description") is not None:
        out["description"] = text(function["description"], f"{where}.description")
    empty = {"type": "object", "properties": {}}
    out["input_schema"] = empty if schema is None else obj(schema, f"{where}.parameters")
    if function.get("strict") is not None:
        out["strict"] = function["strict"]
    return out


def _name(choice: Doc, where: str) -> str:
    if choice.get("type") != "function":
        raise cannot(where, f"it chooses a tool of the type {choice.get('type')!r}", _REMEDY)
    return text(obj(choice.get("function"), f"{where}.function").get("name"), f"{where}.name")


def _allowed(choice: Doc) -> tuple[str, set[str]]:
    """The mode of 'allowed_tools' and the names that it leaves."""
    where = "tool_choice.allowed_tools"
    allowed = obj(choice.get("allowed_tools"), where)
    names = {_name(tool, at) for tool, at in items(allowed.get("tools"), f"{where}.tools")}
    mode = allowed.get("mode")
    if mode not in ("auto", "required"):
        raise wrong(f"{where}.mode", f"'{where}.mode' has to be auto or required.")
    return mode, names


def tools(doc: Doc) -> dict[str, Any]:
    """``tools`` and ``tool_choice``, as far as the client gave them. A choice of allowed tools
    becomes the list of those tools."""
    given = [_tool(tool, at) for tool, at in items(doc.get("tools") or [], "tools")]
    choice = doc.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice, names = _allowed(choice)
        given = [tool for tool in given if tool["name"] in names]
    if not given and choice in (None, "auto", "none"):
        return {}
    return {"tools": given, **_choice(choice, doc.get("parallel_tool_calls") is False)}


def _choice(choice: Any, single: bool) -> dict[str, Any]:
    """``single``: at most one call in an answer, which Messages say within the choice."""
    if choice is None and not single:
        return {}
    if isinstance(choice, dict):
        asked: dict[str, Any] = {"type": "tool", "name": _name(choice, "tool_choice")}
    elif choice is None or choice in CHOICES:
        asked = {"type": CHOICES[choice or "auto"]}
    else:
        raise wrong("tool_choice", "'tool_choice' has to be auto, none, required or an object.")
    if single and asked["type"] != "none":
        asked["disable_parallel_tool_use"] = True
    return {"tool_choice": asked}

"""The tools of a Responses request, and the choice among them, as chat completions have them."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Doc

from .fields import Losses, cannot, items, obj, text, wrong

_REMEDY = "Give a tool of the type 'function', or ask a backend that has the Responses API itself."

_LOST = ("defer_loading", "output_schema", "allowed_callers", "async")


def _tool(tool: Doc, where: str, lost: Losses) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise cannot(f"{where}.type", f"it is a tool of the type {tool.get('type')!r}", _REMEDY)
    for name in _LOST:
        if tool.get(name):
            lost.note(f"tools.{name}")
    function: dict[str, Any] = {"name": text(tool.get("name"), f"{where}.name")}
    if tool.get("description") is not None:
        function["description"] = text(tool["description"], f"{where}.description")
    if tool.get("parameters") is not None:
        function["parameters"] = obj(tool["parameters"], f"{where}.parameters")
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _name(choice: Doc, where: str) -> str:
    if choice.get("type") != "function":
        raise cannot(where, f"it chooses a tool of the type {choice.get('type')!r}", _REMEDY)
    return text(choice.get("name"), f"{where}.name")


def _allowed(choice: Doc) -> tuple[str, set[str]]:
    """The mode of 'allowed_tools' and the names that it leaves."""
    names = {_name(tool, at) for tool, at in items(choice.get("tools"), "tool_choice.tools")}
    mode = choice.get("mode")
    if mode not in ("auto", "required"):
        raise wrong("tool_choice.mode", "'tool_choice.mode' has to be auto or required.")
    return mode, names


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict):
        return {"type": "function", "function": {"name": _name(choice, "tool_choice")}}
    if choice in ("auto", "none", "required"):
        return choice
    raise wrong("tool_choice", "'tool_choice' has to be auto, none, required or an object.")


def tools(doc: Doc, lost: Losses) -> dict[str, Any]:
    """``tools``, ``tool_choice`` and ``parallel_tool_calls``, as far as the client gave them. A
    choice of allowed tools becomes the list of those tools: few engines know it."""
    given = [_tool(tool, at, lost) for tool, at in items(doc.get("tools") or [], "tools")]
    choice, several = doc.get("tool_choice"), doc.get("parallel_tool_calls")
    if not isinstance(several, bool | None):
        raise wrong("parallel_tool_calls", "'parallel_tool_calls' has to be true or false.")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice, names = _allowed(choice)
        given = [tool for tool in given if tool["function"]["name"] in names]
    asked = None if choice is None else _choice(choice)
    if not given:
        if asked in (None, "auto", "none"):
            return {}
        raise wrong("tool_choice", "'tool_choice' asks for a tool, but 'tools' has none for it.")
    return {
        "tools": given,
        **({} if asked is None else {"tool_choice": asked}),
        **({} if several is None else {"parallel_tool_calls": several}),
    }

"""The tools of a Responses request, and the choice among them, as chat completions have them."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Doc

from .fields import Losses, cannot, items, obj, text, wrong
from .responses_to_chat_names import TEXT, flat

_REMEDY = "Give a tool of the type 'function', or ask a backend that has the Responses API itself."

_LOST = ("defer_loading", "output_schema", "allowed_callers", "async")

_CALLED = frozenset({"function", "custom", "namespace"})
"""Tools that the client runs itself."""

_EXTRAS = frozenset(
    {
        *("web_search", "web_search_2025_08_26", "web_search_preview"),
        *("web_search_preview_2025_03_11", "image_generation", "tool_search"),
    }
)
"""OpenAI's own tools that agents offer in every request, whatever it is about. Beside tools of the
client's they are left out; a request with nothing else is about them, and is refused."""


def _tool(tool: Doc, where: str, lost: Losses, space: str = "") -> list[dict[str, Any]]:
    """The functions that a tool becomes: one, or all of its group's."""
    match tool.get("type"):
        case "function":
            function = _function(tool, where, lost)
        case "custom":
            function = _free(tool, where, lost)
        case "namespace" if not space:
            return _group(tool, where, lost)
        case other:
            raise cannot(f"{where}.type", f"it is a tool of the type {other!r}", _REMEDY)
    function["name"] = flat(function["name"], space)
    return [{"type": "function", "function": function}]


def _group(tool: Doc, where: str, lost: Losses) -> list[dict[str, Any]]:
    space = text(tool.get("name"), f"{where}.name")
    if tool.get("description"):
        lost.note("tools.description")
    members = items(tool.get("tools"), f"{where}.tools")
    return [one for member, at in members for one in _tool(member, at, lost, space)]


def _function(tool: Doc, where: str, lost: Losses) -> dict[str, Any]:
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
    return function


def _free(tool: Doc, where: str, lost: Losses) -> dict[str, Any]:
    """A tool that takes a text as a function with one argument. A grammar for the text binds no
    engine here; the model is told of it."""
    function = _function({**tool, "parameters": None, "strict": None}, where, lost)
    shape = obj(tool.get("format") or {}, f"{where}.format")
    if shape.get("type") == "grammar":
        lost.note("tools.format")
        grammar = text(shape.get("definition"), f"{where}.format.definition")
        rule = f"'{TEXT}' has to follow this grammar ({shape.get('syntax')}):\n{grammar}"
        function["description"] = f"{function.get('description', '')}\n\n{rule}".lstrip()
    parameters = {"type": "object", "properties": {TEXT: {"type": "string"}}, "required": [TEXT]}
    return {**function, "parameters": parameters}


def _offered(doc: Doc, lost: Losses) -> list[dict[str, Any]]:
    given = items(doc.get("tools") or [], "tools")
    own = any(tool.get("type") in _CALLED for tool, _ in given)
    out: list[dict[str, Any]] = []
    for tool, at in given:
        if own and tool.get("type") in _EXTRAS:
            lost.note(f"tools.{tool['type']}")
        else:
            out += _tool(tool, at, lost)
    return out


def _name(choice: Doc, where: str) -> str:
    if choice.get("type") not in ("function", "custom"):
        raise cannot(where, f"it chooses a tool of the type {choice.get('type')!r}", _REMEDY)
    return flat(text(choice.get("name"), f"{where}.name"), choice.get("namespace"))


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
    given = _offered(doc, lost)
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

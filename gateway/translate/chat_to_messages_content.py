"""The messages of a chat completion as Messages' turns and content blocks."""

from __future__ import annotations

import re
from typing import Any

from gateway.core.types import Doc

from .fields import Losses, cannot, items, text, wrong
from .terms import arguments, reasoning

Block = dict[str, Any]

_DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]+)(?:;[\w=.-]+)*;base64,(?P<data>.*)", re.DOTALL)
_BAD_ID = re.compile(r"[^a-zA-Z0-9_-]")
"""Anthropic refuses ids with other characters; some models' parsers make them."""

_REMEDY = "Leave it out, or ask a model of a backend that has it; MODELS.md lists them."


def written(value: str) -> Block:
    return {"type": "text", "text": value}


def _inline(url: str, where: str) -> Block | None:
    """The source in a data URL; None for any other address."""
    if not url.startswith("data:"):
        return None
    match = _DATA_URL.fullmatch(url)
    if match is None:
        raise wrong(where, f"'{where}' is not a data URL with base64 in it.")
    return {"type": "base64", "media_type": match["type"], "data": match["data"]}


def _image(part: Doc, where: str, lost: Losses) -> Block:
    where = f"{where}.image_url"
    image = part.get("image_url")
    given = image if isinstance(image, dict) else {"url": image}
    if given.get("detail") not in (None, "auto"):
        lost.note("messages.content.image_url.detail")
    url = text(given.get("url"), f"{where}.url")
    return {"type": "image", "source": _inline(url, f"{where}.url") or {"type": "url", "url": url}}


def _file(part: Doc, where: str) -> Block:
    where = f"{where}.file"
    file = part.get("file")
    data = file.get("file_data") if isinstance(file, dict) else None
    if not isinstance(file, dict) or not isinstance(data, str):
        raise cannot(where, "it names a file that is stored elsewhere", "Send it as 'file_data'.")
    source = _inline(data, f"{where}.file_data")
    if source is None:
        raise wrong(f"{where}.file_data", f"'{where}.file_data' has to be a data URL.")
    title = file.get("filename")
    about = {"title": title} if isinstance(title, str) and title else {}
    return {"type": "document", "source": source, **about}


def _part(part: Doc, where: str, lost: Losses) -> Block:
    match part.get("type"):
        case "text":
            return written(text(part.get("text"), f"{where}.text"))
        case "refusal":
            return written(text(part.get("refusal"), f"{where}.refusal"))
        case "image_url":
            return _image(part, where, lost)
        case "file":
            return _file(part, where)
        case other:
            raise cannot(where, f"it is a part of the type {other!r}", _REMEDY)


def blocks(content: Any, where: str, lost: Losses) -> list[Block]:
    """Content as blocks, without empty texts, which Anthropic refuses."""
    if content is None:
        return []
    if isinstance(content, str):
        return [written(content)] if content else []
    found = [_part(part, at, lost) for part, at in items(content, where)]
    return [block for block in found if block.get("text") != ""]


def words(content: Any, where: str, lost: Losses) -> str:
    """Content that has to be text alone."""
    found = blocks(content, where, lost)
    if any(block["type"] != "text" for block in found):
        raise wrong(where, f"'{where}' has to be text.")
    return "\n".join(block["text"] for block in found)


def call_id(value: Any, where: str) -> str:
    return _BAD_ID.sub("_", text(value, where))


def _tool_use(call: Doc, where: str) -> Block:
    if call.get("type", "function") != "function":
        raise cannot(f"{where}.type", f"it is a call of the type {call['type']!r}", _REMEDY)
    function = call.get("function")
    if not isinstance(function, dict):
        raise wrong(f"{where}.function", f"'{where}.function' has to be an object.")
    return {
        "type": "tool_use",
        "id": call_id(call.get("id"), f"{where}.id"),
        "name": text(function.get("name"), f"{where}.function.name"),
        "input": arguments(function.get("arguments")),
    }


def assistant(message: Doc, where: str, lost: Losses) -> list[Block]:
    """What the model said and called. Its thinking is of no use without Anthropic's signature."""
    for field in ("function_call", "audio"):
        if message.get(field) is not None:
            raise cannot(f"{where}.{field}", "it is no part of a turn there", _REMEDY)
    if reasoning(message):
        lost.note("messages.reasoning_content")
    said = blocks(message.get("content"), f"{where}.content", lost)
    if message.get("refusal"):
        said.append(written(text(message["refusal"], f"{where}.refusal")))
    calls = items(message.get("tool_calls") or [], f"{where}.tool_calls")
    return said + [_tool_use(call, at) for call, at in calls]


def _tool_result(message: Doc, where: str, lost: Losses) -> Block:
    content = message.get("content")
    found = blocks(content, f"{where}.content", lost)
    return {
        "type": "tool_result",
        "tool_use_id": call_id(message.get("tool_call_id"), f"{where}.tool_call_id"),
        "content": content if isinstance(content, str) else found,
    }


class Turns:
    """The conversation as it grows: what one side says in a row is one turn, so that all results
    of parallel calls stand in the turn behind them, as Anthropic wants it."""

    __slots__ = ("_turns", "system")

    def __init__(self) -> None:
        self._turns: list[tuple[str, list[Block]]] = []
        self.system: list[str] = []

    @property
    def begun(self) -> bool:
        return bool(self._turns)

    def say(self, role: str, said: list[Block]) -> None:
        if self._turns and self._turns[-1][0] == role:
            self._turns[-1][1].extend(said)
        else:
            self._turns.append((role, list(said)))

    @property
    def messages(self) -> list[Doc]:
        """A turn of one text has a string. A user's empty turn stays, for Anthropic to refuse."""
        return [
            {"role": role, "content": _as_content(said)}
            for role, said in self._turns
            if said or role == "user"
        ]


def _as_content(said: list[Block]) -> str | list[Block]:
    if not said:
        return ""
    return str(said[0]["text"]) if len(said) == 1 and said[0]["type"] == "text" else said


def turns(doc: Doc, lost: Losses) -> Turns:
    """The whole conversation. System messages are gathered in front of it, wherever they stood."""
    found = Turns()
    for message, at in items(doc.get("messages"), "messages"):
        if message.get("name") is not None:
            lost.note("messages.name")
        match message.get("role"):
            case "system" | "developer":
                if found.begun:
                    lost.note("messages.role")
                found.system.append(words(message.get("content"), f"{at}.content", lost))
            case "user":
                found.say("user", blocks(message.get("content"), f"{at}.content", lost))
            case "assistant":
                found.say("assistant", assistant(message, at, lost))
            case "tool":
                found.say("user", [_tool_result(message, at, lost)])
            case _:
                roles = "system, developer, user, assistant or tool"
                raise wrong(f"{at}.role", f"'{at}.role' has to be {roles}.")
    return found

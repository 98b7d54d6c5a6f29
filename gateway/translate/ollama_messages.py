"""Ollama's messages as OpenAI's: pictures, past reasoning, tool calls and their results."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.core.types import Doc

from .fields import wrong
from .ollama_fields import Draft, text_field
from .ollama_images import parts

KNOWN = frozenset(
    {"role", "content", "images", "thinking", "tool_calls", "tool_name", "tool_call_id"}
)


def add_messages(draft: Draft, given: Any) -> None:
    """Raises Refusal ``invalid_request`` for what is no message."""
    if not isinstance(given, list):
        raise wrong("messages", "'messages' has to be a list.")
    talk = _Talk(draft)
    draft.doc["messages"] = [talk.said(message, index) for index, message in enumerate(given)]


def user_message(text: str, images: Any) -> dict[str, Any]:
    """A prompt with its pictures as a message."""
    return {"role": "user", "content": _content(text, parts(images, "images"))}


def _content(text: str, images: list[dict[str, Any]]) -> Any:
    """Pictures come before the text, as Ollama puts them (``chatPrompt``)."""
    if not images:
        return text
    return [*images, {"type": "text", "text": text}] if text else images


class _Talk:
    """The conversation as far as it has been read. Ollama's calls may lack ids, and its results
    may name a function or nothing at all: ids are given by order, and a result without one
    belongs to the first unanswered call (of that name) of the last turn with calls."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._made = 0
        self._open: list[tuple[str, str]] = []

    def said(self, message: Any, index: int) -> dict[str, Any]:
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise wrong(where, f"'{where}' has to be an object.")
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role:
            raise wrong(f"{where}.role", f"'{where}' has no role.")
        if not isinstance(content, str | None):
            raise wrong(f"{where}.content", f"'{where}.content' has to be a string.")
        self._note_lost(message)
        images = parts(message.get("images"), f"{where}.images")
        found: dict[str, Any] = {"role": role, "content": _content(content or "", images)}
        if thinking := text_field(message, "thinking"):
            self._think(found, thinking)
        if message.get("tool_calls"):
            found["tool_calls"] = self._calls(message["tool_calls"], where)
        if role == "tool":
            found["tool_call_id"] = self._answered(message)
        return found

    def _note_lost(self, message: Doc) -> None:
        names = (f"messages.{name}" for name in message if name not in KNOWN)
        self._draft.lost += [name for name in names if name not in self._draft.lost]

    def _think(self, found: dict[str, Any], thinking: str) -> None:
        """Past reasoning goes where the engine reads it; it is dropped, and named, elsewhere."""
        name = self._draft.extras.get("thinking")
        if name is not None:
            found[name] = thinking
        elif "messages.thinking" not in self._draft.lost:
            self._draft.lost.append("messages.thinking")

    def _calls(self, given: Any, where: str) -> list[dict[str, Any]]:
        if not isinstance(given, list):
            raise wrong(f"{where}.tool_calls", f"'{where}.tool_calls' has to be a list.")
        self._open = []
        return [self._call(call, f"{where}.tool_calls[{n}]") for n, call in enumerate(given)]

    def _call(self, call: Any, where: str) -> dict[str, Any]:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str):
            raise wrong(where, f"'{where}' has to hold a function with a name.")
        arguments = function.get("arguments")
        if not isinstance(arguments, dict | None):
            raise wrong(f"{where}.function.arguments", f"'{where}': arguments are an object.")
        given = call.get("id")
        used = given if isinstance(given, str) and given else self._new_id()
        self._open.append((name, used))
        text = orjson.dumps(arguments or {}).decode()
        return {"id": used, "type": "function", "function": {"name": name, "arguments": text}}

    def _new_id(self) -> str:
        self._made += 1
        return f"call_{self._made}"

    def _answered(self, message: Doc) -> str:
        given, name = message.get("tool_call_id"), message.get("tool_name")
        for call in self._open:
            if given == call[1] or (not given and name in (call[0], None, "")):
                self._open.remove(call)
                return call[1]
        return given if isinstance(given, str) and given else self._new_id()

"""The output items of a response as they grow, and the events that tell of it."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Doc

from .responses_to_chat_names import TEXT, Tool
from .terms import arguments

Event = tuple[str, dict[str, Any]]
"""(name after ``response.``, fields without ``sequence_number``)."""

PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "reasoning_text": ("text", {"type": "reasoning_text", "text": ""}),
    "output_text": (
        "text",
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    ),
    "refusal": ("refusal", {"type": "refusal", "refusal": ""}),
}
"""Kind of a part -> the member that holds its text, and how it begins."""

HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "reasoning": ("rs", {"type": "reasoning", "summary": []}),
    "message": ("msg", {"type": "message", "role": "assistant"}),
}
"""Kind of an item -> the beginning of its id, and what does not change in it."""

TOKEN = 64
"""Bytes that the log probability of a token is taken to need, for the bound on what is held."""


class Part:
    """One part of an item: text in pieces, and log probabilities where there are any."""

    __slots__ = ("_logprobs", "_pieces", "kind")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._pieces: list[str] = []
        self._logprobs: list[Doc] = []

    def add(self, piece: str, logprobs: list[Doc]) -> int:
        """The size of what is held more now."""
        self._pieces.append(piece)
        self._logprobs += logprobs
        tokens = sum(1 + len(entry["top_logprobs"]) for entry in logprobs)
        return len(piece) + TOKEN * tokens

    def whole(self) -> dict[str, Any]:
        member, begin = PARTS[self.kind]
        more = {"logprobs": self._logprobs} if "logprobs" in begin else {}
        return {**begin, member: "".join(self._pieces), **more}


class Spoken:
    """An item made of parts: a message, or reasoning."""

    __slots__ = ("_parts", "id", "index", "kind")

    def __init__(self, kind: str, index: int, request_id: str) -> None:
        self.kind = kind
        self.id = f"{HEADS[kind][0]}_{request_id}_{index}"
        self.index = index
        self._parts: list[Part] = []

    def whole(self, status: str) -> dict[str, Any]:
        content = [part.whole() for part in self._parts]
        return {"id": self.id, **HEADS[self.kind][1], "content": content, "status": status}

    def begin(self) -> list[Event]:
        item = self.whole("in_progress")
        return [("output_item.added", {"output_index": self.index, "item": item})]

    def say(self, kind: str, piece: str, logprobs: list[Doc]) -> tuple[list[Event], int]:
        """Events, and the size of what is held more now."""
        events: list[Event] = []
        if not self._parts or self._parts[-1].kind != kind:
            events = self._end_part()
            self._parts.append(Part(kind))
            part = self._parts[-1].whole()
            events.append(("content_part.added", {**self._place(), "part": part}))
        size = self._parts[-1].add(piece, logprobs)
        if piece or logprobs:
            more = {"logprobs": logprobs} if kind == "output_text" else {}
            events.append((f"{kind}.delta", {**self._place(), "delta": piece, **more}))
        return events, size

    def end(self, status: str) -> list[Event]:
        item = self.whole(status)
        done = {"output_index": self.index, "item": item}
        return [*self._end_part(), ("output_item.done", done)]

    def _end_part(self) -> list[Event]:
        if not self._parts:
            return []
        part, kind = self._parts[-1].whole(), self._parts[-1].kind
        said = {name: value for name, value in part.items() if name not in ("type", "annotations")}
        return [
            (f"{kind}.done", {**self._place(), **said}),
            ("content_part.done", {**self._place(), "part": part}),
        ]

    def _place(self) -> dict[str, Any]:
        place = {"item_id": self.id, "output_index": self.index}
        return {**place, "content_index": len(self._parts) - 1}


class Called:
    """An item that calls a function, with arguments in pieces."""

    __slots__ = ("_pieces", "_tool", "call_id", "id", "index")

    kind = "function_call"

    def __init__(self, index: int, request_id: str, call_id: str, tool: Tool) -> None:
        self.id = f"fc_{request_id}_{index}"
        self.call_id = call_id
        self.index = index
        self._tool = tool
        self._pieces: list[str] = []

    def whole(self, status: str) -> dict[str, Any]:
        space = {"namespace": self._tool.namespace} if self._tool.namespace else {}
        return {
            "id": self.id,
            "type": self.kind,
            "call_id": self.call_id,
            "name": self._tool.name,
            **space,
            **self._given(),
            "status": status,
        }

    def _given(self) -> dict[str, str]:
        return {"arguments": "".join(self._pieces)}

    def begin(self) -> list[Event]:
        item = self.whole("in_progress")
        return [("output_item.added", {"output_index": self.index, "item": item})]

    def add(self, piece: str) -> list[Event]:
        if not piece:
            return []
        self._pieces.append(piece)
        return [("function_call_arguments.delta", {**self._place(), "delta": piece})]

    def end(self, status: str) -> list[Event]:
        done = {**self._place(), "name": self._tool.name, **self._given()}
        return [
            ("function_call_arguments.done", done),
            ("output_item.done", {"output_index": self.index, "item": self.whole(status)}),
        ]

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}


class CalledFreely(Called):
    """An item that hands a text to a tool. Engines write the text as an argument in JSON, so that
    it can only be told when all of it is there. What is no such argument is told as it came."""

    __slots__ = ()

    kind = "custom_tool_call"

    def _given(self) -> dict[str, str]:
        written = "".join(self._pieces)
        said = arguments(written).get(TEXT)
        return {"input": said if isinstance(said, str) else written}

    def add(self, piece: str) -> list[Event]:
        self._pieces.append(piece)
        return []

    def end(self, status: str) -> list[Event]:
        given = self._given()
        return [
            ("custom_tool_call_input.delta", {**self._place(), "delta": given["input"]}),
            ("custom_tool_call_input.done", {**self._place(), **given}),
            ("output_item.done", {"output_index": self.index, "item": self.whole(status)}),
        ]

"""A streamed Messages answer as the chunks of a chat completion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from gateway.core.types import Doc
from gateway.dialects.stream import parse

from .bridge import Asking
from .chat_to_messages_reply import completion_id, finish_reason
from .sse import COMMENT, DONE, Event, Reader, plain
from .terms import chat_usage

_AWAKE = b": ping\n\n"


def _dict(value: Any) -> Doc:
    return value if isinstance(value, dict) else {}


def _text(doc: Doc, key: str) -> str:
    value = doc.get(key)
    return value if isinstance(value, str) else ""


class _Call:
    """One tool call: its number among the calls, and whether it has arguments yet. ``input`` is
    what an engine that does not send arguments in pieces put into the beginning."""

    __slots__ = ("any", "input", "number")

    def __init__(self, number: int, given: Any) -> None:
        self.number = number
        self.input = orjson.dumps(given if isinstance(given, dict) else {}).decode()
        self.any = False


class ChatStream:
    """See ``bridge.Stream``. Holds one unfinished event and the numbers of the calls."""

    __slots__ = ("_asking", "_begun", "_calls", "_done", "_finished", "_reader", "_usage", "_wants")

    def __init__(self, asking: Asking) -> None:
        options = _dict(asking.doc.get("stream_options"))
        self._wants = options.get("include_usage") is True
        self._asking = replace(asking, doc={})  # it may be megabytes and is not needed any more
        self._reader = Reader()
        self._calls: dict[Any, _Call] = {}
        self._usage: dict[str, Any] = {}
        self._begun = False
        self._finished = False
        self._done = False

    def feed(self, data: bytes) -> bytes:
        return b"".join([self._event(event) for event in self._reader.feed(data)])

    def close(self) -> bytes:
        rest = b"".join([self._event(event) for event in self._reader.rest()])
        return rest + self._stop({})

    def _event(self, event: Event) -> bytes:
        if self._done:
            return b""
        if event is COMMENT:
            return _AWAKE
        doc = parse(event.data)
        if not isinstance(doc, dict):
            return b""
        step = _STEPS.get(str(doc.get("type")))
        return step(self, doc) if step is not None else b""

    # --- what each event says

    def _start(self, doc: Doc) -> bytes:
        self._count(_dict(doc.get("message")).get("usage"))
        return self._role()

    def _role(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._chunk({"role": "assistant", "content": ""})

    def _block(self, doc: Doc) -> bytes:
        block = _dict(doc.get("content_block"))
        match block.get("type"):
            case "tool_use":
                return self._role() + self._begin_call(doc.get("index"), block)
            case "text" if block.get("text"):
                return self._role() + self._chunk({"content": block["text"]})
            case "thinking" if block.get("thinking"):
                return self._role() + self._chunk({"reasoning_content": block["thinking"]})
        return b""

    def _begin_call(self, index: Any, block: Doc) -> bytes:
        call = self._calls[index] = _Call(len(self._calls), block.get("input"))
        function = {"name": _text(block, "name"), "arguments": ""}
        head = {"index": call.number, "id": _text(block, "id"), "type": "function"}
        return self._chunk({"tool_calls": [{**head, "function": function}]})

    def _delta(self, doc: Doc) -> bytes:
        delta = _dict(doc.get("delta"))
        match delta.get("type"):
            case "text_delta":
                said = {"content": _text(delta, "text")}
            case "thinking_delta":
                said = {"reasoning_content": _text(delta, "thinking")}
            case "input_json_delta":
                return self._arguments(doc.get("index"), _text(delta, "partial_json"))
            case _:
                return b""  # signatures and citations have no place in a chunk
        return self._role() + self._chunk(said) if all(said.values()) else b""

    def _arguments(self, index: Any, piece: str) -> bytes:
        call = self._calls.get(index)
        if call is None or not piece:
            return b""
        call.any = True
        part = {"index": call.number, "function": {"arguments": piece}}
        return self._chunk({"tool_calls": [part]})

    def _block_end(self, doc: Doc) -> bytes:
        call = self._calls.get(doc.get("index"))
        if call is None or call.any:
            return b""
        return self._arguments(doc.get("index"), call.input)

    def _ending(self, doc: Doc) -> bytes:
        self._count(doc.get("usage"))
        stop = _dict(doc.get("delta")).get("stop_reason")
        if stop is None or self._finished:
            return b""
        self._finished = True
        return self._role() + self._chunk({}, finish_reason(stop))

    def _stop(self, doc: Doc) -> bytes:
        if self._done:
            return b""
        end = b"" if self._finished else self._role() + self._chunk({}, "stop")
        self._done = True
        usage = b""
        if self._wants:
            usage = plain({**self._head(), "choices": [], "usage": chat_usage(self._usage)})
        return end + usage + DONE

    def _ping(self, doc: Doc) -> bytes:
        return _AWAKE

    # ---

    def _count(self, usage: Any) -> None:
        """Later counts are totals; those that an event leaves out stay."""
        self._usage |= {key: n for key, n in _dict(usage).items() if n is not None}

    def _head(self) -> dict[str, Any]:
        return {
            "id": completion_id(self._asking),
            "object": "chat.completion.chunk",
            "created": self._asking.created,
            "model": self._asking.model,
        }

    def _chunk(self, delta: Doc, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        doc = {**self._head(), "choices": [choice]}
        return plain({**doc, "usage": None} if self._wants else doc)


_STEPS: dict[str, Callable[[ChatStream, Doc], bytes]] = {
    "message_start": ChatStream._start,
    "content_block_start": ChatStream._block,
    "content_block_delta": ChatStream._delta,
    "content_block_stop": ChatStream._block_end,
    "message_delta": ChatStream._ending,
    "message_stop": ChatStream._stop,
    "ping": ChatStream._ping,
}

"""A streamed chat completion as Messages' events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.core.errors import Refusal
from gateway.core.types import Doc
from gateway.dialects.stream import parse

from .bridge import Asking
from .chunks import calls_of, function_of, until_fault
from .messages_to_chat_blocks import Block, Blocks
from .messages_to_chat_reply import call_id, message_id
from .sse import COMMENT, Event, Reader, named
from .terms import matched_stop, messages_usage, reasoning, stop_reason

_PING = named("ping", {})


class MessagesStream:
    """See ``bridge.Stream``. Holds one unfinished event, and the pieces of calls that are mixed
    with an earlier one."""

    __slots__ = (
        "_asking",
        "_blocks",
        "_calls",
        "_fault",
        "_finish",
        "_made",
        "_matched",
        "_reader",
        "_refused",
        "_started",
        "_stopped",
        "_usage",
    )

    def __init__(self, asking: Asking) -> None:
        # The rest of the document may be megabytes and is not needed any more.
        stops = asking.doc.get("stop_sequences")
        self._asking = replace(asking, doc={"stop_sequences": stops})
        self._reader = Reader()
        self._blocks = Blocks()
        self._calls: dict[int, Block] = {}
        self._made = 0
        self._started = False
        self._stopped = False
        self._refused = False
        self._fault: Refusal | None = None
        self._finish: Any = None
        self._matched: str | None = None
        self._usage: Doc | None = None

    def feed(self, data: bytes) -> bytes:
        if self._fault is not None:
            raise self._fault
        told, self._fault = until_fault(map(self._event, self._reader.feed(data)))
        return told

    def close(self) -> bytes:
        rest = self.feed(b"\n\n")
        if self._fault is not None:
            raise self._fault
        return rest + self._stop()

    def _event(self, event: Event) -> bytes:
        if event is COMMENT:
            return _PING if self._started and not self._stopped else b""
        if event.data.strip() == b"[DONE]":
            return self._stop()
        doc = parse(event.data)
        if not isinstance(doc, dict) or self._stopped:
            return b""
        if isinstance(doc.get("usage"), dict):
            self._usage = doc["usage"]
        begin = self._start()
        for choice in doc.get("choices") or ():
            if isinstance(choice, dict) and not choice.get("index"):
                self._choice(choice)
        return begin + self._blocks.flow()

    def _start(self) -> bytes:
        """The counts here are what is known so far; the last event has them all."""
        if self._started:
            return b""
        self._started = True
        message: dict[str, Any] = {
            "id": message_id(self._asking),
            "type": "message",
            "role": "assistant",
            "model": self._asking.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": messages_usage(self._usage),
        }
        return named("message_start", {"message": message})

    def _choice(self, choice: Doc) -> None:
        if choice.get("finish_reason"):
            self._finish = choice["finish_reason"]
            self._matched = matched_stop(choice, self._asking.doc.get("stop_sequences"))
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        self._piece({"type": "thinking", "thinking": "", "signature": ""}, reasoning(delta))
        self._piece({"type": "text", "text": ""}, delta.get("content"))
        if isinstance(delta.get("refusal"), str) and delta["refusal"]:
            self._refused = True
            self._piece({"type": "text", "text": ""}, delta["refusal"])
        for number, call in enumerate(calls_of(delta)):
            self._call(call, number)

    def _piece(self, start: dict[str, Any], text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        last = self._blocks.last
        if last is None or last.kind != start["type"]:
            last = self._blocks.begin(start)
        last.add(text)

    def _call(self, call: Doc, number: int) -> None:
        """A piece of a call. A new one has a new index, or under the same index a new id."""
        function = function_of(call)
        index = call.get("index")
        key = index if isinstance(index, int) else number
        block = self._calls.get(key)
        named_anew = call.get("id") and function.get("name")
        if block is None or (named_anew and block.start["id"] != call["id"]):
            block = self._calls[key] = self._blocks.begin(
                {
                    "type": "tool_use",
                    "id": call.get("id") or call_id(self._asking, self._made),
                    "name": function.get("name") or "",
                    "input": {},
                }
            )
            self._made += 1
        given = function.get("arguments")
        if isinstance(given, str):
            block.add(given)

    def _stop(self) -> bytes:
        if self._stopped:
            return b""
        begin = self._start() + self._blocks.flow(end=True)
        self._stopped = True
        reason = stop_reason(
            self._finish, called=self._made > 0, refused=self._refused, matched=self._matched
        )
        matched = self._matched if reason == "stop_sequence" else None
        delta = {"stop_reason": reason, "stop_sequence": matched}
        usage = messages_usage(self._usage)
        return (
            begin
            + named("message_delta", {"delta": delta, "usage": usage})
            + named("message_stop", {})
        )

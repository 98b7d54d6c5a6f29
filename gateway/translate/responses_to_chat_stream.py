"""A streamed chat completion as the events of a response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from gateway.core.errors import Refusal
from gateway.core.types import Doc

from .bridge import Asking
from .chunks import Chunks, first_choice, until_fault
from .responses_to_chat_items import Event
from .responses_to_chat_names import tools_of
from .responses_to_chat_output import Output
from .responses_to_chat_reply import echo, response
from .sse import named


class ResponsesStream:
    """See ``bridge.Stream``. Holds the answer as far as it has come, up to ``sse.LONGEST``: the
    last events repeat it. A fault in the engine's answer is raised by the call after the one in
    which it came, so that what was whole before it is not held back."""

    __slots__ = ("_asking", "_chunks", "_done", "_echoed", "_fault", "_next", "_output", "_usage")

    def __init__(self, asking: Asking) -> None:
        self._echoed = echo(asking.doc)
        self._asking = replace(asking, doc={})  # the input may be megabytes and is told no more
        self._chunks = Chunks()
        self._output = Output(self._asking, tools_of(asking.doc))
        self._usage: Doc | None = None
        self._next = 0
        self._done = False
        self._fault: Refusal | None = None

    def feed(self, data: bytes) -> bytes:
        self._check()
        told, self._fault = until_fault(self._events(self._chunks.feed(data)))
        return told

    def close(self) -> bytes:
        self._check()
        told, fault = until_fault(self._events(self._chunks.rest()))
        if fault is not None:
            raise fault
        return told + self._stop()

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _events(self, chunks: Iterable[Doc]) -> Iterator[bytes]:
        for chunk in chunks:
            yield self._start()
            yield self._chunk(chunk)
        if self._chunks.ended:
            yield self._stop()

    def _chunk(self, chunk: Doc) -> bytes:
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choice = first_choice(chunk)
        return b"" if choice is None else self._write(self._output.choice(choice, "delta"))

    def _start(self) -> bytes:
        if self._next:
            return b""
        now = {"response": response(self._asking, self._echoed, self._output, ended=False)}
        return self._write([("created", now), ("in_progress", now)])

    def _stop(self) -> bytes:
        if self._done:
            return b""
        self._done = True
        events = self._start() + self._write(self._output.end())
        whole = response(self._asking, self._echoed, self._output, self._usage)
        return events + self._write([(self._output.status, {"response": whole})])

    def _write(self, events: list[Event]) -> bytes:
        return b"".join([self._numbered(name, fields) for name, fields in events])

    def _numbered(self, name: str, fields: Doc) -> bytes:
        number, self._next = self._next, self._next + 1
        return named(f"response.{name}", {"sequence_number": number, **fields})

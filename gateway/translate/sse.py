"""Server-sent events, read from bytes that are cut anywhere and written whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.errors import Refusal

LONGEST = 4 << 20
"""Bytes of one unfinished event, or of what waits for its turn, that a translation may hold."""

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """``data`` are the data lines joined by newlines; empty for a comment (``name`` is ':')."""

    name: str
    data: bytes = b""


COMMENT = Event(":")
"""Some engines and providers keep a quiet connection awake with comments."""


def too_long() -> Refusal:
    """The engine sent more at once than anybody should hold."""
    return Refusal(
        "backend_unreachable",
        f"The engine sent a piece of more than {LONGEST >> 20} MiB, which cannot be translated on"
        " its way. Ask again without streaming, or on a surface that the engine has itself.",
    )


class Reader:
    """``feed(bytes)`` gives the events that these bytes complete; ``rest()`` what an end without
    a blank line has left. Raises Refusal ``backend_unreachable`` on an endless event."""

    __slots__ = ("_data", "_name", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = [event for line in lines if (event := self._line(line)) is not None]
        if self._size + len(self._rest) > LONGEST:
            raise too_long()
        return events

    def rest(self) -> list[Event]:
        return self.feed(b"\n\n")

    def _line(self, line: bytes) -> Event | None:
        line = line.removeprefix(BOM).removesuffix(b"\r")
        if not line:
            return self._whole()
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
        elif field == b"event":
            self._name = value.strip().decode("utf-8", "replace")
        return COMMENT if not field else None

    def _whole(self) -> Event | None:
        event = Event(self._name, b"\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return event


def named(name: str, doc: dict[str, Any]) -> bytes:
    """An event as Anthropic writes it: its name twice."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **doc}))


def plain(doc: dict[str, Any]) -> bytes:
    """An event as chat completions have it."""
    return b"data: %b\n\n" % orjson.dumps(doc)


DONE = b"data: [DONE]\n\n"
"""The regular end of a stream of chat completions."""

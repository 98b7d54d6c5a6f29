"""Takes an OpenAI stream apart: chunks out of bytes that may be cut anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from gateway.core.errors import Refusal
from gateway.core.types import Doc

MOST = 8 * 1024 * 1024
"""Bytes of one unfinished event (or of one answer's tool calls) that are kept, at most."""

DONE = b"[DONE]"
BOM = b"\xef\xbb\xbf"


class Chunks:
    """``feed(bytes)`` yields the objects of the events that are complete now; ``ended`` is True
    once ``[DONE]`` has come. Only an unfinished line is kept."""

    __slots__ = ("_rest", "ended")

    def __init__(self) -> None:
        self._rest = bytearray()
        self.ended = False

    def feed(self, data: bytes) -> Iterator[Doc]:
        """Comments, empty events and whatever follows ``[DONE]`` are passed over. Raises Refusal
        when a line does not end within MOST bytes or is not JSON."""
        end = data.rfind(b"\n") + 1
        whole = bytes(self._rest) + data[:end] if end else b""
        if end:
            self._rest = bytearray(data[end:])
        else:
            self._rest += data
        for line in whole.splitlines():
            payload = line.removeprefix(BOM)
            if payload.startswith(b"data:") and not self.ended:
                yield from self._event(payload[5:].strip())
        if len(self._rest) > MOST:
            raise nonsense(f"an event of more than {MOST // 1024 // 1024} MiB")

    def _event(self, payload: bytes) -> Iterator[Doc]:
        if payload == DONE:
            self.ended = True
        elif payload:
            found = _parsed(payload)
            if isinstance(found, dict):
                yield found


def _parsed(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise nonsense("an event that is not JSON") from None


def first_choice(doc: Doc) -> Doc | None:
    """The choice of index 0 of a chunk or of a whole answer; None where it has none, as in the
    chunk with the usage."""
    choices = doc.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            return choice
    return None


def nonsense(what: str) -> Refusal:
    """The engine's answer makes no sense: ``what`` completes 'The engine sent …'."""
    return Refusal(
        "backend_unreachable",
        f"The engine sent {what}, which cannot be translated. Ask again; if it stays so, the same"
        " request on OpenAI's surface (/v1/…) shows what the engine says.",
    )

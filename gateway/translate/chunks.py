"""The objects of a streamed chat or completion, and what their choices say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from gateway.core.errors import Refusal
from gateway.core.types import Doc

from .sse import Event, Reader

DONE = b"[DONE]"


class Chunks:
    """``feed(bytes)`` yields the objects of the events that are complete now, ``rest()`` that of
    a last one without its blank line; ``ended`` is True once ``[DONE]`` has come. Only an
    unfinished event is kept."""

    __slots__ = ("_reader", "ended")

    def __init__(self) -> None:
        self._reader = Reader()
        self.ended = False

    def feed(self, data: bytes) -> Iterator[Doc]:
        """Comments, empty events and whatever follows ``[DONE]`` are passed over. Raises Refusal
        when an event does not end in time or is not JSON."""
        yield from self._objects(self._reader.feed(data))

    def rest(self) -> Iterator[Doc]:
        yield from self._objects(self._reader.rest())

    def _objects(self, events: list[Event]) -> Iterator[Doc]:
        for event in events:
            payload = event.data.strip()
            if payload == DONE:
                self.ended = True
            elif payload and not self.ended:
                found = _parsed(payload)
                if isinstance(found, dict):
                    yield found


def _parsed(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise nonsense("an event that is not JSON") from None


def until_fault(pieces: Iterable[bytes]) -> tuple[bytes, Refusal | None]:
    """What a translation says before it finds a fault, and the fault. A stream returns the one
    and raises the other at its next call, so that nothing whole is held back."""
    told: list[bytes] = []
    try:
        for piece in pieces:
            told.append(piece)  # noqa: PERF402 - what came before a fault is kept
    except Refusal as fault:
        return b"".join(told), fault
    return b"".join(told), None


def first_choice(doc: Doc) -> Doc | None:
    """The choice of index 0 of a chunk or of a whole answer; None where it has none, as in the
    chunk with the usage."""
    choices = doc.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            return choice
    return None


def text_of(content: Any) -> str:
    """Some engines answer in parts."""
    if isinstance(content, list):
        found = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in found if isinstance(text, str))
    return content if isinstance(content, str) else ""


def calls_of(message: Doc) -> list[Doc]:
    """The calls of a message or delta; TGI has been seen to send one that is not in a list."""
    calls = message.get("tool_calls")
    found = [calls] if isinstance(calls, dict) else calls if isinstance(calls, list) else []
    return [call for call in found if isinstance(call, dict)]


def function_of(call: Doc) -> Doc:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def nonsense(what: str) -> Refusal:
    """The engine's answer makes no sense: ``what`` completes 'The engine sent …'."""
    return Refusal(
        "backend_unreachable",
        f"The engine sent {what}, which cannot be translated. Ask again; if it stays so, the same"
        " request on OpenAI's surface (/v1/…) shows what the engine says.",
    )

"""A request said in the words of another surface, for a backend that lacks the client's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from gateway.core.catalog import Place
from gateway.core.errors import Refusal
from gateway.core.fit import Detour
from gateway.core.headers import safe_value
from gateway.core.prepare import Prepared, prepare_detour
from gateway.core.types import Call, Doc, Wire
from gateway.dialects import DIALECTS
from gateway.dialects.stream import parse
from gateway.translate import errors, ollama_idle
from gateway.translate.bridge import Asking, Bridge, Stream
from gateway.translate.choose import choose

LONGEST_LOST = 1000
"""Characters of X-Portico-Lost: some clients take no head of more than 8 KiB."""


@dataclass(slots=True)
class Turn:
    """One attempt that is translated: ``bridge`` has turned the request, and will turn the answer.
    ``lost`` names the client's fields that could only be expressed roughly."""

    bridge: Bridge
    asking: Asking
    lost: tuple[str, ...]
    wire: Wire

    def reply(self, body: bytes) -> bytes:
        """The whole answer. Raises Refusal where the engine's makes no sense."""
        doc = parse(body)
        if not isinstance(doc, dict):
            raise Refusal(
                "backend_unreachable",
                "The engine's answer is not a JSON object, so it cannot be translated. Ask again,"
                " and if it stays so ask whoever runs the engine.",
            )
        return orjson.dumps(self.bridge.reply(doc, self.asking))

    def stream(self) -> Stream:
        """What turns a streamed answer. The document, which may be megabytes, is let go: whatever
        the answer needs of it is in the stream. Raises Refusal."""
        stream = self.bridge.stream(self.asking)
        self.asking = replace(self.asking, doc={})
        return stream

    def error(self, status: int, body: bytes) -> bytes:
        """The engine's own error in the client's envelope."""
        return errors.reword(self.wire, status, body, self.asking.id)

    @property
    def kind(self) -> bytes:
        """The content type of a whole answer."""
        return str(DIALECTS[self.wire].CONTENT_TYPE).encode()

    @property
    def stream_kind(self) -> bytes:
        """The content type of a stream."""
        kind: bytes = DIALECTS[self.wire].STREAM_TYPE
        return kind

    @property
    def lines(self) -> bytes:
        """The line of the answer's head that tells what was lost, empty if nothing was."""
        if not self.lost:
            return b""
        names = safe_value(", ".join(self.lost))
        if len(names) > LONGEST_LOST:
            names = f"{names[:LONGEST_LOST].rpartition(', ')[0]}, ..."
        return f"X-Portico-Lost: {names}\r\n".encode()


def asking(call: Call, place: Place, now: float) -> Asking:
    """What translations need to know of a call that goes to ``place`` at ``now``."""
    named = call.doc.get("model")
    return Asking(
        id=call.id,
        model=named if isinstance(named, str) else call.model,
        doc=call.doc,
        created=int(time.time()),
        stream=call.stream,
        clock=time.monotonic,
        arrived=call.arrived,
        sent=now,
        extras=place.runtime.extras,
    )


def idle(call: Call, asked: Asking) -> Doc | None:
    """The answer to a request that no engine has to see, None when one has to."""
    return ollama_idle.answer(call.op, asked) if call.wire is Wire.OLLAMA else None


def turned(
    call: Call, place: Place, detours: Sequence[Detour], asked: Asking, add_usage: bool
) -> tuple[Turn, Prepared]:
    """The first of the detours that can express the request, and what is sent. Raises Refusal when
    none can."""
    found = choose([detour for detour in detours if isinstance(detour, Bridge)], asked)
    if found is None:
        raise LookupError(f"no bridge leads from {call.path} to '{place.backend.name}'")
    bridge, said = found
    prepared = prepare_detour(call, place, bridge, said.doc, add_usage)
    return Turn(bridge, asked, said.lost, call.wire), prepared

"""What a fake engine can be told to do with a request: answers, streams and every kind of fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from tests.fakes import talk, wire
from tests.fakes.peer import Exchange, Headers

Step = Callable[[Exchange], Coroutine[Any, Any, None]]
Cut = Callable[[Sequence[bytes]], list[bytes]]

SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"


class Gate:
    """Lets a stream go on event by event: ``release(n)`` allows n more, ``open()`` all."""

    def __init__(self) -> None:
        self._allowed = asyncio.Semaphore(0)
        self._open = asyncio.Event()

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            self._allowed.release()

    def open(self) -> None:
        self._open.set()
        self._allowed.release()

    async def passed(self) -> None:
        if not self._open.is_set():
            await self._allowed.acquire()


def every(size: int) -> Cut:
    """Writes of ``size`` bytes, whatever the events are."""

    def cut(events: Sequence[bytes]) -> list[bytes]:
        whole = b"".join(events)
        return [whole[at : at + size] for at in range(0, len(whole), size)]

    return cut


def groups(count: int) -> Cut:
    """``count`` events in one write."""

    def cut(events: Sequence[bytes]) -> list[bytes]:
        return [b"".join(events[at : at + count]) for at in range(0, len(events), count)]

    return cut


def reply(
    status: int = 200,
    body: Any = b"",
    headers: Headers = (),
    *,
    framing: str = "length",
    content_type: str | None = "application/json",
    reason: str | None = None,
) -> Step:
    """A whole answer; anything but bytes is sent as JSON. HEAD gets no body."""
    content = body if isinstance(body, bytes) else talk.dumps(body)
    kind = [("content-type", content_type)] if content_type and content else []

    async def step(exchange: Exchange) -> None:
        bare = status == 204 or exchange.request.method == "HEAD"
        used = "none" if status == 204 else framing
        await exchange.head(
            status, [*kind, *headers], framing=used, length=len(content), reason=reason
        )
        if not bare:
            await exchange.raw(exchange.frame(content) if content else b"")
            await exchange.finish()

    return step


def stream(
    events: Sequence[bytes],
    *,
    framing: str = "chunked",
    cut: Cut = list,
    gate: Gate | None = None,
    gap: float = 0.0,
    end: str = "whole",
    headers: Headers = (),
    status: int = 200,
    content_type: str = SSE,
    interim: bytes = b"",
    extension: str = "",
    trailers: Headers = (),
    drip: int = 0,
) -> Step:
    """A streamed answer. ``cut`` turns the events into pieces of the body, ``drip`` hands even the
    framed pieces to the kernel in parts of that many bytes; with a ``gate`` each write waits to
    be released; ``gap`` seconds pass before each. ``end``: whole, fin or reset (the terminal chunk
    or the promised rest is missing), mid-chunk (a chunk is announced and half sent, then FIN),
    mid-chunk-reset, hang (silence, the connection stays)."""
    writes = cut(events)
    length = sum(map(len, events)) + (0 if end == "whole" else 1000)

    async def step(exchange: Exchange) -> None:
        if interim:
            await exchange.raw(interim)
        kind = [("content-type", content_type)]
        await exchange.head(status, [*kind, *headers], framing=framing, length=length)
        for piece in writes:
            if gate is not None:
                await gate.passed()
            if gap:
                await asyncio.sleep(gap)
            framed = exchange.frame(piece, extension)
            for part in every(drip)([framed]) if drip else [framed]:
                await exchange.raw(part)
        await _end(exchange, end, trailers)

    return step


async def _end(exchange: Exchange, end: str, trailers: Headers) -> None:
    if end.startswith("mid-chunk"):
        await exchange.raw(b'64\r\ndata: {"choices":')
    if end.endswith("reset"):
        await asyncio.sleep(0.05)  # a RST discards what the peer has not read yet
        exchange.reset()
    if end in {"fin", "mid-chunk"}:
        exchange.fin()
    if end == "hang":
        await asyncio.Event().wait()
    await exchange.finish(trailers)


def recorded(case: str, model: str = wire.RECORDED_MODEL, **faults: Any) -> Step:
    """The answer of a real engine, ``FOLDER/CASE`` under tests/wire, with its own chunk
    boundaries and headers; ``faults`` are those of ``stream``."""
    found = wire.load(case)
    if found is None:
        raise LookupError(f"no recording {case}")
    return replay(found.naming(model), **faults)


def replay(answer: wire.Recording, **faults: Any) -> Step:
    """A recording as a step."""
    if answer.framing != "chunked":
        return reply(answer.status, answer.body, answer.headers, content_type=None)
    kinds = [value for name, value in answer.headers if name.lower() == "content-type"]
    rest = [(name, value) for name, value in answer.headers if name.lower() != "content-type"]
    end = "whole" if answer.finished else "fin"
    options = {"end": end, "content_type": kinds[0] if kinds else SSE, "status": answer.status}
    return stream(answer.pieces, headers=rest, **{**options, **faults})


def literally(*pieces: bytes, end: str = "keep") -> Step:
    """Exactly these bytes, piece by piece; then ``end``: keep, fin or reset."""

    async def step(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.raw(piece)
        if end == "fin":
            exchange.fin()
        if end == "reset":
            await asyncio.sleep(0.05)
            exchange.reset()

    return step


def hang() -> Step:
    """Takes the request and says nothing, for ever."""

    async def step(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    return step


def drop(how: str = "fin") -> Step:
    """Takes the request and leaves before a head: ``fin`` or ``reset``."""

    async def step(exchange: Exchange) -> None:
        if how == "reset":
            exchange.reset()
        exchange.fin()

    return step


def after(event: asyncio.Event, then: Step) -> Step:
    """Waits for ``event`` before anything is answered."""

    async def step(exchange: Exchange) -> None:
        await event.wait()
        await then(exchange)

    return step


def endless(piece: bytes, *, content_type: str = SSE) -> Step:
    """The same piece for ever, as fast as the other side takes it."""

    async def step(exchange: Exchange) -> None:
        await exchange.head(200, [("content-type", content_type)])
        while True:
            await exchange.raw(exchange.frame(piece))
            await asyncio.sleep(0)

    return step


def in_turn(steps: Iterable[Step]) -> Step:
    """One step after the other, request by request; the last one stays."""
    left = list(steps)

    async def step(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return step

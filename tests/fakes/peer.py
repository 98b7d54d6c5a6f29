"""One connection of a fake engine: HTTP/1.1 by hand, so that every rule of it can be broken."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

Headers = Iterable[tuple[str, str]]
REASONS = {200: "OK", 204: "No Content", 400: "Bad Request", 404: "Not Found", 503: "Unavailable"}


class Ended(Exception):
    """The step has ended the connection itself; nothing more is to be said on it."""


@dataclass(slots=True, eq=False)
class Recorded:
    """A request as it came. ``aborted`` is set when the peer left before the answer was whole
    (``aborted_at``: loop time); ``done`` when the answer is whole or was broken off on purpose;
    ``sent`` counts the bytes of the answer handed to the kernel or waiting for it."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    connection: int
    at: float
    body: bytes = b""
    wire_body: bytes = b""
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    aborted_at: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """The first value of a header, in any case; None when it did not come."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def names(self) -> set[str]:
        """The names of all headers, lower case."""
        return {key.lower() for key, _ in self.headers}

    @property
    def doc(self) -> Any:
        """The body as JSON, None when it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class Peer(asyncio.Protocol):
    """Reads requests one after the other and hands each to ``serve``; when the other side leaves
    while one is in hand, that one is marked aborted and its coroutine cancelled."""

    def __init__(
        self,
        number: int,
        serve: Callable[[Peer, Recorded], Coroutine[Any, Any, None]],
        reading: asyncio.Event,
        forget: Callable[[Peer], None],
    ) -> None:
        self.number = number
        self.served = 0
        self.current: Recorded | None = None
        self._serve, self._reading, self._forget = serve, reading, forget
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ours = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=0)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._more.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.current is not None and not self._ours and not self.current.done.is_set():
            self.current.aborted_at = asyncio.get_running_loop().time()
            self.current.aborted.set()
        self._task.cancel()
        self._forget(self)

    async def _run(self) -> None:
        try:
            while (request := await self._request()) is not None:
                self.current = request
                await self._serve(self, request)
                request.done.set()
                self.served += 1
        except Ended:
            if self.current is not None:
                self.current.done.set()

    async def _request(self) -> Recorded | None:
        head = await self._until(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ", 2)
        headers = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])
        ]
        now = asyncio.get_running_loop().time()
        return Recorded(method, target, version, headers, self.number, now)

    async def read_body(self, request: Recorded) -> None:
        """Fills ``body`` (and ``wire_body``, chunk sizes included). Reads nothing from the socket
        while the engine's ``reading`` is not set."""
        if not self._reading.is_set():
            self.transport.pause_reading()
            await self._reading.wait()
            self.transport.resume_reading()
        if (request.header("expect") or "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in (request.header("transfer-encoding") or "").lower():
            await self._chunked(request)
        else:
            request.body = request.wire_body = await self._exactly(
                int(request.header("content-length") or 0)
            )

    async def _chunked(self, request: Recorded) -> None:
        while True:
            size_line = await self._until(b"\r\n")
            size = int(size_line.partition(b";")[0], 16)
            payload = await self._exactly(size)
            end = await self._until(b"\r\n") if size else await self._trailers()
            request.body += payload
            request.wire_body += size_line + b"\r\n" + payload + end + b"\r\n"
            if not size:
                return

    async def _trailers(self) -> bytes:
        seen = b""
        while found := await self._until(b"\r\n"):
            seen += found + b"\r\n"
        return seen

    async def _until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            await self._wait()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._wait()
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    async def _wait(self) -> None:
        self._more.clear()
        await self._more.wait()

    async def write(self, data: bytes) -> None:
        """Hands bytes over and waits until the kernel has taken all of them."""
        if self.current is not None:
            self.current.sent += len(data)
        self.transport.write(data)
        await self._writable.wait()

    def fin(self) -> None:
        """Closes in good order after what was written."""
        self._ours = True
        self.transport.close()

    def reset(self) -> None:
        """Breaks the connection off with a RST."""
        self._ours = True
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


@dataclass(slots=True)
class Exchange:
    """What a step may do with one request: say a head, pieces of a body, the end, or break off."""

    request: Recorded
    peer: Peer
    framing: str = "length"

    async def raw(self, data: bytes) -> None:
        """Exactly these bytes."""
        await self.peer.write(data)

    async def head(
        self,
        status: int = 200,
        headers: Headers = (),
        *,
        framing: str = "chunked",
        length: int | None = None,
        reason: str | None = None,
    ) -> None:
        """The status line and headers; ``framing`` is chunked, length, close or none."""
        self.framing = framing
        lines = [f"HTTP/1.1 {status} {reason or REASONS.get(status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines += {
            "chunked": ["transfer-encoding: chunked"],
            "length": [f"content-length: {length or 0}"],
            "close": ["connection: close"],
            "none": [],
        }[framing]
        await self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def frame(self, data: bytes, extension: str = "") -> bytes:
        """The bytes of one piece of the body in the framing of the head."""
        if self.framing != "chunked":
            return data
        return f"{len(data):x}{extension}\r\n".encode() + data + b"\r\n"

    async def finish(self, trailers: Headers = ()) -> None:
        """The end of the body, as the framing wants it."""
        if self.framing == "chunked":
            extra = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            await self.raw(f"0\r\n{extra}\r\n".encode())
        if self.framing == "close":
            self.fin()

    def fin(self) -> None:
        self.peer.fin()
        raise Ended

    def reset(self) -> None:
        self.peer.reset()
        raise Ended

"""As much of HTTP/1.1 as an engine needs to answer: many connections, little work for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

import httptools
import orjson

REASONS = {200: "OK", 404: "Not Found", 500: "Internal Server Error"}


class Service(Protocol):
    """What stands behind a port."""

    connections: set[Connection]

    def handle(self, connection: Connection, method: str, path: str, body: bytes) -> None: ...


class Connection(asyncio.Protocol):
    """One connection: one request after the other. ``on_lost`` is called when the client leaves
    while it waits for an answer."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._body = b"", bytearray()
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own do not derive from it
        self._service.connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._service.connections.discard(self)
        lost, self.on_lost = self.on_lost, None
        if lost:
            lost()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def on_message_begin(self) -> None:
        self._url, self._body = b"", bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path = self._url.partition(b"?")[0].decode("latin-1")
        method = self._parser.get_method().decode("latin-1")
        self._service.handle(self, method, path, bytes(self._body))

    def abort(self) -> None:
        """Reset the connection, as a process that dies does."""
        self.on_lost = None
        if self._transport:
            self._transport.abort()

    def reply(self, status: int, answer: Any, kind: str = "application/json") -> None:
        """A whole answer: bytes as they are, anything else as JSON."""
        body = answer if isinstance(answer, bytes) else orjson.dumps(answer)
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\n"
        self._write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.on_lost = None

    def begin(self) -> None:
        """The head of a stream."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        self._write(head + b"Transfer-Encoding: chunked\r\n\r\n")

    def event(self, *events: bytes, last: bool = False) -> None:
        """Some events in one chunk, and the end of the stream after the ``last``."""
        data = b"".join(b"data: " + event + b"\n\n" for event in events)
        end = b"0\r\n\r\n" if last else b""
        self._write(b"%x\r\n" % len(data) + data + b"\r\n" + end)
        if last:
            self.on_lost = None

    def _write(self, data: bytes) -> None:
        if self._transport:
            self._transport.write(data)

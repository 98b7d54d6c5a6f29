"""A plain HTTP client that sees everything: what came before a connection broke, and how it broke.

aiohttp's drops what it has not handed over yet when a body ends early, which is where an error
event would be."""

from __future__ import annotations

import asyncio
from types import TracebackType

import httptools


class Answer:
    """The answer so far. ``ended`` is True when it is whole by HTTP's own rules."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.ended = False
        self.keeps = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.keeps = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.ended = True


class Connection:
    """One connection, used for one request after the other."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Send a request. OSError when there is no connection."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        lines = [f"POST {path} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        return Answer()

    async def read(self, answer: Answer) -> bool:
        """Take what has come; False when there is nothing more. ConnectionError when reset."""
        if answer.ended or self._reader is None:
            return False
        data = await self._reader.read(65536)
        if data:
            answer.feed(data)
        if not data or (answer.ended and not answer.keeps):
            self.leave()
        return bool(data)

    def leave(self, abruptly: bool = False) -> None:
        """Go, with or without a goodbye; the next request opens another connection."""
        if self._writer is not None:
            if abruptly:
                self._writer.transport.abort()
            self._writer.close()
        self._reader = self._writer = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

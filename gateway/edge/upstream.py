"""Connections to engines: our own protocol on httptools, pooled per backend.

A connection carries one exchange at a time. What it reads goes to the exchange in the very call
in which it arrived; nothing is queued in between."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from gateway.edge.outbox import Outbox
from gateway.edge.tunnel import tunnel

MOST_SIZES = 4096


class SizeLines(dict[int, tuple[tuple[bytes, ...], int]]):
    """By the length of a whole chunk without extensions: the size line that it must begin with, in
    small and in capital digits (RFC 9112 7.1), and where its payload begins. There
    is no line for a length that no chunk has."""

    def __missing__(self, length: int) -> tuple[tuple[bytes, ...], int]:
        lines = (b"%x\r\n" % size for size in range(max(length - 12, 1), max(length - 4, 1)))
        fitting = [line for line in lines if len(line) + int(line, 16) + 2 == length]
        found: tuple[tuple[bytes, ...], int] = ((), 0)
        if fitting:
            found = (fitting[0], fitting[0].upper()), len(fitting[0])
        if len(self) < MOST_SIZES:
            self[length] = found
        return found


SIZE_LINES = SizeLines()


_SIZING = frozenset({b"content-length", b"transfer-encoding"})

HEAD_LIMIT = 65536
"""Bytes of an answer's head; more is not an engine's answer."""

WRITE_HIGH = 65536
"""Bytes of a request that may wait in a connection's write buffer before the sender waits."""


class Sink(Protocol):
    """What an answer is delivered to."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None: ...
    def on_payload(self, data: bytes) -> None: ...
    def on_last(self, data: bytes) -> None: ...
    def on_chunk(self, data: bytes, start: int) -> None: ...
    def on_end(self) -> None: ...
    def on_broken(self, reason: str) -> None: ...


class ConnectFailed(Exception):
    """No connection. ``reason`` is a word for metrics, the text a clause for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Connection(asyncio.Protocol):
    """One connection to an engine. ``used`` counts requests; ``answered`` tells whether any byte
    of the present answer has come."""

    __slots__ = (
        "_bodiless",
        "_boundary",
        "_chunked",
        "_drained",
        "_head_size",
        "_headers",
        "_in_chunk",
        "_in_head",
        "_interim",
        "_lost",
        "_outbox",
        "_parked",
        "_parser",
        "_pieces",
        "_sink",
        "_sized",
        "_whole",
        "answered",
        "idle_since",
        "reusable",
        "transport",
        "used",
    )

    def __init__(self, lost: Callable[[Connection], None], outbox: Outbox) -> None:
        self.transport: asyncio.Transport | None = None
        self._outbox = outbox
        self._parked = b""
        self.used = 0
        self.answered = False
        self.reusable = True
        self.idle_since = 0.0
        self._lost = lost
        self._sink: Sink | None = None
        self._drained: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        # It is ready for the next answer when one has ended; a connection on which one ended
        # otherwise is not used again.
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._in_head = True
        self._interim = False
        self._sized = False
        self._in_chunk = False
        self._chunked = False
        self._boundary = False
        self._whole = False
        self._bodiless = False
        self.answered = False

    def begin(self, sink: Sink, *, bodiless: bool = False) -> None:
        """Make ready for one exchange; the caller then writes the request. ``bodiless``: the answer
        is a head, whatever that announces (RFC 9110 9.3.2)."""
        self._sink = sink
        self.used += 1
        self._reset()
        self._bodiless = bodiless

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def post(self, data: bytes) -> None:
        """Write at the end of this turn of the loop."""
        self._parked += data
        self._outbox.post(self)

    def flush(self) -> None:
        data, self._parked = self._parked, b""
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    async def drain(self) -> None:
        """Return when the engine has taken enough of the request. Raises ConnectionError."""
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError
        if self._drained is not None:
            await self._drained

    def pause(self) -> None:
        """Stop reading: back-pressure towards the engine."""
        if self.transport is not None and self.transport.is_reading():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection now; the engine sees its client gone and stops generating."""
        self._sink = None
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            # Bytes that nobody asked for: whatever they are, the next answer must not begin so.
            self.abort()
            return
        if self._boundary:
            # The usual read: one whole chunk. The parser stands where a chunk begins, so one that
            # it is never shown does not confuse it.
            lines, start = SIZE_LINES[len(data)]
            if data.startswith(lines):
                self._sink.on_chunk(data, start)
                return
        self.answered = True
        if self._in_head:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broken("it switched protocols, which was not asked for")
            return
        except httptools.HttpParserError as error:
            if not self._whole:
                self._deliver()
                self._broken(f"its answer is not valid HTTP ({error})")
                return
            self.reusable = False
        if self._in_head and self._head_size > HEAD_LIMIT:
            self._broken(f"its answer's head is over {HEAD_LIMIT} bytes")
            return
        self._boundary = self._chunked and not self._in_chunk and data.endswith(b"\r\n")
        self._deliver()

    def _deliver(self) -> None:
        pieces, sink = self._pieces, self._sink
        if pieces and sink is not None:
            self._pieces = []
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._whole:
                sink.on_last(data)
            else:
                sink.on_payload(data)
        if self._whole:
            self._end()

    def _end(self) -> None:
        sink, self._sink = self._sink, None
        self._whole = False
        if sink is not None:
            sink.on_end()

    def _broken(self, reason: str) -> None:
        sink = self._sink
        self.abort()
        if sink is not None:
            sink.on_broken(reason)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.reusable = False
        self.resume_writing()
        self._lost(self)
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if exc is None and not self._in_head and not self._sized:
            sink.on_end()
        else:
            sink.on_broken(_ending(exc))

    # --- httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            self._headers = []
            return
        self._in_head = False
        # An answer that ends with its connection is never one after which that is kept.
        keep = self._parser.should_keep_alive()
        self.reusable = self.reusable and keep
        self._sized = keep or not _until_close(self._headers)
        headers, self._headers = self._headers, []
        if self._bodiless:
            # The parser would wait for the body: this connection is of no further use.
            self._whole, self.reusable = True, False
        if self._sink is not None:
            self._sink.on_head(status, headers)

    def on_chunk_header(self) -> None:
        self._chunked = self._in_chunk = True

    def on_chunk_complete(self) -> None:
        self._in_chunk = False

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        else:
            self._whole = True


def _until_close(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether an answer with these headers is over when the connection is (RFC 9112 6.3)."""
    return not any(name.lower() in _SIZING for name, _ in headers)


def _ending(exc: Exception | None) -> str:
    if exc is None:
        return "it closed the connection"
    if isinstance(exc, ConnectionResetError):
        return "it reset the connection"
    return f"the connection broke ({exc or type(exc).__name__})"


class Origin:
    """Where a backend listens, and the connections to it that are free."""

    __slots__ = ("free", "host", "idle", "path", "port", "proxy", "tls", "uses")

    def __init__(self, url: str, idle: float, uses: int | None, proxy: str = "") -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.path = parts.path.rstrip("/")
        self.tls = parts.scheme == "https"
        self.idle = idle
        self.uses = uses
        self.proxy = proxy
        self.free: list[Connection] = []


class Pool:
    """Keep-alive connections to all backends. ``opened`` and ``open`` are for tests and gauges."""

    SWEEP = 1.0
    MOST_FREE = 256
    """Free connections kept per backend; a burst's rest is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self._loop = loop
        self._outbox = outbox
        self._origins: dict[tuple[str, float, int | None, str], Origin] = {}
        self._tls: ssl.SSLContext | None = None
        self._live: set[Connection] = set()
        self._timer = loop.call_later(self.SWEEP, self._sweep)

    def origin(self, url: str, idle: float, uses: int | None, proxy: str = "") -> Origin:
        key = (url, idle, uses, proxy)
        found = self._origins.get(key)
        if found is None:
            found = self._origins[key] = Origin(url, idle, uses, proxy)
        return found

    def reuse(self, origin: Origin, now: float) -> Connection | None:
        """A free connection that is young enough, the one used last first."""
        while origin.free:
            connection = origin.free.pop()
            if connection.open and now - connection.idle_since < origin.idle:
                return connection
            connection.abort()
        return None

    async def connect(self, origin: Origin, within: float) -> Connection:
        """A new connection, ready in ``within`` seconds. Raises ConnectFailed."""
        try:
            async with asyncio.timeout(within):
                connection = await self._open(origin)
        except TimeoutError:
            raise ConnectFailed("timeout", f"no connection within {within:g} s") from None
        except ssl.SSLError as error:
            raise ConnectFailed("tls", f"TLS failed ({error.reason or error})") from None
        except ConnectionRefusedError:
            raise ConnectFailed("refused", "the connection was refused") from None
        except OSError as error:
            raise ConnectFailed("unreachable", f"it cannot be reached ({error})") from None
        self._live.add(connection)
        return connection

    async def _open(self, origin: Origin) -> Connection:
        tls = self._context() if origin.tls else None
        if not origin.proxy:
            _, connection = await self._loop.create_connection(
                self._new, origin.host, origin.port, ssl=tls
            )
            return connection
        sock = await tunnel(self._loop, origin.proxy, origin.host, origin.port)
        _, connection = await self._loop.create_connection(
            self._new, sock=sock, ssl=tls, server_hostname=origin.host if tls else None
        )
        return connection

    def _new(self) -> Connection:
        return Connection(self._live.discard, self._outbox)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """Keep a connection whose answer has ended for the next request, if it may be kept."""
        worn = origin.uses is not None and connection.used >= origin.uses
        room = len(origin.free) < self.MOST_FREE
        if connection.open and connection.reusable and room and not worn:
            # The end of an answer may have come while its reader was slow: a connection that is
            # not read would neither hear the next answer nor notice that the engine closed it.
            connection.resume()
            connection.idle_since = time.monotonic()
            origin.free.append(connection)
        else:
            connection.abort()

    def _sweep(self) -> None:
        """Close what has been free too long: engines close at 5 s, and would do so under us."""
        now = time.monotonic()
        for origin in self._origins.values():
            kept = [c for c in origin.free if c.open and now - c.idle_since < origin.idle]
            for connection in set(origin.free).difference(kept):
                connection.abort()
            origin.free = kept
        self._timer = self._loop.call_later(self.SWEEP, self._sweep)

    def forget(self, urls: set[str]) -> None:
        """Drop the origins of backends that are gone."""
        for key, origin in list(self._origins.items()):
            if key[0] not in urls:
                for connection in origin.free:
                    connection.abort()
                del self._origins[key]

    @property
    def live(self) -> int:
        return len(self._live)

    def close(self) -> None:
        self._timer.cancel()
        for connection in list(self._live):
            with contextlib.suppress(Exception):
                connection.abort()

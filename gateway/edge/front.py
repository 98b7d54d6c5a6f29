"""The client's side: HTTP/1.1 on transports and httptools, one protocol object a connection.

A request is handed on in the call in which its head came, so that nothing waits for a turn of the
loop; what the service does not settle at once it settles later, and says ``done``. aiohttp's
server cost a task, a request object and two turns of the loop for each request, and half of the
memory of an open stream."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import uuid
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol, cast

import httptools
from aiohttp import web

from gateway import __version__
from gateway.core.errors import Refusal
from gateway.core.keys import Keyring, authenticate
from gateway.core.types import Caller
from gateway.dialects import openai
from gateway.edge.heads import Known, learned
from gateway.edge.outbox import Outbox
from gateway.edge.request import Head, Relay, Request, body_of, whole_body

log = logging.getLogger("portico.front")

SERVER = f"portico/{__version__}"

WRITE_HIGH = 32768
"""Bytes that may wait for a client before the engine is no longer read."""

HEAD_LIMIT = 65536
"""Bytes of a request's head; more is no client of ours."""

MOST_HEADERS = 256

MOST_WAITING = 32
"""Requests that a client may send ahead of the answers (RFC 9112 9.3.2). Further ones are not
looked at, and the connection is closed after those."""

AHEAD = 65536
"""Bytes that a client may send ahead of the answers before it is no longer read."""

TICK = 1.0
IDLE = 75.0
"""Seconds for which a connection may be without a request, and that a head may take to come."""

SILENCE = 120.0
"""Seconds without a byte of a body that has begun, after which it is taken for lost."""

LINGER = 10.0
"""Seconds for which the rest of a refused body is read and dropped. Closing at once would reset
the connection, and the client might never read why it was refused (RFC 9112 9.6)."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

LESSONS = 4
"""Heads of a connection that are looked at to be known again. Who sends another each time has none
that is worth remembering."""

FRAMING = frozenset({"Connection", "Content-Length", "Date", "Transfer-Encoding"})
"""Headers of an answer of ours that the front sets itself."""


class Job(Protocol):
    """A request that is being served."""

    def cancel(self) -> object:
        """The client has gone."""


class Service(Protocol):
    """What answers. It writes the answer to the client's transport, or through ``respond``, and
    then calls the client's ``done``; both may happen before ``begin`` returns."""

    def begin(self, request: Request) -> Job: ...


class TooMuch(Exception):
    """Raised in a callback of the parser to end the parsing; the text is for the client."""


class FrontProtocol(asyncio.Protocol):
    """One client connection. ``relay`` hears of back-pressure."""

    __slots__ = (
        "_ahead",
        "_begun",
        "_closing",
        "_coming",
        "_fed",
        "_front",
        "_head_size",
        "_headers",
        "_in_head",
        "_job",
        "_known",
        "_lessons",
        "_linger_until",
        "_mute",
        "_parked",
        "_parser",
        "_proven",
        "_pumping",
        "_request",
        "_seen",
        "_url",
        "_waiting",
        "relay",
        "transport",
    )

    def __init__(self, front: FrontServer) -> None:
        self._front = front
        self.transport: asyncio.Transport | None = None
        self.relay: Relay | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._job: Job | None = None
        self._known: Known | None = None
        self._lessons = LESSONS
        self._request: Request | None = None
        self._coming: Request | None = None
        self._waiting: list[Request] = []
        self._ahead = b""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = self._fed = 0
        self._mute = 0
        self._in_head = True
        self._begun = False
        self._closing = False
        self._pumping = False
        self._linger_until = 0.0
        self._parked: list[bytes] = []
        self._proven: tuple[Keyring, tuple[str | None, str | None], Caller] | None = None
        self._seen = front.now

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._front.connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        self._closing = True
        self._front.connections.discard(self)
        self._waiting.clear()
        self._ahead = b""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        self.relay = None

    def pause_writing(self) -> None:
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        if self.relay is not None:
            self.relay.resume()

    def data_received(self, data: bytes) -> None:
        if self._closing and not self._linger_until:
            return
        if self._request is not None and self._coming is None:
            self._keep(data)
            return
        rests = self._in_head and not self._begun and not self._waiting and not self._closing
        known = self._known
        if rests and known is not None and (body := known.body(data)) is not None:
            self._seen = self._front.now
            self._waiting.append(Request(self, known.head, whole_body(self, body)))
        else:
            self._feed(data)
            if rests and self._lessons and self._coming is None and len(self._waiting) == 1:
                self._lessons -= 1
                self._known = learned(data, self._waiting[0]) if self._lessons else None
        self._pump()

    # --- reading

    def _keep(self, data: bytes) -> None:
        """What comes ahead of an answer waits as bytes."""
        self._ahead += data
        if len(self._ahead) > AHEAD:
            self.hold()

    def _feed(self, data: bytes) -> None:
        self._fed = len(data)
        if self._in_head:
            self._head_size += self._fed
        else:
            self._mute += self._fed
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Nothing here can be switched to: the request is answered as it stands.
            self._parser = httptools.HttpRequestParser(self)
            if rest := data[upgrade.args[0] :]:
                self._feed(rest)
            return
        except httptools.HttpParserError as error:
            reason = error.__context__ if isinstance(error.__context__, TooMuch) else error
            self._unreadable(str(reason))
            return
        if self._head_size > HEAD_LIMIT and self._in_head:
            self._unreadable(f"its head is over {HEAD_LIMIT} bytes")
        elif self._mute > HEAD_LIMIT:
            self._unreadable("its body does not get on")

    def _unreadable(self, why: str) -> None:
        """Nothing that comes from here on can be understood. What was understood is answered."""
        coming, self._coming = self._coming, None
        between = self._in_head and not self._begun
        self._closing = True
        self._linger_until = 0.0
        if coming is not None:
            coming.body.fail(why)
        elif not between and not self._waiting and self._request is None:
            self._tell(why)

    def _tell(self, why: str) -> None:
        refusal = Refusal("invalid_request", f"This is not a valid HTTP request: {_plain(why)}.")
        body = openai.refuse(refusal, uuid.uuid4().hex)
        response = web.Response(
            status=refusal.status,
            body=body,
            content_type="application/json",
            headers={"Server": SERVER},
        )
        self._send(response, head_only=False, close=True)
        self._close()

    def hold(self) -> None:
        if self.transport is not None and self.transport.is_reading():
            self.transport.pause_reading()

    def go_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    # --- httptools callbacks

    def on_message_begin(self) -> None:
        if len(self._waiting) >= MOST_WAITING:
            raise TooMuch("too many requests were sent ahead of their answers")
        self._url = b""
        self._headers = []
        self._in_head = self._begun = True
        # No less than what of it came in this read.
        self._head_size = self._fed
        self._seen = self._front.now

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._headers.append((name, value))
            if len(self._headers) > MOST_HEADERS:
                raise TooMuch(f"it has more than {MOST_HEADERS} headers")

    def on_headers_complete(self) -> None:
        parser = self._parser
        if self._head_size > HEAD_LIMIT and self._measured() > HEAD_LIMIT:
            raise TooMuch(f"its head is over {HEAD_LIMIT} bytes")
        head = Head(
            parser.get_method().decode("ascii"),
            self._url,
            self._headers,
            http11=parser.get_http_version() == "1.1",
            keep_alive=parser.should_keep_alive(),
        )
        request = Request(self, head, body_of(self, head.fields))
        coding = head.fields.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            raise TooMuch("of all transfer codings only 'chunked' is understood here")
        self._url, self._headers = b"", []
        self._in_head = self._begun = False
        self._coming = request
        self._waiting.append(request)

    def _measured(self) -> int:
        return len(self._url) + sum(len(name) + len(value) for name, value in self._headers)

    def on_body(self, body: bytes) -> None:
        self._mute = 0
        self._seen = self._front.now
        if self._coming is not None:
            self._coming.body.feed(body)

    def on_message_complete(self) -> None:
        coming, self._coming = self._coming, None
        self._in_head = True
        self._head_size = self._mute = 0
        if coming is not None:
            coming.body.end()
        self._linger_until = 0.0

    # --- serving, one after the other

    def _pump(self) -> None:
        """Begin what waits, as long as each is settled at once."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._request is None:
                if self._ahead and not self._waiting and not self._closing:
                    data, self._ahead = self._ahead, b""
                    self.go_on()
                    self._feed(data)
                if not self._waiting:
                    break
                self._request = self._waiting.pop(0)
                self._begin(self._request)
        finally:
            self._pumping = False
        if self._closing and self._request is None and not self._linger_until:
            self._close()

    def _begin(self, request: Request) -> None:
        """Have the request served. Where that is settled at once, another may be the present one
        when this returns."""
        job = self._front.service.begin(request)
        if self._request is request:
            self._job = job

    def invite(self) -> None:
        """Answer ``Expect: 100-continue`` (RFC 9110 10.1.1), now that the body will be read."""
        request = self._request
        if request is not None and request.fields.get("expect", "").lower() == "100-continue":
            self.write(CONTINUE)

    def prove(self, request: Request, ring: Keyring) -> Caller:
        """Who asks, by the request's key. What the last request of this connection proved holds
        for one that shows the very same. Raises Refusal ``unauthorized``."""
        fields = request.fields
        shown = fields.get("authorization"), fields.get("x-api-key")
        proven = self._proven
        if proven is not None and proven[0] is ring and proven[1] == shown:
            return proven[2]
        caller = authenticate(fields, ring)
        self._proven = ring, shown, caller
        return caller

    def write(self, data: bytes) -> None:
        """Write at once."""
        self._parked.append(data)
        self.flush()

    def post(self, data: bytes) -> None:
        """Write at the end of this turn of the loop."""
        if not self._parked:
            self._front.outbox.post(self)
        self._parked.append(data)

    def flush(self) -> None:
        parked = self._parked
        if parked:
            self._parked = []
            if self.transport is not None and not self.transport.is_closing():
                self.transport.write(parked[0] if len(parked) == 1 else b"".join(parked))

    def respond(self, response: web.Response) -> None:
        """Write a whole answer of our own and be done."""
        request = self._request
        if request is None:
            return
        keep = request.keep_alive and response.keep_alive is not False and request.body.complete
        self._send(response, head_only=request.method == "HEAD", close=not keep)
        self.done(keep)

    def _send(self, response: web.Response, *, head_only: bool, close: bool) -> None:
        http11 = self._request is None or self._request.http11
        self.write(written(response, head_only=head_only, close=close, http11=http11))

    def done(self, keep_alive: bool) -> None:
        """The present request has been answered; the next may come if ``keep_alive``."""
        request, self._request = self._request, None
        self._job = self.relay = None
        self._seen = self._front.now
        unread = request is not None and not request.body.complete
        if unread or not keep_alive:
            self._closing = True
            self._waiting.clear()
        if request is not None and unread and request is self._coming:
            # The client still sends what nobody wants any more.
            self._linger_until = self._seen + LINGER
            request.body.drop()
            self.go_on()
        self._pump()

    def _close(self) -> None:
        self.flush()
        if self.transport is not None:
            self.transport.close()

    def look(self, now: float) -> None:
        """Called every TICK: end what takes too long."""
        quiet = now - self._seen
        if self._coming is not None and self._request is self._coming:
            if quiet > SILENCE and (self.transport is None or self.transport.is_reading()):
                self._unreadable(f"nothing more of it came for {SILENCE:g} s")
        elif self._linger_until:
            if now > self._linger_until:
                self._close()
        elif self._request is None and quiet > IDLE:
            if self._begun:
                self._tell(f"its head did not come within {IDLE:g} s")
            self._close()

    def leave(self) -> None:
        """The server ends: cut what is under way."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        self._closing = True
        self._close()


class FrontServer:
    """Makes the protocols of a listening socket and looks after all connections. ``now`` is the
    monotonic time of the last look: exact enough for time-outs, and free."""

    def __init__(self, service: Service, outbox: Outbox, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.outbox = outbox
        self.connections: set[FrontProtocol] = set()
        self.now = time.monotonic()
        self._loop = loop
        self._timer = loop.call_later(TICK, self._look)

    def __call__(self) -> FrontProtocol:
        return FrontProtocol(self)

    def _look(self) -> None:
        self.now = time.monotonic()
        for connection in list(self.connections):
            connection.look(self.now)
        self._timer = self._loop.call_later(TICK, self._look)

    async def shutdown(self, within: float) -> None:
        """Cut every connection, and give the last bytes ``within`` seconds to leave."""
        self._timer.cancel()
        for connection in list(self.connections):
            connection.leave()
        end = self._loop.time() + within
        while self.connections and self._loop.time() < end:  # noqa: ASYNC110 - happens once
            await asyncio.sleep(within / 10)


def _plain(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(".") or "it cannot be read"


def written(response: web.Response, *, head_only: bool, close: bool, http11: bool) -> bytes:
    """An answer of our own as it goes over the wire."""
    status = response.status
    body = response.body if isinstance(response.body, bytes | bytearray) else b""
    lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
    lines += [f"{k}: {v}" for k, v in response.headers.items() if k.title() not in FRAMING]
    lines.append(f"Date: {formatdate(usegmt=True)}")
    if status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}")
    if close:
        lines.append("Connection: close")
    elif not http11:
        lines.append("Connection: keep-alive")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
    return head if head_only or status in (204, 304) else head + bytes(body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"

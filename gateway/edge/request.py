"""A client's request as the front hands it on: its head, and its body as far as it has come."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import unquote

from aiohttp import web

from gateway.core.errors import Refusal
from gateway.core.headers import Verdicts, passed
from gateway.core.keys import Keyring
from gateway.core.types import Caller

HELD = 262144
"""Bytes of a body that may wait for whoever reads it before the client is no longer read."""

CODINGS: Mapping[str, int] = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}
"""Content codings of a body that can be undone (RFC 9110 8.4.1) -> zlib's window bits."""

STEP = 65536
"""Bytes that a compressed body is unfolded by at a time, so that a bomb fills no memory."""


MOST_NAMES = 1024
"""Names of headers that are remembered; callers may send any."""


class _Names(dict[bytes, str]):
    """Header name as it came -> in lower case, as text. Names are few, and each is met in every
    request."""

    def __missing__(self, name: bytes) -> str:
        low = name.decode("latin-1").lower()
        if len(self) < MOST_NAMES:
            self[name] = low
        return low


_NAMES = _Names()


class Relay(Protocol):
    """Whoever writes to a client, told when that one reads too slowly."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Client(Protocol):
    """The connection a request came on."""

    transport: asyncio.Transport | None
    relay: Relay | None

    def hold(self) -> None:
        """Read no more of the body for now."""

    def go_on(self) -> None:
        """Read on."""

    def invite(self) -> None:
        """Tell a client that waits for it to send its body."""

    def prove(self, request: Request, ring: Keyring) -> Caller:
        """Who asks. Raises Refusal ``unauthorized``."""

    def write(self, data: bytes) -> None:
        """Write at once."""

    def post(self, data: bytes) -> None:
        """Write at the end of this turn of the loop."""

    def respond(self, response: web.Response) -> None:
        """Write a whole answer of our own and be done."""

    def done(self, keep_alive: bool) -> None:
        """The present request has been answered; the next may come if ``keep_alive``."""


def unreadable(why: str) -> Refusal:
    return Refusal(
        "invalid_request",
        f"The request's body cannot be read: {why}.",
        headers={"Connection": "close"},
    )


class Body:
    """What comes after a head. ``complete`` once all of it is here; ``length`` is what was
    announced, None when it was not (or when it is compressed, so that it says nothing)."""

    __slots__ = (
        "_client",
        "_dropping",
        "_fault",
        "_held",
        "_holding",
        "_pieces",
        "_waiter",
        "complete",
        "length",
    )

    def __init__(self, client: Client, length: int | None) -> None:
        self._client = client
        self._pieces: list[bytes] = []
        self._held = 0
        self._holding = False
        self._dropping = False
        self._waiter: asyncio.Future[None] | None = None
        self._fault: Refusal | None = None
        self.complete = False
        self.length = length

    # --- from the front

    def feed(self, data: bytes) -> None:
        if self._dropping:
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held > HELD and not self._holding:
            self._holding = True
            self._client.hold()
        self._wake()

    def end(self) -> None:
        self.complete = True
        self._wake()

    def fail(self, why: str) -> None:
        """The rest will never come."""
        self._fault = unreadable(why)
        self._wake()

    def drop(self) -> None:
        """Nobody wants what is here or what still comes."""
        self._dropping = True
        self._pieces.clear()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- for the reader

    @property
    def at_end(self) -> bool:
        """Whether there is nothing more to read, now or later."""
        return self.complete and not self._pieces

    def take(self) -> bytes:
        """All that is here and was not taken yet. Raises Refusal ``invalid_request``."""
        if self._fault is not None:
            raise self._fault
        pieces = self._pieces
        if self._holding:
            self._holding = False
            self._client.go_on()
        if len(pieces) == 1:
            self._pieces, self._held = [], 0
            return pieces[0]
        if pieces:
            self._pieces, self._held = [], 0
        return b"".join(pieces)

    async def read(self) -> bytes:
        """What comes next, waited for; empty at the end. Raises Refusal ``invalid_request``."""
        while not self._pieces and not self.complete and self._fault is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()


class Packed(Body):
    """A body that comes compressed and is read as what it means. It is unfolded only as far as
    somebody reads it, so that a bomb fills no memory."""

    __slots__ = ("_ended", "_raw", "_unpack")

    def __init__(self, client: Client, coding: str) -> None:
        super().__init__(client, None)
        self._unpack = zlib.decompressobj(CODINGS[coding])
        self._raw = b""
        self._ended = False

    def feed(self, data: bytes) -> None:
        self._raw += data
        self._unfold()

    def end(self) -> None:
        self._ended = True
        self._unfold()

    def take(self) -> bytes:
        data = super().take()
        self._unfold()
        return data

    def _unfold(self) -> None:
        try:
            while self._raw and self._held <= HELD and not self._dropping:
                data = self._unpack.decompress(self._raw, STEP)
                self._raw = self._unpack.unconsumed_tail
                if data:
                    super().feed(data)
        except zlib.error as error:
            self._raw = b""
            self.fail(f"its Content-Encoding does not hold ({error})")
        if self._ended and (not self._raw or self._dropping) and not self.complete:
            if not self._unpack.eof and not self._dropping:
                self.fail("its compressed data are cut short")
            super().end()


class Head:
    """What came before a request's body. ``path`` is decoded; ``query`` is as it came, without the
    question mark; ``raw_headers`` are as they came; ``fields`` hold each header's first value by
    its name in lower case. Requests may share one: nothing of it is changed."""

    __slots__ = (
        "_crossing",
        "_verdicts",
        "fields",
        "http11",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_headers",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        raw_headers: list[tuple[bytes, bytes]],
        *,
        http11: bool,
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.path, self.query = split_target(target)
        self.raw_headers = raw_headers
        self.fields = fields_of(raw_headers)
        self.http11 = http11
        self.keep_alive = keep_alive
        self._verdicts: Verdicts | None = None
        self._crossing = b""

    def crossing(self, verdicts: Verdicts) -> bytes:
        """The lines that cross the gateway. Engines that are alike are sent the same ones."""
        if verdicts is not self._verdicts:
            self._verdicts, self._crossing = verdicts, passed(self.raw_headers, verdicts)
        return self._crossing


class Request:
    """One request: its head, and its body, which may still come in. What is asked for after the
    request has been sent stands here as well, since the head is let go then."""

    __slots__ = (
        "body",
        "client",
        "fields",
        "head",
        "http11",
        "keep_alive",
        "method",
        "path",
    )

    def __init__(self, client: Client, head: Head, body: Body) -> None:
        self.client = client
        self.head = head
        self.method = head.method
        self.path = head.path
        self.fields = head.fields
        self.http11 = head.http11
        self.keep_alive = head.keep_alive
        self.body = body

    def forget(self) -> None:
        """Let go of what is only needed to send the request (again)."""
        self.fields = {}
        self.head = FORGOTTEN


def body_of(client: Client, fields: Mapping[str, str]) -> Body:
    """The body that such a head announces, none of which has come yet."""
    coding = fields.get("content-encoding", "").lower()
    return Packed(client, coding) if coding in CODINGS else Body(client, _length(fields))


def whole_body(client: Client, data: bytes) -> Body:
    """A body that is here."""
    body = Body(client, len(data))
    body.feed(data)
    body.complete = True
    return body


def fields_of(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Each header's first value by its name in lower case."""
    # From the last to the first, so that of two with one name the first one stays.
    last_first = headers[::-1]
    try:
        return {_NAMES[name]: value.decode() for name, value in last_first}
    except UnicodeDecodeError:
        return {
            _NAMES[name]: value.decode("utf-8", "surrogateescape") for name, value in last_first
        }


def _length(fields: Mapping[str, str]) -> int | None:
    announced = fields.get("content-length", "")
    if announced:
        return int(announced)
    return None if "transfer-encoding" in fields else 0


def split_target(target: bytes) -> tuple[str, str]:
    """(decoded path, raw query) of a request target in any of its forms (RFC 9112 3.2)."""
    text = target.decode("latin-1")
    if text[:1] != "/" and "://" in text:
        rest = text.partition("://")[2]
        slash = rest.find("/")
        text = rest[slash:] if slash >= 0 else "/"
    path, _, query = text.partition("#")[0].partition("?")
    return (unquote(path) if "%" in path else path), query


FORGOTTEN = Head("", b"", [], http11=True, keep_alive=True)
"""The head of a request that has been sent."""

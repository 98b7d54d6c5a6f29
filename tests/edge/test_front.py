"""The client's side, fed bytes by hand: what is handed on, in which order, and what is refused."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from gateway.core.errors import Refusal
from gateway.edge import front
from gateway.edge.front import FrontProtocol, FrontServer
from gateway.edge.outbox import Outbox
from gateway.edge.request import Request

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.out = b""
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.out += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever held up here."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Keeper:
    """A service that answers when it is told to, or at once."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.begun: list[Request] = []
        self.cancelled = 0

    def begin(self, request: Request) -> Keeper:
        self.begun.append(request)
        if self.at_once:
            self.answer(request)
        return self

    def answer(self, request: Request) -> None:
        assert isinstance(request.client, FrontProtocol)
        request.client.respond(web.Response(text=f"{request.method} {request.path}"))

    def cancel(self) -> None:
        self.cancelled += 1


class Line:
    """One connection to a keeper."""

    def __init__(self, *, at_once: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self.keeper = Keeper(at_once=at_once)
        self.server = FrontServer(self.keeper, Outbox(loop), loop)
        self.protocol = self.server()
        self.wire = Wire()
        self.protocol.connection_made(self.wire)

    def feed(self, data: bytes) -> None:
        self.protocol.data_received(data)

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.keeper.begun]


@pytest.fixture
async def line() -> Line:
    return Line()


@pytest.fixture
async def patient() -> Line:
    return Line(at_once=False)


REQUEST = (
    b"POST /v1/x?q=%41 HTTP/1.1\r\nHost: h\r\nX-Twice: one\r\nx-twice: two\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: t\r\n\r\n"
)


@pytest.mark.parametrize("at", range(1, len(REQUEST)))
async def test_a_request_is_the_same_wherever_its_bytes_are_cut(patient: Line, at: int) -> None:
    patient.feed(REQUEST[:at])
    patient.feed(REQUEST[at:])
    (request,) = patient.keeper.begun
    assert (request.method, request.path, request.head.query) == ("POST", "/v1/x", "q=%41")
    assert request.fields["x-twice"] == "one"
    assert request.body.complete and request.body.take() == b"hello world"


async def test_a_request_is_handed_on_in_the_call_that_brought_it(line: Line) -> None:
    line.feed(GET)
    assert line.wire.out.startswith(b"HTTP/1.1 200 OK\r\n")
    assert line.wire.out.endswith(b"\r\n\r\nGET /a")


async def test_requests_sent_ahead_are_answered_in_their_order(patient: Line) -> None:
    patient.feed(GET + GET.replace(b"/a", b"/b"))
    patient.feed(GET.replace(b"/a", b"/c"))
    assert patient.paths == ["/a"]
    for _ in range(3):
        patient.keeper.answer(patient.keeper.begun[-1])
    assert patient.paths == ["/a", "/b", "/c"]
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in patient.wire.out.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [b"GET /a", b"GET /b", b"GET /c"]
    assert not patient.wire.closed


async def test_only_so_many_may_be_sent_ahead(patient: Line) -> None:
    patient.feed(GET * (front.MOST_WAITING + 10))
    while not patient.wire.closed:
        patient.keeper.answer(patient.keeper.begun[-1])
    assert len(patient.paths) <= front.MOST_WAITING + 1


async def test_bytes_sent_ahead_are_not_gathered_without_bound(patient: Line) -> None:
    patient.feed(GET)
    for _ in range(40):
        if patient.wire.reading:
            patient.feed(b"x" * 4096)
    assert not patient.wire.reading
    patient.keeper.answer(patient.keeper.begun[-1])
    assert patient.wire.reading or patient.wire.closed


async def test_rubbish_behind_a_good_request_spoils_only_what_comes_after(patient: Line) -> None:
    patient.feed(GET + b"\x00\x01rubbish")
    patient.keeper.answer(patient.keeper.begun[-1])
    assert b"GET /a" in patient.wire.out
    assert patient.wire.closed


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET /a HTTP/1.1\r\n" + b"A: b\r\n" * (front.MOST_HEADERS + 1) + b"\r\n",
        b"GET /" + b"a" * front.HEAD_LIMIT + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nX: " + b"a" * front.HEAD_LIMIT + b"\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["tls", "headers", "target", "value", "both", "lengths", "codings"],
)
async def test_what_is_no_request_of_ours_is_told_so_and_ends(line: Line, data: bytes) -> None:
    line.feed(data)
    assert line.paths == []
    assert line.wire.out.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Connection: close\r\n" in line.wire.out
    assert line.wire.closed


async def test_a_head_that_never_ends_is_not_kept(line: Line) -> None:
    line.feed(b"GET /a HTTP/1.1\r\nX: ")
    for _ in range(20):
        line.feed(b"a" * 4096)
    assert line.wire.closed


async def test_an_upgrade_is_answered_as_if_it_had_not_been_asked_for(line: Line) -> None:
    line.feed(b"GET /a HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + GET)
    assert line.paths == ["/a", "/a"]


async def test_connection_close_and_http_1_0_end_after_the_answer(line: Line) -> None:
    line.feed(b"GET /a HTTP/1.0\r\n\r\n")
    assert b"Connection: close\r\n" in line.wire.out
    assert line.wire.closed


async def test_an_answer_to_head_has_no_body(line: Line) -> None:
    line.feed(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = line.wire.out.partition(b"\r\n\r\n")
    assert b"Content-Length: 7" in head
    assert body == b""


async def test_a_client_that_leaves_cancels_what_is_under_way(patient: Line) -> None:
    patient.feed(GET)
    patient.protocol.connection_lost(None)
    assert patient.keeper.cancelled == 1
    assert not patient.server.connections


async def test_the_rest_of_a_refused_body_is_dropped_before_the_end(line: Line) -> None:
    line.feed(b"POST /a HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
    assert b"Connection: close\r\n" in line.wire.out
    assert not line.wire.closed, "a reset could take the answer with it"
    line.feed(b"x" * 97)
    assert line.wire.closed


async def test_nobody_is_waited_for_for_ever(line: Line) -> None:
    now = time.monotonic()
    line.protocol.look(now + front.IDLE - 1)
    assert not line.wire.closed
    line.protocol.look(now + front.IDLE + 1)
    assert line.wire.closed and line.wire.out == b""


async def test_a_head_that_does_not_come_is_told_so(line: Line) -> None:
    line.feed(b"GET /a HT")
    line.protocol.look(time.monotonic() + front.IDLE + 1)
    assert line.wire.out.startswith(b"HTTP/1.1 400") and line.wire.closed


async def test_a_body_that_stops_coming_fails_its_reader(patient: Line) -> None:
    patient.feed(b"POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    body = patient.keeper.begun[0].body
    assert await body.read() == b"abc"
    patient.protocol.look(time.monotonic() + front.SILENCE + 1)
    with pytest.raises(Refusal, match="nothing more of it came"):
        await body.read()


POST = b"POST /v1/x?q=1 HTTP/1.1\r\nHost: h\r\ncontent-LENGTH:  %s\r\nX-Key: k\r\n\r\n%s"


@pytest.mark.parametrize(
    "data",
    [
        POST % (b"5", b"other"),
        POST % (b"12", b"twelve bytes"),
        POST % (b"0005", b"zeros"),
        POST % (b"5 ", b"space"),
        POST % (b"0", b""),
        POST % (b"5", b"short") + GET,
        POST % (b"5", b"shor"),
        POST % (b"+5", b"plus!"),
        POST % (b"5_0", b"x" * 50),
        POST % (b"5", b"short\r\n"),
        POST % (b"\xb2", b"ab"),
        POST % (b"", b""),
        POST % (b"5\r\nContent-Length: 5", b"twice"),
        POST % (b"5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
        (POST % (b"5", b"named")).replace(b"X-Key: k", b"X-Key: l"),
        (POST % (b"5", b"cased")).replace(b"Host", b"host"),
        (POST % (b"5", b"older")).replace(b"1.1", b"1.0"),
        b"\r\n" + POST % (b"5", b"lines"),
        GET,
        b"rubbish",
    ],
)
async def test_a_head_that_is_known_means_what_the_parser_says(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = POST % (b"7", b"learned")
    found = []
    for lessons in (front.LESSONS, 0):
        monkeypatch.setattr(front, "LESSONS", lessons)
        line = Line()
        for one in (first, first, data, first):
            line.feed(one)
        found.append((seen(line), line.wire.out.partition(b"Date")[0], line.wire.closed))
    assert found[0] == found[1]
    assert found[0][0][:2] == found[0][0][:1] * 2


def seen(line: Line) -> list[tuple[object, ...]]:
    """What was handed on of each request."""
    return [
        (
            *(request.method, request.path, request.head.query, request.http11, request.keep_alive),
            *({**request.fields, "content-length": ""}, len(request.head.raw_headers)),
            *(request.body.complete, request.body.length, request.body.take()),
        )
        for request in line.keeper.begun
    ]


async def test_a_known_head_is_not_parsed_again(line: Line) -> None:
    line.feed(POST % (b"3", b"one"))
    line.feed(POST % (b"5", b"three"))
    first, second = line.keeper.begun
    assert second.head is first.head
    line.feed((POST % (b"3", b"two")).replace(b"X-Key: k", b"X-Key: l"))
    line.feed((POST % (b"4", b"four")).replace(b"X-Key: k", b"X-Key: l"))
    assert line.keeper.begun[2].head is line.keeper.begun[3].head
    assert line.keeper.begun[2].head is not first.head


async def test_who_never_repeats_a_head_has_none_remembered(line: Line) -> None:
    for number in range(front.LESSONS + 2):
        line.feed((POST % (b"3", b"one")).replace(b"X-Key: k", b"X-Key: %d" % number))
    assert line.protocol._known is None
    assert len(line.keeper.begun) == front.LESSONS + 2


async def test_what_is_posted_leaves_with_the_turn_and_in_order(patient: Line) -> None:
    patient.feed(GET)
    patient.protocol.post(b"one ")
    patient.protocol.post(b"two ")
    assert patient.wire.out == b""
    await asyncio.sleep(0)
    assert patient.wire.out == b"one two "
    patient.protocol.post(b"three ")
    patient.protocol.write(b"four")
    assert patient.wire.out == b"one two three four"

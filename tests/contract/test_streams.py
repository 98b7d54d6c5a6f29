"""Streams: every chunk in the turn it came, unchanged, with back-pressure (INTERFACE 3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fakes import steps, talk, wire
from tests.fakes.steps import Gate
from tests.harness import JSON, Farm, Spot, chat_json

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(4) as farm:
        yield farm


@pytest.fixture
def spot(farm: Farm) -> Spot:
    farm.engines[0].reset()
    return Spot(farm.engines[0], "b0", "m0")


CASES = [
    "vllm-0.32.0/chat_stream_utf8",
    "vllm-0.32.0/chat_tools_auto_stream",
    "sglang-0.5.23/chat_stream_usage",
    "xllamacpp-2026.10.11549/chat_stream_n2",
    "llama-cpp-python-0.3.36/chat_stream",
    "vllm-0.32.0/completion_stream",
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [0, 1, 3, 7, 50, 100_000])
async def test_a_stream_is_the_same_bytes_however_it_is_split(
    farm: Farm, spot: Spot, case: str, size: int
) -> None:
    recording = wire.load(case)
    assert recording is not None
    whole = recording.naming("m0").body
    cut = {"cut": steps.every(size)} if size else {}
    spot.engine.script.append(steps.recorded(case, "m0", **cut))
    body = chat_json("m0", stream=True)
    path = "/v1/completions" if "completion_" in case else "/v1/chat/completions"
    reply = await farm.gw.post(path, body)
    assert (reply.status, reply.body, reply.whole) == (200, whole, True)
    assert (reply.header("content-type") or "").startswith("text/event-stream")


@pytest.mark.parametrize("drip", [1, 2, 5])
async def test_even_the_framing_may_arrive_in_pieces(farm: Farm, spot: Spot, drip: int) -> None:
    events = talk.chat_events("m0", "äöü€😀")
    spot.engine.script.append(steps.stream(events, drip=drip))
    reply = await farm.gw.chat("m0", stream=True, timeout=20)
    assert (reply.body, reply.whole) == (b"".join(events), True)


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
async def test_a_stream_is_whole_in_every_framing(farm: Farm, spot: Spot, framing: str) -> None:
    events = talk.chat_events("m0")
    spot.engine.script.append(steps.stream(events, framing=framing))
    reply = await farm.gw.chat("m0", stream=True)
    assert (reply.body, reply.whole) == (b"".join(events), True)


async def test_comments_and_odd_line_ends_are_passed_on(farm: Farm, spot: Spot) -> None:
    events = [
        b": keep-alive\n\n",
        talk.chat_chunk("m0", {"content": "a"}).replace(b"\n", b"\r\n"),
        b"event: message\nid: 7\nretry: 10\n" + talk.chat_chunk("m0", {"content": "b"}),
        talk.chat_chunk("m0", {}, "stop"),
        b"data:[DONE]\n\n",
    ]
    spot.engine.script.append(steps.stream(events))
    reply = await farm.gw.chat("m0", stream=True)
    assert (reply.body, reply.whole) == (b"".join(events), True)


@pytest.mark.parametrize("size", [None, 11])
async def test_each_piece_reaches_the_client_before_the_engine_writes_the_next(
    farm: Farm, spot: Spot, size: int | None
) -> None:
    """Zero buffering without a clock: a relay that holds anything back stops here."""
    events = talk.chat_events("m0", ["one", "two", "drei", "чет"])
    pieces = list(events) if size is None else steps.every(size)(events)
    gate = Gate()
    spot.engine.script.append(steps.stream(pieces, gate=gate))
    async with farm.gw.client() as client:
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m0", stream=True))
        gate.release()
        await client.read_head()
        got = b""
        for number, piece in enumerate(pieces):
            if number:
                gate.release()
            while len(got) < sum(map(len, pieces[: number + 1])):
                got += await client.read_chunk(3.0)
            assert got.endswith(piece)
        assert await client.read_chunk() == b""
    assert got == b"".join(events)


@pytest.mark.parametrize(
    ("path", "make", "kind"),
    [
        ("/v1/messages", talk.message_events, steps.SSE),
        ("/v1/responses", talk.response_events, steps.SSE),
    ],
)
async def test_the_other_dialects_stream_untouched_and_unbuffered(
    farm: Farm, spot: Spot, path: str, make: object, kind: str
) -> None:
    events = make("m0")  # type: ignore[operator]
    gate = Gate()
    spot.engine.script.append(steps.stream(events, gate=gate, content_type=kind))
    async with farm.gw.client() as client:
        body = chat_json("m0", stream=True, max_tokens=5, input="Hi")
        await client.ask("POST", path, [JSON], body)
        gate.release()
        await client.read_head()
        got = b""
        for number, event in enumerate(events):
            if number:
                gate.release()
            while len(got) < sum(map(len, events[: number + 1])):
                got += await client.read_chunk(3.0)
            assert got.endswith(event)
        assert await client.read_chunk() == b""


async def test_an_answer_that_is_no_stream_is_not_held_back_either(farm: Farm, spot: Spot) -> None:
    gate = Gate()
    pieces = [b'{"a":', b"1}"]
    step = steps.stream(pieces, framing="length", gate=gate, content_type="application/json")
    spot.engine.script.append(step)
    async with farm.gw.client() as client:
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m0"))
        gate.release()
        reply = await client.read_head()
        assert reply.header("content-length") == "7"
        assert await client.read_exactly(5) == pieces[0]
        gate.release()
        assert await client.read_exactly(2) == pieces[1]


async def test_two_requests_in_one_write_are_answered_in_order(farm: Farm, spot: Spot) -> None:
    first, second = chat_json("m0", seed=1), chat_json("m0", seed=2, stream=True)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    both = b"".join(
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in (first, second)
    )
    events = talk.chat_events("m0")
    spot.engine.script.extend([steps.reply(200, {"first": 1}), steps.stream(events)])
    async with farm.gw.client() as client:
        await client.send(both)
        one = await client.read_body(await client.read_head())
        two = await client.read_body(await client.read_head())
    assert one.doc == {"first": 1}
    assert two.body == b"".join(events)


async def test_a_client_of_http_1_0_gets_the_stream_until_the_end_of_the_connection(
    farm: Farm, spot: Spot
) -> None:
    events = talk.chat_events("m0")
    spot.engine.script.append(steps.stream(events))
    async with farm.gw.client() as client:
        body = chat_json("m0", stream=True)
        await client.ask("POST", "/v1/chat/completions", [JSON], body, version="HTTP/1.0")
        reply = await client.read_head()
        assert reply.header("transfer-encoding") is None
        assert await client.read_to_end() == b"".join(events)


async def test_connections_are_kept_for_the_next_request(farm: Farm, spot: Spot) -> None:
    async with farm.gw.client() as client:
        for number in range(5):
            body = chat_json("m0", stream=bool(number % 2))
            reply = await client.call("POST", "/v1/chat/completions", [JSON], body)
            assert (reply.status, reply.whole) == (200, True)
    assert len({request.connection for request in spot.engine.requests}) == 1


async def test_a_client_that_stops_reading_makes_the_engine_stall_in_bounded_memory(
    farm: Farm,
) -> None:
    engine, client = farm.engines[3], farm.gw.client(window=32_768)
    engine.reset()
    engine.always = steps.endless(talk.chat_chunk("m3", {"content": "x" * 16_000}))
    before = farm.gw.memory()
    async with client:
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m3", stream=True))
        await client.read_head()
        request = await engine.came()
        sent = -1
        async with asyncio.timeout(20):
            while sent != request.sent:
                sent = request.sent
                await asyncio.sleep(0.5)
        assert farm.gw.memory() - before < 24_000_000
        assert sent < 64_000_000
        for _ in range(200):
            await client.read_some()
        await asyncio.sleep(0.3)
        assert request.sent > sent, "the stream goes on when the client reads again"
    await asyncio.wait_for(request.aborted.wait(), 2)


async def test_the_connection_on_which_a_slow_client_was_served_serves_the_next(
    farm: Farm, spot: Spot
) -> None:
    """The last bytes of an answer may be the ones for which reading was stopped. At which size that
    happens depends on the kernel's buffers, so many sizes are tried."""
    for size in range(250_000, 6_500_000, 120_000):
        spot.engine.script.append(steps.reply(200, b"y" * size))
        async with farm.gw.client(window=16_384) as slow:
            await slow.ask("POST", "/v1/chat/completions", [JSON], chat_json("m0"))
            reply = await slow.read_head()
            await asyncio.sleep(0.02)
            assert len((await slow.read_body(reply, 10.0)).body) == size
        assert (await farm.gw.chat("m0", timeout=3)).status == 200, size


async def test_one_slow_client_does_not_hold_up_the_others(farm: Farm, spot: Spot) -> None:
    engine = farm.engines[2]
    engine.reset()
    engine.script.append(steps.endless(talk.chat_chunk("m2", {"content": "x" * 16_000})))
    async with farm.gw.client(window=32_768) as lazy:
        await lazy.ask("POST", "/v1/chat/completions", [JSON], chat_json("m2", stream=True))
        await lazy.read_head()
        await asyncio.sleep(0.3)
        reply = await farm.gw.chat("m2", stream=True, timeout=3)
        assert reply.whole


async def test_a_slow_upload_is_felt_by_nobody_else(farm: Farm, spot: Spot) -> None:
    spot.engine.reading.clear()
    body = chat_json("m0", x="y" * 1_000_000)
    waiting = asyncio.ensure_future(farm.gw.post("/v1/chat/completions", body))
    try:
        assert (await farm.gw.chat("m1", timeout=3)).status == 200
    finally:
        spot.engine.reading.set()
    assert (await waiting).status == 200
    assert spot.engine.requests[0].body == body

"""A client that goes away cancels the engine's request within a second (INTERFACE 3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.steps import Gate
from tests.harness import JSON, Farm, chat_json, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(12) as farm:
        yield farm


LEAVING = ["fin", "reset"]


async def leaves(farm: Farm, how: str, body: bytes, path: str, events: int) -> None:
    """Asks, reads ``events`` events (-1: not even waits for a head), and goes."""
    client = farm.gw.client()
    await client.__aenter__()
    await client.ask("POST", path, [JSON], body)
    if events >= 0:
        await client.read_head()
        for _ in range(events):
            await client.read_until(b"\n\n")
    else:
        await asyncio.sleep(0.2)
    client.reset() if how == "reset" else client.close()


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("streamed", [True, False])
async def test_before_the_first_byte(farm: Farm, how: str, streamed: bool) -> None:
    spot = farm.solo()
    spot.engine.always = steps.hang()
    body = chat_json(spot.model, stream=streamed)
    await leaves(farm, how, body, "/v1/chat/completions", -1)
    request = await spot.engine.came()
    await asyncio.wait_for(request.aborted.wait(), 1.0)
    assert len(spot.engine.requests) == 1, "nobody tries again for a client that has left"


@pytest.mark.parametrize("how", LEAVING)
async def test_mid_stream(farm: Farm, how: str) -> None:
    spot = farm.solo()
    gate = Gate()
    gate.release(2)
    spot.engine.always = steps.stream(talk.chat_events(spot.model), gate=gate)
    body = chat_json(spot.model, stream=True)
    await leaves(farm, how, body, "/v1/chat/completions", 2)
    request = await spot.engine.came()
    await asyncio.wait_for(request.aborted.wait(), 1.0)


async def test_mid_stream_when_the_client_had_stopped_reading(farm: Farm) -> None:
    spot = farm.solo()
    spot.engine.always = steps.endless(talk.chat_chunk(spot.model, {"content": "x" * 8000}))
    async with farm.gw.client(window=16_384) as client:
        body = chat_json(spot.model, stream=True)
        await client.ask("POST", "/v1/chat/completions", [JSON], body)
        await client.read_head()
        await asyncio.sleep(0.5)
        client.reset()
    request = await spot.engine.came()
    await asyncio.wait_for(request.aborted.wait(), 1.0)


async def test_in_the_middle_of_an_answer_that_is_not_streamed(farm: Farm) -> None:
    spot = farm.solo()
    spot.engine.always = steps.stream([b'{"a":'], framing="length", end="hang")
    body = chat_json(spot.model)
    await leaves(farm, "fin", body, "/v1/chat/completions", -1)
    request = await spot.engine.came()
    await asyncio.wait_for(request.aborted.wait(), 1.0)


async def test_in_the_middle_of_its_own_upload_no_engine_is_left_waiting(farm: Farm) -> None:
    spot = farm.solo()
    async with farm.gw.client() as client:
        await client.ask("POST", "/v1/chat/completions", [JSON, ("Content-Length", "1000")])
        await client.send(chat_json(spot.model)[:20])
        await asyncio.sleep(0.1)
        client.reset()
    await asyncio.sleep(0.3)
    assert all(request.aborted.is_set() for request in spot.engine.requests)
    assert (await farm.gw.chat(spot.model)).status == 200


async def test_a_departure_counts_as_the_clients(farm: Farm) -> None:
    spot = farm.solo()
    gate = Gate()
    gate.release(1)
    spot.engine.always = steps.stream(talk.chat_events(spot.model), gate=gate)
    metric, labels = "portico_client_disconnects_total", {"surface": "chat-completions"}
    before = await farm.gw.metric(metric, **labels)
    body = chat_json(spot.model, stream=True)
    await leaves(farm, "fin", body, "/v1/chat/completions", 1)
    await farm.gw.rises(metric, before, **labels)

    async def idle() -> bool:
        flight = await farm.gw.metric("portico_requests_in_flight", model=spot.model)
        return flight == 0 and spot.engine.at_once == 0

    await until(idle, 2.0, "nothing in flight after the client has left")


async def test_a_client_that_leaves_does_not_disturb_its_neighbour(farm: Farm) -> None:
    spot = farm.solo()
    gate = Gate()
    spot.engine.always = steps.stream(talk.chat_events(spot.model), gate=gate)
    staying = asyncio.ensure_future(farm.gw.chat(spot.model, stream=True))
    await spot.engine.came(1)
    gone = asyncio.ensure_future(
        leaves(farm, "reset", chat_json(spot.model, stream=True), "/v1/chat/completions", -1)
    )
    await gone
    await asyncio.wait_for((await spot.engine.came(2)).aborted.wait(), 1.0)
    gate.open()
    assert (await staying).body == b"".join(talk.chat_events(spot.model))

"""What an acceptance round found at the edge, held as it was put right (INTERFACE 3, 4 and 7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.fakes.steps import Gate
from tests.harness import JSON, Farm, Gateway, chat_json, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(20, runtime="tgi") as farm:
        yield farm


async def test_a_clients_fault_told_inside_a_stream_is_not_tried_elsewhere(farm: Farm) -> None:
    pair = farm.pair()
    for spot in (pair.first, pair.second):
        spot.engine.always = steps.stream([talk.TGI_INVALID, b"data: [DONE]\n\n"])
    reply = await farm.gw.chat(pair.model, stream=True)
    assert reply.status == 422
    assert len(pair.first.engine.requests) + len(pair.second.engine.requests) == 1


@pytest.mark.parametrize("member", ["MODEL", "Model", "mOdel"])
async def test_a_second_model_in_another_case_is_refused(farm: Farm, member: str) -> None:
    """Go's JSON matches names in any case: an engine might read the one that was not checked."""
    spot = farm.solo()
    reply = await farm.gw.chat(spot.model, **{member: "secret"})
    assert (reply.status, reply.kind) == (400, "invalid_request")
    assert spot.engine.requests == []


async def test_a_pin_that_is_no_text_is_a_404_and_not_a_fault_of_ours(farm: Farm) -> None:
    spot = farm.solo()
    async with farm.gw.client() as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Portico-Backend: \xff\r\n"
        body = chat_json(spot.model)
        await client.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        reply = await client.read_body(await client.read_head())
    assert (reply.status, reply.kind) == (404, "not_found")
    assert reply.header("X-Request-Id")


async def test_a_body_that_is_not_the_gzip_it_claims_is_400_and_alarms_nobody(farm: Farm) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
    async with farm.gw.client() as client:
        await client.send(head + b"Content-Length: 40\r\n\r\n")
        await asyncio.sleep(0.1)
        await client.send(b"not gzip at all " * 2 + b"12345678")
        reply = await client.read_body(await client.read_head())
    assert (reply.status, reply.kind) == (400, "invalid_request")
    assert not [line for line in farm.gw.log_lines() if line["level"] == "ERROR"]


async def test_a_prefix_form_can_be_looked_up_as_it_can_be_asked(farm: Farm) -> None:
    spot = farm.solo()
    found = await farm.gw.get(f"/v1/models/{spot.name}:{spot.model}")
    assert (found.status, found.doc["id"]) == (200, f"{spot.name}:{spot.model}")


async def test_what_the_http_parser_refuses_has_a_request_id_too(farm: Farm) -> None:
    async with farm.gw.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nbad header line\r\n\r\n")
        reply = await client.read_body(await client.read_head())
    assert (reply.status, reply.kind) == (400, "invalid_request")
    assert len(reply.doc["error"]["request_id"]) == 32


async def test_headers_that_an_answer_declares_to_be_of_its_hop_stay_behind(farm: Farm) -> None:
    spot = farm.solo()
    head = b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n"
    answer = head + b"Content-Length: 2\r\n\r\n{}"
    spot.engine.script.append(steps.literally(answer))
    reply = await farm.gw.chat(spot.model)
    assert (reply.status, reply.header("X-Hop"), reply.header("X-End")) == (200, None, "2")


async def test_a_failed_response_is_the_regular_end_of_its_stream() -> None:
    data = b'data: {"type":"response.failed","response":{"error":{"message":"m"}}}'
    failed = b"event: response.failed\n" + data + b"\n\n"
    begun = (
        b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_a"}}\n\n'
    )
    async with FakeEngine() as engine, Gateway(one(engine)) as gw:
        engine.script.append(steps.stream([begun, failed]))
        reply = await gw.post("/v1/responses", {"model": "m", "input": "Hi", "stream": True})
    assert (reply.body, reply.whole) == (begun + failed, True)


def one(engine: FakeEngine, **server: str) -> dict[str, object]:
    return {"server": server, "backends": [{"name": "e", "url": engine.url}]}


async def test_a_stream_cut_by_the_drain_time_out_says_so_and_is_the_gateways_doing() -> None:
    gate = Gate()
    async with (
        FakeEngine() as engine,
        Gateway(one(engine, drain_timeout="500ms")) as gw,
        gw.client() as client,
    ):
        engine.script.append(steps.stream(talk.chat_events("m"), gate=gate))
        gate.release(1)
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m", stream=True))
        reply = await client.read_head()
        gw.signal(15)
        await client.read_body(reply)
        assert b'"type":"draining"' in reply.body
        assert b"[DONE]" not in reply.body
        assert not reply.whole
        assert await gw.wait(5.0) == 0
        (line,) = [entry for entry in gw.log_lines() if entry["msg"] == "request"]
        assert line["cut_by"] == "gateway"


async def test_the_model_list_is_refused_too_while_draining() -> None:
    gate = Gate()
    async with FakeEngine() as engine, Gateway(one(engine)) as gw, gw.client() as client:
        engine.script.append(steps.stream(talk.chat_events("m"), gate=gate))
        gate.release(1)
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m", stream=True))
        reply = await client.read_head()
        gw.signal(15)

        async def refused() -> bool:
            return (await gw.get("/v1/models")).kind == "draining"

        await until(refused, 3.0, "the model list to be refused")
        gate.open()
        await client.read_body(reply)
        assert await gw.wait(5.0) == 0


async def test_every_address_includes_those_of_ipv4() -> None:
    async with FakeEngine() as engine, Gateway(one(engine), args=["--host", "::"]) as gw:
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()

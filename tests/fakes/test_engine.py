"""The fakes themselves: the product's own rows recognise them, and their faults are real."""

from __future__ import annotations

import asyncio
import json

import pytest

import backends
from gateway.core.runtime import Answer, Evidence
from gateway.core.types import Health, Op, Wire
from tests.fakes import steps, talk, wire
from tests.fakes.engine import FakeEngine
from tests.fakes.steps import Gate
from tests.rawclient import RawClient, call

RUNTIMES = ["vllm", "sglang", "llamacpp", "llamacpp-python", "tgi", "localai", "ollama"]


async def evidence(engine: FakeEngine, *paths: str) -> Evidence:
    """What a sensor of the product would see."""
    seen: dict[str, Answer] = {}
    for path in paths:
        reply = await call(engine.url, "GET", path)
        headers = {name.lower(): value for name, value in reply.headers}
        try:
            doc = json.loads(reply.body)
        except ValueError:
            doc = None
        seen[path] = Answer(reply.status, headers, reply.body, doc)
    return seen


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_each_fake_is_recognised_by_its_own_row_and_no_other(runtime: str) -> None:
    async with FakeEngine(runtime, ["m", "org/n"]) as engine:
        found = backends.detect(await evidence(engine, *backends.CLUES))
        assert found is not None
        assert found[0].name == runtime.partition("-")[0]


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_each_fake_is_healthy_and_lists_its_models_by_its_own_row(runtime: str) -> None:
    async with FakeEngine(runtime, ["m", "org/n"]) as engine:
        row = engine.row
        path = row.probe.paths[0]
        seen = await evidence(engine, path, *row.model_paths, *row.load_paths)
        assert row.health(seen[path])[0] is Health.UP
        assert [model.id for model in row.models(seen)] == ["m", "org/n"]
        row.load(seen)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("streamed", [True, False])
async def test_each_fake_answers_every_surface_of_its_row(runtime: str, streamed: bool) -> None:
    async with FakeEngine(runtime, ["m"]) as engine:
        for (dialect, op), cell in engine.row.cells.items():
            if op in {Op.RESPONSES_BY_ID, Op.TAGS, Op.PS, Op.VERSION} or not cell.path:
                continue
            body = talk.dumps({"model": "m", "stream": streamed})
            reply = await call(engine.url, "POST", cell.path, [], body)
            assert (reply.status, reply.whole) == (200, True), (dialect, op)


async def test_a_path_that_the_row_does_not_have_is_not_served() -> None:
    async with FakeEngine("tgi") as engine:
        assert (await call(engine.url, "POST", "/v1/embeddings", [], b"{}")).status == 404
    async with FakeEngine("vllm", lacks=[Op.EMBEDDINGS]) as engine:
        body = talk.dumps({"model": "m"})
        reply = await call(engine.url, "POST", "/v1/embeddings", [], body)
        assert (reply.status, reply.doc) == (404, {"detail": "Not Found"})


async def test_requests_are_recorded_with_all_headers_in_order() -> None:
    async with FakeEngine() as engine:
        await call(engine.url, "POST", "/v1/chat/completions", [("A", "1"), ("a", "2")], b'{"x":1}')
        request = engine.requests[0]
        assert [pair for pair in request.headers if pair[0].lower() == "a"] == [
            ("A", "1"),
            ("a", "2"),
        ]
        assert (request.body, request.doc) == (b'{"x":1}', {"x": 1})
        assert request.done.is_set()


@pytest.mark.parametrize("runtime", ["vllm", "sglang", "ollama"])
async def test_a_key_is_asked_for_where_the_runtime_asks(runtime: str) -> None:
    async with FakeEngine(runtime, api_key="k") as engine:
        body = talk.dumps({"model": "m"})
        bare = await call(engine.url, "POST", "/v1/chat/completions", [], body)
        assert bare.status == 401
        header = [("Authorization", "Bearer k")]
        assert (await call(engine.url, "POST", "/v1/chat/completions", header, body)).status == 200


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_a_stream_is_cut_where_the_test_says(size: int) -> None:
    events = talk.chat_events("m")
    async with FakeEngine() as engine:
        engine.script.append(steps.stream(events, cut=steps.every(size), extension=";x"))
        reply = await call(engine.url, "POST", "/v1/chat/completions", [], b"{}")
    assert reply.body == b"".join(events)
    assert {len(chunk) for chunk in reply.chunks[:-1]} <= {size}
    assert reply.whole


async def test_a_gate_holds_each_event_until_it_is_released() -> None:
    gate = Gate()
    async with FakeEngine() as engine, RawClient(engine.url) as client:
        engine.script.append(steps.stream([b"one", b"two"], gate=gate))
        await client.ask("POST", "/v1/chat/completions", [], b"{}")
        await client.read_head()
        assert await client.quiet(0.05)
        gate.release()
        assert await client.read_chunk() == b"one"
        assert await client.quiet(0.05)
        gate.open()
        assert await client.read_chunk() == b"two"


@pytest.mark.parametrize("end", ["fin", "reset", "mid-chunk", "mid-chunk-reset"])
async def test_a_stream_that_dies_is_never_whole(end: str) -> None:
    async with FakeEngine() as engine, RawClient(engine.url) as client:
        engine.script.append(steps.stream([b"one"], end=end))
        await client.ask("POST", "/v1/chat/completions", [], b"{}")
        reply = await client.read_body(await client.read_head())
        assert not reply.whole
        assert (client.broken is not None) is ("reset" in end)


async def test_a_client_that_leaves_is_noticed() -> None:
    async with FakeEngine() as engine:
        engine.script.append(steps.hang())
        async with RawClient(engine.url) as client:
            await client.ask("POST", "/v1/chat/completions", [], b"{}")
            request = await engine.came()
            assert engine.at_once == 1
        await asyncio.wait_for(request.aborted.wait(), 1)
        await asyncio.sleep(0)
        assert engine.at_once == 0


async def test_a_stale_connection_closes_when_the_next_request_comes() -> None:
    async with FakeEngine() as engine, RawClient(engine.url) as client:
        engine.always = steps.reply(200, {"ok": 1})
        assert (await client.call("POST", "/v1/chat/completions", [], b"{}")).status == 200
        engine.stale = "fin"
        await client.ask("POST", "/v1/chat/completions", [], b"{}")
        assert await client.read_to_end() == b""


async def test_a_stopped_engine_refuses_and_comes_back_on_its_port() -> None:
    async with FakeEngine() as engine:
        port = engine.port
        await engine.stop(hold=True)
        with pytest.raises(ConnectionRefusedError):
            await call(engine.url, "GET", "/health")
        await engine.start()
        assert engine.port == port
        assert (await call(engine.url, "GET", "/health")).status == 200
        await engine.become("ollama")
        assert (await call(engine.url, "GET", "/")).body == b"Ollama is running"


async def test_writes_stall_when_nobody_reads() -> None:
    async with FakeEngine() as engine, RawClient(engine.url, window=8192) as client:
        engine.script.append(steps.endless(b"x" * 60_000))
        await client.ask("POST", "/v1/chat/completions", [], b"{}")
        request, sent = await engine.came(), -1
        while sent != request.sent:
            sent = request.sent
            await asyncio.sleep(0.2)
        assert sent < 20_000_000


def test_recordings_keep_the_chunks_of_the_engine() -> None:
    found = wire.load("vllm-0.32.0/chat_stream")
    assert found is not None
    assert found.pieces[-1] == talk.DONE
    assert found.finished
    assert b"tiny-chat" not in found.naming("a/b").body
    assert backends.BY_NAME["vllm"].cell(Wire.OPENAI, Op.CHAT).path == found.path

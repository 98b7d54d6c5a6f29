"""Over a backend's max_concurrency requests wait in line (INTERFACE 6 and 7)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.contract.test_workers import Crew, config_of, gone, of_two, on_each, on_worker
from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.fakes.peer import Exchange
from tests.fakes.steps import Step
from tests.harness import JSON, Gateway, chat_json, until
from tests.rawclient import RawClient, Reply

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
EVENTS = talk.chat_events("m")
WHOLE = b"".join(EVENTS)


def one_place(engine: FakeEngine, most: int = 1, **routing: Any) -> dict[str, Any]:
    backend = {"name": "b", "url": engine.url, "max_concurrency": most}
    return {"backends": [backend], "routing": routing}


def gated(gate: asyncio.Event) -> Step:
    """A whole answer as soon as the gate is open."""

    async def step(exchange: Exchange) -> None:
        await gate.wait()
        await steps.reply(200, {"model": "m", "choices": []})(exchange)

    return step


async def waiting(gw: Gateway, count: int) -> None:
    """Waits until so many requests wait for the model 'm'."""

    async def there() -> bool:
        return await gw.metric("portico_queue_depth", model="m") == count

    await until(there, 3.0, f"{count} requests to wait")


@asynccontextmanager
async def taken(engine: FakeEngine, gw: Gateway) -> AsyncIterator[asyncio.Event]:
    """The engine's only place is taken until the gate opens."""
    gate = asyncio.Event()
    engine.script.append(gated(gate))
    holder = asyncio.ensure_future(gw.chat("m"))
    await engine.came(len(engine.requests) + 1)
    try:
        yield gate
    finally:
        gate.set()
        assert (await holder).status == 200


def asks(engine: FakeEngine) -> list[str]:
    """What the users of the requests were called, in the order in which the engine saw them."""
    return [request.doc.get("user", "") for request in engine.requests]


async def test_five_callers_of_one_place_are_all_answered_one_after_the_other() -> None:
    async with FakeEngine() as engine, Gateway(one_place(engine)) as gw:
        engine.always = steps.stream(EVENTS, gap=0.005)
        replies = await asyncio.gather(*(gw.chat("m", stream=True) for _ in range(5)))
        assert [reply.body for reply in replies] == [WHOLE] * 5
        assert engine.most_at_once == 1
        await gw.rises("portico_queue_wait_seconds_count", by=4, model="m")
        assert await gw.metric("portico_queue_depth", model="m") == 0
        assert await gw.metric("portico_retries_total") == 0


async def test_how_long_a_request_waited_is_in_its_log_line() -> None:
    async with FakeEngine() as engine, Gateway(one_place(engine)) as gw:
        async with taken(engine, gw) as gate:
            later = asyncio.ensure_future(gw.chat("m", [("X-Request-Id", "later")]))
            await waiting(gw, 1)
            await asyncio.sleep(0.1)
            gate.set()
            assert (await later).status == 200
        line = await gw.request_line("later")
        assert 100 <= line["queued_ms"] <= line["duration_ms"]
        assert line["overhead_ms"] < line["queued_ms"]
        assert line["attempts"] == 1
        await gw.chat("m", [("X-Request-Id", "at-once")])
        assert (await gw.request_line("at-once"))["queued_ms"] is None


async def test_without_a_queue_a_full_backend_is_503_at_once() -> None:
    async with (
        FakeEngine() as engine,
        Gateway(one_place(engine, queue={"max": 0})) as gw,
        taken(engine, gw),
    ):
        reply = await gw.chat("m")
        assert (reply.status, reply.kind) == (503, "overloaded")
        assert reply.header("Retry-After")


async def test_who_finds_the_line_full_is_told_at_once() -> None:
    async with FakeEngine() as engine, Gateway(one_place(engine, queue={"max": 2})) as gw:
        async with taken(engine, gw):
            two = [asyncio.ensure_future(gw.chat("m")) for _ in range(2)]
            await waiting(gw, 2)
            reply = await gw.chat("m", timeout=1.0)
            assert (reply.status, reply.kind) == (503, "overloaded")
            assert "2 requests wait" in reply.error["message"]
            assert reply.header("Retry-After")
        assert [(await one).status for one in two] == [200, 200]


async def test_who_could_not_be_served_in_time_is_told_at_once_and_when_to_come_again() -> None:
    async with FakeEngine() as engine, Gateway(one_place(engine, queue={"timeout": "1s"})) as gw:
        engine.always = steps.stream(EVENTS, gap=0.4 / len(EVENTS))
        for _ in range(3):
            assert (await gw.chat("m", stream=True)).status == 200
        async with taken(engine, gw) as gate:
            two = [asyncio.ensure_future(gw.chat("m", stream=True)) for _ in range(2)]
            await waiting(gw, 2)
            began = time.monotonic()
            reply = await gw.chat("m")
            assert time.monotonic() - began < 0.3
            assert (reply.status, reply.kind) == (503, "overloaded")
            assert "your turn would come in about" in reply.error["message"]
            assert reply.header("Retry-After") == "2", "three times 0.4 s, rounded up"
            gate.set()
            assert [(await one).status for one in two] == [200, 200]


async def test_nobody_waits_for_longer_than_the_time_out() -> None:
    config = one_place  # nothing has ended yet, so that nothing can be predicted
    async with (
        FakeEngine() as engine,
        Gateway(config(engine, queue={"timeout": "300ms"})) as gw,
        taken(engine, gw),
    ):
        began = time.monotonic()
        reply = await gw.chat("m")
        assert 0.25 < time.monotonic() - began < 1.5
        assert (reply.status, reply.kind) == (503, "overloaded")
        assert "routing.queue.timeout" in reply.error["message"]


async def test_a_client_that_leaves_the_line_is_never_sent_to_the_engine() -> None:
    async with FakeEngine() as engine, Gateway(one_place(engine, queue={"max": 1})) as gw:
        async with taken(engine, gw):
            async with gw.client() as client:
                await client.ask("POST", CHAT, [JSON], chat_json("m", user="gone"))
                await waiting(gw, 1)
            await waiting(gw, 0)
            stays = asyncio.ensure_future(gw.post(CHAT, chat_json("m", user="stays")))
            await waiting(gw, 1)
        assert (await stays).status == 200
        assert asks(engine) == ["", "stays"]


KEYS = [
    {"name": level, "key": f"sk-{level}-0123456789", "priority": level}
    for level in ("low", "normal", "high")
]


async def test_the_higher_priority_goes_first_and_a_header_can_only_lower_it() -> None:
    async with FakeEngine() as engine:
        config = {**one_place(engine), "auth": {"keys": KEYS}}
        async with Gateway(config) as gw:
            gate = asyncio.Event()
            engine.script.append(gated(gate))

            def ask(user: str, key: str, header: str = "") -> asyncio.Future[Reply]:
                headers = [("Authorization", f"Bearer sk-{key}-0123456789")]
                headers += [("X-Portico-Priority", header)] if header else []
                return asyncio.ensure_future(gw.post(CHAT, chat_json("m", user=user), headers))

            replies = [ask("", "low")]
            await engine.came()
            order = [("e", "low", "high"), ("d", "high", "low"), ("c", "normal", "high")]
            order += [("b", "normal", ""), ("a", "high", "")]
            for count, (user, key, header) in enumerate(order, 1):
                replies.append(ask(user, key, header))
                await waiting(gw, count)
            gate.set()
            assert [(await one).status for one in replies] == [200] * 6
            assert "".join(asks(engine)) == "acbed"
            for request in engine.requests:
                assert request.header("X-Portico-Priority") is None


async def test_a_priority_that_is_none_is_the_callers_fault() -> None:
    async with FakeEngine() as engine, Gateway(one_place(engine)) as gw:
        reply = await gw.chat("m", [("X-Portico-Priority", "urgent")])
        assert (reply.status, reply.kind) == (400, "invalid_request")
        assert "low, normal, high" in reply.error["message"]
        assert not engine.requests


async def test_whoever_waits_goes_to_the_first_engine_that_is_free() -> None:
    async with FakeEngine() as first, FakeEngine() as second:
        config = config_of(first, second)
        for backend in config["backends"]:
            backend["max_concurrency"] = 1
        async with Gateway(config) as gw:
            gates = [asyncio.Event(), asyncio.Event()]
            for engine, gate in zip((first, second), gates, strict=True):
                engine.script.append(gated(gate))
            holders = [asyncio.ensure_future(gw.chat("m")) for _ in range(2)]
            await asyncio.gather(first.came(), second.came())
            later = asyncio.ensure_future(gw.chat("m"))
            await waiting(gw, 1)
            gates[1].set()
            assert (await later).header("X-Portico-Backend") == "b1"
            gates[0].set()
            assert [(await one).status for one in holders] == [200, 200]


async def test_those_who_wait_are_refused_when_the_gateway_drains() -> None:
    async with FakeEngine() as engine, Gateway(one_place(engine)) as gw:
        async with taken(engine, gw) as gate:
            later = asyncio.ensure_future(gw.chat("m"))
            await waiting(gw, 1)
            gw.signal(signal.SIGTERM)
            reply = await later
            assert (reply.status, reply.kind) == (503, "draining")
            gate.set()
        assert await gw.wait() == 0


async def test_those_who_wait_are_refused_when_their_backends_are_gone() -> None:
    async with FakeEngine() as engine, Gateway(one_place(engine)) as gw:
        gate = asyncio.Event()
        engine.script.append(gated(gate))
        holder = asyncio.ensure_future(gw.chat("m"))
        await engine.came()
        later = asyncio.ensure_future(gw.chat("m", timeout=20.0))
        await waiting(gw, 1)
        await engine.stop(hold=True)
        assert (await holder).status in (502, 503)
        reply = await later
        assert reply.status in (502, 503)


# --- comments while waiting


async def test_a_stream_that_waits_is_kept_alive_by_comments_and_then_whole() -> None:
    async with (
        FakeEngine() as engine,
        Gateway(one_place(engine, keepalive="50ms")) as gw,
        taken(engine, gw) as gate,
        gw.client() as client,
    ):
        engine.always = steps.stream(EVENTS)
        await client.ask("POST", CHAT, [JSON], chat_json("m", stream=True))
        reply = await client.read_head()
        assert (reply.status, reply.header("Content-Type")) == (
            200,
            "text/event-stream; charset=utf-8",
        )
        assert reply.header("X-Request-Id")
        await client.read_until(b": waiting\n\n")
        await client.read_until(b": waiting\n\n\r\n")
        gate.set()
        await client.read_body(reply)
        body = reply.body.replace(b": waiting\n\n", b"")
        assert (body, reply.whole) == (WHOLE, True)
        assert (await client.call("GET", "/healthz")).status == 200, "the connection is kept"


async def test_a_stream_that_waits_in_vain_ends_with_an_error_event() -> None:
    routing = {"queue": {"timeout": "200ms"}, "keepalive": "50ms"}
    async with (
        FakeEngine() as engine,
        Gateway(one_place(engine, **routing)) as gw,
        taken(engine, gw),
    ):
        for path, first in ((CHAT, b"data: {"), (MESSAGES, b"event: error\ndata: {")):
            async with gw.client() as client:
                headers = [JSON, ("X-Request-Id", first.hex())]
                body = chat_json("m", stream=True, max_tokens=5)
                await client.ask("POST", path, headers, body)
                reply = await client.read_head()
                assert reply.status == 200
                await client.read_until(b": waiting\n\n")
                rest = await client.read_to_end()
                assert first in rest and b'"overloaded"' in rest and b"[DONE]" not in rest
                assert not rest.endswith(b"0\r\n\r\n"), "no answer came, so none ended"
            line = await gw.request_line(first.hex())
            assert (line["status"], line["refusal"]) == (200, "overloaded")


async def test_an_engines_refusal_after_comments_is_an_event_with_its_own_words() -> None:
    refusal = {"error": {"message": "too long by far", "type": "BadRequestError", "code": 400}}
    async with (
        FakeEngine() as engine,
        Gateway(one_place(engine, keepalive="50ms")) as gw,
        taken(engine, gw) as gate,
        gw.client() as client,
    ):
        engine.script.append(steps.reply(400, refusal))
        await client.ask("POST", CHAT, [JSON], chat_json("m", stream=True))
        await client.read_until(b": waiting\n\n")
        gate.set()
        rest = await client.read_to_end()
        assert b"data: " + talk.dumps(refusal) in rest


async def test_lines_of_json_and_whole_answers_get_no_comments() -> None:
    config = one_place
    async with FakeEngine("ollama") as engine, Gateway(config(engine, keepalive="20ms")) as gw:
        gate = asyncio.Event()
        engine.script.append(gated(gate))
        holder = asyncio.ensure_future(gw.chat("m"))
        await engine.came()
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        lines = asyncio.ensure_future(gw.post("/api/chat", body))
        json = asyncio.ensure_future(gw.chat("m"))
        await waiting(gw, 2)
        await asyncio.sleep(0.1)
        gate.set()
        for reply in (await lines, await json, await holder):
            assert reply.status == 200 and b"waiting" not in reply.body


async def test_the_openai_sdk_reads_a_stream_with_comments() -> None:
    openai = pytest.importorskip("openai")
    async with (
        FakeEngine() as engine,
        Gateway(one_place(engine, keepalive="20ms")) as gw,
        taken(engine, gw) as gate,
    ):
        engine.always = steps.stream(EVENTS)
        client = openai.AsyncOpenAI(base_url=f"{gw.url}/v1", api_key="x", max_retries=0)
        messages = [{"role": "user", "content": "Hi"}]
        stream = asyncio.ensure_future(
            client.chat.completions.create(model="m", messages=messages, stream=True)
        )
        await waiting(gw, 1)
        await asyncio.sleep(0.1)
        gate.set()
        found = [chunk async for chunk in await stream]
        assert len(found) == len(EVENTS) - 1
        await client.close()


# --- several workers


async def test_workers_share_the_places_and_the_bound_and_wake_each_other() -> None:
    async with FakeEngine() as engine:
        config = config_of(engine)
        config["backends"][0]["max_concurrency"] = 1
        config["routing"] = {"queue": {"max": 3}}
        async with of_two(config) as gw, on_each(gw, Crew.of(gw)) as clients:
            gate = asyncio.Event()
            engine.script.append(gated(gate))
            one, two = clients
            await one.ask("POST", CHAT, [JSON], chat_json("m"))
            await engine.came()
            async with AsyncExitStack() as stack:
                crew = Crew.of(gw)
                third = await stack.enter_async_context(on_worker(gw, crew, crew.workers[0]))
                fourth = await stack.enter_async_context(on_worker(gw, crew, crew.workers[1]))
                for count, client in enumerate((two, third, fourth), 1):
                    await client.ask("POST", CHAT, [JSON], chat_json("m"))
                    await waiting(gw, count)
                for worker in crew.workers:
                    async with on_worker(gw, crew, worker) as another:
                        reply = await another.call("POST", CHAT, [JSON], chat_json("m"))
                        assert reply.status == 503
                gate.set()
                for client in (one, two, third, fourth):
                    reply = await client.read_head()
                    assert reply.status == 200
                    await client.read_body(reply)
            assert engine.most_at_once == 1
            await waiting(gw, 0)


async def test_the_line_is_one_over_all_workers() -> None:
    async with FakeEngine() as engine:
        config = config_of(engine)
        config["backends"][0]["max_concurrency"] = 1
        async with of_two(config) as gw:
            crew = Crew.of(gw)
            gate = asyncio.Event()
            engine.script.append(gated(gate))
            async with AsyncExitStack() as stack:
                clients: list[RawClient] = []
                for number in range(7):
                    worker = crew.workers[number % 2]
                    client = await stack.enter_async_context(on_worker(gw, crew, worker))
                    body = chat_json("m", user=str(number))
                    await client.ask("POST", CHAT, [JSON], body)
                    if number == 0:
                        await engine.came()
                    else:
                        await waiting(gw, number)
                    clients.append(client)
                gate.set()
                for client in clients:
                    assert (await client.read_head()).status == 200
            assert asks(engine) == list("0123456")


async def test_who_waited_in_a_worker_that_was_killed_is_no_longer_counted() -> None:
    async with FakeEngine() as engine:
        config = config_of(engine)
        config["backends"][0]["max_concurrency"] = 1
        config["routing"] = {"queue": {"max": 2}}
        async with of_two(config) as gw:
            crew = Crew.of(gw)
            gate = asyncio.Event()
            engine.script.append(gated(gate))
            async with AsyncExitStack() as stack:
                opened = []
                for worker in (0, 1, 1):
                    client = await stack.enter_async_context(
                        on_worker(gw, crew, crew.workers[worker])
                    )
                    await client.ask("POST", CHAT, [JSON], chat_json("m"))
                    if not opened:
                        await engine.came()
                    opened.append(client)
                await waiting(gw, 2)
                os.kill(crew.workers[1].pid, signal.SIGKILL)
                await gone([crew.workers[1]])
                await waiting(gw, 0)
                later = asyncio.ensure_future(gw.chat("m"))
                await waiting(gw, 1)
                gate.set()
                assert (await later).status == 200
                assert (await opened[0].read_head()).status == 200
            assert len(engine.requests) == 2

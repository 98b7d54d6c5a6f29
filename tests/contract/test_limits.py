"""Limits of keys (INTERFACE 3, 4, 6 and 7): never exceeded, never leaked, told to the client."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_workers import (
    EVENTS,
    Crew,
    begin,
    chat_on,
    config_of,
    held,
    of_two,
    on_each,
    struck,
    whole,
)
from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway, until
from tests.rawclient import Reply

KEY, OTHER = "sk-limited-0123456789", "sk-other-0123456789"
COST = talk.USAGE["total_tokens"]
ANSWER = steps.reply(200, talk.chat_body("m"))
"""One that costs COST."""


def limited(*engines: FakeEngine, **limits: Any) -> dict[str, Any]:
    """One key with limits, one without."""
    keys = [{"name": "team", "key": KEY, **limits}, {"name": "other", "key": OTHER}]
    return {**config_of(*engines, drain_timeout="1s"), "auth": {"keys": keys}}


def bearer(key: str = KEY) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {key}")]


def rates(reply: Reply) -> dict[str, str]:
    found = {name.lower(): value for name, value in reply.headers}
    return {
        name.removeprefix("x-ratelimit-"): value
        for name, value in found.items()
        if name.startswith("x-ratelimit-")
    }


def is_limited(reply: Reply, what: str = "") -> None:
    assert (reply.status, reply.kind) == (429, "rate_limit_exceeded"), reply
    assert "team" in reply.error["message"]
    assert what in reply.error["message"]
    assert 1 <= int(reply.header("Retry-After") or 0) <= 60


async def until_used_up(gw: Gateway, served: list[Reply]) -> None:
    """One client that asks again and again, until its minute's requests are spent."""
    while True:
        reply = await gw.chat("m", bearer(), stream=True)
        if reply.status == 200:
            served.append(reply)
            continue
        is_limited(reply)
        if "requests per minute" in reply.error["message"]:
            return
        await asyncio.sleep(0.02)


def statuses(replies: Sequence[Reply]) -> dict[int, int]:
    found = [reply.status for reply in replies]
    return {status: found.count(status) for status in sorted(set(found))}


# --- one process


async def test_requests_per_minute_are_counted_told_and_refused() -> None:
    async with FakeEngine() as engine, Gateway(limited(engine, requests_per_minute=3)) as gw:
        for left in (2, 1, 0):
            reply = await gw.chat("m", bearer())
            assert reply.status == 200
            told = rates(reply)
            assert told.pop("reset-requests") in ("1m0s", "60s", "59s")
            assert told == {"limit-requests": "3", "remaining-requests": str(left)}
        reply = await gw.chat("m", bearer())
        is_limited(reply, "3 requests per minute")
        assert int(reply.header("Retry-After") or 0) > 50
        assert rates(reply)["remaining-requests"] == "0"
        assert len(engine.requests) == 3
        assert (await gw.get("/v1/models", bearer())).status == 200
        free = await gw.chat("m", bearer(OTHER))
        assert (free.status, rates(free)) == (200, {})
        await gw.rises("portico_rate_limited_total", key="team", limit="requests")
        line = await gw.request_line(reply.header("X-Request-Id") or "")
        assert (line["key"], line["status"]) == ("team", 429)


async def test_every_answer_to_a_limited_key_tells_its_limits_once() -> None:
    async with FakeEngine() as engine, Gateway(limited(engine, requests_per_minute=9)) as gw:
        engine.always = steps.stream(EVENTS, headers=[("x-ratelimit-limit-requests", "777")])
        replies = [await gw.chat("m", bearer(), stream=True)]
        engine.always = steps.reply(400, {"error": {"message": "no"}})
        replies.append(await gw.chat("m", bearer()))
        replies.append(await gw.chat("nobody-has-this", bearer()))
        replies.append(await gw.post("/v1/chat/completions", b"no json", bearer()))
        assert [reply.status for reply in replies] == [200, 400, 404, 400]
        for left, reply in zip((8, 7, 6, 5), replies, strict=True):
            assert reply.all("x-ratelimit-limit-requests") == ["9"]
            assert reply.all("x-ratelimit-remaining-requests") == [str(left)]


async def test_refusals_are_worded_in_the_clients_dialect() -> None:
    async with FakeEngine() as engine, Gateway(limited(engine, requests_per_minute=1)) as gw:
        assert (await gw.chat("m", bearer())).status == 200
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
        reply = await gw.post("/v1/messages", body, [("x-api-key", KEY)])
        is_limited(reply)
        assert reply.doc["type"] == "error"
        reply = await gw.post("/api/chat", body, bearer())
        assert (reply.status, reply.header("Retry-After") is not None) == (429, True)
        assert "3 requests" not in reply.doc["error"]
        assert "1 requests per minute" in reply.doc["error"]


async def test_the_openai_sdk_sees_a_rate_limit_error() -> None:
    openai = pytest.importorskip("openai")
    async with FakeEngine() as engine, Gateway(limited(engine, requests_per_minute=1)) as gw:
        client = openai.AsyncOpenAI(base_url=f"{gw.url}/v1", api_key=KEY, max_retries=0)
        messages = [{"role": "user", "content": "Hi"}]
        await client.chat.completions.create(model="m", messages=messages)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="m", messages=messages)
        assert caught.value.code == "rate_limit_exceeded"
        assert int(caught.value.response.headers["retry-after"]) > 0
        await client.close()


async def test_tokens_are_settled_with_the_engines_count() -> None:
    async with FakeEngine() as engine, Gateway(limited(engine, tokens_per_minute=5 * COST)) as gw:
        engine.always = ANSWER
        replies = [await gw.chat("m", bearer()) for _ in range(6)]
        assert statuses(replies) == {200: 5, 429: 1}
        is_limited(replies[-1], f"{5 * COST} tokens per minute")
        assert rates(replies[-1])["remaining-tokens"] == "0"
        await gw.rises("portico_rate_limited_total", key="team", limit="tokens")


async def test_streams_are_settled_with_usage_that_the_gateway_asks_for_itself() -> None:
    async with FakeEngine() as engine, Gateway(limited(engine, tokens_per_minute=1000)) as gw:
        usage = {"prompt_tokens": 300, "completion_tokens": 5, "total_tokens": 305}
        engine.always = steps.stream(talk.chat_events("m", usage=usage))
        reply = await gw.chat("m", bearer(), stream=True)
        assert reply.status == 200
        assert b"usage" not in reply.body, "nobody but the gateway asked for it"
        assert engine.requests[-1].doc["stream_options"] == {"include_usage": True}
        reply = await gw.chat("m", bearer(), stream=True)
        assert 680 <= int(rates(reply)["remaining-tokens"]) <= 695


async def test_what_requests_may_cost_is_reserved_while_they_run() -> None:
    async with FakeEngine() as engine, Gateway(limited(engine, tokens_per_minute=1000)) as gw:
        gate = asyncio.Event()
        engine.always = held(gate)
        async with gw.client() as client:
            body = {"model": "m", "stream": True, "max_tokens": 800}
            body["messages"] = [{"role": "user", "content": "Hi"}]
            await client.ask("POST", "/v1/chat/completions", bearer(), talk.dumps(body))
            reply = await client.read_head()
            assert 190 <= int(rates(reply)["remaining-tokens"]) < 200
            is_limited(await gw.chat("m", bearer(), max_tokens=300))
            engine.always = None
            assert (await gw.chat("m", bearer(), max_tokens=100)).status == 200
            gate.set()
            await whole(client, reply)
        assert (await gw.chat("m", bearer(), max_tokens=900)).status == 200


async def test_tokens_of_a_request_that_was_not_served_are_given_back() -> None:
    async with FakeEngine() as engine, Gateway(limited(engine, tokens_per_minute=100)) as gw:
        engine.always = steps.reply(400, {"error": {"message": "no"}})
        for _ in range(3):
            assert (await gw.chat("m", bearer(), max_tokens=90)).status == 400
        engine.always = None
        assert (await gw.chat("m", bearer(), max_tokens=90)).status == 200


async def test_a_budget_of_a_day_ends_with_the_day() -> None:
    async with FakeEngine() as engine, Gateway(limited(engine, tokens_per_day=COST)) as gw:
        engine.always = ANSWER
        assert (await gw.chat("m", bearer())).status == 200
        reply = await gw.chat("m", bearer())
        assert (reply.status, reply.kind) == (429, "rate_limit_exceeded")
        left = 86400 - time.time() % 86400
        assert abs(int(reply.header("Retry-After") or 0) - left) < 5
        assert rates(reply)["remaining-tokens"] == "0"
        await gw.rises("portico_rate_limited_total", key="team", limit="tokens_per_day")


async def test_a_client_that_leaves_gives_its_place_back() -> None:
    async with FakeEngine() as engine, Gateway(limited(engine, max_concurrency=1)) as gw:
        engine.always = steps.hang()
        for _ in range(3):
            async with gw.client() as client:
                await client.ask("POST", "/v1/chat/completions", bearer(), talk.dumps({}))
                assert (await client.read_head()).status == 400
                body = {"model": "m", "messages": []}
                await client.ask("POST", "/v1/chat/completions", bearer(), talk.dumps(body))
                await engine.came()
                is_limited(await gw.chat("m", bearer()), "may have 1 at once")
                client.reset()
                await gw.rises("portico_client_disconnects_total", by=_ + 1)
        engine.always = None
        assert (await gw.chat("m", bearer())).status == 200


async def test_a_key_of_some_surfaces_may_use_no_other() -> None:
    async with (
        FakeEngine() as engine,
        Gateway(limited(engine, surfaces=["chat-completions"])) as gw,
    ):
        assert (await gw.chat("m", bearer())).status == 200
        reply = await gw.post("/v1/completions", {"model": "m", "prompt": "Hi"}, bearer())
        assert (reply.status, reply.kind) == (403, "forbidden")
        assert "may not use completions; it may use chat-completions" in reply.error["message"]
        assert (await gw.get("/v1/models", bearer())).status == 200


async def test_a_key_that_has_expired_is_unknown_from_that_moment_on() -> None:
    async with FakeEngine() as engine:
        moment = time.time() + 1.5
        async with Gateway(limited(engine, expires=moment)) as gw, gw.client() as client:

            async def ask() -> Reply:
                return await client.call("GET", "/v1/models", bearer())

            assert time.time() > moment or (await gw.chat("m", bearer())).status == 200

            async def expired() -> bool:
                return (await ask()).status == 401

            await until(expired, 5.0, "the key to expire")
            assert time.time() >= moment
            reply = await gw.chat("m", bearer())
            assert (reply.status, reply.kind) == (401, "unauthorized")
            assert "'team' expired on 20" in reply.error["message"]
            assert (await gw.chat("m", bearer(OTHER))).status == 200


# --- two workers


async def test_no_limit_is_exceeded_over_two_workers() -> None:
    async with FakeEngine() as engine:
        limits = {"requests_per_minute": 25, "max_concurrency": 4}
        async with of_two(limited(engine, **limits)) as gw:
            engine.always = steps.stream(EVENTS, gap=0.005)
            served: list[Reply] = []
            await asyncio.gather(*(until_used_up(gw, served) for _ in range(20)))
            assert len(served) == 25
            assert engine.most_at_once <= 4
            await gw.rises("portico_rate_limited_total", by=20, key="team", limit="requests")
            assert await gw.metric("portico_rate_limited_total", limit="concurrency") > 0


async def test_no_tokens_are_exceeded_over_two_workers() -> None:
    async with FakeEngine() as engine, of_two(limited(engine, tokens_per_minute=20 * COST)) as gw:
        engine.always = ANSWER

        async def ask() -> int:
            reply = await gw.chat("m", bearer(), max_tokens=2 * COST - 2)
            return reply.status

        first = await asyncio.gather(*(ask() for _ in range(60)))
        assert first.count(200) >= 10
        rest = [await ask() for _ in range(25)]
        # Each reserves two answers' worth, so that the last place is not given away.
        assert first.count(200) + rest.count(200) == 19


async def test_a_killed_worker_gives_the_places_of_its_requests_back() -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine:
        limits = {"max_concurrency": 4, "tokens_per_day": 10_000}
        async with of_two(limited(engine, **limits)) as gw, AsyncExitStack() as stack:
            crew = Crew.of(gw)
            first = await stack.enter_async_context(on_each(gw, crew))
            second = await stack.enter_async_context(on_each(gw, crew))
            engine.always = held(gate)
            replies = [await begin(client, headers=bearer()) for client in (*first, *second)]
            assert [reply.status for reply in replies] == [200] * 4
            is_limited(await gw.chat("m", bearer()), "may have 4 at once")
            await struck(gw, crew, crew.workers[0])
            engine.always = None

            async def there() -> bool:
                return (await gw.chat("m", bearer())).status == 200

            await until(there, 3.0, "the killed worker's places to be given back")
            engine.always = held(gate)
            third = [await stack.enter_async_context(gw.client()) for _ in range(3)]
            again = [await begin(client, headers=bearer()) for client in third]
            assert sorted(reply.status for reply in again) == [200, 200, 429]
            gate.set()
            for client, reply in ((first[1], replies[1]), (second[1], replies[3])):
                await whole(client, reply)


async def test_counts_survive_a_reload_and_the_death_of_any_process() -> None:
    async with FakeEngine() as engine:
        config = limited(engine, requests_per_minute=3)
        async with of_two(config) as gw:
            crew = Crew.of(gw)
            assert [(await gw.chat("m", bearer())).status for _ in range(2)] == [200, 200]
            crew = await struck(gw, crew, crew.workers[0])
            crew = await struck(gw, crew, crew.control)
            gw.write(limited(engine, requests_per_minute=4))
            gw.signal(signal.SIGHUP)
            await gw.rises("portico_config_reloads_total", result="success")
            async with on_each(gw, crew) as clients:
                found = [await chat_on(client, headers=bearer()) for client in (*clients, *clients)]
            assert [reply.status for reply in found] == [200, 200, 429, 429]
            is_limited(found[-1], "4 requests per minute")


async def test_a_stream_that_waits_tells_its_limits_with_its_first_comment() -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine:
        config = limited(engine, requests_per_minute=5, tokens_per_minute=500)
        config["backends"][0]["max_concurrency"] = 1
        config["routing"] = {"keepalive": "20ms"}
        async with Gateway(config) as gw, gw.client() as first, gw.client() as second:
            engine.always = held(gate)
            replies = [await begin(client, headers=bearer()) for client in (first, second)]
            assert [rates(reply)["remaining-requests"] for reply in replies] == ["4", "3"]
            assert replies[1].header("X-Portico-Backend") is None, "nobody has answered it yet"
            gate.set()
            await whole(first, replies[0])
            await second.read_body(replies[1])
            assert replies[1].whole
            assert replies[1].body.endswith(talk.DONE)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_budget_outlives_a_restart_where_there_is_a_store(
    tmp_path: Path, workers: int
) -> None:
    async with FakeEngine("vllm", ["m"]) as engine:
        engine.always = ANSWER
        settings = limited(engine, tokens_per_day=3 * COST)
        settings["server"]["workers"] = workers
        settings["store"] = {"url": f"sqlite://{tmp_path}/portico.db"}
        for spent in (1, 2):
            async with Gateway(settings) as gw:
                assert (await gw.chat("m", bearer(), max_tokens=1)).status == 200, spent
        async with Gateway(settings) as gw:
            assert (await gw.chat("m", bearer(), max_tokens=1)).status == 200
            reply = await gw.chat("m", bearer(), max_tokens=1)
            assert (reply.status, reply.kind) == (429, "rate_limit_exceeded")
            assert "day" in reply.error["message"]

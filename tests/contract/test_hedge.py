"""Second copies of late requests, and the learned bound on first bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.harness import JSON, Farm, Gateway, Pair, chat_json, until

ADMIN = "an-admin-key-of-the-tests"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    routing = {"hedge": {"after": "150ms"}, "policy": "round_robin"}
    async with Farm(16, extra={"routing": routing}) as farm:
        yield farm


def asked(pair: Pair) -> list[int]:
    return [len(spot.engine.requests) for spot in (pair.first, pair.second)]


async def idle(*pairs: Pair) -> None:
    async def nothing() -> bool:
        return all(s.engine.at_once == 0 for pair in pairs for s in (pair.first, pair.second))

    await until(nothing, 1.0, "the loser to be cancelled on its engine")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_late_request_is_answered_by_another_engine_and_cancelled_on_the_first(
    farm: Farm, streamed: bool
) -> None:
    pair = farm.pair()
    pair.first.engine.always = steps.hang()
    plain = await farm.gw.chat(f"{pair.second.name}:{pair.model}", stream=streamed)
    for _ in range(6):
        reply = await farm.gw.chat(pair.model, stream=streamed)
        assert (reply.status, reply.whole) == (200, True)
        assert reply.header("X-Portico-Backend") == pair.second.name
        assert reply.body == plain.body
    await idle(pair)

    async def counted() -> bool:
        name = "portico_failovers_total"
        return await farm.gw.metric(name, model=pair.model, reason="hedge") >= 1

    await until(counted, 3.0, "the copies that won to be counted")
    assert await farm.gw.metric("portico_circuit_state", backend=pair.first.name) == 0


async def test_only_the_winners_bytes_reach_the_client(farm: Farm) -> None:
    """Both answer at nearly the same time, both at length, many at once."""
    pair = farm.pair()
    whole = {}
    for spot, word in ((pair.first, "a"), (pair.second, "b")):
        events = talk.chat_events(pair.model, [word * 50] * 200)
        whole[spot.name] = b"".join(events)
        started = steps.stream(events)

        async def late(exchange, then=started):  # type: ignore[no-untyped-def]
            await asyncio.sleep(0.152)
            await then(exchange)

        spot.engine.always = late
    replies = await asyncio.gather(*(farm.gw.chat(pair.model, stream=True) for _ in range(20)))
    for reply in replies:
        assert reply.status == 200
        assert reply.body == whole[reply.header("X-Portico-Backend") or ""]
    await idle(pair)


async def test_a_slow_stream_that_has_begun_is_not_hedged(farm: Farm) -> None:
    pair = farm.pair()
    events = talk.chat_events(pair.model)
    for spot in (pair.first, pair.second):
        spot.engine.always = steps.stream(events, gap=0.1)
    reply = await farm.gw.chat(pair.model, stream=True)
    assert reply.body == b"".join(events)
    assert sum(asked(pair)) == 1


async def test_a_client_that_leaves_ends_both_copies(farm: Farm) -> None:
    pair = farm.pair()
    for spot in (pair.first, pair.second):
        spot.engine.always = steps.hang()
    async with farm.gw.client() as client:
        await client.ask("POST", "/v1/chat/completions", [JSON], chat_json(pair.model))

        async def both() -> bool:
            return asked(pair) == [1, 1]

        await until(both, 2.0, "both engines to be asked")
    await idle(pair)


async def test_when_both_copies_fail_the_answer_says_so(farm: Farm) -> None:
    pair = farm.pair()
    go = asyncio.Event()
    for spot in (pair.first, pair.second):
        spot.engine.always = steps.after(go, steps.drop("reset"))
    waiting = asyncio.ensure_future(farm.gw.chat(pair.model))

    async def both() -> bool:
        return asked(pair) == [1, 1]

    await until(both, 2.0)
    go.set()
    reply = await waiting
    assert (reply.status, reply.kind) == (502, "backend_unreachable")


async def test_a_copy_that_fails_waits_for_the_other(farm: Farm) -> None:
    pair = farm.pair()
    events = talk.chat_events(pair.model)
    both, go = asyncio.Event(), asyncio.Event()
    pair.first.engine.always = steps.after(both, steps.drop("reset"))
    pair.second.engine.always = steps.after(go, steps.stream(events))
    replies = [asyncio.ensure_future(farm.gw.chat(pair.model, stream=True)) for _ in range(4)]

    async def all_twice() -> bool:
        return asked(pair) == [4, 4]

    await until(all_twice, 2.0)
    both.set()
    await asyncio.sleep(0.1)
    go.set()
    for reply in await asyncio.gather(*replies):
        assert (reply.status, reply.body) == (200, b"".join(events))
        assert reply.header("X-Portico-Backend") == pair.second.name


async def test_when_both_copies_fail_a_third_engine_is_asked() -> None:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(FakeEngine()) for _ in range(3)]
        backends = [{"name": f"b{n}", "url": one.url} for n, one in enumerate(engines)]
        routing = {"hedge": {"after": "50ms"}, "policy": "round_robin"}
        auth = {"admin_keys": [ADMIN]}
        config = {"backends": backends, "routing": routing, "auth": auth}
        gw = await stack.enter_async_context(Gateway(config))
        go = asyncio.Event()
        for engine in engines:
            engine.script.append(steps.after(go, steps.drop("reset")))
        waiting = asyncio.ensure_future(gw.chat("m", [("X-Request-Id", "raced")]))

        async def two() -> bool:
            return sum(len(engine.requests) for engine in engines) == 2

        await until(two, 2.0)
        for engine in engines:
            if not engine.requests:
                engine.script.clear()
        go.set()
        assert (await waiting).status == 200
        found = await gw.get("/admin/explain/raced", [("Authorization", f"Bearer {ADMIN}")])
        assert [one["end"] for one in found.doc["attempts"]] == ["broken", "broken", "done"]
        assert await gw.metric("portico_retries_total", model="m", reason="hedge") == 1
        assert await gw.metric("portico_retries_total", model="m", reason="reset") == 1


async def test_copies_stay_within_the_budget_of_retries() -> None:
    routing = {
        "hedge": {"after": "50ms"},
        "retries": {"budget": 0, "per_second": 0},
    }
    async with Farm(2, extra={"routing": routing}) as farm:
        pair = farm.pair()
        go = asyncio.Event()
        for spot in (pair.first, pair.second):
            spot.engine.always = steps.after(go, steps.stream(talk.chat_events(pair.model)))
        waiting = asyncio.ensure_future(farm.gw.chat(pair.model, stream=True))
        await asyncio.sleep(0.3)
        assert sum(asked(pair)) == 1
        go.set()
        assert (await waiting).status == 200


async def test_a_first_byte_far_later_than_usual_is_looked_for_elsewhere() -> None:
    routing = {"first_byte": "auto", "policy": "round_robin"}
    async with Farm(2, extra={"routing": routing}) as farm:
        pair = farm.pair()
        await asyncio.gather(*(farm.gw.chat(pair.model) for _ in range(40)))
        pair.first.engine.always = steps.hang()
        replies = await asyncio.gather(*(farm.gw.chat(pair.model) for _ in range(4)))
        assert {reply.header("X-Portico-Backend") for reply in replies} == {pair.second.name}

"""Limits of keys over several gateways that share a Redis: never exceeded, never leaked."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psutil
import pytest

from tests.contract.test_limits import (
    ANSWER,
    COST,
    bearer,
    is_limited,
    limited,
    rates,
    until_used_up,
)
from tests.contract.test_workers import EVENTS, begin, held
from tests.fakes import steps
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway, until
from tests.rawclient import RawClient, Reply
from tests.redis_server import redis_server, server_at


@asynccontextmanager
async def two_gateways(engine: FakeEngine, **limits: Any) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways of two workers each, and a Redis for both."""
    with redis_server() as port:
        config = limited(engine, **limits)
        config["server"]["workers"] = 2
        config["store"] = {"url": f"redis://127.0.0.1:{port}/0"}
        async with Gateway(config) as one, Gateway(config) as other:
            yield one, other


async def test_no_limit_is_exceeded_over_two_gateways_of_two_workers() -> None:
    async with FakeEngine() as engine:
        limits = {"requests_per_minute": 25, "max_concurrency": 4}
        async with two_gateways(engine, **limits) as gateways:
            engine.always = steps.stream(EVENTS, gap=0.005)
            served: list[Reply] = []
            await asyncio.gather(*(until_used_up(gw, served) for gw in gateways for _ in range(8)))
            assert len(served) == 25
            assert engine.most_at_once <= 4
            backends = {reply.header("X-Portico-Backend") for reply in served}
            assert backends == {"b0"}
            by = [await gw.metric("portico_requests_total", status="200") for gw in gateways]
            assert sum(by) == 25
            assert min(by) > 0


async def test_tokens_and_budgets_are_counted_over_two_gateways() -> None:
    async with FakeEngine() as engine, two_gateways(engine, tokens_per_day=10 * COST) as gateways:
        engine.always = ANSWER
        served: list[Reply] = []
        last: list[Reply] = []

        async def one_more() -> bool:
            last[:] = [await gateways[len(served) % 2].chat("m", bearer(), max_tokens=2 * COST - 2)]
            served.extend(reply for reply in last if reply.status == 200)
            return last[0].status == 200

        # Each reserves two answers' worth, so that the last place is not given away. What the one
        # before it did not need is told to Redis a moment after its answer.
        for _ in range(9):
            await until(one_more, 3.0, "what was not used to be given back")
        left = [int(rates(reply)["remaining-tokens"]) for reply in served]
        assert left == sorted(left, reverse=True)
        for _ in range(3):
            assert not await one_more()
            is_limited_for_the_day(last[0])
            await asyncio.sleep(0.05)


def is_limited_for_the_day(reply: Reply) -> None:
    assert (reply.status, reply.kind) == (429, "rate_limit_exceeded")
    assert "tokens per day" in reply.error["message"]


async def test_a_killed_gateway_gives_the_places_of_its_requests_back() -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, two_gateways(engine, max_concurrency=3) as (one, other):
        engine.always = held(gate)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(one.client()) for _ in range(3)]
            replies = [await begin(client, headers=bearer()) for client in clients]
            assert [reply.status for reply in replies] == [200] * 3
            is_limited(await other.chat("m", bearer()), "may have 3 at once")
            for process in (*psutil.Process(one.pid).children(), psutil.Process(one.pid)):
                process.kill()
            await one.wait()

            engine.always = held(gate)
            open_: list[RawClient] = []

            async def three() -> bool:
                """One by one: each of the killed processes is given up at a time of its own."""
                client = await stack.enter_async_context(other.client())
                if (await begin(client, headers=bearer())).status == 200:
                    open_.append(client)
                return len(open_) == 3

            await until(three, 12.0, "the killed gateway's places to be given back", pause=0.1)
            is_limited(await other.chat("m", bearer()), "may have 3 at once")
        gate.set()


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
async def test_requests_go_on_without_the_store_within_this_gateways_part(
    stop: signal.Signals,
) -> None:
    with redis_server() as port:
        async with FakeEngine() as engine:
            config = limited(engine, max_concurrency=2, requests_per_minute=20)
            config["store"] = {"url": f"redis://127.0.0.1:{port}/0"}
            async with Gateway(config) as gw:
                assert (await gw.chat("m", bearer())).status == 200
                server = server_at(port)
                server.send_signal(stop)
                began = asyncio.get_running_loop().time()
                replies = [await gw.chat("m", bearer()) for _ in range(3)]
                assert [reply.status for reply in replies] == [200] * 3
                assert asyncio.get_running_loop().time() - began < 3.0
                told = [line for line in gw.log_lines() if line["msg"].startswith("limits: ")]
                assert len(told) == 1
                server.send_signal(signal.SIGCONT)

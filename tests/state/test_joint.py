"""Limits that gateways count together: never exceeded, never leaked (a Party stands for a process
of some gateway, a real Redis for the store)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from gateway.core.charge import Estimate
from gateway.core.errors import Refusal
from gateway.core.types import Caller, Usage
from gateway.state.meter import Meter
from gateway.state.windows import Lease, Windows
from gateway.tasks import Tasks
from tests.harness import free_port, until
from tests.redis_server import redis_server, server_at

MEMBERS = "{portico}:limits:members"

joint = pytest.importorskip("gateway.state.joint", reason="the package redis is not installed")
redis = pytest.importorskip("redis.asyncio", reason="the package redis is not installed")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with redis_server() as port:
        yield port


class Party:
    """One process of a gateway, with a meter of its own."""

    def __init__(self, port: int, gateway: str) -> None:
        self.windows = Windows(Meter(1), 0)
        self.joint = joint.Joint(f"redis://127.0.0.1:{port}/0", gateway, self.windows)
        self.windows.others = self.joint
        self.tasks = Tasks()

    async def begin(self) -> None:
        self.tasks.spawn(self.joint.run(), "limits")
        await until(self._here, 5.0, "a session")

    async def _here(self) -> bool:
        return bool(self.joint.here)

    async def enter(self, caller: Caller, tokens: int | None = None) -> Lease:
        """As the door does. Raises Refusal."""
        now, wall = time.monotonic(), time.time()
        lease = self.windows.enter(caller, now, wall)
        try:
            if tokens is not None:
                self.windows.reserve(lease, Estimate(tokens), now, wall)
            await self.joint.take(lease)
        except BaseException:
            self.leave(lease)
            raise
        return lease

    async def enters(self, caller: Caller, tokens: int | None = None) -> bool:
        try:
            await self.enter(caller, tokens)
        except Refusal:
            return False
        return True

    def leave(self, lease: Lease, used: int = 0) -> None:
        usage = Usage(used, 0)
        self.windows.settle(lease, usage, used > 0, time.monotonic(), time.time())


@asynccontextmanager
async def parties(port: int, *gateways: str) -> AsyncIterator[list[Party]]:
    """Processes of these gateways, on an empty store."""
    async with redis.Redis(port=port) as db:
        await until(lambda: _answers(db), 5.0, "the server")
        await db.flushall()
    found = [Party(port, gateway) for gateway in gateways]
    await asyncio.gather(*(party.begin() for party in found))
    try:
        yield found
    finally:
        for party in found:
            await party.tasks.cancel_all()
            await party.joint.close()


async def _answers(db: object) -> bool:
    try:
        return bool(await db.ping())  # type: ignore[attr-defined]
    except (OSError, redis.RedisError):
        return False


async def test_no_limit_is_exceeded_over_gateways(port: int) -> None:
    for caller, tokens in (
        (Caller("a", requests_per_minute=7), None),
        (Caller("b", max_concurrency=7), None),
        (Caller("c", tokens_per_minute=70), 10),
        (Caller("d", tokens_per_day=70), 10),
        (Caller("e", tokens_per_month=70), 10),
    ):
        async with parties(port, "one", "one", "two", "two") as four:
            asks = [party.enters(caller, tokens) for party in four for _ in range(5)]
            assert sum(await asyncio.gather(*asks)) == 7, caller


async def test_a_refusal_tells_what_all_have_used(port: int) -> None:
    caller = Caller("team", requests_per_minute=2, tokens_per_minute=100)
    async with parties(port, "one", "two") as (one, two):
        lease = await one.enter(caller, 30)
        assert lease.headers()["x-ratelimit-remaining-tokens"] == "70"
        lease = await two.enter(caller, 30)
        told = lease.headers()
        assert (told["x-ratelimit-remaining-requests"], told["x-ratelimit-limit-requests"]) == (
            "0",
            "2",
        )
        assert told["x-ratelimit-remaining-tokens"] == "40"
        with pytest.raises(Refusal, match="used up its 2 requests per minute") as refused:
            await two.enter(caller, 30)
        assert refused.value.limit == "requests"
        assert 59 <= (refused.value.retry_after or 0) <= 60
        assert refused.value.headers["x-ratelimit-reset-requests"] in ("60s", "1m0s", "59s")


async def test_what_is_refused_elsewhere_counts_nowhere(port: int) -> None:
    caller = Caller("a", requests_per_minute=3, tokens_per_minute=30, max_concurrency=1)
    async with parties(port, "one", "two") as (one, two):
        lease = await one.enter(caller, 10)
        for _ in range(5):
            assert not await two.enters(caller, 10)
        one.leave(lease, 10)
        for _ in range(2):
            two.leave(await two.enter(caller, 10), 10)


async def test_what_ends_gives_back_what_it_held_and_pays_what_it_cost(port: int) -> None:
    caller = Caller("a", max_concurrency=1, tokens_per_minute=100, tokens_per_day=100)
    async with parties(port, "one", "two") as (one, two):
        for used in (10, 10):
            one.leave(await one.enter(caller, 60), used)
        lease = await two.enter(caller, 80)
        assert lease.used.day == 20
        assert lease.headers()["x-ratelimit-remaining-tokens"] == "0"
        assert not await one.enters(caller, 1)
        two.leave(lease)
        one.leave(await one.enter(caller, 80), 70)
        with pytest.raises(Refusal, match="100 tokens per"):
            await two.enter(caller, 20)


async def test_a_client_that_leaves_while_it_is_asked_leaks_nothing(port: int) -> None:
    caller = Caller("a", max_concurrency=2, tokens_per_day=100)
    async with parties(port, "one", "two") as (one, two):
        for turns in (0, 1, 2, 3, 5, 8):
            asks = [asyncio.ensure_future(one.enter(caller, 40)) for _ in range(2)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for ask in asks:
                ask.cancel()
            found = await asyncio.gather(*asks, return_exceptions=True)
            for lease in found:
                if isinstance(lease, Lease):
                    one.leave(lease)
        await until(lambda: _room(two, caller), 2.0, "all to be given back")


async def _room(party: Party, caller: Caller) -> bool:
    """Whether the whole of its two places is there."""
    leases = []
    for _ in range(2):
        with contextlib.suppress(Refusal):
            leases.append(await party.enter(caller, 50))
    for lease in leases:
        party.leave(lease)
    return len(leases) == 2


async def test_a_process_that_dies_gives_its_requests_back(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "ALIVE_FOR", 0.4)
    monkeypatch.setattr(joint, "BEAT", 0.1)
    caller = Caller("a", max_concurrency=2, tokens_per_day=100)
    async with parties(port, "one", "two") as (one, two):
        for _ in range(2):
            await one.enter(caller, 50)
        await asyncio.sleep(0.6)
        assert not await two.enters(caller, 50), "it lives"
        await one.tasks.cancel_all()
        await until(lambda: _room(two, caller), 2.0, "the dead one to be forgotten")


async def test_who_leaves_gives_back_at_once(port: int) -> None:
    caller = Caller("a", max_concurrency=1)
    async with parties(port, "one", "two") as (one, two):
        await one.enter(caller)
        await one.tasks.cancel_all()
        await one.joint.close()
        assert await two.enters(caller)


async def test_a_store_that_forgets_everything_is_told_again_what_is_under_way(port: int) -> None:
    caller = Caller("a", max_concurrency=2)
    async with parties(port, "one", "two") as (one, two), redis.Redis(port=port) as db:
        leases = [await one.enter(caller), await two.enter(caller)]
        await db.flushall()
        await db.script_flush()
        for party in (one, two):
            assert await party.enters(Caller("b", max_concurrency=9)), "it begins anew"
        assert not await one.enters(caller)
        assert not await two.enters(caller)
        one.leave(leases[0])
        two.leave(leases[1])
        await until(lambda: _room(one, caller), 2.0, "the places to be free again")


async def test_requests_that_never_came_far_count_as_well(port: int) -> None:
    caller = Caller("a", requests_per_minute=3)
    async with parties(port, "one", "two") as (one, two):
        for _ in range(3):
            one.leave(one.windows.enter(caller, time.monotonic(), time.time()))
        await asyncio.sleep(0.1)
        assert not await two.enters(caller)


async def test_without_the_store_each_gateway_keeps_to_its_part_and_pays_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "BEAT", 0.1)
    monkeypatch.setattr(joint, "AGAIN", 0.1)
    caller = Caller("a", max_concurrency=4, tokens_per_day=1000)
    port = free_port()
    with contextlib.ExitStack() as first:
        first.enter_context(redis_server(port))
        async with parties(port, "one", "one", "two") as found:
            one, two = found[0], found[2]
            await until(lambda: _knows(found, 2), 5.0, "all to know of two gateways")
            open_before = await one.enter(caller, 100)
            first.close()
            began = time.monotonic()
            assert [await two.enters(caller, 100) for _ in range(4)] == [True, True, False, False]
            assert time.monotonic() - began < 2.0
            lease = await one.enter(caller, 100)
            assert not await one.enters(caller, 100)
            one.leave(lease, 500)
            assert "each to 1/2 of its value" in caplog.text
            with redis_server(port):
                await until(lambda: _members(port, 3), 5.0, "the sessions to begin again")
                # Two of "two" and one of "one" are under way, and 500 tokens are spent.
                lease = await found[1].enter(caller, 100)
                assert lease.used.day == 500
                assert not await one.enters(caller, 1)
                one.leave(open_before, 100)
                await asyncio.sleep(0.1)
                assert (await one.enter(caller, 100)).used.day == 600


async def _knows(parties: list[Party], gateways: int) -> bool:
    await asyncio.sleep(0)
    return all(party.joint._known == gateways for party in parties)


async def _members(port: int, wanted: int) -> bool:
    async with redis.Redis(port=port, retry=None) as db:
        return await _answers(db) and bool(await db.zcard(MEMBERS) == wanted)


async def test_a_connection_that_is_lost_is_made_anew_before_anybody_is_let_through(
    port: int,
) -> None:
    caller = Caller("a", max_concurrency=1)
    async with parties(port, "one", "two") as (one, two), redis.Redis(port=port) as db:
        first = await one.enter(caller)
        await db.client_kill_filter(_type="normal", skipme=True)
        assert not await two.enters(caller)
        one.leave(first)
        lease = await one.enter(caller)
        assert lease.hold is not None
        assert lease.hold.stamp, "it was granted over a new connection"
        assert not await two.enters(caller)


async def test_who_asked_when_the_store_fell_silent_is_let_in_by_the_part_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joint, "BEAT", 0.1)
    with redis_server() as port:
        async with parties(port, "one", "two") as found:
            one = found[0]
            await until(lambda: _knows(found, 2), 5.0, "both to know of each other")
            server = server_at(port)
            server.send_signal(signal.SIGSTOP)
            try:
                for caller, tokens in (
                    (Caller("a", max_concurrency=4), None),
                    (Caller("b", requests_per_minute=4), None),
                    (Caller("c", tokens_per_minute=40), 10),
                ):
                    asks = [one.enters(caller, tokens) for _ in range(4)]
                    assert sum(await asyncio.gather(*asks)) == 2, caller
            finally:
                server.send_signal(signal.SIGCONT)


async def test_a_store_that_hangs_holds_nobody_up_for_long() -> None:
    caller = Caller("a", requests_per_minute=100)
    with redis_server() as port:
        async with parties(port, "one") as (one,):
            server = server_at(port)
            server.send_signal(signal.SIGSTOP)
            try:
                began = time.monotonic()
                assert all(await asyncio.gather(*(one.enters(caller) for _ in range(20))))
                assert time.monotonic() - began < joint.PATIENCE + 0.5
                assert await one.enters(caller)
            finally:
                server.send_signal(signal.SIGCONT)
            await until(one._here, 5.0, "the session to begin again")
            lease = await one.enter(caller)
            assert lease.used.requests.total >= 1

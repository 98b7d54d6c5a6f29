"""Where conversations go: to the engine that has their beginning, whichever worker is asked."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.contract.test_workers import CHAT, Crew, held, of_two, on_each, on_worker, struck
from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.fakes.peer import Exchange
from tests.harness import JSON, Gateway
from tests.rawclient import RawClient

EVENTS = talk.chat_events("m", usage={**talk.USAGE, "prompt_tokens": 1500})


def config_of(*engines: FakeEngine, **routing: Any) -> dict[str, Any]:
    backends = [
        {"name": f"b{n}", "url": engine.url, "runtime": engine.runtime}
        for n, engine in enumerate(engines)
    ]
    return {"backends": backends, "routing": routing} if routing else {"backends": backends}


def turns(who: str, count: int) -> bytes:
    """A conversation of ``count`` turns, the first one long: what is cached must outweigh what a
    loaded machine makes two fakes differ in speed."""
    said = [
        {
            "role": ("user", "assistant")[turn % 2],
            "content": f"{who} {turn} " * (10 if turn else 6000),
        }
        for turn in range(count)
    ]
    return talk.dumps({"model": "m", "stream": True, "messages": said})


def busy_for(seconds: float) -> steps.Step:
    """An engine that takes its time before its first token, so that what two fakes differ by on a
    loaded machine is little beside it."""

    async def step(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await steps.stream(EVENTS)(exchange)

    return step


async def backend_of(client: RawClient, body: bytes) -> str:
    """Asks, reads all and says who answered."""
    reply = await client.call("POST", CHAT, [JSON], body)
    assert (reply.status, reply.whole) == (200, True), reply
    return reply.header("X-Portico-Backend") or ""


async def test_a_conversation_stays_where_its_beginning_is_and_another_goes_elsewhere() -> None:
    gate = asyncio.Event()
    async with (
        FakeEngine() as one,
        FakeEngine() as other,
        Gateway(config_of(one, other)) as gw,
        gw.client() as ann,
        gw.client() as bob,
    ):
        one.always = other.always = held(gate)
        await ann.ask("POST", CHAT, [JSON], turns("ann", 1))
        reply = await ann.read_head()
        at_ann = reply.header("X-Portico-Backend")
        await bob.ask("POST", CHAT, [JSON], turns("bob", 1))
        second = await bob.read_head()
        at_bob = second.header("X-Portico-Backend")
        assert {at_ann, at_bob} == {"b0", "b1"}
        gate.set()
        await ann.read_body(reply)
        await bob.read_body(second)
        one.always = other.always = steps.stream(EVENTS)
        for count in range(3, 12, 2):
            assert await backend_of(ann, turns("ann", count)) == at_ann
            assert await backend_of(bob, turns("bob", count)) == at_bob


async def test_workers_share_what_they_know_of_engines() -> None:
    async with FakeEngine() as one, FakeEngine() as other, of_two(config_of(one, other)) as gw:
        one.always = other.always = busy_for(0.03)
        async with on_each(gw, Crew.of(gw)) as (left, right):
            for who in ("ann", "bob", "cleo", "dan"):
                home = await backend_of(left, turns(who, 1))
                for count in range(3, 8, 2):
                    assert await backend_of(right, turns(who, count)) == home
                    assert await backend_of(left, turns(who, count)) == home


async def test_a_worker_that_takes_the_place_of_another_knows_what_that_one_knew() -> None:
    async with FakeEngine() as one, FakeEngine() as other, of_two(config_of(one, other)) as gw:
        one.always = other.always = busy_for(0.03)
        crew = Crew.of(gw)
        homes = {}
        async with on_worker(gw, crew, crew.workers[0]) as client:
            for number in range(6):
                homes[number] = await backend_of(client, turns(str(number), 1))
        crew = await struck(gw, crew, crew.workers[0])
        async with on_worker(gw, crew, crew.workers[0]) as client:
            for number, home in homes.items():
                assert await backend_of(client, turns(str(number), 3)) == home


async def test_an_engine_that_fails_before_it_answers_is_not_believed_to_hold_the_prompt() -> None:
    async with (
        FakeEngine() as one,
        FakeEngine() as other,
        Gateway(config_of(one, other)) as gw,
        gw.client() as client,
    ):
        fine = steps.stream(EVENTS)
        one.always = steps.reply(500, {"error": {"message": "out of memory"}})
        other.always = fine
        for _ in range(4):
            assert await backend_of(client, turns("ann", 1)) == "b1"
        one.always = fine
        assert await backend_of(client, turns("ann", 3)) == "b1"


async def test_a_mix_is_taken_from_the_configuration() -> None:
    async with (
        FakeEngine() as one,
        FakeEngine() as other,
        Gateway(config_of(one, other, policy={"auto": 0.2, "session": 0.8})) as gw,
        gw.client() as client,
    ):
        one.always = other.always = steps.stream(EVENTS)
        for session in ("s1", "s2", "s3", "s4"):
            said = talk.dumps(
                {
                    "model": "m",
                    "stream": True,
                    "user": session,
                    "messages": [{"role": "user", "content": "Hi"}],
                }
            )
            homes = {await backend_of(client, said) for _ in range(5)}
            assert len(homes) == 1

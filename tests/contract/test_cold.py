"""Models that an engine has to load first: the gateway owns the load (cold start)."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from tests.fakes import steps
from tests.fakes.engine import FakeEngine
from tests.fakes.peer import Recorded
from tests.fakes.steps import Step
from tests.harness import Gateway, until

NOTHING = steps.reply(200, {"models": []})


class ColdEngine(FakeEngine):
    """An Ollama that has nothing in memory. ``ready`` set: the load is over; ``loads`` counts the
    orders to load; ``answer`` is what they get then."""

    def __init__(self, models: list[str] | None = None) -> None:
        super().__init__("ollama", models or ["m"])
        self.ready = asyncio.Event()
        self.loads = 0
        self.answer = steps.reply(200, {"model": "m", "response": "", "done_reason": "load"})
        self.always = self._pick
        self.also = {"/api/ps": NOTHING}

    def _pick(self, request: Recorded) -> Step | None:
        if request.path != "/api/generate":
            return None
        self.loads += 1
        return steps.after(self.ready, self.answer)

    @property
    def chats(self) -> int:
        return sum(request.path != "/api/generate" for request in self.requests)


def config_of(*engines: FakeEngine, **more: Any) -> dict[str, Any]:
    backends = [{"name": f"b{n}", "url": engine.url} for n, engine in enumerate(engines)]
    return {"backends": backends, **more}


async def began(engine: ColdEngine) -> None:
    async def there() -> bool:
        return engine.loads > 0

    await until(there, 5.0, "the load to begin")


@pytest.mark.parametrize("workers", [1, 2])
async def test_one_load_serves_all_who_wait_and_outlives_those_who_leave(workers: int) -> None:
    async with (
        ColdEngine() as engine,
        Gateway(config_of(engine, server={"workers": workers})) as gw,
    ):
        asked = [asyncio.ensure_future(gw.chat("m")) for _ in range(6)]
        await began(engine)
        leaver = asyncio.ensure_future(gw.chat("m"))
        await asyncio.sleep(0.2)
        leaver.cancel()
        assert (engine.loads, engine.chats) == (1, 0)
        engine.ready.set()
        assert [reply.status for reply in await asyncio.gather(*asked)] == [200] * 6
        assert engine.loads == 1


async def test_who_would_wait_for_too_long_is_told_when_to_come_back() -> None:
    routing = {"load_wait": "300ms"}
    async with ColdEngine() as engine, Gateway(config_of(engine, routing=routing)) as gw:
        reply = await gw.chat("m")
        assert (reply.status, reply.kind) == (503, "overloaded")
        assert 20 <= int(reply.header("Retry-After") or 0) <= 30, "nothing was learned yet"
        assert engine.loads == 1
        assert engine.chats == 0
        engine.ready.set()

        async def served() -> bool:
            return (await gw.chat("m")).status == 200

        await until(served, 5.0, "the load to end without anybody waiting", pause=0.1)


async def test_a_load_that_is_known_to_take_too_long_is_refused_at_once() -> None:
    routing = {"load_wait": "1s"}
    async with ColdEngine(["m", "n"]) as engine, Gateway(config_of(engine, routing=routing)) as gw:
        assert (await gw.chat("m")).status == 503
        await asyncio.sleep(1.2)
        engine.ready.set()

        async def served() -> bool:
            return (await gw.chat("m")).status == 200

        await until(served, 5.0, "the load to end")
        engine.ready.clear()
        loop = asyncio.get_running_loop()
        before = loop.time()
        reply = await gw.chat("n")
        assert (reply.status, loop.time() - before < 0.5) == (503, True)
        assert 1 <= int(reply.header("Retry-After") or 0) <= 4


async def test_an_engine_that_has_the_model_is_preferred() -> None:
    async with (
        ColdEngine() as cold,
        FakeEngine("ollama", ["m"]) as warm,
        Gateway(config_of(cold, warm)) as gw,
    ):
        for _ in range(6):
            assert (await gw.chat("m")).header("X-Portico-Backend") == "b1"
        assert cold.loads == 0


async def test_a_load_that_fails_is_left_to_the_request_itself() -> None:
    async with ColdEngine() as engine, Gateway(config_of(engine)) as gw:
        engine.answer = steps.reply(400, {"error": "m does not support generate"})
        engine.ready.set()
        assert (await gw.chat("m")).status == 200
        assert (await gw.chat("m")).status == 200
        assert engine.loads == 1


async def test_looking_at_a_model_loads_nothing() -> None:
    async with ColdEngine() as engine, Gateway(config_of(engine)) as gw:
        await gw.post("/api/show", {"model": "m"})
        assert engine.loads == 0


async def test_who_waits_for_a_load_is_told_when_the_gateway_drains() -> None:
    async with ColdEngine() as engine, Gateway(config_of(engine)) as gw:
        asked = asyncio.ensure_future(gw.chat("m"))
        await began(engine)
        gw.signal(signal.SIGTERM)
        reply = await asyncio.wait_for(asked, 3.0)
        assert (reply.status, reply.kind) == (503, "draining")

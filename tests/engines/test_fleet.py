"""Several real engines under one name, and each under its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.engines import engines
from tests.engines.asks import HELLO, chat
from tests.engines.conftest import CHAT, KEY, Road, behind
from tests.engines.engines import Engine
from tests.harness import Gateway


async def served_by(client: AsyncOpenAI, model: str, **fields: Any) -> tuple[str, str]:
    """Which backend answered, and the id it was asked for."""
    raw = await client.chat.completions.with_raw_response.create(**chat(model, **fields))
    assert raw.parse().choices[0].message.content == HELLO
    return raw.headers["X-Portico-Backend"], raw.headers["X-Portico-Model"]


@pytest.mark.parametrize("form", ["{name}:{name}", "{runtime}:{name}", "{name}"])
async def test_an_engine_can_be_addressed(asdk: AsyncOpenAI, engine: Engine, form: str) -> None:
    model = form.format(name=engine.name, runtime=engine.kind.runtime)
    assert await served_by(asdk, model) == (engine.name, engine.model)


async def test_a_header_pins_the_engine(asdk: AsyncOpenAI, engine: Engine) -> None:
    pin = {"X-Portico-Backend": engine.name}
    assert await served_by(asdk, "anywhere", extra_headers=pin) == (engine.name, engine.model)


async def test_each_runtime_was_recognised(gw: Gateway, fleet: dict[str, Engine]) -> None:
    for name, engine in fleet.items():
        found = await gw.metric("portico_backend_info", backend=name, runtime=engine.kind.runtime)
        assert found == 1, name


@pytest_asyncio.fixture(loop_scope="session")
async def twins() -> AsyncIterator[tuple[Gateway, list[Engine]]]:
    """Two engines of one kind, weighted 1 to 3 under one name, and a gateway of their own."""
    both = [engines.llama("one"), engines.llama("two")]
    targets = [{"backend": "one", "weight": 1}, {"backend": "two", "weight": 3}]
    try:
        for twin in both:
            twin.launch()
        for twin in both:
            twin.settle()
        async with behind(both, models=[{"name": "both", "targets": targets}]) as gateway:
            yield gateway, both
    finally:
        for twin in both:
            twin.kill()


async def test_weights_share_the_work_and_a_dead_twin_is_not_missed(
    twins: tuple[Gateway, list[Engine]],
) -> None:
    gateway, (_, two) = twins
    async with Road(gateway.url, KEY).concurrent() as client:
        shares = Counter([(await served_by(client, "both"))[0] for _ in range(40)])
        assert 4 <= shares["one"] <= 16, shares
        two.kill()
        survivors = {(await served_by(client, "both"))[0] for _ in range(20)}
    assert survivors == {"one"}, "every request was answered, by the one that is left"


async def test_auto_finds_an_engine_that_can(twins: tuple[Gateway, list[Engine]]) -> None:
    gateway, both = twins
    async with Road(gateway.url, KEY).concurrent() as client:
        name, model = await served_by(client, "auto")
    assert name == model
    assert name in {twin.name for twin in both}


async def test_the_public_name_reaches_every_chat_engine(asdk: AsyncOpenAI) -> None:
    shares = Counter([(await served_by(asdk, "anywhere"))[0] for _ in range(24)])
    assert set(shares) == set(CHAT)

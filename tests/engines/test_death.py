"""An engine that is killed in the middle of an answer, while it is away, and when it is back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from gateway.demo import MODEL
from tests.engines import engines
from tests.engines.asks import HELLO, chat, says
from tests.engines.conftest import KEY, behind
from tests.engines.engines import Engine
from tests.engines.test_cancel import for_sdk, running
from tests.harness import JSON, Gateway, until
from tests.rawclient import RawClient

NOTICE = 15.0
"""Seconds in which the gateway must see an engine go or come (INTERFACE 7)."""


async def revive(gateway: Gateway, engine: Engine) -> None:
    """Start a killed engine again; fails unless the gateway sees it in time."""

    async def seen() -> bool:
        return await gateway.metric("portico_backend_up", backend=engine.name) == 1

    engine.kill()
    engine.launch()
    await asyncio.to_thread(engine.settle)
    await until(seen, NOTICE, f"{engine.name} to be seen again")


@pytest_asyncio.fixture(loop_scope="session")
async def mortal(gw: Gateway, engine: Engine) -> AsyncIterator[Engine]:
    """An engine that a test kills; it lives again afterwards."""
    yield engine
    if not engine.healthy():
        await revive(gw, engine)


@pytest.mark.parametrize("part", ["all", "core"])
async def test_killed_in_mid_stream_missed_while_away_and_served_when_back(
    gw: Gateway, asdk: AsyncOpenAI, mortal: Engine, part: str
) -> None:
    stream = await asdk.chat.completions.create(**for_sdk(mortal, stream=True))
    chunks = 0
    with pytest.raises(openai.APIError):
        async for _ in stream:
            chunks += 1
            if chunks == 5:
                mortal.kill() if part == "all" else mortal.kill_core()
    assert chunks >= 5

    with pytest.raises(openai.InternalServerError) as caught:
        await asdk.chat.completions.create(**chat(mortal.model))
    if part == "all":
        assert caught.value.status_code in {502, 503}, "away, not unknown"
        assert caught.value.type in {"backend_unreachable", "overloaded"}

    await revive(gw, mortal)
    answer = await asdk.chat.completions.create(**chat(mortal.model))
    assert answer.choices[0].message.content == HELLO


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def talker() -> AsyncIterator[tuple[Gateway, Engine]]:
    """An engine whose answers never end in any dialect, and a gateway of its own."""
    engine = engines.llama("talker", MODEL, "--endless")
    engine.launch()
    engine.settle()
    async with behind([engine]) as gateway:
        yield gateway, engine
    engine.kill()


STREAMS: dict[str, tuple[dict[str, Any], bytes]] = {
    "/v1/chat/completions": ({"messages": says("Hello")}, b'data: {"error"'),
    "/v1/completions": ({"prompt": "Hello"}, b'data: {"error"'),
    "/v1/messages": ({"messages": says("Hello"), "max_tokens": 200_000}, b"event: error"),
    "/v1/responses": ({"input": "Hello"}, b"event: error"),
}


@pytest.mark.parametrize("path", STREAMS)
async def test_a_cut_stream_cannot_be_taken_for_a_whole_one(
    talker: tuple[Gateway, Engine], path: str
) -> None:
    gateway, engine = talker
    doc, mark = STREAMS[path]
    body = json.dumps({**doc, "model": engine.model, "stream": True}).encode()
    headers = [JSON, ("Authorization", f"Bearer {KEY}")]
    async with RawClient(gateway.url) as client:
        await client.ask("POST", path, headers, body)
        head = await client.read_head(10)
        await client.read_chunk(10)
        engine.kill()
        reply = await client.read_body(head, 10)
    await revive(gateway, engine)
    end = reply.body[-2000:]
    assert end.count(mark) == 1
    assert not reply.whole
    for finish in (b"[DONE]", b"message_stop", b"response.completed"):
        assert finish not in end


async def test_a_whole_answer_cut_short_is_a_502(asdk: AsyncOpenAI, mortal: Engine) -> None:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_refusal(asdk, mortal))
        await running(mortal, 1)
        mortal.kill()
    assert task.result() == 502


async def _refusal(client: AsyncOpenAI, engine: Engine) -> int:
    """The status with which a long request is refused once its engine is dead. On a busy machine
    one may be over before the engine is seen to work on it and is killed: then comes the next. An
    engine that has died before may be on trial yet, one request at a time."""
    while True:
        try:
            await client.chat.completions.create(**for_sdk(engine))
        except openai.APIStatusError as error:
            if error.status_code != 503 or not engine.healthy():
                return error.status_code
            await asyncio.sleep(0.2)

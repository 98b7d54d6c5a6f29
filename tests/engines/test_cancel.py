"""A caller who leaves stops the engine: seen in the engine's own gauges."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from openai import AsyncOpenAI, OpenAI

from tests.engines.asks import chat, says
from tests.engines.conftest import KEY
from tests.engines.engines import Engine
from tests.harness import JSON, Gateway, until
from tests.rawclient import RawClient

QUIET = 2.5
"""Seconds. llama.cpp looks whether the caller of a whole answer is still there only when nothing at
all happened in it for a second, so asking for its metrics meanwhile would keep it going."""


def endless(engine: Engine, **fields: Any) -> dict[str, Any]:
    """A body whose answer takes half a minute or more."""
    return {
        "model": engine.model,
        "messages": says("Tell me a story"),
        **engine.kind.endless,
        **fields,
    }


def for_sdk(engine: Engine, **fields: Any) -> dict[str, Any]:
    """The same for the SDK, which knows no ``ignore_eos``."""
    body = endless(engine, **fields)
    return {"extra_body": {"ignore_eos": body.pop("ignore_eos")}, **body}


async def idle(engine: Engine, timeout: float = 2.0) -> None:
    """Returns when the engine does nothing at all; fails when that takes longer."""

    async def nothing() -> bool:
        return await asyncio.to_thread(engine.load) == (0, 0)

    await until(nothing, timeout, f"{engine.name} to stop", pause=0.2)


async def running(engine: Engine, count: int) -> None:
    """Returns when the engine runs exactly ``count`` requests."""

    async def so_many() -> bool:
        return (await asyncio.to_thread(engine.load))[0] == count

    await until(so_many, 5.0, f"{engine.name} to run {count}", pause=0.1)


async def test_closing_a_stream_stops_the_engine(
    gw: Gateway, asdk: AsyncOpenAI, engine: Engine
) -> None:
    left = "portico_client_disconnects_total"
    before = await gw.metric(left, surface="chat-completions")
    stream = await asdk.chat.completions.create(**for_sdk(engine, stream=True))
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    await running(engine, 1)
    await stream.close()
    await idle(engine)
    await gw.rises(left, before, surface="chat-completions")


async def test_leaving_the_streaming_helper_stops_the_engine(sdk: OpenAI, engine: Engine) -> None:
    body = for_sdk(engine)
    with sdk.chat.completions.stream(**body) as stream:
        for event in stream:
            if event.type == "content.delta":
                break
    await idle(engine)


async def test_cancelling_the_task_that_reads_stops_the_engine(
    asdk: AsyncOpenAI, engine: Engine
) -> None:
    async def read() -> None:
        async for _ in await asdk.chat.completions.create(**for_sdk(engine, stream=True)):
            pass

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(read())
        await running(engine, 1)
        task.cancel()
    await idle(engine)


async def test_giving_up_a_whole_answer_stops_the_engine(asdk: AsyncOpenAI, engine: Engine) -> None:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(asdk.chat.completions.create(**for_sdk(engine)))
        await running(engine, 1)
        task.cancel()
    await asyncio.sleep(QUIET)
    assert await asyncio.to_thread(engine.load) == (0, 0)


@asynccontextmanager
async def streaming(gw: Gateway, engine: Engine) -> AsyncIterator[RawClient]:
    """An endless stream that somebody reads; closed on leaving."""
    async with RawClient(gw.url) as client:
        await _ask(client, engine)
        await client.read_until(b"data:", 10)
        yield client


async def _ask(client: RawClient, engine: Engine) -> None:
    body = json.dumps(endless(engine, stream=True)).encode()
    headers = [JSON, ("Authorization", f"Bearer {KEY}")]
    await client.ask("POST", "/v1/chat/completions", headers, body)


async def _drain(client: RawClient) -> None:
    """Read and forget, so that nothing but the engine sets the pace."""
    while await client.read_some(30):
        client.buffer.clear()


async def test_a_request_given_up_before_its_first_byte_is_never_run(
    gw: Gateway, engine: Engine
) -> None:
    async with AsyncExitStack() as held, asyncio.TaskGroup() as tasks:
        readers = []
        for _ in range(engine.slots):
            client = await held.enter_async_context(streaming(gw, engine))
            readers.append(tasks.create_task(_drain(client)))
        await running(engine, engine.slots)
        async with RawClient(gw.url) as late:
            await _ask(late, engine)

            async def queued() -> bool:
                return (await asyncio.to_thread(engine.load))[1] == 1

            await until(queued, 5.0, "the late request to wait in the engine", pause=0.1)
        await asyncio.sleep(1.0)
        for reader in readers:
            reader.cancel()
    await idle(engine)


async def test_an_ordinary_answer_follows_all_that(sdk: OpenAI, engine: Engine) -> None:
    assert sdk.chat.completions.create(**chat(engine.model)).choices[0].finish_reason == "stop"

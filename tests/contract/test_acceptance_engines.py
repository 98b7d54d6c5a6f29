"""Engines that change, stop or fail oddly, seen through a running gateway (INTERFACE 4 and 7)."""

from __future__ import annotations

import os
import signal
import sys
import time
from asyncio.subprocess import create_subprocess_exec
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.harness import JSON, ROOT, Farm, Gateway, chat_json, free_port, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

FULL = b'{"message":"no room","code":503}'
SHAPES = {
    "spaces": b'data: { "error" : ' + FULL + b"}\n\n",
    "byte order mark": b'\xef\xbb\xbfdata: {"error":' + FULL + b"}\n\n",
    "comment in front": b': \n\ndata: {"error":' + FULL + b"}\n\n",
    "id line": b'id: 1\ndata: {"error":' + FULL + b"}\n\n",
    "code first": b'data: {"code":503,"message":"no room","error":"Busy"}\n\n',
    "named event": b"event: error\ndata: " + FULL + b"\n\n",
    "two data lines": b'data: {"error":\ndata: ' + FULL + b"}\n\n",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(2) as farm:
        yield farm


@pytest.mark.parametrize("size", [1, 20, 999])
@pytest.mark.parametrize("shape", SHAPES)
async def test_an_overload_told_in_the_first_event_is_503_in_every_shape_and_split(
    farm: Farm, shape: str, size: int
) -> None:
    if shape == "comment in front" and size < 999:
        size = 999  # a comment that comes alone is passed on at once: nothing can be taken back
    engine = farm.engines[0]
    engine.reset()
    engine.always = steps.stream([SHAPES[shape], talk.DONE], cut=steps.every(size))
    reply = await farm.gw.chat("m0", stream=True)
    assert (reply.status, reply.kind) == (503, "overloaded")
    assert reply.header("Retry-After")


@pytest.mark.parametrize(
    ("name", "status"),
    [("overloaded_error", 503), ("rate_limit_error", 503), ("invalid_request_error", 400)],
)
async def test_an_error_event_of_messages_gets_the_status_that_its_name_stands_for(
    farm: Farm, name: str, status: int
) -> None:
    engine = farm.engines[1]
    engine.reset()
    event = talk.named({"type": "error", "error": {"type": name, "message": "m"}})
    engine.always = steps.stream([event])
    body = {"model": "m1", "messages": [], "max_tokens": 1, "stream": True}
    reply = await farm.gw.post("/v1/messages", body)
    assert reply.status == status
    assert reply.doc["type"] == "error"


@pytest.mark.parametrize("new", ["vllm", "localai"])
async def test_llama_server_swapped_for_another_engine_is_noticed_within_15_s(new: str) -> None:
    """Its marks also stand on answers that are remembered for a minute: those prove nothing."""
    async with (
        FakeEngine("llamacpp", ["old"]) as engine,
        Gateway({"backends": [{"name": "b", "url": engine.url}]}) as gateway,
    ):
        await engine.become(new, ["new"])

        async def swapped() -> bool:
            return await gateway.metric("portico_backend_up", backend="b", runtime=new) == 1

        await until(swapped, 15.0, "the swap to be noticed")
        assert (await gateway.chat("new")).status == 200
        assert (await gateway.chat("old")).status == 404


ENGINE = """
import asyncio, sys
from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine

async def main():
    engine = FakeEngine("vllm", ["m"], port=int(sys.argv[1]))
    engine.always = steps.stream(talk.chat_events("m", ["w"] * 999), gap=0.1)
    await engine.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_an_engine_stopped_at_work_is_down_within_15_s_and_comes_back() -> None:
    """As after SIGSTOP or a frozen host: the kernel still takes connections."""
    port = free_port()
    process = await create_subprocess_exec(sys.executable, "-c", ENGINE, str(port), cwd=ROOT)
    try:
        async with (
            Gateway({"backends": [{"name": "b", "url": f"http://127.0.0.1:{port}"}]}) as gateway,
            gateway.client() as client,
        ):
            await client.ask("POST", "/v1/chat/completions", [JSON], chat_json("m", stream=True))
            await client.read_head()
            await client.read_chunk()
            os.kill(process.pid, signal.SIGSTOP)
            stopped = time.monotonic()

            async def up() -> float:
                return await gateway.metric("portico_backend_up", backend="b")

            async def down() -> bool:
                return await up() == 0

            await until(down, 20.0, "the engine to be down")
            assert time.monotonic() - stopped <= 15.5
            assert (await gateway.chat("m")).status == 503
            os.kill(process.pid, signal.SIGCONT)
            await until(up, 15.0, "the engine to be up again")
    finally:
        process.kill()
        await process.wait()

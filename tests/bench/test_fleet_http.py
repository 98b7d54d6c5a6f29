"""Engines behind ports, and clients: what is sent, what is said, what a fault does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

import backends.vllm
from bench.fleet.cells import Load
from bench.fleet.engines import Fleet, Setting
from bench.fleet.model import Prompt
from bench.fleet.replay import Door, Events, Replay
from bench.fleet.server import MODEL, Mode
from bench.fleet.summary import End
from bench.fleet.text import Writing
from bench.fleet.workload import Session, Turn
from bench.processes import free_port
from gateway.core.runtime import Answer

WRITING = Writing(512, 2048)
QUICKLY = 0.002
"""Wall seconds for an engine second: the engines take no time to speak of."""


@asynccontextmanager
async def fleet(count: int = 1, scale: float = QUICKLY) -> AsyncIterator[Setting]:
    setting = Setting(
        count=count,
        port=free_port(count),
        control=free_port(),
        scale=scale,
        block=512,
        width=2048,
        kv_tokens=100_000,
        host_tokens=0,
        flush=60.0,
        seconds=60.0,
    )
    made = Fleet(setting)
    await made.open()
    try:
        yield setting
    finally:
        await made.close()


def session(*keys: int, start: float = 0.0, answer: int = 20) -> Session:
    return Session(start, (Turn(0.0, Prompt(keys, 512 * len(keys), answer)),))


async def replayed(setting: Setting, *sessions: Session, patience: float = 3000.0) -> Replay:
    door = Door(f"http://127.0.0.1:{setting.port}", {}, f"http://127.0.0.1:{setting.control}")
    replay = Replay(door, Load(sessions, 0.0, 100.0), WRITING, setting.scale, patience=patience)
    await replay.run(())
    return replay


async def order(setting: Setting, mode: Mode) -> None:
    url = f"http://127.0.0.1:{setting.control}/mode"
    body = orjson.dumps({"engine": 0, "mode": mode})
    async with aiohttp.request("POST", url, data=body) as answer:
        assert answer.status == 200


async def test_a_repeated_prompt_is_told_as_cached() -> None:
    async with fleet() as setting:
        replay = await replayed(setting, session(1, 2, 3), session(1, 2, 9, start=50.0))
    first, second = replay.results
    assert (first.end, first.cached, second.cached) == (End.WHOLE, 0, 1024)
    assert first.first is not None and first.ended is not None
    assert first.sent < first.first <= first.ended
    assert replay.engines[0]["finished"] == 2


async def test_a_session_goes_on_from_the_answer_it_was_given() -> None:
    first = Prompt((1, 2), 1024, 512, (3,))
    second = Prompt((1, 2, 3, 4), 2048, 20)
    async with fleet() as setting:
        replay = await replayed(setting, Session(0.0, (Turn(0.0, first), Turn(1.0, second))))
    assert [result.cached for result in replay.results] == [0, 1536]


async def test_an_engine_that_fails_loses_requests_before_their_answer() -> None:
    async with fleet() as setting:
        await order(setting, Mode.FAIL)
        replay = await replayed(setting, *(session(n) for n in range(40)))
    ends = [result.end for result in replay.results]
    assert set(ends) == {End.WHOLE, End.LOST}
    assert ends.count(End.LOST) == replay.engines[0]["failed"]
    assert "HTTP 500" in next(result.why for result in replay.results if result.why)


@pytest.mark.parametrize("mode", [Mode.HANG, Mode.WEDGE])
async def test_an_engine_that_hangs_accepts_and_never_answers(mode: Mode) -> None:
    async with fleet() as setting:
        await order(setting, mode)
        replay = await replayed(setting, session(1), patience=100.0)
    assert [result.end for result in replay.results] == [End.LOST]
    assert "Timeout" in replay.results[0].why


async def health(setting: Setting) -> int:
    limit = aiohttp.ClientTimeout(total=0.3)
    url = f"http://127.0.0.1:{setting.port}/health"
    async with aiohttp.request("GET", url, timeout=limit) as answer:
        return answer.status


async def test_only_a_wedged_engine_still_says_that_it_is_well() -> None:
    async with fleet() as setting:
        await order(setting, Mode.WEDGE)
        assert await health(setting) == 200
        await order(setting, Mode.HANG)
        with pytest.raises(TimeoutError):
            await health(setting)


async def test_a_crashed_engine_refuses_connections_and_comes_back_cold() -> None:
    async with fleet() as setting:
        await replayed(setting, session(1, 2))
        await order(setting, Mode.CRASH)
        refused = await replayed(setting, session(1, 2))
        await order(setting, Mode.OK)
        again = await replayed(setting, session(1, 2))
    assert refused.results[0].end is End.LOST
    assert (again.results[0].end, again.results[0].cached) == (End.WHOLE, 0)


async def test_a_client_that_leaves_frees_the_engine() -> None:
    async with fleet(scale=1.0) as setting:
        url = f"http://127.0.0.1:{setting.port}/v1/chat/completions"
        message = {"role": "user", "content": "x" * 4000}
        body = {"model": MODEL, "messages": [message], "max_tokens": 100_000, "stream": True}
        async with aiohttp.ClientSession() as http:
            async with http.post(url, json=body) as answer:
                await answer.content.readany()
            counted = await stats(http, setting)
            while counted["running"]:
                await asyncio.sleep(0.01)
                counted = await stats(http, setting)
    assert (counted["aborted"], counted["cancelled"], counted["finished"]) == (1, 1, 0)


async def stats(http: aiohttp.ClientSession, setting: Setting) -> dict[str, Any]:
    async with http.get(f"http://127.0.0.1:{setting.control}/stats") as answer:
        [found] = await answer.json()
    return dict(found)


async def test_a_whole_answer_has_its_text_and_usage() -> None:
    async with fleet() as setting:
        url = f"http://127.0.0.1:{setting.port}/v1/completions"
        body = orjson.dumps({"model": MODEL, "prompt": "x" * 400, "max_tokens": 10})
        async with aiohttp.request("POST", url, data=body) as answer:
            told = await answer.json()
    assert told["usage"]["prompt_tokens"] == 100
    assert told["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert len(told["choices"][0]["message"]["content"]) == 40


async def test_it_is_taken_for_vllm() -> None:
    evidence = {}
    async with fleet() as setting, aiohttp.ClientSession() as http:
        for path in ("/v1/models", "/version", "/metrics", "/health"):
            async with http.get(f"http://127.0.0.1:{setting.port}{path}") as answer:
                body = await answer.read()
                doc = orjson.loads(body) if body[:1] == b"{" else None
                evidence[path] = Answer(answer.status, body=body, doc=doc)
    row = backends.vllm
    assert row.fingerprint(evidence) and row.version(evidence) == "0.33.0"
    assert [model.id for model in row.models(evidence)] == [MODEL]
    load = row.load(evidence)
    assert (load.running, load.waiting, load.kv_used, load.progress) == (0, 0, 0, 0)


# --- what goes over the wire


def test_events_may_be_split_anywhere() -> None:
    stream = (
        b'data: {"choices":[{"delta":{"content":"ab"}}]}\n\n: wait\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens_details":{"cached_tokens":7}}}\n\n'
        b"data: [DONE]\n\n"
    )
    for cut in range(len(stream)):
        events = Events()
        events.feed(stream[:cut])
        events.feed(stream[cut:])
        assert ("".join(events.text), events.cached, events.done) == ("ab", 7, True)


def test_an_error_in_a_stream_is_told() -> None:
    events = Events()
    events.feed(b'data: {"error": {"message": "gone"}}\n\n')
    assert "gone" in events.error and not events.done

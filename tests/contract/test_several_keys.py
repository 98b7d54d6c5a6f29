"""Several keys of one cloud backend: in turn, at rest when they fail, and never seen by others."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.fakes.peer import Recorded
from tests.fakes.steps import Step
from tests.harness import Gateway, until
from tests.rawclient import Headers, Reply

KEYS = ("cloud-key-zero", "cloud-key-one", "cloud-key-two")
CALLERS = "a-callers-own-key-0123456789"
REFUSED = steps.reply(401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}})
LIMITED = steps.reply(429, {"error": {"message": "Slow down"}}, headers=[("Retry-After", "17")])
SOON = steps.reply(429, {"error": {"message": "Slow down"}}, headers=[("Retry-After", "1")])


def shown(request: Recorded) -> str:
    """The key that a request came with."""
    bearer = (request.header("authorization") or "").removeprefix("Bearer ")
    return bearer or request.header("x-api-key") or ""


@dataclass
class Cloud:
    """A gateway with a provider that has three keys; ``says`` is what it answers to some."""

    gw: Gateway
    engine: FakeEngine
    says: dict[str, Step] = field(default_factory=dict)

    def used(self) -> list[str]:
        return [shown(request) for request in self.engine.requests]

    def answer(self, request: Recorded) -> Step | None:
        return self.says.get(shown(request))


def config(engine: FakeEngine, *others: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    runtime = engine.runtime
    entry = {"name": "cloud", "url": engine.url, "runtime": runtime, "api_key": [*KEYS], **fields}
    return {"backends": [entry, *others]}


@pytest_asyncio.fixture(params=["openai", "anthropic"])
async def cloud(request: pytest.FixtureRequest) -> AsyncIterator[Cloud]:
    async with FakeEngine(request.param, ["m"]) as engine, Gateway(config(engine)) as gw:
        cloud = Cloud(gw, engine)
        engine.always = cloud.answer
        yield cloud


async def ask(cloud: Cloud, headers: Headers = (), model: str = "m", **fields: Any) -> Reply:
    """In the provider's own words."""
    if cloud.engine.runtime == "openai":
        return await cloud.gw.chat(model, headers, **fields)
    body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    return await cloud.gw.post("/v1/messages", {**body, **fields}, headers)


async def test_keys_take_turns_and_the_callers_own_stays_here(cloud: Cloud) -> None:
    for _ in range(6):
        reply = await ask(cloud, [("Authorization", f"Bearer {CALLERS}")])
        assert reply.status == 200
    assert Counter(cloud.used()) == dict.fromkeys(KEYS, 2)
    sent = str([request.headers for request in cloud.engine.requests])
    assert CALLERS not in sent


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_key_moves_on_to_the_next_within_the_request_and_rests(
    cloud: Cloud, stream: bool
) -> None:
    cloud.says[KEYS[1]] = REFUSED
    replies = [await ask(cloud, stream=stream) for _ in range(6)]
    assert [reply.status for reply in replies] == [200] * 6
    used = Counter(cloud.used())
    assert used[KEYS[1]] == 1, "it was asked once, then left in peace"
    assert sum(used.values()) == 7


async def test_a_key_over_its_limit_rests_for_as_long_as_the_provider_says(cloud: Cloud) -> None:
    cloud.says[KEYS[0]] = SOON
    assert [(await ask(cloud)).status for _ in range(4)] == [200] * 4
    assert cloud.used().count(KEYS[0]) == 1
    cloud.says.clear()

    async def back() -> bool:
        await ask(cloud)
        return cloud.used().count(KEYS[0]) > 1

    await until(back, 4.0, "the key to be used again", pause=0.2)


async def test_when_all_are_over_their_limits_the_providers_own_429_is_told_then_our_503(
    cloud: Cloud,
) -> None:
    cloud.says = dict.fromkeys(KEYS, LIMITED)
    first = await ask(cloud)
    assert (first.status, first.header("Retry-After")) == (429, "17")
    assert cloud.used() == [*KEYS]
    second = await ask(cloud)
    assert second.status == 503
    assert 15 <= int(second.header("Retry-After") or 0) <= 17
    assert "all its 3 keys are refused or over their limits" in second.error["message"]
    assert second.header("X-Portico-Backend") == "cloud"
    assert len(cloud.used()) == 3, "nobody was asked"


async def test_when_all_are_refused_the_caller_is_not_told_that_its_own_is_wrong(
    cloud: Cloud,
) -> None:
    cloud.says = dict.fromkeys(KEYS, REFUSED)
    reply = await ask(cloud)
    assert reply.status == 503
    assert "whoever runs this gateway" in reply.error["message"]
    for key in KEYS:
        assert key.encode() not in reply.body


async def test_what_means_the_request_is_told_as_it_came_and_no_key_rests(cloud: Cloud) -> None:
    cloud.says = dict.fromkeys(KEYS, steps.reply(400, {"error": {"message": "no such role"}}))
    assert [(await ask(cloud)).status for _ in range(4)] == [400] * 4
    assert len(cloud.used()) == 4


async def test_with_no_key_left_the_request_goes_to_another_backend_of_the_model() -> None:
    async with FakeEngine("openai", ["m"]) as engine, FakeEngine("vllm", ["m"]) as local:
        settings = config(engine, {"name": "local", "url": local.url})
        targets = [{"backend": "cloud"}, {"backend": "local", "weight": 0.001}]
        settings["models"] = [{"name": "chat", "targets": targets, "policy": "weighted"}]
        async with Gateway(settings) as gw:
            engine.always = REFUSED
            replies = [await gw.chat("chat") for _ in range(4)]
            assert {reply.status for reply in replies} == {200}
            assert replies[-1].header("X-Portico-Backend") == "local"
            assert 1 <= len(engine.requests) <= 3


async def test_a_backend_is_up_while_one_of_its_keys_is_taken(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n".join(KEYS))
    async with FakeEngine("openai", ["m"], api_key=KEYS[2]) as engine:
        settings = config(engine, api_key_file=str(tmp_path / "keys"))
        del settings["backends"][0]["api_key"]
        async with Gateway(settings) as gw:
            assert [(await gw.chat("m")).status for _ in range(4)] == [200] * 4
            assert {shown(request) for request in engine.requests} <= {*KEYS}
            output = gw.output()
    assert not any(key in output for key in KEYS)


async def through(engines: Sequence[FakeEngine]) -> dict[str, Any]:
    """The first engine is passed the caller's key, the others are not."""
    return {
        "backends": [
            {
                "name": f"b{n}",
                "url": engine.url,
                "runtime": engine.runtime,
                **({"api_key": "passthrough"} if n == 0 else {"api_key": KEYS[0]}),
            }
            for n, engine in enumerate(engines)
        ]
    }


@pytest.mark.parametrize("runtime", ["openai", "anthropic"])
async def test_a_passed_through_key_reaches_that_backend_alone_also_in_a_failover(
    runtime: str,
) -> None:
    async with FakeEngine(runtime, ["m"]) as passing, FakeEngine(runtime, ["m"]) as other:
        settings = await through([passing, other])
        settings["auth"] = {"keys": [{"name": "team", "key": CALLERS}]}
        targets = [{"backend": "b0"}, {"backend": "b1", "weight": 0.001}]
        settings["models"] = [{"name": "chat", "targets": targets, "policy": "weighted"}]
        async with Gateway(settings) as gw:
            passing.always = steps.reply(503, {"error": {"message": "busy"}})
            cloud = Cloud(gw, passing)
            for headers in ([("Authorization", f"Bearer {CALLERS}")], [("x-api-key", CALLERS)]):
                passing.requests.clear()
                other.requests.clear()
                reply = await ask(cloud, headers, model="chat")
                assert (reply.status, reply.header("X-Portico-Backend")) == (200, "b1")
                assert [shown(request) for request in passing.requests] == [CALLERS]
                assert [shown(request) for request in other.requests] == [KEYS[0]]
                assert CALLERS not in str([request.headers for request in other.requests])
            probes = str([p.headers for p in (*passing.probes, *other.probes)])
            assert CALLERS not in probes
            assert CALLERS not in gw.output()


async def test_a_translated_request_is_moved_on_as_well() -> None:
    async with FakeEngine("anthropic", ["m"]) as engine, Gateway(config(engine)) as gw:
        cloud = Cloud(gw, engine, {KEYS[0]: REFUSED})
        engine.always = cloud.answer
        reply = await gw.chat("m", max_tokens=5)
        assert reply.status == 200
        assert reply.json()["choices"][0]["message"]["content"] == "".join(talk.WORDS)
        assert cloud.used() == [*KEYS[:2]]

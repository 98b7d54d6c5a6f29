"""Surfaces that an engine has not got, served through one that it has (INTERFACE 3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.core.types import Op
from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.fakes.steps import Gate
from tests.harness import JSON, Farm, Gateway
from tests.rawclient import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI = [{"role": "user", "content": "Hi"}]

ASKS: dict[str, dict[str, Any]] = {
    "/v1/messages": {"messages": HI, "max_tokens": 9},
    "/v1/responses": {"input": "Hi"},
    "/api/chat": {"messages": HI},
    "/api/generate": {"prompt": "Hi"},
}
"""Surfaces that TGI has not got, with a request for each."""

ENDS = {
    "/v1/messages": b"message_stop",
    "/v1/responses": b"response.completed",
    "/api/chat": b'"done":true',
    "/api/generate": b'"done":true',
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    """TGI has chat completions and nothing else that talks."""
    async with Farm(80, "tgi", backend={"timeouts": {"idle": "600ms"}}) as farm:
        yield farm


def asks(path: str, model: str, *, stream: bool = True) -> dict[str, Any]:
    return {"model": model, "stream": stream, **ASKS[path]}


def told(path: str, reply: Reply) -> dict[str, Any]:
    """The error in a refusal or in the last event of a stream."""
    last = reply.body.strip().rpartition(b"data: ")[2].splitlines()[-1]
    error = json.loads(last)["error"]
    return {"message": error} if isinstance(error, str) else dict(error)


@pytest.mark.parametrize("path", ASKS)
async def test_each_event_leaves_before_the_engine_writes_the_next(farm: Farm, path: str) -> None:
    """Zero buffering without a clock: a translation that holds anything back stops here."""
    spot, gate = farm.solo(), Gate()
    words = ["one", "two", "drei", "чет"]
    spot.engine.script.append(steps.stream(talk.chat_events(spot.model, words), gate=gate))
    async with farm.gw.client() as client:
        await client.ask("POST", path, [JSON], talk.dumps(asks(path, spot.model)))
        gate.release()
        got = b""
        for number, word in enumerate(words):
            gate.release()
            if not number:
                await client.read_head()
            while word.encode() not in got:
                got += await client.read_chunk(3.0)
        gate.open()
        while chunk := await client.read_chunk(3.0):
            got += chunk
    assert ENDS[path] in got


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize("size", [1, 7])
async def test_a_stream_means_the_same_however_the_engine_splits_it(
    farm: Farm, path: str, size: int
) -> None:
    spot = farm.solo()
    events = talk.chat_events(spot.model, usage=talk.USAGE)
    spot.engine.script.append(steps.stream(events, cut=steps.every(size)))
    reply = await farm.gw.post(path, asks(path, spot.model))
    assert (reply.status, reply.whole) == (200, True)
    assert ENDS[path] in reply.body
    assert b"[DONE]" not in reply.body


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize("end", ["fin", "reset", "mid-chunk", "hang", "whole"])
async def test_a_cut_is_told_in_the_clients_dialect(farm: Farm, path: str, end: str) -> None:
    spot = farm.solo()
    sent = talk.chat_events(spot.model, done=False)[:4]
    spot.engine.script.append(steps.stream(sent, end=end))
    reply = await farm.gw.post(path, asks(path, spot.model))
    assert reply.status == 200
    assert not reply.whole, "the connection must not end as if the stream were whole"
    assert b"wor" in reply.body, "what had come was told"
    assert ENDS[path] not in reply.body
    assert "not the whole answer" in told(path, reply)["message"]
    if path == "/v1/messages":
        assert reply.body.rpartition(b"event: ")[2].startswith(b"error\n")


@pytest.mark.parametrize("path", ASKS)
async def test_an_error_within_a_stream_is_told_and_cuts_it(farm: Farm, path: str) -> None:
    spot = farm.solo()
    sent = talk.chat_events(spot.model)[:3]
    spot.engine.script.append(
        steps.stream([*sent, talk.VLLM_ERROR, talk.DONE], cut=steps.groups(9))
    )
    reply = await farm.gw.post(path, asks(path, spot.model))
    assert not reply.whole
    assert b"Hello" in reply.body
    assert "EngineCore encountered an issue" in told(path, reply)["message"]
    assert ENDS[path] not in reply.body


@pytest.mark.parametrize("path", ASKS)
async def test_an_overload_as_the_first_event_is_503_in_the_clients_envelope(
    farm: Farm, path: str
) -> None:
    spot = farm.solo()
    spot.engine.always = steps.stream([talk.TGI_FULL, talk.DONE])
    reply = await farm.gw.post(path, asks(path, spot.model))
    assert reply.status == 503
    assert reply.header("retry-after")
    assert "overloaded" in told(path, reply)["message"]


@pytest.mark.parametrize("path", ASKS)
async def test_a_fault_of_the_request_as_the_first_event_is_the_engines_own_words(
    farm: Farm, path: str
) -> None:
    spot = farm.solo()
    spot.engine.always = steps.stream([talk.TGI_INVALID, talk.DONE])
    reply = await farm.gw.post(path, asks(path, spot.model))
    assert reply.status == 422
    assert "too long" in told(path, reply)["message"]


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize("status", [400, 500])
async def test_an_engines_error_is_worded_for_the_client(
    farm: Farm, path: str, status: int
) -> None:
    spot = farm.solo()
    said = {"error": "Input validation error: nonsense", "error_type": "validation"}
    spot.engine.always = steps.reply(status, said, [("X-Engine", "tgi")])
    reply = await farm.gw.post(path, asks(path, spot.model))
    assert reply.status == status
    assert told(path, reply)["message"] == "Input validation error: nonsense"
    assert reply.header("x-portico-backend") == spot.name
    assert (reply.header("content-type") or "").startswith("application/json")
    if path == "/v1/messages":
        assert reply.doc["type"] == "error"
        assert reply.error["type"] in {"invalid_request_error", "api_error"}


@pytest.mark.parametrize("stream", [True, False])
async def test_another_backend_answers_when_the_first_is_out_of_order(
    farm: Farm, stream: bool
) -> None:
    pair = farm.pair()
    left = [steps.reply(503, {"error": "Model is overloaded", "error_type": "overloaded"})]
    for spot in (pair.first, pair.second):
        spot.engine.always = lambda request: left.pop() if left else None
    path = "/v1/messages"
    reply = await farm.gw.post(path, asks(path, pair.model, stream=stream))
    assert (reply.status, reply.whole) == (200, True)
    assert len(pair.first.engine.requests) == len(pair.second.engine.requests) == 1


async def test_a_client_that_leaves_cancels_the_engines_request(farm: Farm) -> None:
    for path in ASKS:
        spot, gate = farm.solo(), Gate()
        gate.release(3)
        spot.engine.always = steps.stream(talk.chat_events(spot.model), gate=gate)
        async with farm.gw.client() as client:
            await client.ask("POST", path, [JSON], talk.dumps(asks(path, spot.model)))
            await client.read_head()
            await client.read_chunk()
        request = await spot.engine.came()
        await asyncio.wait_for(request.aborted.wait(), 1.0)


async def test_an_answer_of_nonsense_is_502(farm: Farm) -> None:
    spot = farm.solo()
    for body in (b"[]", b"<html>"):
        spot.engine.script.append(steps.reply(200, body))
        reply = await farm.gw.post("/v1/messages", asks("/v1/messages", spot.model, stream=False))
        assert (reply.status, reply.kind) == (502, "backend_unreachable")
        assert reply.header("x-portico-backend") == spot.name


async def test_an_event_of_nonsense_cuts_the_stream(farm: Farm) -> None:
    spot = farm.solo()
    sent = talk.chat_events(spot.model)
    spot.engine.script.append(steps.stream([*sent[:3], b"data: {nonsense\n\n", *sent[3:]]))
    reply = await farm.gw.post("/api/chat", asks("/api/chat", spot.model))
    assert not reply.whole
    assert b"Hello" in reply.body
    assert "not JSON" in told("/api/chat", reply)["message"]


async def test_what_was_lost_is_named_in_a_header(farm: Farm) -> None:
    spot = farm.solo()
    body = {**asks("/v1/messages", spot.model, stream=False), "top_k": 5, "service_tier": "auto"}
    reply = await farm.gw.post("/v1/messages", body)
    assert reply.status == 200
    assert "top_k" in (reply.header("x-portico-lost") or "").split(", ")
    plain = await farm.gw.post("/v1/messages", asks("/v1/messages", spot.model, stream=False))
    assert plain.header("x-portico-lost") is None
    odd = {f"odd_field_{number}": 1 for number in range(2000)} | {"böse\r\nX-Evil: 1": 1}
    reply = await farm.gw.post("/v1/messages", {**body, **odd})
    lost = reply.header("x-portico-lost") or ""
    assert lost.endswith(", ...")
    assert len(lost) < 1100
    reply = await farm.gw.post("/v1/messages", {**body, "böse\r\nX-Evil: 1": 1})
    assert reply.header("x-evil") is None
    assert "b?se??X-Evil: 1" in (reply.header("x-portico-lost") or "")


async def test_what_cannot_be_said_is_501_naming_the_field_and_reaches_no_engine(
    farm: Farm,
) -> None:
    spot = farm.solo()
    body = {**asks("/v1/responses", spot.model), "previous_response_id": "resp_1"}
    reply = await farm.gw.post("/v1/responses", body)
    assert (reply.status, reply.kind) == (501, "unsupported")
    assert reply.error["param"] == "previous_response_id"
    body = {**asks("/v1/messages", spot.model), "messages": "Hi"}
    reply = await farm.gw.post("/v1/messages", body)
    assert (reply.status, reply.kind) == (400, "invalid_request")
    assert reply.error["param"] == "messages"
    assert not spot.engine.requests


async def test_what_the_engine_is_sent_has_its_own_path_name_and_type(farm: Farm) -> None:
    spot = farm.solo()
    headers = [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "tools-2024"),
        ("Accept", "application/json"),
        ("Content-Type", "text/plain"),
        ("X-Custom", "stays"),
    ]
    body = {**asks("/v1/messages", spot.model), "stop_sequences": ["x"], "top_p": 1}
    reply = await farm.gw.post("/v1/messages?beta=true", body, headers)
    assert reply.status == 200, reply.body
    sent = spot.engine.requests[0]
    assert (sent.target, sent.method) == ("/v1/chat/completions", "POST")
    assert sent.header("content-type") == "application/json"
    assert sent.header("x-custom") == "stays"
    assert not [name for name in sent.names() if name.startswith("anthropic-")]
    assert sent.header("accept") is None
    assert sent.doc["model"] == spot.model
    assert sent.doc["stream_options"] == {"include_usage": True}
    assert "top_p" not in sent.doc, "TGI's own quirks are kept (sheet tgi 10)"


@pytest.mark.parametrize("path", ASKS)
async def test_the_engines_tokens_are_what_is_counted(farm: Farm, path: str) -> None:
    spot = farm.solo()
    rid = f"tokens-{path.replace('/', '-')}"
    usage = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
    spot.engine.always = steps.stream(talk.chat_events(spot.model, usage=usage))
    await farm.gw.post(path, asks(path, spot.model), [("X-Request-Id", rid)])
    line = await farm.gw.request_line(rid)
    assert (line["tokens_in"], line["tokens_out"]) == (11, 4)
    assert (line["backend"], line["status"]) == (spot.name, 200)


async def test_prefixes_and_pins_work_on_translated_surfaces(farm: Farm) -> None:
    pair = farm.pair()
    for path in ASKS:
        body = asks(path, f"{pair.second.name}:{pair.model}")
        reply = await farm.gw.post(path, body)
        assert (reply.status, reply.header("x-portico-backend")) == (200, pair.second.name)
        assert reply.header("x-portico-model") == pair.model
        pinned = await farm.gw.post(
            path, asks(path, pair.model), [("X-Portico-Backend", pair.first.name)]
        )
        assert (pinned.status, pinned.header("x-portico-backend")) == (200, pair.first.name)


async def test_requests_that_only_load_a_model_reach_no_engine(farm: Farm) -> None:
    spot = farm.solo()
    reply = await farm.gw.post("/api/generate", {"model": spot.model})
    assert (reply.status, reply.doc["done_reason"]) == (200, "load")
    assert reply.header("x-portico-backend") == spot.name
    reply = await farm.gw.post("/api/chat", {"model": spot.model, "keep_alive": 0})
    assert reply.doc["done_reason"] == "unload"
    assert not spot.engine.requests


async def test_a_long_stream_is_not_gathered(farm: Farm) -> None:
    spot = farm.solo()
    words = ["x" * 1000] * 20_000
    events = talk.chat_events(spot.model, words)
    spot.engine.script.append(steps.stream(events, cut=steps.groups(50)))
    await farm.gw.post("/v1/messages", asks("/v1/messages", spot.model))
    before = farm.gw.memory()
    spot.engine.script.append(steps.stream(events, cut=steps.groups(50)))
    reply = await farm.gw.post("/v1/messages", asks("/v1/messages", spot.model), timeout=30)
    assert reply.whole
    assert len(reply.body) > 20_000_000
    assert farm.gw.memory() - before < 8 << 20


# --- fleets of several kinds


async def test_a_backend_with_the_surface_takes_what_no_translation_can_say() -> None:
    async with (
        FakeEngine("tgi", ["m"]) as tgi,
        FakeEngine("vllm", ["m"]) as vllm,
        Gateway(
            {"backends": [{"name": "tgi", "url": tgi.url}, {"name": "vllm", "url": vllm.url}]}
        ) as gw,
    ):
        body = {**asks("/v1/messages", "m", stream=False), "container": "c"}
        for _ in range(4):
            reply = await gw.post("/v1/messages", body)
            assert (reply.status, reply.header("x-portico-backend")) == (200, "vllm")
        assert not tgi.requests
        body = asks("/v1/messages", "m", stream=False)
        names = {(await gw.post("/v1/messages", body)).header("x-portico-backend") for _ in "1234"}
        assert names == {"tgi", "vllm"}, "what both can do is shared"


async def test_a_surface_that_turns_out_to_be_missing_is_translated_at_once() -> None:
    """Many providers like OpenAI have no Responses API; no table can know which."""
    async with (
        FakeEngine("openai", ["m"], lacks=[Op.RESPONSES, Op.COMPLETIONS]) as cloud,
        Gateway(
            {
                "backends": [{"name": "cloud", "url": cloud.url, "runtime": "openai"}],
                "server": {"stream_usage": "always"},
            }
        ) as gw,
    ):
        reply = await gw.post("/v1/responses", asks("/v1/responses", "m", stream=False))
        assert (reply.status, reply.doc["store"]) == (200, False)
        assert [r.path for r in cloud.requests] == ["/v1/responses", "/v1/chat/completions"]
        cloud.reset()
        reply = await gw.post("/v1/responses", asks("/v1/responses", "m"))
        assert (reply.status, reply.whole) == (200, True)
        assert [r.path for r in cloud.requests] == ["/v1/chat/completions"], "it was learned"
        cloud.reset()
        usage = talk.chat_events("m", usage=talk.USAGE)
        cloud.always = lambda r: steps.stream(usage) if "chat" in r.path else None
        body = {"model": "m", "prompt": "Hi", "stream": True}
        reply = await gw.post("/v1/completions", body, [("X-Request-Id", "unasked")])
        assert cloud.requests[-1].doc["stream_options"] == {"include_usage": True}
        assert (reply.status, reply.whole) == (200, True)
        assert reply.body.endswith(b"data: [DONE]\n\n")
        assert b'"usage"' not in reply.body, "only the gateway had asked for it"
        line = await gw.request_line("unasked")
        assert (line["tokens_in"], line["tokens_out"]) == (7, 5)


async def test_the_callers_own_key_is_shown_in_the_engines_way() -> None:
    async with (
        FakeEngine("anthropic", ["m"], api_key="sk-caller") as cloud,
        Gateway(
            {
                "backends": [
                    {
                        "name": "cloud",
                        "url": cloud.url,
                        "runtime": "anthropic",
                        "api_key": "passthrough",
                        "models": ["m"],
                    }
                ]
            },
            up=[],
        ) as gw,
    ):
        body = {"model": "cloud:m", "messages": HI}
        reply = await gw.post("/v1/chat/completions", body, [("Authorization", "Bearer sk-caller")])
        assert reply.status == 200, reply.body
        sent = cloud.requests[0]
        assert sent.header("x-api-key") == "sk-caller"
        assert sent.header("authorization") is None
        assert sent.header("anthropic-version")


async def test_tokens_are_counted_by_a_tokenizer_that_takes_a_chat() -> None:
    async with (
        FakeEngine("tgi", ["m"]) as tgi,
        Gateway({"backends": [{"name": "tgi", "url": tgi.url}]}) as gw,
    ):
        tgi.always = steps.reply(200, {"tokenize_response": [{"id": 1}] * 6, "templated_text": ""})
        body = {"model": "m", "messages": HI}
        reply = await gw.post("/v1/messages/count_tokens", body)
        assert (reply.status, reply.doc) == (200, {"input_tokens": 6})
        assert tgi.requests[0].path == "/chat_tokenize"

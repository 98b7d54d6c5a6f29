"""What a runtime cannot do is 501, said before or learned (INTERFACE 3 and 4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, InternalServerError

from gateway.core.types import Op
from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway, chat_json, until
from tests.rawclient import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNTIMES = ["vllm", "sglang", "llamacpp", "llamacpp-python", "tgi", "localai", "ollama"]
LACKING = {"vllm", "sglang", "llamacpp", "llamacpp-python"}


@dataclass
class Zoo:
    gw: Gateway
    engines: dict[str, FakeEngine]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zoo() -> AsyncIterator[Zoo]:
    engines = {
        name: FakeEngine(name, [f"model-{name}"], lacks=[Op.EMBEDDINGS] if name in LACKING else [])
        for name in RUNTIMES
    }
    for engine in engines.values():
        await engine.start()
    config = {
        "backends": [{"name": f"b-{name}", "url": engine.url} for name, engine in engines.items()]
    }
    try:
        async with Gateway(config) as gw:
            yield Zoo(gw, engines)
    finally:
        for engine in engines.values():
            await engine.stop()


def is_unsupported(reply: Reply, *words: str) -> None:
    assert (reply.status, reply.kind) == (501, "unsupported"), reply.body
    message = reply.error["message"].lower()
    assert all(word.lower() in message for word in words), message


async def test_every_runtime_is_told_by_its_own_answers(zoo: Zoo) -> None:
    for name in RUNTIMES:
        labels = {"backend": f"b-{name}", "runtime": name.partition("-")[0]}
        assert await zoo.gw.metric("portico_backend_up", **labels) == 1


@pytest.mark.parametrize("name", RUNTIMES)
async def test_every_runtime_chats_whole_and_streamed(zoo: Zoo, name: str) -> None:
    whole = await zoo.gw.chat(f"model-{name}")
    assert (whole.status, whole.whole) == (200, True)
    assert whole.doc["choices"][0]["message"]["role"] == "assistant"
    streamed = await zoo.gw.chat(f"model-{name}", stream=True)
    assert (streamed.status, streamed.whole) == (200, True)
    assert streamed.body.endswith(b"data: [DONE]\n\n")


async def test_embeddings_of_tgi_are_501_and_never_asked_for(zoo: Zoo) -> None:
    engine = zoo.engines["tgi"]
    engine.reset()
    body = {"model": "model-tgi", "input": "Hi"}
    is_unsupported(await zoo.gw.post("/v1/embeddings", body), "TGI", "embeddings")
    assert not engine.requests


@pytest.mark.parametrize("name", sorted(LACKING))
async def test_a_chat_only_model_earns_the_same_501_once_the_engine_has_said_so(
    zoo: Zoo, name: str
) -> None:
    engine = zoo.engines[name]
    engine.reset()
    body = {"model": f"model-{name}", "input": "Hi"}
    is_unsupported(await zoo.gw.post("/v1/embeddings", body), "embeddings")
    asked = len(engine.requests)
    assert asked <= 1
    is_unsupported(await zoo.gw.post("/v1/embeddings", body), "embeddings")
    assert len(engine.requests) == asked, "what was learned is not asked again"
    assert (await zoo.gw.chat(f"model-{name}")).status == 200, "the chat of the model goes on"
    assert await zoo.gw.metric("portico_backend_up", backend=f"b-{name}") == 1


async def test_a_surface_of_another_dialect_is_translated(zoo: Zoo) -> None:
    """TGI speaks neither Anthropic's nor Ollama's API; these were 501 before bridges were there."""
    body = chat_json("model-tgi", max_tokens=5, stream=False)
    reply = await zoo.gw.post("/v1/messages", body)
    assert (reply.status, reply.doc["type"], reply.doc["role"]) == (200, "message", "assistant")
    reply = await zoo.gw.post("/api/chat", body)
    assert (reply.status, reply.doc["done"]) == (200, True)


async def test_a_client_of_openais_does_not_ask_again_for_what_cannot_be_done(zoo: Zoo) -> None:
    """Its SDK repeats every 5xx twice, unless the answer says that this is no use."""
    came = await zoo.gw.metric("portico_requests_total", status="501")
    async with AsyncOpenAI(base_url=f"{zoo.gw.url}/v1", api_key="unused") as client:
        with pytest.raises(InternalServerError, match="embeddings"):
            await client.embeddings.create(model="model-tgi", input="Hi")
    await zoo.gw.rises("portico_requests_total", came, status="501")


async def test_what_no_translation_helps_is_501_in_the_clients_dialect(zoo: Zoo) -> None:
    reply = await zoo.gw.post("/api/embed", {"model": "model-tgi", "input": "Hi"})
    assert reply.status == 501
    assert "TGI" in reply.doc["error"]
    body = {"model": "model-ollama", "messages": []}
    reply = await zoo.gw.post("/v1/messages/count_tokens", body)
    assert (reply.status, reply.doc["type"], reply.kind) == (501, "error", "unsupported")


async def test_images_of_a_text_engine_are_501_with_the_remedy(zoo: Zoo) -> None:
    reply = await zoo.gw.post("/v1/images/generations", {"model": "model-vllm", "prompt": "a"})
    is_unsupported(reply, "vLLM", "images")
    assert len(reply.error["message"]) > 60, "it says what would work"


async def test_openai_inputs_that_tgi_refuses_are_rewritten(zoo: Zoo) -> None:
    """sheet: tgi 10, the table of strict types; the fake answers 422 as TGI does."""
    fields = {
        "stop": "x",
        "stream_options": None,
        "logit_bias": {"1": 2},
        "top_p": 1.0,
        "presence_penalty": 0,
        "response_format": {"type": "text"},
    }
    engine = zoo.engines["tgi"]
    engine.reset()
    reply = await zoo.gw.chat("model-tgi", **fields)
    assert reply.status == 200, reply.body
    assert engine.requests[0].doc["stop"] == ["x"]
    assert "presence_penalty" not in engine.requests[0].doc


async def test_ollama_gets_its_own_host_and_no_origin(zoo: Zoo) -> None:
    """sheet: ollama 1; the fake answers 403 as Ollama does."""
    headers = [("Origin", "https://example.org")]
    assert (await zoo.gw.chat("model-ollama", headers)).status == 200


async def test_a_conversation_id_never_reaches_llama_cpp(zoo: Zoo) -> None:
    """sheet: llamacpp 8, with it generation survives the disconnect."""
    engine = zoo.engines["llamacpp"]
    engine.reset()
    await zoo.gw.chat("model-llamacpp", [("X-Conversation-Id", "c1")])
    assert "x-conversation-id" not in engine.requests[0].names()


async def test_fetch_metadata_and_cookies_never_reach_localai(zoo: Zoo) -> None:
    """sheet: localai 0."""
    engine = zoo.engines["localai"]
    engine.reset()
    headers = [("Sec-Fetch-Site", "cross-site"), ("Cookie", "token=x"), ("Extra-Usage", "1")]
    assert (await zoo.gw.chat("model-localai", headers)).status == 200
    assert not engine.requests[0].names() & {"sec-fetch-site", "cookie", "extra-usage"}


async def test_one_request_at_a_time_for_llama_cpp_python(zoo: Zoo) -> None:
    """sheet: llamacpp appendix A, a second request would interrupt the first."""
    engine = zoo.engines["llamacpp-python"]
    engine.reset()
    model = "model-llamacpp-python"
    engine.always = steps.stream(talk.chat_events(model), gap=0.02)
    replies = await asyncio.gather(*(zoo.gw.chat(model, stream=True) for _ in range(3)))
    served = [reply for reply in replies if reply.status == 200]
    assert served
    assert all(reply.whole for reply in served)
    assert {reply.status for reply in replies} <= {200, 503}
    assert engine.most_at_once == 1


async def test_an_engine_that_lost_its_model_is_looked_at_again(zoo: Zoo) -> None:
    engine = zoo.engines["vllm"]
    engine.reset()
    engine.models = ["new-model"]
    try:
        reply = await zoo.gw.chat("model-vllm")
        assert reply.status in {404, 503}

        async def listed() -> bool:
            return (await zoo.gw.chat("new-model")).status == 200

        await until(listed, 15.0, "the new model to be served", pause=0.2)
        assert (await zoo.gw.chat("model-vllm")).status == 404
    finally:
        engine.models = ["model-vllm"]


async def test_an_engine_that_is_swapped_is_recognised_within_15_seconds() -> None:
    async with (
        FakeEngine("vllm", ["a"]) as engine,
        Gateway({"backends": [{"name": "b", "url": engine.url}]}) as gw,
    ):
        assert (await gw.chat("a")).status == 200
        await engine.become("ollama", ["c:1b"])

        async def noticed() -> bool:
            labels = {"backend": "b", "runtime": "ollama"}
            return await gw.metric("portico_backend_up", **labels) == 1

        await until(noticed, 15.0, "the swap to be noticed", pause=0.1)
        assert (await gw.chat("c:1b")).status == 200
        assert (await gw.chat("a")).status == 404


async def test_localais_error_in_the_dress_of_a_completion_is_an_error(zoo: Zoo) -> None:
    """sheet: localai 6, an ordinary chunk whose text begins with 'Internal error:'."""
    engine = zoo.engines["localai"]
    engine.reset()
    choice = {"index": 0, "text": "Internal error: rpc error: boom", "finish_reason": "stop"}
    said = talk.data({"object": "text_completion", "model": "model-localai", "choices": [choice]})
    engine.always = steps.stream([said])
    body = {"model": "model-localai", "prompt": "Hi", "stream": True}
    reply = await zoo.gw.post("/v1/completions", body)
    assert reply.status >= 500
    assert b"boom" in reply.body

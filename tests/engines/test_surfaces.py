"""Every other surface that an engine speaks natively: it is relayed, not imitated."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.engines.asks import HELLO, says
from tests.engines.conftest import KEY, Road
from tests.engines.engines import Engine
from tests.harness import Gateway

AUTH = [("Authorization", f"Bearer {KEY}")]
TEXTS = ["The river runs slowly past the old mill", "The cat sleeps on the warm stone"]


def test_the_model_list_is_the_union_with_each_engines_fields(
    sdk: OpenAI, fleet: dict[str, Engine]
) -> None:
    listed = {entry.id: entry for entry in sdk.models.list()}
    assert set(listed) >= {*fleet, "anywhere"}
    for name, engine in fleet.items():
        extra = listed[name].model_extra or {}
        assert ("max_model_len" if engine.kind.runtime == "vllm" else "meta") in extra


def test_one_model_can_be_looked_up(sdk: OpenAI, fleet: dict[str, Engine]) -> None:
    assert [sdk.models.retrieve(name).id for name in fleet] == [*fleet]


def test_legacy_completions_whole_and_streamed(sdk: OpenAI, engine: Engine) -> None:
    body: dict[str, Any] = {"model": engine.model, "prompt": "The river", "temperature": 0}
    whole = sdk.completions.create(**body, max_tokens=16)
    assert whole.object == "text_completion"
    assert whole.choices[0].text
    stream = sdk.completions.create(**body, max_tokens=16, stream=True)
    assert "".join(part.choices[0].text for part in stream) == whole.choices[0].text


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_equal_those_of_the_engine(sdk: OpenAI, shelf: Engine, encoding: Any) -> None:
    body: dict[str, Any] = {"model": shelf.model, "input": TEXTS, "encoding_format": encoding}
    through = sdk.embeddings.create(**body).data
    with Road(shelf.url, shelf.key or "none").sync() as straight:
        direct = straight.embeddings.create(**body).data
    assert [entry.index for entry in through] == [0, 1]
    for one, other in zip(_vectors(through), _vectors(direct), strict=True):
        assert len(one) == 64
        assert one == pytest.approx(other, abs=1e-4)


def _vectors(data: Any) -> list[list[float]]:
    """Vectors of an answer; the SDK leaves base64 alone when it was asked for by name."""
    return [_floats(entry.embedding) for entry in data]


def _floats(embedding: Any) -> list[float]:
    if isinstance(embedding, str):
        raw = base64.b64decode(embedding)
        return [*struct.unpack(f"<{len(raw) // 4}f", raw)]
    return [*embedding]


def test_float_and_base64_are_the_same_vector(sdk: OpenAI, shelf: Engine) -> None:
    body: dict[str, Any] = {"model": shelf.model, "input": TEXTS[0]}
    numbers = sdk.embeddings.create(**body, encoding_format="float").data
    coded = sdk.embeddings.create(**body, encoding_format="base64").data
    assert _vectors(numbers)[0] == pytest.approx(_vectors(coded)[0], abs=1e-4)


async def test_responses_whole_and_streamed(asdk: AsyncOpenAI, engine: Engine) -> None:
    body: dict[str, Any] = {
        "model": engine.model,
        "input": "Hello",
        "temperature": 0,
        "max_output_tokens": 40,
    }
    assert (await asdk.responses.create(**body)).output_text == HELLO
    kinds, text = [], ""
    async for event in await asdk.responses.create(**body, stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == HELLO
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


@pytest.mark.parametrize("header", ["x-api-key", "Authorization"])
async def test_anthropic_messages_whole(gw: Gateway, engine: Engine, header: str) -> None:
    value = KEY if header == "x-api-key" else f"Bearer {KEY}"
    headers = [(header, value), ("anthropic-version", "2023-06-01")]
    reply = await gw.post("/v1/messages", _message(engine), headers, timeout=30)
    assert reply.status == 200
    assert [part["text"] for part in reply.doc["content"]] == [HELLO]
    assert reply.doc["stop_reason"] == "end_turn"


async def test_anthropic_messages_streamed(gw: Gateway, engine: Engine) -> None:
    body = _message(engine) | {"stream": True}
    reply = await gw.post("/v1/messages", body, AUTH, timeout=30)
    lines = reply.body.decode().splitlines()
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    texts = [
        event["delta"].get("text", "") for event in events if "text" in str(event.get("delta"))
    ]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert "".join(texts) == HELLO
    assert reply.whole


def _message(engine: Engine) -> dict[str, Any]:
    return {"model": engine.model, "max_tokens": 40, "temperature": 0, "messages": says("Hello")}


async def test_anthropic_tokens_are_counted(gw: Gateway, engine: Engine) -> None:
    body = {"model": engine.model, "messages": says("Hello")}
    reply = await gw.post("/v1/messages/count_tokens", body, AUTH)
    assert (reply.status, reply.doc["input_tokens"]) == (200, 9)


async def test_text_becomes_tokens_and_text_again(gw: Gateway, engine: Engine) -> None:
    field = "prompt" if engine.kind.runtime == "vllm" else "content"
    body = {"model": engine.model, field: "Hello there"}
    coded = await gw.post("/tokenize", body, AUTH)
    assert coded.doc["tokens"] == [534, 550]
    back = await gw.post("/detokenize", {"model": engine.model, "tokens": [534, 550]}, AUTH)
    assert back.doc[field] == "Hello there"

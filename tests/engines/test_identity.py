"""The same request straight and through the gateway gives the same bytes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.engines.asks import WEATHER_QUESTION, WEATHER_TOOL, chat, says
from tests.engines.conftest import KEY
from tests.engines.engines import Engine
from tests.harness import JSON, Gateway
from tests.rawclient import Reply, call

AUTH = [JSON, ("Authorization", f"Bearer {KEY}")]

NEW_EACH_TIME = (
    rb'("(?:id|item_id|call_id)": ?)"[^"]*"',
    rb'("(?:created|created_at|completed_at)": ?)[0-9.]+',
    rb'("timings": ?)\{[^}]*\}',
    # How much of a prompt is still in the engine's cache depends on what it did before.
    rb'("(?:cached_tokens|cache_read_input_tokens|input_tokens)": ?)[0-9]+',
)


def normal(body: bytes) -> bytes:
    """The bytes with ids, clocks and cache counts blanked, and nothing else."""
    for pattern in NEW_EACH_TIME:
        body = re.sub(pattern, rb"\1_", body)
    return body


def _cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> path and body without the model."""
    usage = {"stream_options": {"include_usage": True}}
    story = chat("", "Tell me a story")
    tools = chat("", WEATHER_QUESTION, tools=[WEATHER_TOOL])
    odd = chat("", "Write in Japanese", nobody_knows={"deep": [1, None, True]})
    message = {"max_tokens": 60, "temperature": 0, "messages": says("Count to ten")}
    prompt = {"prompt": "The river", "temperature": 0, "max_tokens": 24}
    responses = {"input": "Hello", "temperature": 0, "max_output_tokens": 40}
    chats, legacy = "/v1/chat/completions", "/v1/completions"
    return {
        "chat": (chats, story),
        "chat, n": (chats, {**story, "n": 2}),
        "chat, logprobs": (chats, chat("", logprobs=True, top_logprobs=2, stream=True)),
        "chat, unknown field": (chats, odd),
        "chat, streamed": (chats, {**story, "stream": True}),
        "chat, usage": (chats, {**story, "stream": True, **usage}),
        "tools": (chats, tools),
        "tools, streamed": (chats, {**tools, "stream": True}),
        "completion": (legacy, prompt),
        "completion, streamed": (legacy, {**prompt, "stream": True}),
        "message": ("/v1/messages", message),
        "message, streamed": ("/v1/messages", {**message, "stream": True}),
        "response": ("/v1/responses", responses),
        "response, streamed": ("/v1/responses", {**responses, "stream": True}),
        "no messages": (chats, {"temperature": 0}),
        "wrong type": (chats, {**story, "max_tokens": "many", "stream": True}),
        "bad schema": (chats, {**story, "response_format": {"type": "json_schema"}}),
    }


CASES = _cases()
ATTEMPTS = 12


@pytest.mark.parametrize("case", CASES)
async def test_the_gateway_changes_no_byte(gw: Gateway, engine: Engine, case: str) -> None:
    path, doc = CASES[case]
    # Spaces and escapes that no serialiser of the gateway would choose must arrive as they are.
    body = json.dumps({**doc, "model": engine.model}, indent=1, ensure_ascii=True).encode()
    # How many tokens vLLM puts into one event depends on how busy it was: two direct calls can
    # differ. A gateway that changes bytes differs every time.
    for _ in range(ATTEMPTS):
        direct = await call(engine.url, "POST", path, [JSON], body, timeout=60)
        through = await call(gw.url, "POST", path, AUTH, body, timeout=60)
        if normal(through.body) == normal(direct.body):
            break
    assert normal(through.body) == normal(direct.body)
    assert _head(through) == _head(direct)
    assert through.header("X-Portico-Backend") == engine.name


def _head(reply: Reply) -> tuple[int, str | None, bool]:
    return reply.status, reply.header("content-type"), reply.whole


async def test_the_callers_key_does_not_reach_an_engine_that_has_its_own(
    gw: Gateway, fleet: dict[str, Engine]
) -> None:
    shelf = fleet["llama-embed"]
    body = json.dumps({"model": shelf.model, "input": "The river"}).encode()
    refused = await call(shelf.url, "POST", "/v1/embeddings", AUTH, body)
    assert refused.status == 401, "the engine does not know the caller's key"
    served = await call(gw.url, "POST", "/v1/embeddings", AUTH, body)
    assert served.status == 200, "the gateway shows its own"

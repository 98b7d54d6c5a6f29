"""What goes wrong, as the official SDK reports it: its exception, the status, words that help."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.engines.asks import chat
from tests.engines.conftest import KEY, Road
from tests.engines.engines import Engine
from tests.harness import JSON, Gateway
from tests.rawclient import call

AUTH = [("Authorization", f"Bearer {KEY}")]


def test_an_unknown_model_is_not_found_and_near_ones_are_named(sdk: OpenAI, engine: Engine) -> None:
    with pytest.raises(openai.NotFoundError, match=engine.model) as caught:
        sdk.chat.completions.create(**chat(engine.model + "x"))
    assert caught.value.type == "model_not_found"


def test_looking_up_an_unknown_model_is_not_found(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nobody/has-this")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_parameter_is_answered_in_the_engines_own_words(
    gw: Gateway, sdk: OpenAI, engine: Engine, stream: bool
) -> None:
    body = chat(engine.model, max_tokens=-5, stream=stream)
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        sdk.chat.completions.create(**body)
    through = await gw.post("/v1/chat/completions", body, AUTH)
    direct = await call(
        engine.url, "POST", "/v1/chat/completions", [JSON], json.dumps(body).encode()
    )
    assert (through.status, through.body) == (direct.status, direct.body)


def test_a_wrong_key_is_an_authentication_error(road: Road, engine: Engine) -> None:
    with road.sync("not-a-key") as sdk, pytest.raises(openai.AuthenticationError) as caught:
        sdk.chat.completions.create(**chat(engine.model))
    assert caught.value.type == "unauthorized"


@pytest.mark.parametrize("attempt", [1, 2])
def test_embeddings_of_a_chat_model_are_unsupported(
    sdk: OpenAI, engine: Engine, attempt: int
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.embeddings.create(model=engine.model, input="The river")
    assert caught.value.status_code == 501, f"attempt {attempt}"
    assert caught.value.type == "unsupported"
    assert "embeddings" in caught.value.message


async def test_chat_with_an_embedding_model_is_what_the_engine_makes_of_it(
    gw: Gateway, shelf: Engine
) -> None:
    body = json.dumps(chat(shelf.model)).encode()
    own = [JSON, ("Authorization", f"Bearer {shelf.key}")]
    direct = await call(shelf.url, "POST", "/v1/chat/completions", own, body)
    through = await gw.post("/v1/chat/completions", body, AUTH)
    # llama.cpp chats with anything; vLLM has no such route then, which is a 501 here.
    assert through.status == (200 if direct.status == 200 else 501)


def test_too_long_a_prompt_is_the_callers_fault(sdk: OpenAI, engine: Engine) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**chat(engine.model, "The river runs. " * 4000))
    assert "context" in caught.value.message


async def test_errors_of_callers_do_not_hurt_the_engine(
    gw: Gateway, sdk: OpenAI, engine: Engine
) -> None:
    bad: dict[str, Any] = chat(engine.model, max_tokens=-5)
    for _ in range(12):
        with pytest.raises(openai.BadRequestError):
            sdk.chat.completions.create(**bad)
    assert await gw.metric("portico_backend_up", backend=engine.name) == 1
    assert sdk.chat.completions.create(**chat(engine.model)).choices[0].message.content

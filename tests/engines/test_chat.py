"""Chat through the gateway, as the official SDK does it: whole, streamed, sync and async."""

from __future__ import annotations

import asyncio
import time

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.engines.asks import ANSWERS, TWENTY, chat
from tests.engines.engines import Engine
from tests.harness import Gateway


@pytest.mark.parametrize("question", ANSWERS)
def test_a_whole_answer_arrives(sdk: OpenAI, engine: Engine, question: str) -> None:
    answer = sdk.chat.completions.create(**chat(engine.model, question))
    assert answer.choices[0].message.content == ANSWERS[question]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == engine.model


@pytest.mark.parametrize("question", ANSWERS)
def test_a_streamed_answer_has_the_same_text(sdk: OpenAI, engine: Engine, question: str) -> None:
    stream = sdk.chat.completions.create(**chat(engine.model, question, stream=True))
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ANSWERS[question]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks), "nobody asked for usage"


def test_usage_comes_in_a_stream_that_asks_for_it(sdk: OpenAI, engine: Engine) -> None:
    fields = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last = sdk.chat.completions.create(**chat(engine.model, "Hello", **fields))
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (9, 10)


def test_the_streaming_helper_sees_every_event(sdk: OpenAI, engine: Engine) -> None:
    with sdk.chat.completions.stream(**chat(engine.model, "Count to twenty")) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert len(deltas) > 10
    assert "".join(deltas) == TWENTY == final.choices[0].message.content


async def test_the_asynchronous_client_gets_the_same(asdk: AsyncOpenAI, engine: Engine) -> None:
    whole = await asdk.chat.completions.create(**chat(engine.model, "Count to twenty"))
    assert whole.choices[0].message.content == TWENTY
    async with asdk.chat.completions.stream(**chat(engine.model, "Count to twenty")) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == TWENTY


def test_the_first_token_does_not_wait_for_the_last(sdk: OpenAI, fleet: dict[str, Engine]) -> None:
    # vLLM on a busy machine lets go of seconds of tokens at once, asked directly too.
    body = chat(fleet["llama"].model, "Tell me a story", stream=True, max_tokens=8000)
    begin = time.monotonic()
    stream = sdk.chat.completions.create(**body, extra_body={"ignore_eos": True})
    moments = [time.monotonic() - begin for _ in stream]
    assert len(moments) > 4000
    assert moments[0] < moments[-1] / 2


async def test_twenty_streams_at_once_do_not_mix(asdk: AsyncOpenAI, engine: Engine) -> None:
    questions = [*ANSWERS] * 4

    async def ask(question: str) -> str:
        async with asdk.chat.completions.stream(**chat(engine.model, question)) as stream:
            final = await stream.get_final_completion()
        return final.choices[0].message.content or ""

    answers = await asyncio.gather(*map(ask, questions))
    assert answers == [ANSWERS[question] for question in questions]


async def test_tokens_are_counted_as_the_engine_counts_them(
    gw: Gateway, asdk: AsyncOpenAI, engine: Engine
) -> None:
    name = "portico_tokens_total"
    before = {
        way: await gw.metric(name, backend=engine.name, direction=way)
        for way in ("input", "output")
    }
    answer = await asdk.chat.completions.create(**chat(engine.model))
    assert answer.usage is not None
    spent = {"input": answer.usage.prompt_tokens, "output": answer.usage.completion_tokens}
    for way, tokens in spent.items():
        await gw.rises(name, before[way], tokens, backend=engine.name, direction=way)

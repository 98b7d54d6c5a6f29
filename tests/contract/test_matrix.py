"""Every official client in front of every runtime: MODELS.md's table of clients, cell by cell."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anthropic
import ollama
import openai
import pytest
import pytest_asyncio

from tests.fakes import said
from tests.fakes.engine import FakeEngine
from tests.fakes.peer import Recorded
from tests.harness import Gateway
from tools.models_table import CLIENTS, Client, target

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNTIMES = (
    *("vllm", "sglang", "tgi", "llamacpp", "llamacpp-python", "localai", "ollama"),
    *("openai", "anthropic"),
)
PROVIDERS = ("openai", "anthropic")

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": said.TOOL, "description": "The weather.", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}


@dataclass
class Zoo:
    engines: dict[str, FakeEngine]
    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic
    ollama: ollama.AsyncClient


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zoo() -> AsyncIterator[Zoo]:
    engines = {name: FakeEngine(name, [f"model-{name}"]) for name in RUNTIMES}
    for engine in engines.values():
        await engine.start()
    entries = [
        {"name": f"b-{name}", "url": engine.url} | ({"runtime": name} if name in PROVIDERS else {})
        for name, engine in engines.items()
    ]
    try:
        async with (
            Gateway({"backends": entries}) as gw,
            openai.AsyncOpenAI(base_url=f"{gw.url}/v1", api_key="unused", max_retries=0) as first,
            anthropic.AsyncAnthropic(base_url=gw.url, api_key="unused", max_retries=0) as second,
            ollama.AsyncClient(host=gw.url) as third,
        ):
            yield Zoo(engines, first, second, third)
    finally:
        for engine in engines.values():
            await engine.stop()


# --- what each call says, as (text, calls as (name, arguments)) or as plain values

Told = tuple[str, list[tuple[str, Any]]]
Ask = Callable[[Zoo, str, str, bool], Coroutine[Any, Any, Any]]
"""(zoo, model, kind, streamed) -> what the client understood."""


async def _chat(zoo: Zoo, model: str, kind: str, streamed: bool) -> Told:
    more: dict[str, Any] = {"tools": [TOOL]} if kind == "tools" else {}
    create = zoo.openai.chat.completions.create
    if not streamed:
        answer = await create(model=model, messages=HI, **more)
        message = answer.choices[0].message
        calls = [(c.function.name, c.function.arguments) for c in message.tool_calls or ()]
        return message.content or "", [(name, json.loads(text)) for name, text in calls]
    text, names, pieces, finish = "", [], "", None
    async for chunk in await create(model=model, messages=HI, stream=True, **more):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or ():
                names += [call.function.name] if call.function.name else []
                pieces += call.function.arguments or ""
    assert finish == ("tool_calls" if names else "stop")
    return text, [(name, json.loads(pieces)) for name in names]


async def _responses(zoo: Zoo, model: str, kind: str, streamed: bool) -> Told:
    more: dict[str, Any] = {"tools": [{"type": "function", **FUNCTION}]} if kind == "tools" else {}
    create = zoo.openai.responses.create
    if not streamed:
        answer = await create(model=model, input="Hi", **more)
        items, text = answer.output, answer.output_text
    else:
        items, text, ended = [], "", False
        async for event in await create(model=model, input="Hi", stream=True, **more):
            text += event.delta if event.type == "response.output_text.delta" else ""
            items += [event.item] if event.type == "response.output_item.done" else []
            ended = event.type == "response.completed"
        assert ended
    calls = [item for item in items if item.type == "function_call"]
    return text, [(call.name, json.loads(call.arguments)) for call in calls]


async def _completions(zoo: Zoo, model: str, kind: str, streamed: bool) -> Told:
    create = zoo.openai.completions.create
    if not streamed:
        return (await create(model=model, prompt="Hi")).choices[0].text, []
    chunks = [chunk async for chunk in await create(model=model, prompt="Hi", stream=True)]
    return "".join(choice.text for chunk in chunks for choice in chunk.choices), []


async def _messages(zoo: Zoo, model: str, kind: str, streamed: bool) -> Told:
    tool = {"name": said.TOOL, "description": "The weather.", "input_schema": SCHEMA}
    more: dict[str, Any] = {"tools": [tool]} if kind == "tools" else {}
    fields: dict[str, Any] = {"model": model, "max_tokens": 50, "messages": HI, **more}
    if streamed:
        async with zoo.anthropic.messages.stream(**fields) as stream:
            answer = await stream.get_final_message()
    else:
        answer = await zoo.anthropic.messages.create(**fields)
    text = "".join(block.text for block in answer.content if block.type == "text")
    calls = [(b.name, b.input) for b in answer.content if b.type == "tool_use"]
    assert answer.stop_reason == ("tool_use" if calls else "end_turn")
    assert answer.usage.output_tokens == 5
    return text, calls


async def _ollama_chat(zoo: Zoo, model: str, kind: str, streamed: bool) -> Told:
    more: dict[str, Any] = {"tools": [TOOL]} if kind == "tools" else {}
    if streamed:
        chat = await zoo.ollama.chat(model, HI, stream=True, **more)
        parts = [part async for part in chat]
    else:
        parts = [await zoo.ollama.chat(model, HI, **more)]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert parts[-1].done
    assert parts[-1].eval_count == 5
    text = "".join(part.message.content or "" for part in parts)
    return text, [(call.function.name, dict(call.function.arguments)) for call in calls]


async def _generate(zoo: Zoo, model: str, kind: str, streamed: bool) -> Told:
    if streamed:
        parts = [part async for part in await zoo.ollama.generate(model, "Hi", stream=True)]
    else:
        parts = [await zoo.ollama.generate(model, "Hi")]
    assert parts[-1].done
    return "".join(part.response for part in parts), []


async def _openai_embeddings(zoo: Zoo, model: str, kind: str, streamed: bool) -> list[float]:
    create = zoo.openai.embeddings.create
    return (await create(model=model, input="Hi", encoding_format="float")).data[0].embedding


async def _count(zoo: Zoo, model: str, kind: str, streamed: bool) -> int:
    return (await zoo.anthropic.messages.count_tokens(model=model, messages=HI)).input_tokens


async def _embed(zoo: Zoo, model: str, kind: str, streamed: bool) -> list[float]:
    return list((await zoo.ollama.embed(model, "Hi")).embeddings[0])


async def _ollama_embeddings(zoo: Zoo, model: str, kind: str, streamed: bool) -> list[float]:
    return list((await zoo.ollama.embeddings(model, "Hi")).embedding)


ASKS: dict[tuple[str, str], Ask] = {
    ("openai", "chat.completions"): _chat,
    ("openai", "responses"): _responses,
    ("openai", "completions"): _completions,
    ("openai", "embeddings"): _openai_embeddings,
    ("anthropic", "messages"): _messages,
    ("anthropic", "count_tokens"): _count,
    ("ollama", "chat"): _ollama_chat,
    ("ollama", "generate"): _generate,
    ("ollama", "embed"): _embed,
    ("ollama", "embeddings"): _ollama_embeddings,
}

EXPECTED: dict[str, Any] = {
    "whole": (said.TEXT, []),
    "stream": (said.TEXT, []),
    "tools": ("", [(said.TOOL, said.ARGUMENTS)]),
    "count": said.COUNT,
}

REFUSED = (openai.APIStatusError, anthropic.APIStatusError, ollama.ResponseError)


def _cells() -> list[Any]:
    return [
        pytest.param(client, kind, runtime, id=f"{client.package}.{client.call}-{kind}-{runtime}")
        for client in CLIENTS
        for kind in client.kinds
        for runtime in RUNTIMES
    ]


@pytest.mark.parametrize(("client", "kind", "runtime"), _cells())
async def test_each_client_gets_from_each_runtime_what_the_table_says(
    zoo: Zoo, client: Client, kind: str, runtime: str
) -> None:
    engine, model = zoo.engines[runtime], f"model-{runtime}"
    engine.reset()
    served = target(engine.row, client.wire, client.op)
    ask = ASKS[client.package, client.call]

    def answer(request: Recorded) -> Any:
        surface = engine.surface(request)
        assert surface is not None, request.path
        streamed = bool(request.doc.get("stream", surface[0] == "ollama"))
        return said.say(surface, kind, model, streamed=streamed)

    engine.always = answer
    if served is None or kind == "error":
        with pytest.raises(REFUSED) as caught:
            await ask(zoo, model, kind, False)
        assert caught.value.status_code == (501 if served is None else 400)
        assert served is None or said.TROUBLE in str(caught.value)
    else:
        for streamed in {"whole": (False,), "stream": (True,)}.get(kind, (False, True)):
            told = await ask(zoo, model, kind, streamed)
            assert told == (EXPECTED[kind] if kind in EXPECTED else pytest.approx(said.VECTOR))
    paths = {request.path for request in engine.requests}
    assert paths == (set() if served is None else {served[2]}), "asked where the table says"

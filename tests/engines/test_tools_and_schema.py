"""Function calls and JSON by schema through the gateway, whole and streamed."""

from __future__ import annotations

import json

from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.engines.asks import WEATHER_QUESTION, WEATHER_TOOL, chat, says
from tests.engines.engines import Engine


class Person(BaseModel):
    """What the model is asked to fill in."""

    name: str
    age: int


ASK_PERSON = "Give me a person as JSON"


def test_the_model_calls_a_function_and_uses_its_result(sdk: OpenAI, engine: Engine) -> None:
    body = chat(engine.model, WEATHER_QUESTION, tools=[WEATHER_TOOL])
    asked = sdk.chat.completions.create(**body).choices[0]
    assert asked.finish_reason == "tool_calls"
    assert asked.message.tool_calls is not None
    (call,) = asked.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}

    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 C"}
    turns = [*says(WEATHER_QUESTION), asked.message.model_dump(exclude_none=True), result]
    told = sdk.chat.completions.create(**{**body, "messages": turns}).choices[0]
    assert told.message.content == "In Paris it is sunny, 21 C."


def test_a_streamed_function_call_comes_in_pieces(sdk: OpenAI, engine: Engine) -> None:
    body = chat(engine.model, WEATHER_QUESTION, tools=[WEATHER_TOOL], stream=True)
    pieces = [
        call
        for chunk in sdk.chat.completions.create(**body)
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    named = [piece.function.name for piece in pieces if piece.function and piece.function.name]
    written = [piece.function.arguments or "" for piece in pieces if piece.function]
    assert named == ["get_weather"]
    assert len([text for text in written if text]) > 1
    assert json.loads("".join(written)) == {"city": "Paris"}


async def test_the_streaming_helper_puts_a_function_call_together(
    asdk: AsyncOpenAI, engine: Engine
) -> None:
    body = chat(engine.model, WEATHER_QUESTION, tools=[WEATHER_TOOL])
    async with asdk.chat.completions.stream(**body) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Paris"}]


def test_parse_fills_a_pydantic_model(sdk: OpenAI, engine: Engine) -> None:
    body = chat(engine.model, ASK_PERSON, response_format=Person)
    answer = sdk.chat.completions.parse(**body)
    assert answer.choices[0].message.parsed == Person(name="Alan", age=41)


async def test_parse_fills_a_pydantic_model_from_a_stream(
    asdk: AsyncOpenAI, engine: Engine
) -> None:
    body = chat(engine.model, ASK_PERSON, response_format=Person)
    async with asdk.chat.completions.stream(**body) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Person(name="Alan", age=41)

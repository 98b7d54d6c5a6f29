"""A whole Messages answer as a chat completion."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from gateway.translate.chat_to_messages import CHAT_TO_MESSAGES

from .recorded import asking, whole_of

ENGINES = ("vllm-0.32.0", "sglang-0.5.23", "xllamacpp-2026.10.11549")


def replied(doc: dict[str, Any]) -> ChatCompletion:
    return ChatCompletion.model_validate(CHAT_TO_MESSAGES.reply(doc, asking()), strict=False)


def answer(*content: dict[str, Any], stop: str = "end_turn", **usage: int) -> dict[str, Any]:
    return {"content": list(content), "stop_reason": stop, "usage": usage}


@pytest.mark.parametrize("folder", ENGINES)
@pytest.mark.parametrize("case", ["messages", "messages_tools"])
def test_recorded_answers_are_understood_by_the_official_sdk(folder: str, case: str) -> None:
    doc = whole_of(folder, case)
    found = replied(doc)
    message = found.choices[0].message
    kinds = {block["type"] for block in doc["content"]}
    assert bool(message.tool_calls) == ("tool_use" in kinds)
    assert bool(message.content) == ("text" in kinds and bool(doc["content"][0]["text"]))
    assert found.usage
    assert found.usage.completion_tokens == doc["usage"]["output_tokens"]
    assert (found.id, found.model, found.created) == ("chatcmpl-r1", "m", 1_700_000_000)


def test_the_same_answer_as_the_engine_itself_gives() -> None:
    ours = replied(whole_of("vllm-0.32.0", "messages")).choices[0]
    its = whole_of("vllm-0.32.0", "chat")["choices"][0]
    assert ours.message.content == its["message"]["content"]
    assert ours.finish_reason == its["finish_reason"]


def test_blocks_find_their_places() -> None:
    found = replied(
        answer(
            {"type": "thinking", "thinking": "a", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "b"},
            {"type": "text", "text": "c"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"d": 1}},
            stop="tool_use",
        )
    ).choices[0]
    message = found.message.to_dict()
    assert (message["reasoning_content"], message["content"]) == ("a", "bc")
    function = {"name": "f", "arguments": '{"d":1}'}
    assert message["tool_calls"] == [{"id": "t", "type": "function", "function": function}]
    assert found.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("news", "stop"),
    ],
)
def test_reasons_to_stop(stop: str, finish: str) -> None:
    assert (
        replied(answer({"type": "text", "text": "a"}, stop=stop)).choices[0].finish_reason == finish
    )


def test_cached_tokens_are_counted_in() -> None:
    usage = replied(
        answer(
            input_tokens=5,
            cache_read_input_tokens=4,
            cache_creation_input_tokens=1,
            output_tokens=3,
        )
    ).usage
    assert usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 3, 13)
    assert usage.prompt_tokens_details
    assert usage.prompt_tokens_details.cached_tokens == 4
    assert usage.prompt_tokens_details.cache_write_tokens == 1


def test_an_answer_without_anything_is_still_a_completion() -> None:
    found = replied({"content": None, "stop_reason": None, "usage": None})
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("", "stop")

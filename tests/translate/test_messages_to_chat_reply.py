"""A whole chat completion as a Messages answer."""

from typing import Any

import pytest
from anthropic.types import Message

from gateway.core.errors import Refusal
from gateway.translate.messages_to_chat import MESSAGES_TO_CHAT

from .recorded import asking, whole_of

RECORDED = [
    *(
        (engine, case)
        for engine in ("vllm-0.32.0", "sglang-0.5.23", "llama-cpp-python-0.3.36")
        for case in ("chat", "chat_length", "chat_tools_named")
    ),
    ("vllm-0.32.0", "chat_tools_auto"),
    ("xllamacpp-2026.10.11549", "chat_think"),
    ("sglang-0.5.23-guarded", "chat_think"),
]


def replied(doc: dict[str, Any], asked: dict[str, Any] | None = None) -> Message:
    return Message.model_validate(MESSAGES_TO_CHAT.reply(doc, asking(asked)), strict=True)


def answer(finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 3}}


def tool(arguments: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(("folder", "case"), RECORDED)
def test_recorded_answers_are_understood_by_the_official_sdk(folder: str, case: str) -> None:
    doc = whole_of(folder, case)
    message = replied(doc)
    assert message.content
    assert message.usage.output_tokens == doc["usage"]["completion_tokens"]


def test_the_same_answer_as_the_engine_itself_gives() -> None:
    ours, its = replied(whole_of("vllm-0.32.0", "chat")), whole_of("vllm-0.32.0", "messages")
    assert [block.to_dict() for block in ours.content] == its["content"]
    assert ours.stop_reason == its["stop_reason"]
    assert ours.usage.input_tokens == its["usage"]["input_tokens"]


def test_thinking_comes_first_and_unsigned() -> None:
    for name in ("reasoning", "reasoning_content"):
        blocks = replied(answer(content="b", **{name: "a"})).content
        assert blocks[0].to_dict() == {"type": "thinking", "thinking": "a", "signature": ""}
        assert blocks[1].to_dict() == {"type": "text", "text": "b"}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ('{"a": ', {"INVALID_JSON": '{"a": '}),
        ("[1]", {"INVALID_JSON": "[1]"}),
    ],
)
def test_arguments_become_an_object_whatever_they_are(arguments: Any, given: Any) -> None:
    message = replied(answer("tool_calls", content=None, tool_calls=[tool(arguments)]))
    assert message.content[0].to_dict()["input"] == given


@pytest.mark.parametrize(
    ("finish", "message", "reason"),
    [
        ("stop", {"content": "a"}, "end_turn"),
        ("eos_token", {"content": "a"}, "end_turn"),
        ("stop_sequence", {"content": "a"}, "end_turn"),
        ("length", {"content": "a"}, "max_tokens"),
        ("content_filter", {"content": "a"}, "refusal"),
        ("stop", {"refusal": "No."}, "refusal"),
        ("tool_calls", {"tool_calls": [tool("{}")]}, "tool_use"),
        ("stop", {"tool_calls": [tool("{}")]}, "tool_use"),
        ("length", {"tool_calls": [tool("{")]}, "max_tokens"),
    ],
)
def test_reasons_to_stop(finish: str, message: dict[str, Any], reason: str) -> None:
    assert replied(answer(finish, **message)).stop_reason == reason


def test_an_answer_that_the_engine_broke_off_is_no_answer() -> None:
    with pytest.raises(Refusal) as caught:
        replied(answer("abort", content="a"))
    assert caught.value.kind == "backend_unreachable"


@pytest.mark.parametrize("key", ["stop_reason", "matched_stop"])
def test_a_stop_string_is_named_where_the_engine_tells(key: str) -> None:
    doc = answer(content="a")
    doc["choices"][0][key] = "END"
    message = replied(doc, {"stop_sequences": ["END"]})
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    doc["choices"][0][key] = 1019
    assert replied(doc, {"stop_sequences": ["END"]}).stop_reason == "end_turn"


def test_cached_tokens_are_counted_apart() -> None:
    doc = answer(content="a")
    doc["usage"]["prompt_tokens_details"] = {"cached_tokens": 4, "cache_write_tokens": 1}
    doc["usage"]["completion_tokens_details"] = {"reasoning_tokens": 2}
    usage = replied(doc).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (5, 4)
    assert usage.cache_creation_input_tokens == 1
    assert usage.output_tokens_details
    assert usage.output_tokens_details.thinking_tokens == 2


def test_an_answer_without_anything_is_still_a_message() -> None:
    message = replied({"choices": []})
    assert (message.content, message.stop_reason, message.id) == ([], "end_turn", "msg_r1")


def test_a_call_without_an_id_gets_one() -> None:
    nameless = {**tool("{}"), "id": None}
    assert replied(answer(tool_calls=[nameless])).content[0].to_dict()["id"] == "toolu_0_r1"

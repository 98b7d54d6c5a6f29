"""A whole chat reaches a Responses client as the object that its SDK reads."""

from dataclasses import replace
from typing import Any

import pytest
from openai.types.responses import Response

from gateway.core.errors import Refusal
from gateway.translate.responses_to_chat import RESPONSES_TO_CHAT

from .recorded import asking, docs, run, sse, whole_of

VLLM, SGLANG, LLAMA = "vllm-0.32.0", "sglang-0.5.23", "xllamacpp-2026.10.11549"


def answer(finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def reply(doc: dict[str, Any], asked: dict[str, Any] | None = None) -> dict[str, Any]:
    found = RESPONSES_TO_CHAT.reply(doc, asking({"input": "x", **(asked or {})}))
    Response.model_validate(found)
    return dict(found)


@pytest.mark.parametrize(
    ("folder", "case", "kinds"),
    [
        (VLLM, "chat", ["message"]),
        (VLLM, "chat_tools_auto", ["function_call"]),
        (f"{VLLM}-guarded", "chat_think", ["reasoning", "message"]),
        (SGLANG, "chat", ["message"]),
        (f"{SGLANG}-guarded", "chat_think", ["reasoning", "message"]),
        (LLAMA, "chat_think", ["reasoning", "message"]),
        (LLAMA, "chat_tools_auto", ["function_call"]),
        ("llama-cpp-python-0.3.36", "chat", ["message"]),
    ],
)
def test_recorded_answers_become_responses(folder: str, case: str, kinds: list[str]) -> None:
    doc = whole_of(folder, case)
    found = reply(doc)
    assert [item["type"] for item in found["output"]] == kinds
    assert found["usage"]["input_tokens"] == doc["usage"]["prompt_tokens"]
    assert found["usage"]["output_tokens"] == doc["usage"]["completion_tokens"]


FIND = {"type": "function", "name": "find"}
TOOLS = [
    {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [FIND]},
    {"type": "custom", "name": "patch"},
]


def called(*functions: tuple[str, str]) -> dict[str, Any]:
    """An engine's answer that calls functions, each a name and its arguments."""
    calls = [
        {"index": n, "id": f"c{n}", "function": {"name": name, "arguments": given}}
        for n, (name, given) in enumerate(functions)
    ]
    return {"tool_calls": calls}


def test_a_tool_is_called_by_the_name_that_the_client_gave_it() -> None:
    said = called(("crm__find", '{"q": 1}'), ("patch", '{"input": "a\\nb"}'), ("patch", "a\nb"))
    grouped, free, plain = reply(answer("tool_calls", **said), {"tools": TOOLS})["output"]
    assert (grouped["type"], grouped["namespace"]) == ("function_call", "crm")
    assert (grouped["name"], grouped["arguments"]) == ("find", '{"q": 1}')
    for item in (free, plain):
        assert (item["type"], item["name"]) == ("custom_tool_call", "patch")
        assert item["input"] == "a\nb"


def test_a_text_for_a_tool_is_streamed_when_it_is_whole() -> None:
    first, rest = called(("patch", '{"inp')), called(("", 'ut": "hi"}'))
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in (first, rest)]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    asked = {"input": "x", "tools": TOOLS}
    events = docs(run(RESPONSES_TO_CHAT, [sse(*chunks, end)], asked))
    told = {event["type"].removeprefix("response."): event for event in events}
    assert told["output_item.added"]["item"]["input"] == ""
    assert told["custom_tool_call_input.delta"]["delta"] == "hi"
    assert told["custom_tool_call_input.done"]["input"] == "hi"
    whole = reply(answer("tool_calls", **called(("patch", '{"input": "hi"}'))), asked)
    assert told["completed"]["response"]["output"] == whole["output"]


def test_whole_and_streamed_answers_are_the_same() -> None:
    calls = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]
    said = {"reasoning": "Hm.", "content": "So:", "tool_calls": calls}
    chunk = {"choices": [{"index": 0, "delta": said, "finish_reason": "tool_calls"}]}
    streamed = docs(run(RESPONSES_TO_CHAT, [sse(chunk)], {"input": "x"}))[-1]["response"]
    assert reply(answer("tool_calls", **said)) == streamed


def test_the_request_is_repeated_in_the_answer() -> None:
    asked = {
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "metadata": {"k": "v"},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "tool_choice": {"type": "function", "name": "f"},
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}],
        "top_p": 0.9,
        "user": "u",
    }
    found = reply(answer(content="Hi"), asked)
    assert {name: found[name] for name in asked} == asked
    assert found["text"] == {"format": {"type": "text"}}


def test_nothing_is_kept_and_the_answer_says_so() -> None:
    found = reply(answer(content="Hi"), {"store": True})
    assert found["store"] is False
    assert found["id"] == "resp_unkept_r1"


def test_the_moment_of_completion_is_by_the_clock() -> None:
    ticking = replace(asking({"input": "x"}), clock=lambda: 12.5, arrived=10.0)
    found = RESPONSES_TO_CHAT.reply(answer(content="Hi"), ticking)
    assert found["completed_at"] == 1_700_000_002


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("eos_token", "completed", None),
        (None, "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_why_it_stopped_is_its_status(finish: str | None, status: str, reason: Any) -> None:
    found = reply(answer(finish, content="Hi"))
    assert (found["status"], found["incomplete_details"]) == (status, reason)
    assert found["output"][0]["status"] == status


def test_counts_are_told_with_their_details() -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert reply({**answer(content="Hi"), "usage": usage})["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 11,
    }
    assert reply(answer(content="Hi"))["usage"] is None


def test_arguments_that_are_an_object_come_as_text() -> None:
    calls = [{"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "g"}}]
    found = reply(answer("tool_calls", content=None, tool_calls=calls))["output"]
    assert [(item["name"], item["arguments"]) for item in found] == [("f", '{"a":1}'), ("g", "")]
    assert len({item["id"] for item in found} | {item["call_id"] for item in found}) == 4


@pytest.mark.parametrize("doc", [{}, {"choices": []}, answer("abort", content="Hi")])
def test_an_answer_without_sense_is_the_engines_fault(doc: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        reply(doc)
    assert caught.value.kind == "backend_unreachable"

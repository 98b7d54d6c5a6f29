"""A streamed chat reaches a Responses client as the events that native engines send."""

import json
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.core.errors import Refusal
from gateway.translate.responses_to_chat import RESPONSES_TO_CHAT
from gateway.translate.responses_to_chat_stream import ResponsesStream
from gateway.translate.sse import LONGEST

from .recorded import asking, call, delta, docs, run, shortened, sse, stream_of

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

VLLM, SGLANG, LLAMA = "vllm-0.32.0", "sglang-0.5.23", "xllamacpp-2026.10.11549"

RECORDED = [
    (VLLM, "chat_stream_usage"),
    (VLLM, "chat_stream_usage_every"),
    (VLLM, "chat_stream_length"),
    (VLLM, "chat_stream_utf8"),
    (VLLM, "chat_tools_auto_stream"),
    (VLLM, "chat_tools_required_stream"),
    (f"{VLLM}-guarded", "chat_think_stream"),
    (SGLANG, "chat_stream_usage"),
    (SGLANG, "chat_tools_auto_stream"),
    (f"{SGLANG}-guarded", "chat_think_stream"),
    (LLAMA, "chat_stream_usage"),
    (LLAMA, "chat_tools_auto_stream"),
    (LLAMA, "chat_think_stream"),
    ("llama-cpp-python-0.3.36", "chat_stream"),
    ("llama-cpp-python-0.3.36", "chat_tools_named_stream"),
]

USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}


def told(data: bytes, doc: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The events, each valid by the SDK's types, numbered without a gap."""
    found = docs(run(RESPONSES_TO_CHAT, [data], {"input": "x", **(doc or {})}))
    for event in found:
        EVENTS.validate_python(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def order(events: list[dict[str, Any]]) -> list[str]:
    """Their types without the prefix; pieces in a row count once."""
    types = [event["type"].removeprefix("response.") for event in events]
    return [name for name, before in zip(types, ["", *types], strict=False) if name != before]


@pytest.mark.parametrize(("folder", "case"), RECORDED)
def test_recorded_streams_make_the_same_events_at_every_split(folder: str, case: str) -> None:
    data = shortened(stream_of(folder, case))
    whole = run(RESPONSES_TO_CHAT, [data])
    for position in range(len(data) + 1):
        assert run(RESPONSES_TO_CHAT, [data[:position], data[position:]]) == whole, position


@pytest.mark.parametrize(("folder", "case"), RECORDED)
def test_recorded_streams_make_events_that_the_sdk_knows(folder: str, case: str) -> None:
    events = told(stream_of(folder, case))
    assert order(events)[:2] == ["created", "in_progress"]
    assert events[-1]["response"]["status"] == order(events)[-1]


@pytest.mark.parametrize(
    ("folder", "chat", "native"),
    [
        (VLLM, "chat_stream_usage", "responses_stream"),
        (VLLM, "chat_tools_auto_stream", "responses_tools_stream"),
        (f"{VLLM}-guarded", "chat_think_stream", "responses_think_stream"),
        (SGLANG, "chat_stream_usage", "responses_stream"),
        (SGLANG, "chat_tools_required_stream", "responses_tools_stream"),
        (f"{SGLANG}-guarded", "chat_think_stream", "responses_think_stream"),
    ],
)
def test_the_order_is_that_of_a_native_engine(folder: str, chat: str, native: str) -> None:
    its = order(docs(stream_of(folder, native)))
    assert order(told(stream_of(folder, chat)))[:-1] == its[:-1]


def test_a_native_engines_last_event_and_ours_say_the_same() -> None:
    its = docs(stream_of(VLLM, "responses_stream"))[-1]["response"]
    ours = told(stream_of(VLLM, "chat_stream_usage"))[-1]["response"]
    assert ours["status"] == its["status"] == "completed"
    assert ours["output"][0]["content"][0]["text"] == its["output"][0]["content"][0]["text"]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert ours["usage"][name] == its["usage"][name]


def test_each_event_leaves_with_the_bytes_that_completed_it() -> None:
    stream = RESPONSES_TO_CHAT.stream(asking({"input": "x"}, stream=True))
    assert order(docs(stream.feed(sse(delta(role="assistant"), done=False)))) == [
        "created",
        "in_progress",
    ]
    first = docs(stream.feed(sse(delta(content="Hel"), done=False)))
    assert [event.get("delta") for event in first] == [None, None, "Hel"]
    assert [
        event["delta"] for event in docs(stream.feed(sse(delta(content="lo"), done=False)))
    ] == ["lo"]
    assert order(docs(stream.feed(sse(delta("stop"), done=False)))) == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert order(docs(stream.feed(sse(USAGE)))) == ["completed"]
    assert stream.close() == b""


def test_calls_whose_pieces_are_mixed_grow_beside_each_other() -> None:
    events = told(
        sse(
            call(0, '{"a"', id="c0", name="f"),
            call(1, '{"b"', id="c1", name="g"),
            call(0, ": 1}"),
            call(1, ": 2}"),
            delta("tool_calls"),
        )
    )
    pieces = [
        (event["output_index"], event["delta"])
        for event in events
        if event["type"].endswith("delta")
    ]
    assert pieces == [(0, '{"a"'), (1, '{"b"'), (0, ": 1}"), (1, ": 2}")]
    calls = [(item["call_id"], item["arguments"]) for item in events[-1]["response"]["output"]]
    assert calls == [("c0", '{"a": 1}'), ("c1", '{"b": 2}')]


def test_text_between_the_pieces_of_a_call_does_not_break_it() -> None:
    chunks = [call(0, '{"a"', id="c", name="f"), delta(content="\n"), call(0, ": 1}")]
    output = told(sse(*chunks, delta("tool_calls")))[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["function_call", "message"]
    assert output[0]["arguments"] == '{"a": 1}'


def test_calls_of_an_engine_that_counts_none_begin_with_their_names() -> None:
    chunks = (
        {"tool_calls": [{"function": {"name": name, "arguments": "{}"}}]} for name in ("f", "g")
    )
    output = told(sse(*(delta(**chunk) for chunk in chunks)))[-1]["response"]["output"]
    assert [item["name"] for item in output] == ["f", "g"]
    assert len({item["call_id"] for item in output}) == 2


def test_text_after_reasoning_and_calls_after_text_are_items_of_their_own() -> None:
    events = told(
        sse(delta(reasoning="Hm."), delta(content="So:"), call(0, "{}", id="c", name="f"))
    )
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert [item["status"] for item in output] == ["completed"] * 3


def test_a_cut_answer_is_incomplete_and_so_is_its_last_item() -> None:
    last = told(sse(delta(reasoning_content="Hm."), delta("length", content="The a")))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["completed_at"] is None
    assert [item["status"] for item in last["response"]["output"]] == ["completed", "incomplete"]


def test_a_refusal_is_a_part_of_the_message() -> None:
    events = told(sse(delta(refusal="No"), delta("stop", refusal=".")))
    assert "refusal.delta" in order(events)
    content = events[-1]["response"]["output"][0]["content"]
    assert content == [{"type": "refusal", "refusal": "No."}]


def test_an_empty_answer_has_an_empty_message() -> None:
    output = told(sse(delta("stop")))[-1]["response"]["output"]
    assert [part["text"] for part in output[0]["content"]] == [""]


def test_log_probabilities_come_with_their_pieces() -> None:
    token = {"token": "Hé", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    chunk = delta(content="Hé")
    chunk["choices"][0]["logprobs"] = {"content": [token]}
    events = told(sse(chunk))
    ours = {**token, "bytes": list("Hé".encode())}
    assert next(event for event in events if "delta" in event)["logprobs"] == [ours]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [ours]


def test_a_broken_off_answer_is_told_after_what_was_whole() -> None:
    stream = RESPONSES_TO_CHAT.stream(asking({"input": "x"}))
    said = stream.feed(sse(delta(content="Hi"), delta("abort"), done=False))
    assert order(docs(said))[-1] == "output_text.delta"
    with pytest.raises(Refusal) as caught:
        stream.close()
    assert caught.value.kind == "backend_unreachable"


def test_an_answer_without_end_is_not_kept_for_ever() -> None:
    stream = ResponsesStream(asking({"input": "x"}))
    piece = sse(delta(content="x" * (LONGEST // 8)), done=False)
    with pytest.raises(Refusal):
        for _ in range(10):
            stream.feed(piece)


def test_nothing_is_said_twice_after_the_end() -> None:
    stream = RESPONSES_TO_CHAT.stream(asking({"input": "x"}))
    stream.feed(sse(delta("stop", content="Hi")))
    assert stream.feed(sse(delta(content="more"))) == b""
    assert stream.close() == b""


def test_the_official_client_gathers_the_answer() -> None:
    data = run(
        RESPONSES_TO_CHAT,
        [
            sse(
                delta(reasoning="Hm."),
                delta(content="Hello"),
                call(0, "{}", id="c", name="f"),
                USAGE,
            )
        ],
        {"input": "x", "metadata": {"a": "b"}},
    )
    transport = httpx2.MockTransport(
        lambda request: httpx2.Response(
            200, content=data, headers={"content-type": "text/event-stream"}
        )
    )
    with httpx2.Client(transport=transport) as http:
        client = OpenAI(api_key="k", base_url="http://gateway/v1", http_client=http)
        with client.responses.stream(model="m", input="x") as stream:
            final = stream.get_final_response()
    assert final.output_text == "Hello"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.metadata == {"a": "b"}
    assert final.usage is not None
    assert final.usage.total_tokens == 7


PIECES = st.one_of(
    st.tuples(st.just("content"), st.text(max_size=5)),
    st.tuples(st.just("reasoning"), st.text(max_size=5)),
    st.tuples(st.integers(0, 2), st.text(max_size=5)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_events_and_the_last_object_agree_whatever_is_said(pieces: list[Any]) -> None:
    chunks = [
        delta(**{kind: text})
        if isinstance(kind, str)
        else call(kind, text, id=f"c{kind}", name=f"f{kind}")
        for kind, text in pieces
    ]
    events = told(sse(*chunks, USAGE))
    output = events[-1]["response"]["output"]
    grown = dict.fromkeys(range(len(output)), "")
    for event in events:
        if event["type"].endswith(".delta"):
            grown[event["output_index"]] += event["delta"]
    said = [item.get("arguments") or _text(item) for item in output]
    assert said == list(grown.values())
    done = [event for event in events if event["type"] == "response.output_item.done"]
    done.sort(key=lambda event: int(event["output_index"]))
    assert [event["item"] for event in done] == output
    for kind, member in (("message", "content"), ("reasoning", "reasoning")):
        wanted = "".join(text for name, text in pieces if name == member)
        assert "".join(_text(item) for item in output if item["type"] == kind) == wanted


def _text(item: dict[str, Any]) -> str:
    return "".join(part["text"] for part in item.get("content", ()))


def test_events_are_named_twice_as_native_ones_are() -> None:
    data = run(RESPONSES_TO_CHAT, [sse(delta(content="x"))])
    for event in data.split(b"\n\n")[:-1]:
        name, payload = event.split(b"\n")
        assert json.loads(payload.removeprefix(b"data: "))["type"] == name.decode()[7:]

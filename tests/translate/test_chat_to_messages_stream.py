"""Messages' events become chunks of a chat completion, on any split."""

from typing import Any

import httpx2
import orjson
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from gateway.translate.chat_to_messages import CHAT_TO_MESSAGES

from .recorded import asking, docs, run, shortened, stream_of
from .recorded import sse as unnamed

ENGINES = ("vllm-0.32.0", "sglang-0.5.23", "xllamacpp-2026.10.11549")
STREAMS = [
    *(
        (engine, case)
        for engine in ENGINES
        for case in ("messages_stream", "messages_tools_stream")
    ),
    ("vllm-0.32.0-guarded", "messages_think_stream"),
    ("sglang-0.5.23-guarded", "messages_think_stream"),
    ("xllamacpp-2026.10.11549", "messages_think_stream"),
]
USAGE = {"stream_options": {"include_usage": True}}


def sse(*events: dict[str, Any]) -> bytes:
    return unnamed(*events, done=False)


def chunks(data: bytes, doc: dict[str, Any] | None = None) -> list[ChatCompletionChunk]:
    out = run(CHAT_TO_MESSAGES, [data], doc)
    assert out.endswith(b"data: [DONE]\n\n")
    assert out.count(b"[DONE]") == 1
    return [ChatCompletionChunk.model_validate(found, strict=False) for found in docs(out)]


def said(found: list[ChatCompletionChunk], key: str = "content") -> str:
    deltas = (chunk.choices[0].delta.to_dict() for chunk in found if chunk.choices)
    return "".join(str(delta.get(key) or "") for delta in deltas)


def test_the_role_comes_first_and_the_reason_last() -> None:
    found = chunks(stream_of("vllm-0.32.0", "messages_stream"))
    assert found[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in found[1:])
    assert [chunk.choices[0].finish_reason for chunk in found[-2:]] == [None, "stop"]
    assert said(found) == "Hello! How can I help you today?"


@pytest.mark.parametrize(("folder", "case"), STREAMS)
def test_recorded_streams_split_anywhere_give_the_same(folder: str, case: str) -> None:
    data = shortened(stream_of(folder, case))
    wanted = run(CHAT_TO_MESSAGES, [data], USAGE)
    for at in range(len(data)):
        assert run(CHAT_TO_MESSAGES, [data[:at], data[at:]], USAGE) == wanted, at


@pytest.mark.parametrize(("folder", "case"), STREAMS)
def test_byte_by_byte_it_is_the_same(folder: str, case: str) -> None:
    data = stream_of(folder, case)
    single = [data[i : i + 1] for i in range(len(data))]
    assert run(CHAT_TO_MESSAGES, single) == run(CHAT_TO_MESSAGES, [data])


@pytest.mark.parametrize("folder", ENGINES)
def test_calls_come_with_their_arguments_in_pieces(folder: str) -> None:
    found = chunks(stream_of(folder, "messages_tools_stream"))
    pieces = [call for c in found for call in c.choices[0].delta.tool_calls or ()]
    assert pieces[0].function
    assert (pieces[0].function.name, bool(pieces[0].id)) == ("get_weather", True)
    arguments = "".join((piece.function and piece.function.arguments) or "" for piece in pieces)
    written = (
        doc["delta"]["partial_json"]
        for doc in docs(stream_of(folder, "messages_tools_stream"))
        if doc.get("delta", {}).get("type") == "input_json_delta"
    )
    assert arguments == "".join(written)
    assert orjson.loads(arguments)
    assert found[-1].choices[0].finish_reason == "tool_calls"


def test_thinking_has_its_own_field() -> None:
    found = chunks(stream_of("vllm-0.32.0-guarded", "messages_think_stream"))
    assert "two" in said(found, "reasoning_content")
    assert said(found).strip()


def test_usage_comes_last_and_only_where_it_was_asked_for() -> None:
    data = stream_of("vllm-0.32.0", "messages_stream")
    *others, last = chunks(data, USAGE)
    assert last.choices == []
    assert last.usage
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (9, 10)
    assert all(chunk.usage is None for chunk in others)
    assert all("usage" not in found for found in docs(run(CHAT_TO_MESSAGES, [data])))


def test_counts_that_the_last_event_leaves_out_stay() -> None:
    *_, last = chunks(stream_of("sglang-0.5.23", "messages_stream"), USAGE)
    assert last.usage
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (9, 10)


def test_a_call_without_arguments_has_an_empty_object() -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    found = chunks(
        sse(
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
            {"type": "message_stop"},
        )
    )
    pieces = [call for c in found for call in c.choices[0].delta.tool_calls or ()]
    assert "".join((p.function and p.function.arguments) or "" for p in pieces) == "{}"


def test_parallel_calls_are_numbered_without_the_blocks_between() -> None:
    found = chunks(
        sse(
            *(
                {
                    "type": "content_block_start",
                    "index": i,
                    "content_block": {"type": "tool_use", "id": f"t{i}", "name": "f", "input": {}},
                }
                for i in (1, 3)
            ),
            *(
                {
                    "type": "content_block_delta",
                    "index": i,
                    "delta": {"type": "input_json_delta", "partial_json": text},
                }
                for i, text in ((3, '{"b"'), (1, "{}"), (3, ":1}"))
            ),
            {"type": "message_stop"},
        )
    )
    pieces = [call for c in found for call in c.choices[0].delta.tool_calls or ()]
    assert [piece.index for piece in pieces] == [0, 1, 1, 0, 1]


def test_pings_keep_the_client_awake_too() -> None:
    stream = CHAT_TO_MESSAGES.stream(asking())
    assert stream.feed(b'event: ping\ndata: {"type": "ping"}\n\n') == b": ping\n\n"
    assert stream.feed(b": hello\n\n") == b": ping\n\n"


def test_what_has_no_place_in_a_chunk_makes_none() -> None:
    stream = CHAT_TO_MESSAGES.stream(asking())
    stream.feed(sse({"type": "message_start", "message": {}}))
    signature = {"type": "signature_delta", "signature": "x"}
    events = sse({"type": "content_block_delta", "index": 0, "delta": signature}, {"type": "news"})
    assert stream.feed(events + b"data: not json\n\n") == b""


def test_nothing_follows_the_end() -> None:
    stream = CHAT_TO_MESSAGES.stream(asking())
    assert stream.feed(sse({"type": "message_stop"})).endswith(b"data: [DONE]\n\n")
    assert stream.feed(sse({"type": "ping"})) + stream.close() == b""


def test_the_official_client_reads_the_stream_off_the_wire() -> None:
    body = run(CHAT_TO_MESSAGES, [stream_of("vllm-0.32.0", "messages_stream")])

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = OpenAI(api_key="k", base_url="http://gateway/v1", http_client=http)
    question: list[Any] = [{"role": "user", "content": "hi"}]
    found = client.chat.completions.create(model="m", messages=question, stream=True)
    assert said(list(found)) == "Hello! How can I help you today?"

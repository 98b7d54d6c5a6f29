"""Chunks of a chat completion become Messages' events, in Anthropic's order, on any split."""

import json
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.core.errors import Refusal
from gateway.translate import sse as events
from gateway.translate.messages_to_chat import MESSAGES_TO_CHAT
from gateway.translate.messages_to_chat_blocks import Json

from .recorded import asking, call, delta, docs, run, shortened, sse, stream_of

ENGINES = ("vllm-0.32.0", "sglang-0.5.23", "llama-cpp-python-0.3.36", "xllamacpp-2026.10.11549")
STREAMS = [
    *((engine, case) for engine in ENGINES for case in ("chat_stream", "chat_stream_usage")),
    *((engine, "chat_tools_auto_stream") for engine in ENGINES if not engine.startswith("llama-c")),
    ("llama-cpp-python-0.3.36", "chat_tools_named_stream"),
    ("vllm-0.32.0", "chat_stream_usage_every"),
    ("vllm-0.32.0", "chat_stream_utf8"),
    ("sglang-0.5.23", "chat_tools_required_stream"),
    ("vllm-0.32.0-guarded", "chat_think_stream"),
    ("sglang-0.5.23-guarded", "chat_think_stream"),
    ("xllamacpp-2026.10.11549", "chat_think_stream"),
]
BROKEN = ("sglang-0.5.23", "chat_tools_required_stream")
"""The engine itself lost pieces of the arguments."""

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def translated(data: bytes, doc: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return docs(run(MESSAGES_TO_CHAT, [data], doc))


def in_order(found: list[dict[str, Any]]) -> None:
    """Anthropic's grammar: a start, whole blocks numbered from zero, the counts, the stop."""
    kinds = [doc["type"] for doc in found if doc["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    number, is_open = 0, False
    for doc in [doc for doc in found if doc["type"] != "ping"][1:-2]:
        assert doc["index"] == number
        match doc["type"]:
            case "content_block_start":
                assert not is_open
                is_open = True
            case "content_block_delta":
                assert is_open
            case "content_block_stop":
                assert is_open
                is_open, number = False, number + 1
            case other:
                raise AssertionError(other)
    assert not is_open


def assembled(found: list[dict[str, Any]]) -> Message:
    """The message as Anthropic's own SDK puts it together."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for doc in found:
        if doc["type"] == "ping":
            continue
        event = EVENT.validate_python(doc)
        message = accumulate_event(event=event, current_snapshot=message, json_bufs=buffers)
    return Message.model_validate(message.to_dict())


@pytest.mark.parametrize(("folder", "case"), STREAMS)
def test_recorded_streams_are_understood_by_the_official_sdk(folder: str, case: str) -> None:
    found = translated(stream_of(folder, case))
    in_order(found)
    if (folder, case) == BROKEN:
        return  # the SDK refuses such arguments, as it would Anthropic's
    message = assembled(found)
    assert message.content
    assert message.stop_reason in ("end_turn", "tool_use", "max_tokens")


@pytest.mark.parametrize(("folder", "case"), STREAMS)
def test_byte_by_byte_the_client_gets_the_same(folder: str, case: str) -> None:
    data = stream_of(folder, case)
    single = [data[i : i + 1] for i in range(len(data))]
    assert run(MESSAGES_TO_CHAT, single) == run(MESSAGES_TO_CHAT, [data])


@pytest.mark.parametrize(("folder", "case"), STREAMS)
def test_split_anywhere_the_client_gets_the_same(folder: str, case: str) -> None:
    data = shortened(stream_of(folder, case))
    wanted = run(MESSAGES_TO_CHAT, [data])
    for at in range(len(data)):
        assert run(MESSAGES_TO_CHAT, [data[:at], data[at:]]) == wanted, at


@pytest.mark.parametrize(
    ("chat", "messages"),
    [
        ("chat_stream_usage", "messages_stream"),
        ("chat_tools_auto_stream", "messages_tools_stream"),
    ],
)
def test_it_is_the_stream_that_the_engine_itself_would_have_sent(chat: str, messages: str) -> None:
    """vLLM speaks both: the same question, its own events beside the translated ones."""
    ours = translated(stream_of("vllm-0.32.0", chat))
    its = docs(stream_of("vllm-0.32.0", messages))
    assert [doc["type"] for doc in ours] == [doc["type"] for doc in its]
    assert assembled(ours).stop_reason == assembled(its).stop_reason
    told, counted = assembled(its).usage, assembled(ours).usage
    assert (counted.input_tokens, counted.output_tokens) == (
        told.input_tokens,
        told.output_tokens,
    )


def test_thinking_comes_as_a_block_of_its_own_with_a_signature() -> None:
    found = translated(stream_of("vllm-0.32.0-guarded", "chat_think_stream"))
    message = assembled(found)
    assert [block.type for block in message.content] == ["thinking", "text"]
    kinds = [doc["delta"]["type"] for doc in found if doc["type"] == "content_block_delta"]
    assert kinds.index("signature_delta") == kinds.index("text_delta") - 1


def test_each_event_leaves_with_the_bytes_that_complete_it() -> None:
    stream = MESSAGES_TO_CHAT.stream(asking(stream=True))
    whole = sse(delta(role="assistant", content=""), delta(content="a"), done=False)
    first, second = whole.split(b"\n\n")[:2]
    assert docs(stream.feed(first + b"\n\n"))[0]["type"] == "message_start"
    assert stream.feed(second + b"\n") == b""
    assert [doc["type"] for doc in docs(stream.feed(b"\n"))] == [
        "content_block_start",
        "content_block_delta",
    ]


def test_parallel_calls_stream_one_after_the_other() -> None:
    stream = MESSAGES_TO_CHAT.stream(asking(stream=True))
    stream.feed(sse(call(0, '{"a":', id="c0", name="f"), done=False))
    stream.feed(sse(call(0, "1}"), done=False))
    begun = docs(stream.feed(sse(call(1, '{"b"', id="c1", name="g"), done=False)))
    assert [doc["type"] for doc in begun] == [
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
    ]


def mixed() -> bytes:
    return sse(
        call(0, "", id="c0", name="f"),
        call(1, "", id="c1", name="g"),
        call(0, '{"a": "'),
        call(1, '{"b": '),
        call(0, '\\"}"'),
        call(1, "2}"),
        call(0, "}"),
        delta("tool_calls"),
    )


def test_calls_whose_pieces_are_mixed_come_whole_and_in_order() -> None:
    found = translated(mixed())
    in_order(found)
    message = assembled(found)
    assert [block.to_dict()["input"] for block in message.content] == [{"a": '"}'}, {"b": 2}]
    assert [block.to_dict()["id"] for block in message.content] == ["c0", "c1"]
    assert message.stop_reason == "tool_use"


def test_mixed_calls_survive_every_split() -> None:
    data = mixed()
    wanted = run(MESSAGES_TO_CHAT, [data])
    for at in range(len(data)):
        assert run(MESSAGES_TO_CHAT, [data[:at], data[at:]]) == wanted


def test_a_call_whose_arguments_are_broken_off_ends_as_it_is() -> None:
    found = translated(sse(call(0, '{"a": ', id="c", name="f"), delta("length")))
    in_order(found)
    assert found[-2]["delta"]["stop_reason"] == "max_tokens"


def test_a_new_id_under_the_same_index_is_a_new_call() -> None:
    found = translated(sse(call(0, "{}", id="a", name="f"), call(0, "{}", id="b", name="f")))
    in_order(found)
    assert [block.to_dict()["id"] for block in assembled(found).content] == ["a", "b"]


def test_an_id_that_every_piece_repeats_is_one_call() -> None:
    found = translated(stream_of("llama-cpp-python-0.3.36", "chat_tools_named_stream"))
    assert [block.type for block in assembled(found).content] == ["tool_use"]


def test_text_behind_a_call_is_a_block_behind_it() -> None:
    found = translated(
        sse(call(0, '{"a"', id="c", name="f"), delta(content="so"), call(0, ": 1}"), delta("stop"))
    )
    in_order(found)
    assert [block.type for block in assembled(found).content] == ["tool_use", "text"]


def test_empty_deltas_make_no_events() -> None:
    found = translated(sse(delta(content=""), delta(content=None), delta(), {"choices": []}))
    assert [doc["type"] for doc in found] == ["message_start", "message_delta", "message_stop"]


def test_usage_in_every_chunk_counts_once() -> None:
    message = assembled(translated(stream_of("vllm-0.32.0", "chat_stream_usage_every")))
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 10)


def test_without_usage_the_counts_are_zero() -> None:
    message = assembled(translated(stream_of("llama-cpp-python-0.3.36", "chat_stream")))
    assert (message.usage.input_tokens, message.usage.output_tokens) == (0, 0)


def test_a_stop_string_that_the_client_asked_for_is_named() -> None:
    last = delta("stop")
    last["choices"][0]["stop_reason"] = "END"
    ending = translated(sse(delta(content="a"), last), {"stop_sequences": ["END"]})[-2]
    assert ending["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    ending = translated(sse(delta(content="a"), last), {"stop_sequences": ["other"]})[-2]
    assert ending["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_a_refusal_is_text_and_its_own_reason_to_stop() -> None:
    found = translated(sse(delta(refusal="No."), delta("stop")))
    assert found[-2]["delta"]["stop_reason"] == "refusal"
    assert assembled(found).content[0].to_dict()["text"] == "No."


def test_a_stream_that_the_engine_broke_off_never_ends_well() -> None:
    with pytest.raises(Refusal, match="broke off"):
        run(MESSAGES_TO_CHAT, [sse(delta(content="a"), delta("abort"))])


def test_comments_that_keep_a_stream_awake_become_pings() -> None:
    data = sse(delta(content="a"), done=False) + b": still here\n\n" + sse()
    assert [doc["type"] for doc in translated(data)][3] == "ping"


def test_an_end_without_a_blank_line_loses_nothing() -> None:
    found = translated(sse(delta(content="a")).removesuffix(b"\n\n"))
    in_order(found)


def test_a_piece_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LONGEST", 100)
    with pytest.raises(Refusal, match="cannot be translated"):
        run(MESSAGES_TO_CHAT, [b'data: {"x": "' + b"y" * 200])


def test_calls_that_wait_for_their_turn_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.translate.messages_to_chat_blocks.LONGEST", 100)
    data = sse(call(0, "{", id="a", name="f"), call(1, "x" * 200, id="b", name="g"))
    with pytest.raises(Refusal, match="cannot be translated"):
        run(MESSAGES_TO_CHAT, [data])


@given(
    st.dictionaries(st.text('{}[]"\\\\ é', max_size=4), st.text('{}[]"\\\\\n', max_size=6)),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_an_object_is_whole_with_its_last_brace_however_it_is_cut(
    doc: dict[str, str], size: int
) -> None:
    text = json.dumps(doc)
    scan = Json()
    for at in range(0, len(text), size):
        assert not scan.whole
        scan.feed(text[at : at + size])
    assert scan.whole


def test_the_official_client_reads_the_stream_off_the_wire() -> None:
    body = run(MESSAGES_TO_CHAT, [mixed()])

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = Anthropic(api_key="k", base_url="http://gateway", http_client=http)
    question: list[Any] = [{"role": "user", "content": "hi"}]
    with client.messages.stream(model="m", max_tokens=9, messages=question) as stream:
        message = stream.get_final_message()
    assert [block.to_dict()["input"] for block in message.content] == [{"a": '"}'}, {"b": 2}]


PIECES = st.lists(
    st.one_of(
        st.builds(lambda text: delta(content=text), st.text(max_size=5)),
        st.builds(lambda text: delta(reasoning=text), st.text(max_size=5)),
        st.builds(
            lambda index, text: call(index, text, id=f"c{index}", name="f"),
            st.integers(0, 2),
            st.text('{}[]"\\: a1', max_size=4),
        ),
    ),
    max_size=12,
)


@given(PIECES, st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_comes_the_order_holds_and_nothing_said_is_lost(
    pieces: list[dict[str, Any]], data: st.DataObject
) -> None:
    stream = sse(*pieces, delta("stop"))
    found = translated(stream)
    in_order(found)
    said = "".join(p["choices"][0]["delta"].get("content", "") for p in pieces)
    heard = [d["delta"].get("text", "") for d in found if d["type"] == "content_block_delta"]
    assert "".join(heard) == said
    at = data.draw(st.integers(0, len(stream)))
    assert docs(run(MESSAGES_TO_CHAT, [stream[:at], stream[at:]])) == found


def test_what_was_whole_is_told_before_a_broken_off_answer_is() -> None:
    stream = MESSAGES_TO_CHAT.stream(asking({}, stream=True))
    assert b'"text_delta"' in stream.feed(sse(delta(content="a"), delta("abort")))
    with pytest.raises(Refusal):
        stream.close()

"""A Watch sees the same in a stream however its bytes are split."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.types import Op
from gateway.core.usage import extract
from gateway.dialects import anthropic, ollama, openai
from gateway.dialects.stream import (
    HEAD,
    TAIL,
    Watch,
    could_be_fault,
    fault_in,
    first_event,
    first_fault,
)

WIRE = Path(__file__).parent.parent / "wire"


def recorded(folder: str, case: str) -> bytes:
    """The payload of a recorded stream."""
    response = json.loads((WIRE / folder / f"{case}.json").read_text())["response"]
    return "".join(chunk.get("data", "") for chunk in response["chunks"]).encode()


def watch_all(grammar, pieces):
    watch = Watch(grammar)
    faults = []
    offset = 0
    for piece in pieces:
        fault = watch.feed(piece)
        if fault is not None:
            faults.append((offset + fault.end, fault.status, fault.message))
        watch.note(piece)
        offset += len(piece)
    return watch, faults


def cuts(data: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted({p % (len(data) + 1) for p in positions}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a != b]


STREAMS = [
    ("vllm-0.32.0", "chat_stream_usage", openai.grammar(Op.CHAT)),
    ("sglang-0.5.23", "chat_stream_usage", openai.grammar(Op.CHAT)),
    ("xllamacpp-2026.10.11549", "chat_tools_auto_stream", openai.grammar(Op.CHAT)),
    ("xllamacpp-2026.10.11549", "completion_stream", openai.grammar(Op.COMPLETIONS)),
    ("xllamacpp-2026.10.11549", "messages_stream", anthropic.grammar(Op.MESSAGES)),
    ("vllm-0.32.0", "messages_stream", anthropic.grammar(Op.MESSAGES)),
    ("vllm-0.32.0", "responses_stream", openai.grammar(Op.RESPONSES)),
    ("xllamacpp-2026.10.11549", "responses_stream", openai.grammar(Op.RESPONSES)),
    ("sglang-0.5.23", "responses_stream", openai.grammar(Op.RESPONSES)),
]


@pytest.mark.parametrize(("folder", "case", "grammar"), STREAMS)
def test_a_whole_recorded_stream_is_seen_to_end_at_every_split_position(folder, case, grammar):
    data = recorded(folder, case)
    for position in range(1, len(data)):
        watch, faults = watch_all(grammar, [data[:position], data[position:]])
        assert watch.ended, position
        assert faults == []
    short, _ = watch_all(grammar, [data[: len(data) // 2]])
    assert not short.ended


@pytest.mark.parametrize(("folder", "case", "grammar"), STREAMS)
def test_usage_is_the_same_byte_by_byte_as_in_one_piece(folder, case, grammar):
    data = recorded(folder, case)
    whole, _ = watch_all(grammar, [data])
    single, _ = watch_all(grammar, [data[i : i + 1] for i in range(len(data))])
    assert extract(single.head, single.tail, 0) == extract(whole.head, whole.tail, 0)
    assert extract(whole.head, whole.tail, 0).counted


KILLED = recorded("vllm-0.32.0-guarded", "kill_kill_engine_core")


def test_vllms_dying_engine_is_found_before_its_done_at_every_split_position():
    """sheet: vllm 6: an error event, then [DONE], as if all were well."""
    done = KILLED.index(b"data: [DONE]")
    for position in range(len(KILLED) - 400, len(KILLED)):
        _, faults = watch_all(openai.grammar(Op.CHAT), [KILLED[:position], KILLED[position:]])
        assert [fault[1] for fault in faults] == [500]
        assert faults[0][0] < done


@given(st.lists(st.integers(0, 10**6), max_size=12))
@settings(max_examples=50)
def test_any_split_finds_the_same_fault_at_the_same_place(positions):
    _, whole = watch_all(openai.grammar(Op.CHAT), [KILLED])
    _, faults = watch_all(openai.grammar(Op.CHAT), cuts(KILLED, positions))
    assert faults == whole


def test_generated_text_that_looks_like_protocol_is_not_taken_for_it():
    text = 'data: [DONE]\n\n{"error": {"message": "no"}} "finish_reason":"stop" "usage":{"x":1}'
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})
    data = f"data: {event}\n\n".encode()
    watch, faults = watch_all(openai.grammar(Op.CHAT), [data])
    assert faults == []
    assert not watch.ended
    assert not watch.finished
    assert not extract(watch.head, watch.tail, watch.pieces).counted


def test_memory_is_bounded_however_long_the_stream_and_its_lines_are():
    watch = Watch(openai.grammar(Op.CHAT))
    for piece in (b"x" * 5000, b"data: {}\n\n" * 300, b"y" * 200_000) * 20:
        watch.feed(piece)
        watch.note(piece)
    assert len(watch.head) <= HEAD
    assert TAIL <= len(watch.tail) <= 3 * TAIL
    assert len(watch.line) <= 65536


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"error": {"message": "full", "code": 503}}, (503, "full")),
        ({"error": {"message": "bad", "http_status_code": 422}}, (422, "bad")),
        ({"object": "error", "message": "flat", "code": 400}, (400, "flat")),
        ({"error": "text only"}, (0, "text only")),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, (529, "m")),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "m"}, (429, "m")),
        ({"type": "error", "error": {"type": "api_error", "message": "m"}}, (0, "m")),
        (
            {"type": "response.failed", "response": {"error": {"code": "x", "message": "m"}}},
            (0, "m"),
        ),
        ({"type": "response.created", "response": {"error": None}}, None),
        ({"choices": [], "error": None}, None),
        (["error"], None),
        (None, None),
    ],
)
def test_every_shape_of_error_event_is_understood(event, expected):
    assert fault_in(event) == expected


def test_a_beginning_is_held_only_while_it_may_become_an_error():
    error = b'data: {"error": {"message"'
    for end in range(len(error)):
        assert could_be_fault(error[:end])
    for harmless in (b'data: {"id":', b": keep-alive", b"event: message_start", b'{"model"'):
        assert not could_be_fault(harmless)


FULL = b'{"message":"full","code":503}'
OPENINGS = {
    "spaces": b'data: { "error" : ' + FULL + b"}\n\n",
    "no space": b'data:{"error":' + FULL + b"}\n\n",
    "line ends of two bytes": b'data: {"error":' + FULL + b"}\r\n\r\n",
    "a byte order mark": b'\xef\xbb\xbfdata: {"error":' + FULL + b"}\n\n",
    "an id line": b'id: 1\nevent: error\ndata: {"error":' + FULL + b"}\n\n",
    "an object named error": b'data: {"object": "error", ' + FULL[1:] + b"\n\n",
    "the code first": b'data: {"code":503,"message":"full","error":"Busy"}\n\n',
    "two data lines": b'data: {"error":\ndata: ' + FULL + b"}\n\n",
    "an event named error": b"event: error\ndata: " + FULL + b"\n\n",
    "a failed response": b'event: response.failed\ndata: {"type":"response.failed","response":'
    b'{"error":' + FULL + b"}}\n\n",
}


@pytest.mark.parametrize("shape", OPENINGS)
def test_an_error_event_is_held_at_every_split_until_it_is_whole(shape):
    whole = OPENINGS[shape]
    for end in range(len(whole) - 3):
        assert could_be_fault(whole[:end]), whole[:end]
    event = first_event(whole, b"\n\n")
    assert event is not None
    assert first_fault(event)[0] == 503


def test_a_regular_first_event_is_not_held_for_more_than_its_first_member():
    for regular in (
        b'data: {"object":"chat.completion.chunk","id"',
        b'data: {"choices":',
        b'event: response.created\ndata: {"type":"response.',
        b'event: message_start\ndata: {"message":',
        b'data: {"type":"response.created"',
    ):
        assert not could_be_fault(regular), regular


def test_a_comment_that_comes_with_an_error_does_not_hide_it():
    """sheet: tgi 7, a comment line after every 15 s of silence."""
    event = first_event(b': \n\nretry: 9\n\ndata: {"error":"full"}\n\n', b"\n\n")
    assert event == b'data: {"error":"full"}\n\n'
    assert first_event(b": ping\n\n", b"\n\n") == b": ping\n\n"


def test_an_event_named_error_is_one_whatever_it_holds():
    assert first_fault(b"event: error\ndata: no room\n\n") == (0, "no room")
    assert first_fault(b"event:error\ndata: {}\n\n") == (0, "the engine gave no reason")


def test_a_runtimes_own_reading_of_an_error_comes_first():
    def own(event):
        return 418, "mine"

    assert fault_in({"error": {"message": "m", "code": 500}}, own) == (418, "mine")


def test_the_first_event_is_whole_only_with_its_separator():
    assert first_event(b"data: {}\n", b"\n\n") is None
    assert first_event(b"\r\ndata: {}\r\n\r\nrest", b"\n\n") == b"data: {}\n\n"
    assert first_event(b'{"a":1}\n{"b"', b"\n") == b'{"a":1}\n'
    overload = recorded("vllm-0.32.0-guarded", "kill_kill_engine_core")[-200:]
    assert first_fault(b'event: error\ndata: {"type":"error","error":{"message":"m"}}\n\n') == (
        0,
        "m",
    )
    assert overload


def test_an_ollama_stream_ends_with_done_true():
    frames = b'{"model":"m","response":"a","done":false}\n{"done":true,"eval_count":3}\n'
    watch, _ = watch_all(ollama.grammar(Op.GENERATE), [frames[:30], frames[30:]])
    assert watch.ended
    assert extract(watch.head, watch.tail, 0).output == 3
    unfinished, _ = watch_all(ollama.grammar(Op.GENERATE), [frames[:42]])
    assert not unfinished.ended


def test_pieces_are_counted_alike_at_every_split():
    data = recorded("vllm-0.32.0", "chat_stream")
    for size in (1, 13, 100):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert watch_all(openai.grammar(Op.CHAT), pieces)[0].pieces == 9


def test_pieces_of_every_kind_are_counted_in_one_read():
    deltas = [
        {"content": "", "reasoning_content": "x"},
        {"content": "x"},
        {"content": None, "reasoning": "x"},
        {"tool_calls": [{"function": {"arguments": "{"}}]},
        {"role": "assistant", "content": ""},
    ]
    events = [
        b"data: " + json.dumps({"choices": [{"delta": delta}]}, separators=(",", ":")).encode()
        for delta in deltas
    ]
    data = b"\n\n".join(events) + b"\n\n"
    assert watch_all(openai.grammar(Op.CHAT), [data])[0].pieces == 4


def test_pieces_of_content_are_counted_and_the_rest_is_not():
    data = recorded("vllm-0.32.0", "chat_stream")
    watch, _ = watch_all(openai.grammar(Op.CHAT), [data])
    assert watch.pieces == 9
    assert extract(watch.head, watch.tail, watch.pieces).counted is False

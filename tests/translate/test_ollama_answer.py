"""What an Ollama client gets of an engine's answer, whole and streamed."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ollama import ChatResponse, GenerateResponse

from gateway.core.errors import Refusal
from gateway.core.types import Op
from gateway.core.usage import extract
from gateway.dialects import ollama
from gateway.dialects.stream import Watch
from gateway.translate.ollama_chat import CHAT, GENERATE_AS_CHAT, GENERATE_AS_COMPLETION
from gateway.translate.sse import LONGEST
from tests.backends.recorded import answer, events
from tests.translate.asks import DONE, asking, chunk, cuts, lines, recorded, run, ticking

VLLM, SGLANG, LLAMA = "vllm-0.32.0", "sglang-0.5.23", "xllamacpp-2026.10.11549"
PYTHON = "llama-cpp-python-0.3.36"

CHATS = [
    (VLLM, "chat_stream_usage"),
    (VLLM, "chat_tools_auto_stream"),
    ("vllm-0.32.0-guarded", "chat_think_stream"),
    (VLLM, "chat_stream_utf8"),
    (SGLANG, "chat_stream_usage_every"),
    (SGLANG, "chat_tools_auto_stream"),
    ("sglang-0.5.23-guarded", "chat_think_stream"),
    (LLAMA, "chat_stream_usage"),
    (LLAMA, "chat_tools_named_stream"),
    (LLAMA, "chat_think_stream"),
    (LLAMA, "chat_logprobs_stream"),
    (PYTHON, "chat_stream_length"),
]


def told(folder: str, case: str, member: str) -> str:
    """What a recorded stream says in one member of its deltas."""
    deltas = (
        choice.get("delta", {})
        for event in events(folder, case)
        if event != "[DONE]"
        for choice in event["choices"]
    )
    return "".join(delta.get(member) or "" for delta in deltas)


def arguments(folder: str, case: str) -> str:
    """The arguments of the one call that a recorded stream makes."""
    return "".join(
        piece["function"].get("arguments") or ""
        for event in events(folder, case)
        if event != "[DONE]"
        for choice in event["choices"]
        for piece in choice["delta"].get("tool_calls") or ()
    )


def joined(frames: list[dict], member: str) -> str:
    return "".join(frame["message"].get(member, "") for frame in frames)


# ---- streams


LONG = {("sglang-0.5.23-guarded", "chat_think_stream"), (LLAMA, "chat_think_stream")}


@pytest.mark.parametrize(("folder", "case"), [c for c in CHATS if c not in LONG])
def test_a_recorded_stream_reads_the_same_at_every_split_position(folder, case) -> None:
    data = recorded(folder, case)
    whole = run(CHAT.stream(asking({})), data)
    assert lines(whole)
    for position in range(1, len(data)):
        stream = CHAT.stream(asking({}))
        assert run(stream, data[:position], data[position:]) == whole, position


@pytest.mark.parametrize(("folder", "case"), CHATS)
def test_text_reasoning_and_the_end_are_those_of_the_engine(folder, case) -> None:
    frames = lines(run(CHAT.stream(asking({})), recorded(folder, case)))
    reasoning = told(folder, case, "reasoning") or told(folder, case, "reasoning_content")
    assert joined(frames, "content") == told(folder, case, "content")
    assert joined(frames, "thinking") == reasoning
    assert [frame["done"] for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert frames[-1]["done_reason"] == ("length" if "length" in case else "stop")
    for frame in frames:
        assert ChatResponse(**frame).message.role == "assistant"
        assert frame["model"] == "m:latest"


@given(positions=st.lists(st.integers(0, 10_000), max_size=40))
@settings(max_examples=40, deadline=None)
def test_any_way_of_cutting_gives_the_same_lines(positions) -> None:
    data = recorded(VLLM, "chat_tools_auto_stream")
    pieces = cuts(data, positions)
    assert run(CHAT.stream(asking({})), *pieces) == run(CHAT.stream(asking({})), data)


def test_each_piece_of_text_leaves_with_the_bytes_that_completed_it() -> None:
    stream = CHAT.stream(asking({}))
    for event in recorded(VLLM, "chat_stream_usage").split(b"\n\n")[:-1]:
        out = stream.feed(event + b"\n\n")
        text = b'"content":"' in event and b'"content":""' not in event
        assert bool(out) == (text or event.endswith(b"[DONE]")), event
    assert stream.close() == b""


@pytest.mark.parametrize(("folder", "case"), [c for c in CHATS if "tools" in c[1]], ids=str)
def test_tool_calls_come_whole_in_one_line_before_the_last(folder, case) -> None:
    *_, called, last = lines(run(CHAT.stream(asking({})), recorded(folder, case)))
    (call,) = called["message"]["tool_calls"]
    assert call["id"]
    assert call["function"]["name"] == "get_weather"
    assert call["function"]["arguments"] == orjson.loads(arguments(folder, case))
    assert ChatResponse(**called).message.tool_calls[0].function.name == "get_weather"
    assert (last["done_reason"], last["message"]["content"]) == ("stop", "")


def test_pieces_of_parallel_calls_may_come_mixed() -> None:
    def piece(index, text="", **more):
        function = {"arguments": text, **more.pop("function", {})}
        return chunk({"tool_calls": [{"index": index, "function": function, **more}]})

    frames = lines(
        run(
            CHAT.stream(asking({})),
            piece(0, id="x", function={"name": "a"}),
            piece(1, '{"n"', id="y", function={"name": "b"}),
            piece(0, '{"m": '),
            piece(1, ": 2}"),
            piece(0, "1}"),
            piece(2, id="z", function={"name": "c"}),
            chunk(finish_reason="tool_calls"),
            DONE,
        )
    )
    assert frames[0]["message"]["tool_calls"] == [
        {"id": "x", "function": {"index": 0, "name": "a", "arguments": {"m": 1}}},
        {"id": "y", "function": {"index": 1, "name": "b", "arguments": {"n": 2}}},
        {"id": "z", "function": {"index": 2, "name": "c", "arguments": {}}},
    ]


def half_a_call(finish: str) -> list[bytes]:
    function = {"name": "f", "arguments": '{"a": "b'}
    calls = {"tool_calls": [{"index": 0, "id": "x", "function": function}]}
    return [chunk({"content": "Well"}), chunk(calls), chunk(finish_reason=finish), DONE]


def test_a_call_that_the_limit_cut_was_never_made() -> None:
    frames = lines(run(CHAT.stream(asking({})), *half_a_call("length")))
    assert [frame["done"] for frame in frames] == [False, True]
    assert frames[-1]["done_reason"] == "length"


def test_a_broken_call_ends_the_stream_after_what_was_whole_and_without_its_last_line() -> None:
    stream = CHAT.stream(asking({}))
    (frame,) = lines(stream.feed(b"".join(half_a_call("tool_calls"))))
    assert frame["message"]["content"] == "Well"
    for go_on in (stream.close, lambda: stream.feed(DONE)):
        with pytest.raises(Refusal) as caught:
            go_on()
        assert caught.value.kind == "backend_unreachable"
        assert "a call of 'f'" in caught.value.message


def test_calls_beyond_all_measure_are_not_kept() -> None:
    stream = CHAT.stream(asking({}))
    text = "x" * (1024 * 1024)
    piece = chunk({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})
    with pytest.raises(Refusal):
        for _ in range(2 + LONGEST // len(text)):
            stream.feed(piece)


def test_an_engine_without_done_or_usage_is_ended_by_the_close() -> None:
    stream = CHAT.stream(asking({}))
    stream.feed(chunk({"content": "Hi"}))
    stream.feed(chunk(finish_reason="stop"))
    (last,) = lines(stream.close())
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert "eval_count" not in last


def test_other_choices_and_other_objects_are_passed_over() -> None:
    other = b'data: {"choices": [{"index": 1, "delta": {"content": "no"}}]}\n\n'
    assert lines(run(CHAT.stream(asking({})), other, b'data: {"x": 1}\n\n', DONE))[0]["done"]


def test_log_probabilities_are_a_bare_list() -> None:
    frames = lines(run(CHAT.stream(asking({})), recorded(VLLM, "chat_logprobs_stream")))
    (token,) = frames[0]["logprobs"]
    assert token["token"] == frames[0]["message"]["content"]
    assert token.keys() == {"token", "logprob", "bytes", "top_logprobs"}
    assert len(ChatResponse(**frames[0]).logprobs[0].top_logprobs) == 2


def test_the_gateways_own_eye_sees_the_end_and_the_usage_of_what_was_written() -> None:
    data = run(CHAT.stream(asking({})), recorded(VLLM, "chat_stream_usage"))
    watch = Watch(ollama.grammar(Op.CHAT))
    watch.feed(data)
    watch.note(data)
    assert watch.ended
    assert extract(watch.head, watch.tail, 0).output == 10


# ---- generate


def test_generate_through_a_chat_has_its_own_frames() -> None:
    data = recorded("vllm-0.32.0-guarded", "chat_think_stream")
    frames = lines(run(GENERATE_AS_CHAT.stream(asking({})), data))
    answers = [GenerateResponse(**frame) for frame in frames]
    assert "".join(a.response for a in answers) == told(
        "vllm-0.32.0-guarded", "chat_think_stream", "content"
    )
    assert "".join(a.thinking or "" for a in answers).startswith("\nThe user")
    assert "context" not in frames[-1]


@pytest.mark.parametrize("folder", [VLLM, SGLANG, LLAMA])
def test_a_recorded_completion_reads_the_same_at_every_split_position(folder) -> None:
    data = recorded(folder, "completion_stream_usage")
    whole = run(GENERATE_AS_COMPLETION.stream(asking({})), data)
    text = "".join(
        choice["text"]
        for event in events(folder, "completion_stream_usage")
        if event != "[DONE]"
        for choice in event["choices"]
    )
    assert "".join(frame["response"] for frame in lines(whole)) == text
    for position in range(1, len(data)):
        stream = GENERATE_AS_COMPLETION.stream(asking({}))
        assert run(stream, data[:position], data[position:]) == whole


@pytest.mark.parametrize("folder", [VLLM, SGLANG, LLAMA, PYTHON])
def test_completions_log_probabilities_are_told_in_both_their_forms(folder) -> None:
    doc = answer(folder, "completion_logprobs").doc
    found = GENERATE_AS_COMPLETION.reply(doc, asking({}))
    assert "".join(token["token"] for token in found["logprobs"]) == found["response"]
    assert all(len(token["top_logprobs"]) >= 1 for token in found["logprobs"])
    assert GenerateResponse(**found).logprobs


# ---- whole answers


@pytest.mark.parametrize("folder", [VLLM, SGLANG, LLAMA, PYTHON])
def test_a_whole_answer_keeps_text_and_counts(folder) -> None:
    doc = answer(folder, "chat").doc
    found = CHAT.reply(doc, asking({}))
    assert ChatResponse(**found).message.content == doc["choices"][0]["message"]["content"]
    assert (found["done"], found["done_reason"]) == (True, "stop")
    assert found["prompt_eval_count"] == doc["usage"]["prompt_tokens"]
    assert found["eval_count"] == doc["usage"]["completion_tokens"]
    assert list(found)[:3] == ["model", "created_at", "message"]


@pytest.mark.parametrize("folder", [VLLM, LLAMA])
def test_whole_calls_have_objects_for_arguments(folder) -> None:
    found = CHAT.reply(answer(folder, "chat_tools_auto").doc, asking({}))
    (call,) = found["message"]["tool_calls"]
    assert call["function"]["index"] == 0
    assert "Paris" in call["function"]["arguments"].values()
    assert ChatResponse(**found).message.tool_calls


@pytest.mark.parametrize("folder", ["vllm-0.32.0-guarded", "sglang-0.5.23-guarded", LLAMA])
def test_whole_reasoning_is_thinking(folder) -> None:
    found = CHAT.reply(answer(folder, "chat_think").doc, asking({}))
    assert "Two and two make four" in found["message"]["thinking"]
    assert found["message"]["content"].strip() == "The answer is four."


@pytest.mark.parametrize("doc", [{}, {"choices": []}, {"choices": "x"}])
def test_an_answer_without_choices_is_the_engines_fault(doc) -> None:
    with pytest.raises(Refusal) as caught:
        CHAT.reply(doc, asking({}))
    assert caught.value.status == 502


# ---- a round trip

NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, JSON, max_size=3)), max_size=3)


@given(texts=st.lists(st.text(min_size=1, max_size=20), max_size=5), calls=CALLS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_text_calls_and_usage_survive_a_round_trip(texts, calls, data) -> None:
    pieces = [chunk({"content": text}) for text in texts]
    for index, (name, arguments) in enumerate(calls):
        text = orjson.dumps(arguments).decode()
        at = data.draw(st.integers(0, len(text)))
        first = {"index": index, "id": f"id{index}", "function": {"name": name, "arguments": ""}}
        pieces.append(chunk({"tool_calls": [first]}))
        pieces += [
            chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
            for part in (text[:at], text[at:])
        ]
    usage = {"prompt_tokens": len(texts) + 1, "completion_tokens": len(calls) + 1}
    end = [chunk(finish_reason="stop"), chunk(usage=usage), DONE]
    frames = lines(run(CHAT.stream(asking({})), *pieces, *end))
    assert joined(frames, "content") == "".join(texts)
    found = [call for frame in frames for call in frame["message"].get("tool_calls", [])]
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in found] == calls
    last = frames[-1]
    assert last["prompt_eval_count"] == usage["prompt_tokens"]
    assert last["eval_count"] == usage["completion_tokens"]
    # And what the client keeps of it can be said to an engine again.
    said = {"role": "assistant", "content": "".join(texts), "tool_calls": found}
    back = CHAT.request(asking({"messages": [said]})).doc["messages"][0]
    assert back["content"] == said["content"]
    again = [
        (c["id"], c["function"]["name"], orjson.loads(c["function"]["arguments"]))
        for c in back.get("tool_calls", [])
    ]
    assert again == [(f"id{i}", name, arguments) for i, (name, arguments) in enumerate(calls)]


# ---- time


def test_durations_are_measured_by_the_given_clock() -> None:
    clock = ticking(10.5, 11.0, 12.0, 13.0)
    ask = asking({}, clock=clock, arrived=10.0, sent=10.2)
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    stream = CHAT.stream(ask)
    first = lines(stream.feed(chunk({"content": "a"})))[0]
    stream.feed(chunk({"content": "b"}))
    stream.feed(chunk({"content": "c"}))
    last = lines(stream.feed(chunk(finish_reason="stop", usage=usage) + DONE))[-1]
    assert first["created_at"] == "2026-11-20T18:40:00.500000Z"
    assert last["created_at"] == "2026-11-20T18:40:03.000000Z"
    assert {k: v for k, v in last.items() if k.endswith(("duration", "count"))} == {
        "total_duration": 3_000_000_000,
        "load_duration": 200_000_000,
        "prompt_eval_count": 7,
        "prompt_eval_duration": 300_000_000,
        "eval_count": 3,
        "eval_duration": 1_500_000_000,
    }


def test_an_answer_in_one_piece_shows_no_border_between_prompt_and_answer() -> None:
    ask = asking({}, clock=lambda: 12.0, arrived=10.0, sent=11.0)
    found = CHAT.reply(answer(VLLM, "chat").doc, ask)
    assert (found["total_duration"], found["eval_duration"]) == (2_000_000_000, 1_000_000_000)
    assert "prompt_eval_duration" not in found


def test_an_engines_own_timings_are_preferred() -> None:
    doc = answer(LLAMA, "chat_think").doc
    found = CHAT.reply(doc, asking({}))
    times = doc["timings"]
    assert found["prompt_eval_count"] == times["cache_n"] + times["prompt_n"] == 16
    assert found["prompt_eval_duration"] == round(times["prompt_ms"] * 1e6)
    assert found["eval_duration"] == round(times["predicted_ms"] * 1e6)


def test_clients_can_divide_by_the_eval_duration_even_without_a_clock() -> None:
    found = CHAT.reply(answer(VLLM, "chat").doc, asking({}))
    assert found["eval_duration"] == 1
    assert "total_duration" not in found

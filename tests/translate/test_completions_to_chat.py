"""Plain completions in front of an engine that only chats."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion

from gateway.core.errors import Refusal
from gateway.translate.completions_to_chat import COMPLETIONS_TO_CHAT, CompletionStream

from .recorded import asking, delta, docs, run, shortened, sse, stream_of, whole_of

VLLM = "vllm-0.32.0"


def asked(**doc: Any) -> Any:
    return COMPLETIONS_TO_CHAT.request(asking({"model": "m", "prompt": "Hi", **doc}))


@pytest.mark.parametrize("prompt", ["Hi", ["Hi"]])
def test_the_prompt_is_what_a_user_says_and_named_as_lost(prompt: Any) -> None:
    found = asked(prompt=prompt)
    assert found.doc == {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    assert found.lost == ("prompt",)


def test_what_both_surfaces_have_goes_on() -> None:
    both = {
        "temperature": 0,
        "stop": ["x"],
        "n": 2,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    found = asked(max_tokens=5, suffix="", echo=False, best_of=1, top_k=3, **both)
    assert found.doc.items() >= {**both, "max_completion_tokens": 5, "top_k": 3}.items()
    assert found.doc.keys().isdisjoint({"suffix", "echo", "best_of", "prompt", "max_tokens"})
    assert found.lost == ("prompt", "top_k")


@pytest.mark.parametrize(
    ("doc", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 0}, "logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_a_chat_cannot_do_is_refused_by_name(doc: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        asked(**doc)
    assert (caught.value.kind, caught.value.param) == ("unsupported", param)


@pytest.mark.parametrize(
    ("doc", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_fault_of_the_document_is_told_by_name(doc: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        asked(**doc)
    assert (caught.value.kind, caught.value.param) == ("invalid_request", param)


@pytest.mark.parametrize("case", ["chat", "chat_n2", "chat_length", "chat_tools_auto"])
def test_recorded_answers_become_completions(case: str) -> None:
    doc = whole_of(VLLM, case)
    found = COMPLETIONS_TO_CHAT.reply(doc, asking())
    Completion.model_validate(found)
    texts = [choice["message"]["content"] or "" for choice in doc["choices"]]
    assert [choice["text"] for choice in found["choices"]] == texts
    assert found["usage"] == doc["usage"]


@pytest.mark.parametrize(
    ("finish", "word"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), (None, "stop")],
)
def test_an_answer_always_says_why_it_ended(finish: str | None, word: str) -> None:
    doc = {"choices": [{"message": {"content": "x"}, "finish_reason": finish}]}
    assert COMPLETIONS_TO_CHAT.reply(doc, asking())["choices"][0]["finish_reason"] == word


@pytest.mark.parametrize(
    "case", ["chat_stream_usage", "chat_stream_length", "chat_stream_n2", "chat_stream_utf8"]
)
def test_recorded_streams_make_the_same_chunks_at_every_split(case: str) -> None:
    data = shortened(stream_of(VLLM, case))
    whole = run(COMPLETIONS_TO_CHAT, [data])
    assert whole.endswith(b"data: [DONE]\n\n")
    native = docs(stream_of(VLLM, "completion_stream"))[0]
    for doc in docs(whole):
        assert doc.keys() <= {*native, "usage"}
        assert all(choice.keys() <= native["choices"][0].keys() for choice in doc["choices"])
    for position in range(len(data) + 1):
        assert run(COMPLETIONS_TO_CHAT, [data[:position], data[position:]]) == whole, position


def test_usage_comes_where_the_engine_tells_it() -> None:
    usage = docs(run(COMPLETIONS_TO_CHAT, [stream_of(VLLM, "chat_stream_usage")]))[-1]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 0
    assert all("usage" not in doc for doc in docs(run(COMPLETIONS_TO_CHAT, [sse(delta())])))


def test_a_chunk_leaves_with_the_bytes_that_completed_it() -> None:
    stream = CompletionStream(asking())
    assert stream.feed(sse(delta(role="assistant"), done=False)) == b""
    [chunk] = docs(stream.feed(sse(delta(content="Hi"), done=False)))
    assert chunk["choices"] == [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": None}]
    assert stream.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
    assert stream.close() == b""


def test_what_was_whole_is_told_before_a_fault() -> None:
    stream = CompletionStream(asking())
    assert docs(stream.feed(sse(delta(content="Hi"), delta("abort"))))[0]["choices"][0]["text"]
    with pytest.raises(Refusal):
        stream.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=8))
def test_the_text_survives(pieces: list[str]) -> None:
    data = sse(*(delta(content=piece) for piece in pieces), delta("stop"))
    told = docs(run(COMPLETIONS_TO_CHAT, [data]))
    assert "".join(doc["choices"][0]["text"] for doc in told) == "".join(pieces)

"""Two bridges as one: the middle is never seen."""

from typing import Any

import pytest

from gateway.core.types import Op, Wire
from gateway.translate.chat_to_messages import CHAT_TO_MESSAGES
from gateway.translate.count_to_tokenize import COUNT_TO_TOKENIZE
from gateway.translate.messages_to_chat import MESSAGES_TO_CHAT
from gateway.translate.through import through

from .recorded import asking, docs, run, stream_of, whole_of

BOTH = through(MESSAGES_TO_CHAT, CHAT_TO_MESSAGES)
QUESTION: dict[str, Any] = {
    "max_tokens": 5,
    "top_k": 3,
    "messages": [{"role": "user", "content": "hi"}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}


def test_it_leads_from_the_first_surface_to_the_last() -> None:
    assert (BOTH.wire, BOTH.op) == (Wire.ANTHROPIC, Op.MESSAGES)
    assert (BOTH.to_wire, BOTH.to_op) == (Wire.ANTHROPIC, Op.MESSAGES)


def test_the_request_goes_through_both_and_each_loss_is_named() -> None:
    asked = BOTH.request(asking(QUESTION))
    assert asked.doc["messages"] == QUESTION["messages"]
    assert asked.lost == ("top_k", "thinking.budget_tokens")


def test_a_whole_answer_comes_back_through_both() -> None:
    doc = whole_of("vllm-0.32.0", "messages")
    assert BOTH.reply(doc, asking(QUESTION))["content"] == doc["content"]


def test_a_stream_comes_back_event_by_event() -> None:
    data = stream_of("vllm-0.32.0", "messages_tools_stream")
    stream = BOTH.stream(asking(QUESTION, stream=True))
    first = data.index(b"\n\n") + 2
    assert [doc["type"] for doc in docs(stream.feed(data[:first]))] == ["message_start"]
    found = docs(run(BOTH, [data], QUESTION))
    assert [doc["type"] for doc in found] == [doc["type"] for doc in docs(data)]
    assert found[-2]["usage"]["output_tokens"] == 22


def test_bridges_that_do_not_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="is not"):
        through(COUNT_TO_TOKENIZE, CHAT_TO_MESSAGES)

"""The table of translations: every chat surface reaches every kind of chat."""

from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.core.types import Op, Wire
from gateway.translate import BRIDGES
from gateway.translate.bridge import Bridge

from .recorded import asking, docs, run, stream_of, whole_of

HUB, CLOUD = (Wire.OPENAI, Op.CHAT), (Wire.ANTHROPIC, Op.MESSAGES)

ASKED: dict[tuple[Wire, Op], dict[str, Any]] = {
    (Wire.OPENAI, Op.COMPLETIONS): {"prompt": "Hi"},
    (Wire.OPENAI, Op.RESPONSES): {"input": "Hi", "instructions": "Be brief."},
    (Wire.OLLAMA, Op.CHAT): {"messages": [{"role": "user", "content": "Hi"}]},
    (Wire.OLLAMA, Op.GENERATE): {"prompt": "Hi"},
}

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def bridge(surface: tuple[Wire, Op], to: tuple[Wire, Op]) -> Bridge:
    [found] = [b for b in BRIDGES[surface] if (b.to_wire, b.to_op) == to]
    return found


def test_each_row_serves_the_surface_under_which_it_stands() -> None:
    for (wire, op), bridges in BRIDGES.items():
        assert {(b.wire, b.op) for b in bridges} == {(wire, op)}
        ends = [(b.to_wire, b.to_op) for b in bridges]
        assert len(ends) == len(set(ends))


@pytest.mark.parametrize("surface", ASKED, ids=str)
def test_a_chat_on_any_surface_reaches_the_hub_and_messages(surface: tuple[Wire, Op]) -> None:
    asked = asking(ASKED[surface])
    assert bridge(surface, HUB).request(asked).doc["messages"][-1]["content"] == "Hi"
    its = bridge(surface, CLOUD).request(asked)
    assert its.doc["messages"] == [{"role": "user", "content": "Hi"}]
    assert "max_tokens" in its.lost


@pytest.mark.parametrize("surface", ASKED, ids=str)
def test_recorded_messages_are_told_on_any_surface_at_every_split(surface: Any) -> None:
    found = bridge(surface, CLOUD)
    data = stream_of("vllm-0.32.0", "messages_stream")[:2500]
    whole = run(found, [data], ASKED[surface])
    assert b"Hello" in whole
    for position in range(0, len(data) + 1, 7):
        assert run(found, [data[:position], data[position:]], ASKED[surface]) == whole, position


def test_responses_of_messages_are_valid() -> None:
    found = bridge((Wire.OPENAI, Op.RESPONSES), CLOUD)
    for event in docs(
        run(found, [stream_of("vllm-0.32.0", "messages_tools_stream")], {"input": "x"})
    ):
        EVENTS.validate_python(event)
    whole = found.reply(whole_of("vllm-0.32.0", "messages_tools"), asking({"input": "x"}))
    Response.model_validate(whole)
    assert whole["output"][-1]["type"] == "function_call"

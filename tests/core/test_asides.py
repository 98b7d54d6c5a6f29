"""Instructions in the middle of a conversation, and other things that agents add to it."""

from typing import Any

import pytest

from gateway.core.asides import settled, unattributed

BILL = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.fa0;"}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def instructs(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def reminder(said: str) -> dict[str, Any]:
    return text(f"<system-reminder>\n{said}\n</system-reminder>")


ANSWER = {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize(
    "messages",
    [None, "hello", [], [user("a"), ANSWER], ["a"], [user("a"), instructs([{"type": "image"}])]],
)
def test_what_needs_no_change_gets_none(messages: Any) -> None:
    assert settled({"messages": messages}) == {}


@pytest.mark.parametrize("content", ["b", [text("b")], [{**text("b"), "cache_control": {}}]])
def test_an_instruction_is_said_at_the_end_of_the_turn_before_it(content: Any) -> None:
    found = settled({"messages": [user("a"), instructs(content), ANSWER, user("c")]})
    assert found == {"messages": [user([text("a"), reminder("b")]), ANSWER, user("c")]}


def test_an_instruction_comes_behind_the_results_of_tools() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "sunny"}
    found = settled({"messages": [user([result]), instructs("b")]})
    assert found == {"messages": [user([result, reminder("b")])]}


def test_an_instruction_behind_an_answer_waits_for_the_next_turn() -> None:
    found = settled({"messages": [user("a"), ANSWER, instructs("b"), user("c")]})
    assert found == {"messages": [user("a"), ANSWER, user([text("c"), reminder("b")])]}
    found = settled({"messages": [user("a"), ANSWER, instructs("b")]})
    assert found == {"messages": [user("a"), ANSWER, user([reminder("b")])]}


@pytest.mark.parametrize("system", [None, "", "s", [text("s")]])
def test_instructions_before_the_first_turn_join_the_system_prompt(system: Any) -> None:
    found = settled({"system": system, "messages": [instructs("b"), user("a")]})
    first = [text("s")] if system else []
    assert found == {"system": [*first, text("b")], "messages": [user("a")]}


def test_an_instruction_without_a_word_is_left_out() -> None:
    assert settled({"messages": [user("a"), instructs([])]}) == {"messages": [user("a")]}


def test_what_came_is_left_as_it_is() -> None:
    messages = [user([text("a")]), instructs("b")]
    settled({"messages": messages})
    assert messages == [user([text("a")]), instructs("b")]


def test_the_prefix_stays_when_the_conversation_goes_on() -> None:
    before = settled({"messages": [user("a"), instructs("b")]})["messages"]
    after = settled({"messages": [user("a"), instructs("b"), ANSWER, user("c"), instructs("d")]})
    assert after["messages"][:1] == before


def test_the_attribution_is_taken_out_of_a_system_prompt() -> None:
    assert unattributed([BILL, text("s")]) == [text("s")]
    for untouched in (None, "s", [text("s")], ["s"], 3):
        assert unattributed(untouched) is untouched

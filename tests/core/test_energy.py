"""Whose energy it was: tokens spread over the time of their request."""

from __future__ import annotations

import pytest

from gateway.core.energy import Work, speed, spread, work
from gateway.core.types import Outcome, Usage

OWNER = ("chat", "team-a")


def outcome(**more: object) -> Outcome:
    fields = {
        "backend": "b",
        "upstream_model": "m",
        "stream": True,
        "overhead": 0.5,
        "first_byte": 2.0,
        "duration": 6.0,
        "usage": Usage(input=100, output=40, cached=60),
    }
    return Outcome("id", "team-a", "chat-completions", "chat", 200, **{**fields, **more})


def test_a_stream_is_prompt_until_its_first_byte_and_answer_after_it() -> None:
    found = work(outcome(), 10.0)
    assert found == Work("b", "m", OWNER, 4.5, 6.0, 10.0, 40, 40)


def test_a_whole_answer_is_written_during_all_of_its_request() -> None:
    found = work(outcome(stream=False), 10.0)
    assert found is not None
    assert (found.start, found.first, found.end) == (4.5, 4.5, 10.0)


@pytest.mark.parametrize("more", [{"backend": ""}, {"refusal": "overloaded"}])
def test_what_no_backend_worked_on_costs_nothing(more: dict[str, object]) -> None:
    assert work(outcome(**more), 10.0) is None


def test_a_client_that_left_before_the_first_byte_has_cost_something_too() -> None:
    found = work(outcome(first_byte=None, cut_by="client", usage=Usage()), 10.0)
    assert found is not None
    assert sum(tokens for _, tokens in spread(found, 1.0)) == pytest.approx(1)


def test_tokens_are_spread_evenly_and_none_is_lost() -> None:
    done = Work("b", "m", OWNER, 0.5, 2.0, 4.0, 30, 40)
    found: dict[int, float] = {}
    for slot, tokens in spread(done, 1.0):
        found[slot] = found.get(slot, 0.0) + tokens
    assert found == pytest.approx({0: 10, 1: 20, 2: 20, 3: 20})


def test_a_request_within_one_slot_is_in_that_slot() -> None:
    assert list(spread(Work("b", "m", OWNER, 7.1, 7.1, 7.2, 3, 4), 1.0)) == [(7, 7)]


def test_speed_is_that_of_the_answer_alone() -> None:
    assert speed(Work("b", "m", OWNER, 0.0, 2.0, 4.0, 9999, 100)) == 50.0


@pytest.mark.parametrize(("answer", "took"), [(3, 1.0), (100, 0.01)])
def test_an_answer_too_short_to_tell_has_no_speed(answer: int, took: float) -> None:
    assert speed(Work("b", "m", OWNER, 0.0, 1.0, 1.0 + took, 1, answer)) is None

"""Several keys of one backend: in turn, and at rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.rotation import (
    LIMITED_FOR,
    LONGEST,
    REFUSED_FOR,
    Rotation,
    key_failed,
    pause,
)
from gateway.core.runtime import Verdict

NOON = 1_800_000_000.0


def test_keys_take_turns() -> None:
    keys = Rotation(3)
    assert [keys.turn(0.0) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_key_that_rests_is_passed_over_until_it_has_rested() -> None:
    keys = Rotation(2)
    keys.rest(1, 10.0)
    assert [keys.turn(9.9) for _ in range(3)] == [0, 0, 0]
    assert {keys.turn(10.0), keys.turn(10.0)} == {0, 1}


def test_a_key_that_failed_with_a_request_is_not_tried_with_it_again() -> None:
    keys = Rotation(2)
    assert [keys.turn(0.0, {0}), keys.turn(0.0, {0}), keys.turn(0.0, {0, 1})] == [1, 1, None]


def test_when_all_rest_it_is_known_when_the_first_has_rested() -> None:
    keys = Rotation(2)
    keys.rest(0, 30.0)
    keys.rest(1, 12.0)
    assert (keys.turn(10.0), keys.opens(10.0), keys.opens(40.0)) == (None, 2.0, 0.0)


def test_a_shorter_rest_does_not_end_a_longer_one() -> None:
    keys = Rotation(1)
    keys.rest(0, 30.0)
    keys.rest(0, 20.0)
    assert keys.opens(0.0) == 30.0


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100)), max_size=20), st.floats(0, 120))
def test_a_turn_is_given_exactly_while_one_does_not_rest(
    rests: list[tuple[int, float]], now: float
) -> None:
    keys = Rotation(4)
    for key, until in rests:
        keys.rest(key, until)
    assert (keys.turn(now) is None) == (keys.opens(now) > 0)


@pytest.mark.parametrize(
    ("verdict", "status", "failed"),
    [
        (Verdict.AUTH, 401, True),
        (Verdict.AUTH, 402, True),
        (Verdict.AUTH, 400, True),
        (Verdict.OVERLOADED, 429, True),
        (Verdict.AUTH, 403, False),
        (Verdict.OVERLOADED, 503, False),
        (Verdict.CLIENT, 400, False),
        (Verdict.ENGINE, 500, False),
    ],
)
def test_only_what_means_the_key_is_held_against_it(
    verdict: Verdict, status: int, failed: bool
) -> None:
    assert key_failed(verdict, status) is failed


@pytest.mark.parametrize(
    ("status", "told", "seconds"),
    [
        (429, "", LIMITED_FOR),
        (401, "", REFUSED_FOR),
        (429, "7", 7.0),
        (429, " 7 ", 7.0),
        (429, "0", 1.0),
        (429, "999999999", LONGEST),
        (429, "soon", LIMITED_FOR),
        (429, "-5", LIMITED_FOR),
        (429, "Fri, 15 Jan 2027 08:01:30 GMT", 90.0),
        (429, "Fri, 15 Jan 2027 07:00:00 GMT", 1.0),
    ],
)
def test_a_rest_is_as_long_as_the_provider_says(status: int, told: str, seconds: float) -> None:
    assert pause(status, told, NOON) == seconds

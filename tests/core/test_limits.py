"""What a key may still use: decisions, waits that are honest, headers as OpenAI has them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.core.limits import (
    DAY,
    MINUTE,
    SOON,
    Used,
    Window,
    admit,
    day_of,
    duration,
    headers,
    month_of,
    part,
    reserve,
    until,
)
from gateway.core.types import Caller

NOW = 1000.0
PARTS = st.lists(st.tuples(st.floats(NOW - 59.9, NOW), st.integers(0, 50)), max_size=20)


def window(*parts: tuple[float, int]) -> Window:
    total = sum(amount for _, amount in parts)
    newest = max((booked for booked, _ in parts), default=0.0)
    return Window(total, newest, lambda: sorted(parts))


def refused(refusal: Refusal | None) -> Refusal:
    assert refusal is not None
    assert (refusal.kind, refusal.status) == ("rate_limit_exceeded", 429)
    return refusal


def test_a_key_without_limits_is_never_refused() -> None:
    much = Used(99, window((NOW, 99)), window((NOW, 99)), 99, 99, 99)
    assert admit(Caller("a"), much, NOW) is None
    assert reserve(Caller("a"), much, 10**9, NOW) is None
    assert headers(Caller("a"), much, NOW) == {}


def test_requests_are_let_in_up_to_the_limit_and_not_beyond() -> None:
    caller = Caller("a", requests_per_minute=3)
    assert admit(caller, Used(requests=window((990, 2))), NOW) is None
    refusal = refused(admit(caller, Used(requests=window((990, 1), (995.5, 2))), NOW))
    assert refusal.limit == "requests"
    assert refusal.retry_after == 50
    assert refusal.message == (
        "The key 'a' has used up its 3 requests per minute. Try again in 50s, or ask whoever runs"
        " this gateway for a higher limit."
    )


def test_requests_under_way_are_let_in_up_to_the_limit_and_not_beyond() -> None:
    caller = Caller("a", max_concurrency=2)
    assert admit(caller, Used(1), NOW) is None
    refusal = refused(admit(caller, Used(2), NOW))
    assert (refusal.limit, refusal.retry_after) == ("concurrency", SOON)
    assert "has 2 requests under way and may have 2 at once" in refusal.message
    assert refusal.headers == {}


def test_tokens_are_refused_until_enough_of_them_have_left_the_minute() -> None:
    caller = Caller("a", tokens_per_minute=100)
    used = Used(tokens=window((950.0, 30), (970.25, 40), (999.0, 20)))
    assert reserve(caller, used, 10, NOW) is None
    for tokens, wait in ((11, 10), (40, 10), (41, 31), (80, 31), (81, 59)):
        refusal = refused(reserve(caller, used, tokens, NOW))
        assert (refusal.limit, refusal.retry_after) == ("tokens", wait)


def test_what_is_larger_than_the_limit_goes_when_nothing_else_is_there() -> None:
    caller = Caller("a", tokens_per_minute=100, tokens_per_day=200)
    assert reserve(caller, Used(), 5000, NOW) is None
    assert refused(reserve(caller, Used(tokens=window((NOW, 1))), 5000, NOW)).retry_after == 60


def test_a_limit_that_is_used_up_refuses_even_what_seems_to_cost_nothing() -> None:
    caller = Caller("a", tokens_per_minute=100)
    assert reserve(caller, Used(tokens=window((NOW, 100))), 0, NOW) is not None


def test_a_budget_that_is_spent_comes_back_with_the_next_day_or_month() -> None:
    caller = Caller("a", tokens_per_day=100, tokens_per_month=1000)
    used = Used(day=90, month=90, day_left=7200.5, month_left=9 * DAY)
    assert reserve(caller, used, 10, NOW) is None
    refusal = refused(reserve(caller, used, 11, NOW))
    assert (refusal.limit, refusal.retry_after) == ("tokens_per_day", 7201)
    assert "Try again in 2h0m1s" in refusal.message
    used = Used(day=0, month=995, month_left=9 * DAY)
    refusal = refused(reserve(caller, used, 11, NOW))
    assert (refusal.limit, refusal.retry_after) == ("tokens_per_month", 9 * DAY)


def test_tokens_that_requests_under_way_hold_count_and_may_soon_be_given_back() -> None:
    caller = Caller("a", tokens_per_day=100)
    refusal = refused(reserve(caller, Used(day=50, held=45, day_left=7200), 10, NOW))
    assert (refusal.limit, refusal.retry_after) == ("tokens_per_day", SOON)


@given(PARTS, st.integers(0, 200))
def test_after_the_wait_there_is_the_room_and_not_a_moment_before(
    parts: list[tuple[float, int]], room: int
) -> None:
    wait = until(window(*parts), room, NOW)

    def left(moment: float) -> int:
        return sum(amount for booked, amount in parts if booked + MINUTE > moment)

    assert left(NOW + wait + 1e-9) <= room
    assert wait == 0 or left(NOW + wait - 1e-6) > room


def test_headers_tell_limit_remaining_and_reset_as_openai_does() -> None:
    caller = Caller("a", requests_per_minute=10, tokens_per_minute=1000)
    used = Used(requests=window((990, 2), (998.5, 1)), tokens=window((970, 1100)))
    assert headers(caller, used, NOW) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "59s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "30s",
    }
    assert headers(caller, Used(), NOW)["x-ratelimit-reset-requests"] == "0s"


def test_of_several_limits_in_tokens_the_narrowest_is_told() -> None:
    caller = Caller("a", tokens_per_minute=1000, tokens_per_day=5000)
    used = Used(tokens=window((NOW, 100)), day=4800, held=50, day_left=3600)
    assert headers(caller, used, NOW) == {
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": "150",
        "x-ratelimit-reset-tokens": "1h0m0s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.2, "1s"), (59.1, "1m0s"), (360, "6m0s"), (3600, "1h0m0s"), (90061, "25h1m1s")],
)
def test_a_duration_is_written_in_whole_units_rounded_up(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 4e9))
def test_days_and_months_end_when_the_calendar_says(wall: float) -> None:
    for number_of in (day_of, month_of):
        number, left = number_of(wall)
        assert left > 0
        assert number_of(wall + left + 0.001)[0] == number + 1
        assert number_of(wall + left * 0.99)[0] == number


def test_a_month_may_end_a_year() -> None:
    wall = datetime(2026, 12, 31, 23, 59, tzinfo=UTC).timestamp()
    assert month_of(wall) == (2026 * 12 + 11, 60)
    assert day_of(wall)[1] == 60


def test_a_gateway_without_the_others_has_its_part_of_each_limit_and_whole_budgets() -> None:
    caller = Caller("a", requests_per_minute=7, max_concurrency=2, tokens_per_day=100)
    found = part(caller, 3)
    assert (found.requests_per_minute, found.max_concurrency) == (2, 1)
    assert (found.tokens_per_minute, found.tokens_per_day, found.name) == (None, 100, "a")
    assert part(caller, 1) is caller

"""The circuit of a backend: what opens it, what does not, and how it closes again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.breaker import (
    COOL_DOWN,
    LONGEST,
    PEACE,
    STREAK,
    Breaker,
    Failure,
    cool_down,
    failed,
    looked,
    renewed,
)
from gateway.core.types import Circuit

PROVEN, UNPROVEN, TRIAL = Failure(), Failure(proven=False), Failure(trial=True)


def after(*failures: Failure, served: int = 0, now: float = 100.0) -> Breaker:
    breaker = Breaker()
    for failure in failures:
        breaker = failed(breaker, failure, served, now)
    return breaker


def test_three_proven_failures_at_once_open_it_for_the_first_cool_down() -> None:
    assert after(PROVEN, PROVEN).circuit is Circuit.CLOSED
    opened = after(PROVEN, PROVEN, PROVEN)
    assert (opened.circuit, opened.until) == (Circuit.OPEN, 100.0 + COOL_DOWN)


def over_time(rate: int, failing: float, seconds: float, before: float = 60.0) -> Breaker:
    """``rate`` requests a second, all well for ``before`` seconds, then a share ``failing``."""
    breaker, served, owed = Breaker(), 0, 0.0
    for number in range(int((before + seconds) * rate)):
        now = 1000 + number / rate
        owed += failing if now >= 1000 + before else 0.0
        if owed >= 1:
            owed -= 1
            breaker = failed(breaker, PROVEN, served, now)
        else:
            served += 1
        if breaker.circuit is Circuit.OPEN:
            return breaker
    return breaker


def test_failures_among_many_successes_are_what_retries_are_for() -> None:
    for rate in (1, 10, 100, 1000):
        assert over_time(rate, 0.2, 30.0).circuit is Circuit.CLOSED


def test_an_engine_that_fails_half_of_a_traffic_is_out_soon() -> None:
    for rate in (10, 100, 1000):
        opened = over_time(rate, 0.5, 10.0)
        assert opened.circuit is Circuit.OPEN
        assert opened.at - 1060 < 3.5


def test_an_engine_that_begins_to_fail_is_out_at_once_however_much_it_served() -> None:
    for rate in (1, 10, 100, 1000):
        opened = over_time(rate, 1.0, 10.0)
        assert opened.circuit is Circuit.OPEN
        assert opened.at - 1060 <= max(2.1, 3 / rate)


def test_failures_that_are_far_apart_do_not_add_up() -> None:
    breaker = Breaker()
    for moment in range(100, 1600, int(PEACE) + 1):
        breaker = failed(breaker, PROVEN, 0, float(moment))
    assert breaker.circuit is Circuit.CLOSED


def test_what_may_be_the_requests_fault_needs_a_long_streak_without_any_success() -> None:
    assert after(*[UNPROVEN] * (STREAK - 1)).circuit is Circuit.CLOSED
    assert after(*[UNPROVEN] * STREAK).circuit is Circuit.OPEN
    breaker = Breaker()
    for number in range(100):
        breaker = failed(breaker, UNPROVEN, number // 2, 100.0)
    assert breaker.circuit is Circuit.CLOSED, "others were served in between"


def test_it_is_half_open_when_the_cool_down_is_over_and_closed_by_a_good_trial() -> None:
    opened = after(PROVEN, PROVEN, PROVEN)
    assert looked(opened, 0, 0, opened.until - 0.01).circuit is Circuit.OPEN
    half = looked(opened, 0, 0, opened.until)
    assert half.circuit is Circuit.HALF_OPEN
    assert looked(half, 5, 0, opened.until + 1).circuit is Circuit.HALF_OPEN, "others' success"
    assert looked(half, 6, 1, opened.until + 1).circuit is Circuit.CLOSED


def test_a_failed_trial_opens_it_for_twice_as_long_and_a_late_failure_changes_nothing() -> None:
    opened = after(PROVEN, PROVEN, PROVEN)
    late = failed(opened, PROVEN, 0, 100.5)
    assert (late.circuit, late.until) == (Circuit.OPEN, opened.until)
    half = looked(opened, 0, 0, opened.until)
    assert failed(half, PROVEN, 0, opened.until).circuit is Circuit.HALF_OPEN
    again = failed(half, TRIAL, 0, opened.until)
    assert (again.circuit, again.until) == (Circuit.OPEN, opened.until + 2 * COOL_DOWN)


def test_the_last_backend_of_a_model_is_never_away_for_longer_than_the_first_cool_down() -> None:
    breaker = after(PROVEN, PROVEN, PROVEN)
    for _ in range(5):
        now = breaker.until
        breaker = failed(looked(breaker, 0, 0, now), Failure(trial=True, last=True), 0, now)
        assert breaker.until == now + COOL_DOWN


def test_after_a_time_of_peace_the_next_cool_down_is_a_first_one() -> None:
    opened = after(PROVEN, PROVEN, PROVEN)
    closed = looked(looked(opened, 0, 0, opened.until), 1, 1, opened.until)
    soon = late = closed
    for _ in range(3):
        soon = failed(soon, PROVEN, 1, closed.closed + 1)
        late = failed(late, PROVEN, 1, closed.closed + PEACE)
    assert soon.until - (closed.closed + 1) == 2 * COOL_DOWN
    assert late.until - (closed.closed + PEACE) == COOL_DOWN


def test_an_engine_that_came_back_gets_a_trial_at_once() -> None:
    assert renewed(after(PROVEN, PROVEN, PROVEN)).circuit is Circuit.HALF_OPEN
    assert renewed(Breaker()).circuit is Circuit.CLOSED


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["fail", "maybe", "trial", "last", "serve", "tried", "die"]),
        st.floats(0, 30),
    ),
    max_size=80,
)


@given(EVENTS)
def test_whatever_happens_it_opens_only_by_failures_and_always_gets_another_trial(
    events: list[tuple[str, float]],
) -> None:
    breaker, now, served, tried = Breaker(), 0.0, 0, 0
    for event, gap in events:
        now += gap
        before = breaker
        match event:
            case "serve":
                served += 1
            case "tried":
                served, tried = served + 1, tried + 1
            case "die":
                served = 0
            case _:
                failure = Failure(event != "maybe", event in ("trial", "last"), event == "last")
                breaker = failed(breaker, failure, served, now)
        breaker = looked(breaker, served, tried, now)
        if breaker.circuit is Circuit.OPEN and before.circuit is not Circuit.OPEN:
            assert event in ("fail", "maybe", "trial", "last")
        assert breaker.until <= now + LONGEST
        assert breaker.bad >= 0 <= breaker.good
    assert looked(breaker, served, tried, now + LONGEST).circuit is not Circuit.OPEN


def test_cool_downs_grow_up_to_the_longest() -> None:
    lengths = [cool_down(turn) for turn in range(1, 40)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (COOL_DOWN, LONGEST)

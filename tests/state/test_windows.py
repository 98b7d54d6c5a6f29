"""Limits of keys over processes: never exceeded, never leaked (a Windows stands for a process)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.charge import Estimate
from gateway.core.errors import Refusal
from gateway.core.types import Caller, Usage
from gateway.state import meter as meters
from gateway.state.board import Board, Page
from gateway.state.meter import Meter
from gateway.state.windows import Lease, Windows

NOON = 1_800_000_000.0 - 1_800_000_000.0 % 86400 + 43200


def two() -> tuple[Windows, Windows]:
    meter = Meter(2)
    return Windows(meter, 0), Windows(meter, 1)


def enters(windows: Windows, caller: Caller, now: float = 0.0, wall: float = NOON) -> bool:
    try:
        windows.enter(caller, now, wall)
    except Refusal:
        return False
    return True


def spends(
    windows: Windows, caller: Caller, used: int, *, now: float = 0.0, wall: float = NOON
) -> str:
    """One whole request of ``used`` tokens; the limit that it met, if any."""
    try:
        lease = windows.enter(caller, now, wall)
    except Refusal as refusal:
        return refusal.limit
    try:
        windows.reserve(lease, Estimate(used), now, wall)
    except Refusal as refusal:
        windows.settle(lease, Usage(), False, now, wall)
        return refusal.limit
    windows.settle(lease, Usage(used), True, now, wall)
    return ""


def test_requests_are_counted_over_all_processes() -> None:
    one, other = two()
    caller = Caller("a", requests_per_minute=3)
    assert [enters(w, caller) for w in (one, other, one, other, one)] == [True] * 3 + [False] * 2


def test_a_minute_later_all_of_them_may_come_again() -> None:
    one, _ = two()
    caller = Caller("a", requests_per_minute=2)
    assert enters(one, caller, 10.0)
    assert enters(one, caller, 30.0)
    assert not enters(one, caller, 69.9)
    assert enters(one, caller, 70.0)
    assert not enters(one, caller, 89.9)
    assert enters(one, caller, 90.0)


def test_keys_do_not_share_their_limits() -> None:
    one, _ = two()
    for name in ("a", "b"):
        caller = Caller(name, requests_per_minute=1)
        assert [enters(one, caller), enters(one, caller)] == [True, False]


def test_requests_under_way_are_counted_over_all_processes_and_given_back() -> None:
    one, other = two()
    caller = Caller("a", max_concurrency=2)
    lease = one.enter(caller, 0.0, NOON)
    assert enters(other, caller)
    assert not enters(one, caller)
    one.settle(lease, Usage(), False, 0.0, NOON)
    assert enters(other, caller)
    assert not enters(other, caller)


def test_what_a_killed_process_had_under_way_is_given_back() -> None:
    page = Page(2)
    one, other = Board(page, 0).windows, Board(page, 1).windows
    caller = Caller("a", max_concurrency=2, tokens_per_day=100)
    lease = one.enter(caller, 0.0, NOON)
    one.reserve(lease, Estimate(60), 0.0, NOON)
    kept = other.enter(caller, 0.0, NOON)
    with pytest.raises(Refusal, match="60 are spent or reserved"):
        other.reserve(kept, Estimate(60), 0.0, NOON)
    page.clear(0)
    other.reserve(kept, Estimate(60), 0.0, NOON)
    assert enters(one, caller)
    assert not enters(other, caller)


def test_tokens_are_reserved_and_settled_with_what_they_came_to() -> None:
    one, other = two()
    caller = Caller("a", tokens_per_minute=100)
    lease = one.enter(caller, 0.0, NOON)
    one.reserve(lease, Estimate(10, 60), 0.0, NOON)
    assert lease.headers()["x-ratelimit-remaining-tokens"] == "30"
    assert spends(other, caller, 31) == "tokens"
    one.settle(lease, Usage(10, 10), True, 1.0, NOON)
    assert spends(other, caller, 81) == "tokens"
    assert spends(other, caller, 80) == ""
    assert spends(one, caller, 1, now=59.9) == "tokens"
    assert spends(one, caller, 100, now=60.0) == ""


def test_tokens_beyond_the_estimate_are_charged_when_they_were_used() -> None:
    one, _ = two()
    caller = Caller("a", tokens_per_minute=100)
    lease = one.enter(caller, 0.0, NOON)
    one.reserve(lease, Estimate(10), 0.0, NOON)
    one.settle(lease, Usage(10, 80), True, 50.0, NOON)
    assert spends(one, caller, 11, now=50.0) == "tokens"
    assert spends(one, caller, 20, now=60.0) == ""
    assert spends(one, caller, 100, now=109.9) == "tokens"
    assert spends(one, caller, 100, now=120.0) == ""


def test_a_request_that_served_nothing_costs_no_tokens() -> None:
    one, _ = two()
    caller = Caller("a", tokens_per_minute=100, tokens_per_day=100)
    lease = one.enter(caller, 0.0, NOON)
    one.reserve(lease, Estimate(100), 0.0, NOON)
    one.settle(lease, Usage(), False, 1.0, NOON)
    assert spends(one, caller, 100, now=1.0) == ""


def test_a_request_without_room_for_its_tokens_does_not_count_as_one() -> None:
    one, _ = two()
    caller = Caller("a", requests_per_minute=2, tokens_per_minute=100)
    assert spends(one, caller, 100) == ""
    assert [spends(one, caller, 1) for _ in range(3)] == ["tokens"] * 3
    lease = one.enter(caller, 0.0, NOON)
    assert lease.headers()["x-ratelimit-remaining-requests"] == "0"


def test_what_was_not_reserved_is_not_charged() -> None:
    one, _ = two()
    caller = Caller("a", tokens_per_minute=100, tokens_per_day=100)
    lease = one.enter(caller, 0.0, NOON)
    one.settle(lease, Usage(90, 90), True, 0.0, NOON)
    assert spends(one, caller, 100) == ""


def test_budgets_begin_anew_with_the_day_and_the_month() -> None:
    one, _ = two()
    caller = Caller("a", tokens_per_day=100, tokens_per_month=250)
    day = 86400
    first = 1_798_761_600.0  # 2027-01-01T00:00:00Z
    walls = [first, first, first + day, first + 2 * day, first + 2 * day, first + 31 * day]
    used = [100, 1, 100, 51, 50, 100]
    met = [spends(one, caller, n, wall=wall) for n, wall in zip(used, walls, strict=True)]
    assert met == ["", "tokens_per_day", "", "tokens_per_month", "", ""]


def test_the_usual_length_of_an_answer_is_learned() -> None:
    one, other = two()
    caller = Caller("a", tokens_per_minute=10**6)

    def after(output: int) -> float:
        lease = one.enter(caller, 0.0, NOON)
        one.reserve(lease, Estimate(1), 0.0, NOON)
        one.settle(lease, Usage(1, output), True, 0.0, NOON)
        return other.usual(lease)

    assert [after(80), after(80), after(0), after(160)] == [80, 80, 80, 90]


def test_budgets_outlive_a_restart() -> None:
    one, _ = two()
    caller = Caller("a", tokens_per_day=100)
    assert spends(one, caller, 70) == ""
    fresh, _ = two()
    for _ in range(2):
        fresh.meter.restore(one.meter.export())
    assert spends(fresh, caller, 31) == "tokens_per_day"
    assert spends(fresh, caller, 30) == ""
    assert fresh.meter.export() != one.meter.export()
    one.meter.restore(fresh.meter.export())
    assert spends(one, caller, 1) == "tokens_per_day"


def test_keys_beyond_the_last_column_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "MOST_KEYS", 2)
    one = Windows(Meter(1), 0)
    callers = [Caller(name, requests_per_minute=1) for name in "abc"]
    assert [enters(one, caller) for caller in callers] == [True, True, False]


def test_a_sum_that_a_killed_process_left_wrong_is_mended() -> None:
    meter = Meter(1)
    one = Windows(meter, 0)
    caller = Caller("a", requests_per_minute=2)
    assert enters(one, caller, 0.0)
    assert enters(one, caller, 30.0)
    meter.totals[2 * meter.column("a")] += 5
    assert not enters(one, caller, 59.0)
    assert enters(one, caller, 60.0)


@dataclass
class Judge:
    """Counts by itself what was let in."""

    requests: list[float] = field(default_factory=list)
    tokens: list[tuple[float, int]] = field(default_factory=list)
    running: list[tuple[Windows, Lease, int]] = field(default_factory=list)


STEPS = st.lists(
    st.tuples(
        st.floats(0, 25),
        st.integers(0, 1),
        st.sampled_from(["enter", "enter", "enter", "end", "end"]),
        st.integers(1, 40),
    ),
    max_size=120,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_no_minute_ever_holds_more_than_the_limits(
    steps: list[tuple[float, int, str, int]],
) -> None:
    hands = two()
    caller = Caller("a", requests_per_minute=5, tokens_per_minute=100, max_concurrency=3)
    judge, now = Judge(), 0.0
    for gap, row, what, amount in steps:
        now += gap
        if what == "enter":
            _enter(judge, hands[row], caller, amount, now)
        elif judge.running:
            windows, lease, tokens = judge.running.pop(0)
            windows.settle(lease, Usage(tokens), True, now, NOON)
        assert len(judge.running) <= 3
        assert sum(moment > now - 60 for moment in judge.requests) <= 5
        assert sum(tokens for moment, tokens in judge.tokens if moment > now - 60) <= 100


def _enter(judge: Judge, windows: Windows, caller: Caller, amount: int, now: float) -> None:
    """A request that costs exactly what was reserved for it. What falls into the same second as
    something else may leave the minute a second late; beyond that nothing may be refused."""
    fits = (
        len(judge.running) < 3
        and sum(moment > now - 61 for moment in judge.requests) < 5
        and sum(tokens for moment, tokens in judge.tokens if moment > now - 61) + amount <= 100
    )
    try:
        lease = windows.enter(caller, now, NOON)
        try:
            windows.reserve(lease, Estimate(amount), now, NOON)
        except Refusal:
            windows.settle(lease, Usage(), False, now, NOON)
            raise
    except Refusal as refusal:
        assert not fits, refusal.message
        return
    judge.requests.append(now)
    judge.tokens.append((now, amount))
    judge.running.append((windows, lease, amount))

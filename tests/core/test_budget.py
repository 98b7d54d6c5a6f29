"""The bound on further attempts holds whatever comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.budget import RESERVE, SAVED, Budget

EVENTS = st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=200)


@given(EVENTS, st.floats(0, 1), st.floats(0, 20))
def test_attempts_are_at_most_a_share_of_the_requests_and_a_few_a_second(
    events: list[tuple[bool, float]], share: float, floor: float
) -> None:
    now, requests, retries = 1000.0, 0, 0
    budget = Budget(share, floor, now)
    for asks, gap in events:
        now += gap
        if asks:
            retries += budget.take(now)
        else:
            requests += 1
            budget.earn()
        saved = max(floor * RESERVE, 1.0)
        assert retries <= share * requests + floor * (now - 1000.0) + saved + 1e-6
        assert 0 <= budget.earned <= SAVED
        assert budget.spare >= 0


def test_an_outage_is_not_multiplied() -> None:
    budget = Budget(0.2, 10.0, 0.0)
    retries = 0
    for number in range(10_000):
        budget.earn()
        retries += sum(budget.take(number / 1000) for _ in range(3))
    assert 2000 <= retries <= 2000 + 10 * 10 + 100


def test_a_budget_of_nothing_allows_nothing() -> None:
    budget = Budget(0.0, 0.0, 0.0)
    budget.earn()
    assert not budget.take(1e6)


def test_quiet_times_save_up_no_more_than_the_reserve() -> None:
    budget = Budget(0.0, 2.0, 0.0)
    assert sum(budget.take(1e6) for _ in range(1000)) == 2 * RESERVE

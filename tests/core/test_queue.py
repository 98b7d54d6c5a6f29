"""The waiting line: its order, its bounds, its predictions."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.queue import (
    HEAD_START,
    LONGEST_WORK,
    SCAN,
    SURE,
    Bounds,
    Entry,
    Line,
    Pace,
    entry,
    line_full,
    too_late,
    wait,
    waited_in_vain,
    work,
)

LEVEL = st.integers(-1, 1)
SECONDS = st.floats(0, LONGEST_WORK)
GAPS = st.lists(st.tuples(st.floats(0.001, 2), SECONDS, LEVEL), min_size=1, max_size=60)


def never(_: Entry) -> bool:
    return False


def arrivals(gaps: list[tuple[float, float, int]]) -> list[tuple[float, Entry]]:
    """(moment, entry) of requests that come one after the other."""
    now, found = 0.0, []
    for number, (gap, seconds, level) in enumerate(gaps):
        now += gap
        found.append((now, entry(number, now, seconds, level)))
    return found


def filled(entries: list[Entry]) -> Line:
    line = Line()
    for one in entries:
        line.add(one)
    return line


def test_of_two_that_come_together_the_shorter_goes_first() -> None:
    book, word = entry(1, 0.0, work(48_000), 0), entry(2, 0.0, work(40), 0)
    assert filled([book, word]).head is word


def test_a_long_one_goes_before_short_ones_that_come_later_than_its_prompt_takes() -> None:
    book, word = entry(1, 0.0, 2.0, 0), entry(2, 2.1, 0.0, 0)
    assert filled([word, book]).head is book


def test_a_higher_priority_goes_first_but_not_before_one_that_has_waited_long() -> None:
    low, high = entry(1, 0.0, 0.0, 0), entry(2, HEAD_START - 1, 0.0, 1)
    assert filled([low, high]).head is high
    late = entry(3, HEAD_START + 1, 0.0, 1)
    assert filled([low, late]).head is low


@given(GAPS)
def test_within_a_priority_the_order_is_that_of_slack(gaps: list[tuple[float, float, int]]) -> None:
    came = arrivals([(gap, seconds, 0) for gap, seconds, _ in gaps])
    order = list(filled([one for _, one in came]))
    slack = {one.number: now + gaps[one.number][1] for now, one in came}
    for one, other in pairwise(order):
        assert slack[one.number] <= slack[other.number] + 1e-9


@given(GAPS)
def test_nobody_starves(gaps: list[tuple[float, float, int]]) -> None:
    """Whoever comes later than two head starts and the longest work is never served before."""
    came = arrivals(gaps)
    moment = {one.number: now for now, one in came}
    line, served = filled([one for _, one in came]), []
    while (head := line.head) is not None:
        line.remove(head)
        served.append(head.number)
    for at, number in enumerate(served):
        for later in served[at + 1 :]:
            assert moment[number] - moment[later] <= 2 * HEAD_START + LONGEST_WORK + 1e-9


@given(GAPS, st.randoms(use_true_random=False))
def test_being_passed_over_has_an_end(gaps: list[tuple[float, float, int]], dice) -> None:
    line = filled([one for _, one in arrivals(gaps)])
    while len(line):
        head = line.head
        found = line.next(lambda _: dice.random() < 0.3)
        assert found is not None and head is not None
        assert found.priority == head.priority
        assert all(one.passed <= SCAN for one in line)
        line.remove(found)


@given(GAPS)
def test_a_line_counts_who_is_ahead_and_forgets_who_leaves(
    gaps: list[tuple[float, float, int]],
) -> None:
    entries = [one for _, one in arrivals(gaps)]
    line = filled(entries)
    for one in entries:
        assert line.ahead(one.rank) == sum(other.rank < one.rank for other in line)
        line.remove(one)
        line.remove(one)
    assert len(line) == 0 and line.head is None and line.next(never) is None


def test_a_place_goes_to_the_first_whose_favourite_it_is_else_to_the_head() -> None:
    entries = [entry(number, float(number), 0.0, 0) for number in range(4)]
    line = filled(entries)
    assert line.next(lambda one: one.number == 2) is entries[2]
    assert [one.passed for one in entries] == [1, 1, 0, 0]
    assert line.next(never) is entries[0]


def test_a_lower_priority_does_not_get_a_place_for_being_its_favourite() -> None:
    high, low = entry(1, 0.0, 0.0, 1), entry(2, 0.0, 0.0, 0)
    assert filled([high, low]).next(lambda one: one is low) is high


def test_nothing_is_predicted_before_enough_has_ended() -> None:
    pace = Pace()
    for _ in range(SURE):
        assert pace.rate([("a", 2)]) is None
        pace.left("a", 4.0)
    assert pace.rate([("a", 2)]) == pytest.approx(0.5)
    assert pace.rate([("a", 2), ("b", 1)]) is None, "b may be slow or fast"
    assert wait(3, pace.rate([("a", 2)])) == pytest.approx(8.0)
    assert wait(3, None) is None


def test_a_pace_follows_and_does_not_depend_on_how_many_come() -> None:
    pace = Pace()
    for _ in range(50):
        pace.left("a", 1.0)
    for _ in range(50):
        pace.left("a", 2.0)
    assert pace.rate([("a", 1)]) == pytest.approx(0.5, rel=0.01)


@given(st.integers(0, 10_000), st.floats(0.001, 1000), st.floats(0.001, 1000))
def test_a_faster_line_and_a_shorter_one_never_take_longer(
    ahead: int, rate: float, other: float
) -> None:
    slow, fast = sorted((rate, other))
    first, second, more = wait(ahead, fast), wait(ahead, slow), wait(ahead + 1, fast)
    assert first is not None and second is not None and more is not None
    assert 0 < first <= second and first < more


def test_refusals_name_what_is_full_and_when_to_come_again() -> None:
    bounds = Bounds(2, 30.0)
    for refusal in (
        too_late("m", 41.0, bounds),
        line_full("m", 2, 41.0),
        waited_in_vain("m", 41.0, bounds),
    ):
        assert (refusal.kind, refusal.retry_after, refusal.opens) == ("overloaded", 41.0, None)
        assert "'m'" in refusal.message and "Retry-After" in refusal.message

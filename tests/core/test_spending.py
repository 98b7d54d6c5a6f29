"""What was used, summed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.spending import HOUR, MANY, Slot, Spent, Sums, count, grouped, merge
from gateway.core.types import Outcome, Usage

NOON = 1_800_000_000 // HOUR * HOUR
DONE = Outcome(
    id="1",
    key="team-a",
    user="u",
    session="s",
    surface="chat-completions",
    model="m",
    status=200,
    first_byte=0.5,
    usage=Usage(10, 20, 4),
    at=NOON + 1800.5,
)


def test_a_request_counts_in_its_hour_for_all_that_it_belongs_to() -> None:
    sums: Sums = {}
    count(sums, DONE)
    count(sums, replace(DONE, status=500, first_byte=None, usage=Usage()))
    assert sums == {Slot(NOON, "team-a", "u", "s", "m"): Spent(2, 1, 10, 20, 4, 0.5, 1)}


def test_a_cut_answer_is_an_error_and_an_unknown_key_is_nobody() -> None:
    sums: Sums = {}
    count(sums, replace(DONE, cut_by="engine"))
    count(sums, replace(DONE, key="", status=401))
    assert [spent.errors for spent in sums.values()] == [1]


def test_names_of_callers_are_bounded_in_length_and_number() -> None:
    sums: Sums = {}
    for n in range(10):
        count(sums, replace(DONE, user=str(n) * 500), most=3)
    assert len(sums) == 4
    assert all(len(slot.user) <= 128 for slot in sums)
    others = sums[Slot(NOON, "team-a", MANY, MANY, "m")]
    assert others.requests == 7


slots = st.builds(Slot, st.sampled_from([0, HOUR, 24 * HOUR]), *(st.sampled_from("ab"),) * 4)
spents = st.builds(Spent, *(st.integers(0, 9),) * 7)


@given(st.lists(st.tuples(slots, spents)), st.sets(st.sampled_from(["key", "user", "hour", "day"])))
def test_nothing_is_lost_by_merging_and_grouping(
    rows: list[tuple[Slot, Spent]], names: set[str]
) -> None:
    sums: Sums = {}
    for slot, spent in rows:
        merge(sums, {slot: spent}, most=3)
    whole = [sum(column) for column in zip(*(spent for _, spent in rows), strict=True)]
    found = grouped(sums.items(), sorted(names))
    assert [sum(column) for column in zip(*(spent for _, spent in found), strict=True)] == whole

"""The prefix index: what it finds, what it forgets, what it weighs, and writers that meet."""

from __future__ import annotations

import os
import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.state.prefixes import BUCKET, ENGINES, WAYS, Prefixes

ROOMY = [1000] * ENGINES


def chain(name: str, blocks: int) -> tuple[int, ...]:
    links, link = [], hash(name)
    for _ in range(blocks):
        link = hash((link, "block"))
        links.append(link)
    return tuple(links)


def test_what_an_engine_was_sent_it_has_and_no_other() -> None:
    index = Prefixes(1024)
    assert index.match(chain("a", 5), ROOMY) == {}
    assert index.add(chain("a", 5), 3, 1000) == 5
    assert index.add(chain("a", 5), 3, 1000) == 0
    assert index.match(chain("a", 9), ROOMY) == {3: 5}
    assert index.match(chain("b", 9), ROOMY) == {}


def test_several_engines_hold_a_prefix_as_far_as_each_was_sent_it() -> None:
    index = Prefixes(1024)
    index.add(chain("a", 2), 0, 1000)
    index.add(chain("a", 6), 1, 1000)
    assert index.match(chain("a", 9), ROOMY) == {0: 2, 1: 6}


def test_what_was_not_used_for_as_long_as_a_cache_lasts_is_gone() -> None:
    index, room = Prefixes(4096), [20] * ENGINES
    index.add(chain("a", 5), 0, 20)
    index.add(chain("b", 15), 0, 20)
    assert index.match(chain("a", 5), room) == {0: 5}
    index.add(chain("a", 5), 0, 20)  # used again, so that b is the older one now
    index.add(chain("c", 10), 0, 20)
    assert index.match(chain("a", 5), room) == {0: 5}
    index.add(chain("d", 12), 0, 20)
    assert index.match(chain("b", 15), room) == {}
    assert index.match(chain("d", 12), room) == {0: 12}


def test_a_block_that_more_engines_hold_than_there_are_ways_keeps_the_latest() -> None:
    index = Prefixes(1024)
    for column in range(WAYS + 3):
        index.grow(column, 50 if column < 3 else 0)
        index.add(chain("a", 1), column, 1000)
        if column < 3:
            index.grow(column, 100)
    assert set(index.match(chain("a", 1), ROOMY)) == set(range(3, WAYS + 3))


def test_an_engine_that_has_less_than_thought_loses_the_end() -> None:
    index = Prefixes(1024)
    for column in (0, 1, 2):
        index.add(chain("a", 6), column, 1000)
    index.truncate(chain("a", 6), 1, 2)
    assert index.match(chain("a", 6), ROOMY) == {0: 6, 1: 2, 2: 6}
    index.add(chain("a", 6), 1, 1000)
    assert index.match(chain("a", 6), ROOMY) == {0: 6, 1: 6, 2: 6}


def test_an_engine_that_began_anew_has_nothing_and_the_others_keep_theirs() -> None:
    index = Prefixes(1024)
    index.add(chain("a", 6), 0, 1000)
    index.add(chain("a", 6), 1, 1000)
    index.forget(0, 1000)
    assert index.match(chain("a", 6), ROOMY) == {1: 6}


def test_the_age_of_a_block_is_what_its_engine_took_in_since() -> None:
    index = Prefixes(1024)
    index.add(chain("a", 4), 0, 1000)
    index.add(chain("b", 7), 0, 1000)
    assert index.age(chain("a", 4)[-1], 0) == 4 + 7
    assert index.age(chain("a", 4)[-1], 1) is None
    assert index.age(chain("c", 1)[-1], 0) is None


def test_a_block_that_lost_its_slot_does_not_hide_those_behind_it() -> None:
    index, links = Prefixes(1024), chain("a", 9)
    index.add(links[:3] + links[4:], 0, 1000)
    assert index.match(links, ROOMY) == {0: 9}
    index.add(chain("b", 9)[:2] + chain("b", 9)[6:], 0, 1000)
    assert index.match(chain("b", 9), ROOMY) == {0: 2}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 40), st.integers(0, ENGINES - 1)),
        max_size=120,
    )
)
def test_it_never_takes_more_memory_and_never_promises_more_than_an_engine_can_hold(
    sent: list[tuple[int, int, int]],
) -> None:
    slots, room = 64, 25
    index = Prefixes(slots)
    size = index.size
    rooms = [room] * ENGINES
    for name, blocks, column in sent:
        index.add(chain(str(name), blocks), column, room)
    assert index.size == size == 8 * (slots * (1 + WAYS) + ENGINES)
    held: dict[int, int] = {}
    for name in range(31):
        for column, blocks in index.match(chain(str(name), 40), rooms).items():
            held[column] = held.get(column, 0) + blocks
    assert sum(held.values()) <= slots * WAYS
    # One chain may overhang, since its blocks share a stamp.
    assert all(blocks <= room + 40 for blocks in held.values())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 12)), min_size=1, max_size=60))
def test_with_room_for_all_it_finds_exactly_what_was_sent(sent: list[tuple[int, int]]) -> None:
    index, longest = Prefixes(1 << 14), {}
    for name, blocks in sent:
        index.add(chain(str(name), blocks), name, 10_000)
        longest[name] = max(longest.get(name, 0), blocks)
    rooms = [10_000] * ENGINES
    for name, blocks in longest.items():
        assert index.match(chain(str(name), 12), rooms) == {name: blocks}


def test_the_least_used_block_makes_room_in_a_full_table() -> None:
    index, hot = Prefixes(BUCKET * 4), chain("hot", 2)
    for turn in range(200):
        index.add(hot, 0, 100_000)
        index.add(chain(f"cold {turn}", 1), 0, 100_000)
    assert index.match(hot, [100_000] * ENGINES) == {0: 2}


def test_writers_that_meet_lose_entries_at_most() -> None:
    """Two processes write the same few slots for a while; a third looks on all the time."""
    index = Prefixes(64)
    names = {column: [f"{column}-{n}" for n in range(12)] for column in (1, 2)}
    children = []
    for column in (1, 2):
        pid = os.fork()
        if pid == 0:
            try:
                draw = random.Random(column)
                end = time.monotonic() + 0.4
                while time.monotonic() < end:
                    own = chain(draw.choice(names[column]), draw.randrange(1, 8))
                    index.add(own, column, 500)
                    if draw.random() < 0.1:
                        index.truncate(own, column, 1)
                    index.add(chain("both", 6), column, 500)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    rooms, seen = [500] * ENGINES, set()
    while children:
        for column, own in names.items():
            for name in own:
                found = index.match(chain(name, 8), rooms)
                assert set(found) <= {column}, "an engine was never sent the other's prompts"
        seen |= set(index.match(chain("both", 6), rooms))
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            assert status == 0
            children.remove(pid)
    assert seen == {1, 2}

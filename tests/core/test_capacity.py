"""When an engine has all it can use."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.capacity import (
    ENOUGH,
    IN_ITS_QUEUE,
    Learner,
    ceiling,
    limit,
    of_engine,
    open_for,
    room,
    trial_of,
)
from gateway.core.catalog import Place
from gateway.core.types import Circuit, Load
from tests.core.fleets import catalog


def place(most: int | None = None, seen: int | None = None, slots: int | None = None) -> Place:
    (found,) = catalog(a="vllm m1").by_backend["a"]
    return replace(
        found,
        backend=replace(found.backend, max_concurrency=most),
        sight=replace(found.sight, ceiling=seen),
        runtime=replace(found.runtime, slots=slots),
    )


@pytest.mark.parametrize(
    ("given_place", "expected"),
    [
        (place(), None),
        (place(most=8), 8),
        (place(slots=1), 1),
        (place(seen=5), 5),
        (place(most=8, seen=5), 5),
        (place(most=4, seen=5), 4),
    ],
)
def test_the_limit_is_the_lowest_that_anybody_tells(given_place: Place, expected: int) -> None:
    assert limit(given_place) == expected


def test_a_place_is_open_below_its_limit() -> None:
    assert open_for(place(), 10_000)
    assert open_for(place(most=2), 1) and not open_for(place(most=2), 2)


def with_circuit(circuit: Circuit, most: int | None = None) -> Place:
    found = place(most=most)
    return replace(found, sight=replace(found.sight, circuit=circuit))


def test_there_is_room_below_the_limit_and_without_end_where_there_is_none() -> None:
    assert room(place(), {"a": 10_000}) is None
    assert room(place(most=3), {"a": 1}) == 2
    assert room(place(most=3), {"a": 3}) == room(place(most=3), {"a": 4}) == 0


def test_an_open_circuit_has_no_room_and_a_half_open_one_for_one_trial_at_a_time() -> None:
    half = with_circuit(Circuit.HALF_OPEN)
    assert room(with_circuit(Circuit.OPEN), {}) == 0
    assert room(half, {"a": 7}) == 1, "streams from before the failure do not count"
    assert room(half, {"a": 8, trial_of("a"): 1}) == 0
    assert room(with_circuit(Circuit.HALF_OPEN, most=4), {"a": 4}) == 0


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Load(), None),
        (Load(running=30, waiting=0), None),
        (Load(running=30, waiting=IN_ITS_QUEUE), None),
        (Load(running=30, waiting=40), 32),
        (Load(running=0, waiting=40), 2),
        (Load(running=1, waiting=9, slots=4), 4),
    ],
)
def test_an_engines_own_queue_says_how_many_it_runs(load: Load, expected: int | None) -> None:
    assert of_engine(load) == expected


def test_an_engine_is_only_believed_as_far_as_configured() -> None:
    load = Load(running=30, waiting=40)
    assert ceiling(load, 7, "configured") is None
    assert ceiling(load, 7, "engine") == 32
    assert ceiling(load, 7, "learned") == 7
    assert ceiling(Load(), None, "learned") is None


def fed(rates: dict[int, float], rounds: int = ENOUGH + 1) -> Learner:
    """A learner of an engine that has these tokens a second at these requests at once."""
    learner, now, progress = Learner(), 0.0, 0.0
    for running, rate in rates.items():
        for _ in range(rounds):
            now, progress = now + 5.0, progress + 5.0 * rate
            learner.saw(Load(running=running, progress=progress), now)
    return learner


def test_where_more_at_once_brings_no_more_the_limit_is_what_brought_it() -> None:
    assert fed({4: 400.0, 16: 900.0, 64: 905.0}).limit == 16


def test_while_more_still_brings_more_there_is_no_limit() -> None:
    assert fed({4: 400.0, 16: 900.0, 64: 1500.0}).limit is None


def test_nothing_is_learned_of_what_is_not_known() -> None:
    assert Learner().limit is None
    assert fed({16: 900.0}).limit is None
    learner = fed({4: 400.0, 16: 400.0}, rounds=ENOUGH - 1)
    assert learner.limit is None
    learner.saw(Load(), 1e6)
    assert learner.limit is None


def test_a_counter_that_fell_back_is_no_throughput() -> None:
    learner = fed({4: 400.0})
    learner.saw(Load(running=64, progress=0.0), 1e6)
    for step in range(1, ENOUGH + 1):
        learner.saw(Load(running=64, progress=step * 5000.0), 1e6 + 5 * step)
    assert learner.limit is None, "64 at once bring more than 4"


@given(st.dictionaries(st.integers(1, 300), st.floats(1.0, 1e4), min_size=1, max_size=12))
def test_a_learned_limit_is_a_number_that_was_seen_and_below_what_brought_less(
    rates: dict[int, float],
) -> None:
    found = fed(rates).limit
    if found is not None:
        assert found in rates
        assert any(more > found for more in rates)

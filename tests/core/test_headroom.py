"""What a backend can carry, by what was measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from gateway.core import headroom
from gateway.core.catalog import build
from gateway.core.gpus import Gpu, Process
from gateway.core.plan import View
from gateway.policies.gpu import gpu as policy
from tests.core.fleets import call, changed, fleet, rows

GIB = 1 << 30
CARD = Gpu("h", "0", "G", memory_used=40 * GIB, memory_total=80 * GIB)
OURS = frozenset({7})


def room(gpu: Gpu = CARD, kv: float | None = None, idle: float = 0.0, busy: float = 0.0) -> float:
    return headroom.room([gpu], OURS, kv, {"G": idle}, {"G": busy})


def test_nothing_known_is_all_there() -> None:
    assert headroom.room([], OURS, None, {}, {}) == 1.0
    assert headroom.room([Gpu("h", "0", "G")], OURS, None, {}, {}) == 1.0


def test_another_process_takes_its_share_of_the_memory() -> None:
    shared = replace(CARD, processes=(Process(7, 20 * GIB), Process(8, 20 * GIB)))
    assert room(shared) == pytest.approx(0.75)


def test_another_process_takes_what_it_used_while_we_were_idle() -> None:
    shared = replace(CARD, processes=(Process(7, 20 * GIB), Process(8, 8 * GIB)))
    assert room(shared, idle=0.6) == pytest.approx(0.4)


def test_utilization_without_another_process_is_nobody_elses() -> None:
    alone = replace(CARD, processes=(Process(7, 40 * GIB),))
    assert room(alone, idle=0.6) == 1.0


def test_whose_processes_cannot_be_told_discounts_nobody() -> None:
    shared = replace(CARD, processes=(Process(8, 20 * GIB),))
    assert headroom.room([shared], frozenset(), None, {"G": 0.9}, {}) == 1.0


def test_a_busy_gpu_has_less_room_and_never_none() -> None:
    assert room(busy=1.0) == 0.5
    full = replace(CARD, memory_used=80 * GIB, processes=(Process(8, 80 * GIB),))
    assert room(full, busy=1.0, idle=1.0) == headroom.LEAST


def test_scarce_memory_counts_unless_the_engine_tells_of_its_cache() -> None:
    tight = replace(CARD, memory_used=76 * GIB)
    assert room(tight) == pytest.approx(0.75)
    assert room(tight, kv=0.0) == 1.0
    assert room(tight, kv=0.5) == 0.75


def test_the_worst_gpu_decides() -> None:
    tight = replace(CARD, uuid="H", memory_used=80 * GIB)
    assert headroom.room([CARD, tight], OURS, None, {}, {}) == 0.5


def test_what_is_left_is_what_others_take_and_nothing_of_our_own() -> None:
    tight = replace(CARD, memory_used=80 * GIB, processes=(Process(7, 79 * GIB),))
    assert headroom.left([], OURS, {}) == 1.0
    assert headroom.left([CARD, tight], OURS, {"G": 0.9}) == 1.0
    shared = replace(CARD, uuid="H", processes=(Process(7, 20 * GIB), Process(8, 20 * GIB)))
    assert headroom.left([tight, shared], OURS, {}) == pytest.approx(0.75)
    assert headroom.left([shared], OURS, {"H": 0.99}) == headroom.LEAST


def test_room_is_told_in_steps_and_not_for_every_sample() -> None:
    assert headroom.stepped(1.0, 0.93) == 1.0
    assert headroom.stepped(1.0, 0.6) == 0.625
    assert headroom.stepped(0.625, 0.68) == 0.625


def test_a_speed_keeps_to_the_fast_answers() -> None:
    speed = 0.0
    for value in [100.0] * 20 + [20.0] * 10:
        speed = headroom.shown(speed, value)
    assert 80 < speed < 100


def test_speeds_are_told_when_they_have_changed_enough() -> None:
    told = {"m": 100.0}
    assert headroom.told_speeds(told, {"m": 110.0}) is told
    assert headroom.told_speeds(told, {"m": 130.0}) == {"m": 130.0}
    assert headroom.told_speeds(told, {"m": 100.0, "n": 5.0}) == {"m": 100.0, "n": 5.0}


# --- the policy


def places(**sights: dict[str, object]) -> tuple:
    found = fleet(**dict.fromkeys(sights, "vllm m1"))
    for name, fields in sights.items():
        found = changed(found, name, **fields)
    return build(found, (), rows).entries["m1"].places


def shares(candidates: tuple, requests: int = 90) -> Counter:
    """Where requests that all stay go to, one after the other."""
    busy: Counter = Counter(dict.fromkeys((p.backend.name for p in candidates), 0))
    for turn in range(requests):
        scores = policy(View(call(), candidates, busy, turn, 0.5))
        busy[candidates[scores.index(min(scores))].backend.name] += 1
    return busy


def test_a_fast_and_a_slow_card_are_no_equals() -> None:
    found = shares(places(h100={"speeds": {"m1": 80.0}}, t4={"speeds": {"m1": 10.0}}))
    assert found["h100"] == 80 and found["t4"] == 10


def test_throttling_halves_the_share_of_one_of_two() -> None:
    found = shares(places(a={"gpu_factor": 0.5}, b={}))
    assert found == {"a": 30, "b": 60}


def test_a_shared_gpu_gets_what_the_other_leaves() -> None:
    assert shares(places(a={"room": 0.5}, b={})) == {"a": 30, "b": 60}


def test_an_engine_that_has_shown_nothing_yet_counts_as_an_average_one() -> None:
    found = shares(places(a={"speeds": {"m1": 30.0}}, b={"speeds": {"m1": 10.0}}, new={}))
    assert found == {"a": 45, "b": 15, "new": 30}


def test_without_any_reading_equals_share_equally() -> None:
    assert shares(places(a={}, b={}, c={})) == {"a": 30, "b": 30, "c": 30}

"""What condemns a GPU, what slows it down, and when it is trusted again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.gpu_gate import (
    FLOOR,
    RULES,
    UNSEEN,
    Engine,
    Memory,
    Until,
    Verdict,
    called,
    follow,
    verdict,
    worst,
)
from gateway.core.gpus import Gpu, State, Throttle

HOLD = 30.0
WELL = Gpu(
    "host1",
    "0",
    "GPU-a",
    "NVIDIA H200",
    busy=0.9,
    clock=1900.0,
    clock_max=1980.0,
    ecc_uncorrected=0,
    remap_pending=False,
    remap_failed=False,
)
RUNNING = Engine(frozenset({11, 12}))


def seen(*readings: dict[str, Any], start: Memory = UNSEEN, engine: Engine = RUNNING) -> Memory:
    """The memory after readings one second apart, the first of which is a good one."""
    memory = start
    if start is UNSEEN:
        memory = follow(UNSEEN, replace(WELL, at=1.0), engine, HOLD)
    for reading in readings:
        gpu = replace(WELL, at=memory.at + 1.0, **reading)
        memory = follow(memory, gpu, engine, HOLD)
    return memory


def code(memory: Memory) -> str:
    return verdict(memory).code


BAD: list[tuple[str, dict[str, Any]]] = [
    ("gpu_lost", {"state": State.LOST}),
    ("recovery_action", {"recovery": "gpu_reset"}),
    ("row_remap_failed", {"remap_failed": True}),
    ("ecc_uncorrected", {"ecc_uncorrected": 1}),
    ("row_remap_pending", {"remap_pending": True}),
    ("page_retirement_pending", {"retired_pending": True}),
    ("xid", {"xids": {79: 1}}),
]


@pytest.mark.parametrize(("reason", "reading"), BAD)
def test_the_first_bad_reading_condemns_and_says_what_to_do(
    reason: str, reading: dict[str, Any]
) -> None:
    found = verdict(seen(reading), called(WELL))
    assert found.sick and found.code == reason
    assert found.said.startswith("GPU 0 on host1 (NVIDIA H200): ")
    assert found.since == 2.0
    assert "nvidia-smi" in found.remedy or "host" in found.remedy
    assert "{gpu}" not in found.remedy


def test_every_rule_has_its_bad_reading_here() -> None:
    assert [reason for reason, _ in BAD] == [rule.code for rule in RULES]


@pytest.mark.parametrize(
    "reading",
    [
        {},
        {"recovery": "none"},
        {"ecc_corrected": 900},
        {"xids": {13: 4, 31: 1, 63: 1, 154: 2, 9999: 1}},
        {"throttle": frozenset({Throttle.SW_POWER_CAP}), "clock": 600.0},
        {"memory_used": 10, "memory_total": 10},
        {"temperature": 99.0},
    ],
)
def test_these_readings_condemn_nobody(reading: dict[str, Any]) -> None:
    assert verdict(seen(reading)) == Verdict()


NOTHING = dict.fromkeys(
    (
        *("busy", "clock", "clock_max", "ecc_uncorrected", "remap_pending", "remap_failed"),
        *("retired_pending", "memory_used", "memory_total", "temperature", "power", "energy"),
    )
)


def test_a_device_that_tells_nothing_is_trusted() -> None:
    memory = UNSEEN
    for at in range(1, 5):
        throttle = frozenset({Throttle.HW_THERMAL})
        gpu = replace(WELL, **NOTHING, at=float(at), throttle=throttle)
        memory = follow(memory, gpu, RUNNING, HOLD)
        assert verdict(memory) == Verdict()


@pytest.mark.parametrize("state", [State.DENIED, State.MISMATCH, State.FAILED, State.UNSUPPORTED])
def test_a_reading_that_speaks_of_our_access_neither_condemns_nor_heals(state: State) -> None:
    blind = {"state": state, **NOTHING}
    assert code(seen(blind)) == ""
    sick = seen({"remap_failed": True})
    assert code(seen(*[blind] * 100, start=sick)) == "row_remap_failed"


def test_errors_counted_before_we_looked_are_history() -> None:
    gpu = replace(WELL, at=1.0, ecc_uncorrected=7, xids={79: 2})
    memory = follow(UNSEEN, gpu, RUNNING, HOLD)
    assert code(memory) == ""
    assert code(follow(memory, replace(gpu, at=2.0), RUNNING, HOLD)) == ""
    assert code(follow(memory, replace(gpu, at=2.0, ecc_uncorrected=8), RUNNING, HOLD))


def test_a_counter_that_begins_anew_is_no_rise() -> None:
    memory = seen({"ecc_uncorrected": 5}, start=seen())
    calm = seen(*[{"ecc_uncorrected": 5}] * 40, start=memory)
    assert code(calm) == ""
    reset = seen({"ecc_uncorrected": 0}, {"ecc_uncorrected": 0}, start=calm)
    assert code(reset) == ""
    assert code(seen({"ecc_uncorrected": 1}, start=reset)) == "ecc_uncorrected"


@pytest.mark.parametrize(("reason", "reading"), [bad for bad in BAD if bad[0] != "xid"])
def test_it_is_trusted_again_when_readings_were_good_for_a_while(
    reason: str, reading: dict[str, Any]
) -> None:
    after = {"ecc_uncorrected": 1} if reason == "ecc_uncorrected" else {}
    sick = seen(reading)
    assert code(seen(*[after] * 30, start=sick)) == reason
    assert code(seen(*[after] * 31, start=sick)) == ""


def test_one_more_bad_reading_starts_the_while_anew() -> None:
    again = seen({"remap_pending": True}, *[{}] * 29, {"remap_pending": True}, *[{}] * 29)
    assert code(again) == "row_remap_pending"
    assert verdict(again).since == 2.0


def test_a_silent_source_changes_nothing_however_long_it_is_silent() -> None:
    sick, well = seen({"remap_failed": True}), seen()
    for memory in (sick, well):
        stale = replace(WELL, at=memory.at)
        assert follow(memory, stale, RUNNING, HOLD) == memory
        assert follow(memory, None, RUNNING, HOLD) == memory


# --- the driver's error numbers


def test_a_fatal_number_stays_until_the_engine_has_new_processes() -> None:
    sick = seen({"xids": {79: 1}})
    much_later = seen(*[{"xids": {79: 1}}] * 500, start=sick)
    assert code(much_later) == "xid"
    partly = seen({"xids": {79: 1}}, start=much_later, engine=Engine(frozenset({12, 13})))
    assert code(partly) == "xid"
    gone = seen({"xids": {79: 1}}, start=much_later, engine=Engine(away=True))
    assert code(gone) == "xid"
    anew = seen({"xids": {79: 1}}, start=gone, engine=Engine(frozenset({21, 22})))
    assert code(anew) == ""


def test_where_processes_are_unknown_being_away_and_back_is_a_restart() -> None:
    nameless = Engine()
    sick = seen({"xids": {95: 1}}, start=seen(engine=nameless), engine=nameless)
    assert code(seen({"xids": {95: 1}}, start=sick, engine=nameless)) == "xid"
    away = seen({"xids": {95: 1}}, start=sick, engine=Engine(away=True))
    assert code(away) == "xid"
    assert code(seen({"xids": {95: 1}}, start=away, engine=nameless)) == ""


def test_an_engine_restarted_while_nothing_can_be_read_is_given_a_chance() -> None:
    sick = seen({"remap_failed": True})
    away = follow(sick, None, Engine(away=True), HOLD)
    assert code(away) == "row_remap_failed"
    assert code(follow(away, None, Engine(), HOLD)) == ""


def test_a_restart_does_not_heal_what_readings_still_say() -> None:
    sick = seen({"xids": {64: 1}, "remap_failed": True})
    anew = Engine(frozenset({99}))
    again = seen({"xids": {64: 1}, "remap_failed": True}, start=sick, engine=anew)
    assert set(again.faults) == {"row_remap_failed"}


def test_several_numbers_are_told_together_with_their_remedies() -> None:
    found = verdict(seen({"xids": {79: 1, 119: 1, 13: 1}}))
    assert "XID 79: the GPU has fallen off the bus; XID 119: " in found.said
    assert "Reboot the host" in found.remedy and "nvidia-smi --gpu-reset -i GPU-a" in found.remedy


# --- throttling

HOT: dict[str, Any] = {"throttle": frozenset({Throttle.HW_THERMAL}), "clock": 990.0}


@pytest.mark.parametrize(
    "reason",
    [Throttle.HW_SLOWDOWN, Throttle.HW_THERMAL, Throttle.HW_POWER_BRAKE, Throttle.SW_THERMAL],
)
def test_throttling_takes_the_share_of_the_clock_that_is_lost(reason: Throttle) -> None:
    found = verdict(seen({**HOT, "throttle": frozenset({reason})}), "GPU 0")
    assert not found.sick
    assert found.factor == 0.5
    assert found.slow == f"GPU 0: throttled ({reason.value}), about 50% of its clock is left"


def test_it_never_falls_to_nothing() -> None:
    assert verdict(seen({**HOT, "clock": 1.0})).factor == FLOOR


def test_an_idle_gpu_lowers_its_clock_by_itself() -> None:
    assert verdict(seen({**HOT, "busy": 0.0, "clock": 300.0})).factor == 1.0


def test_without_a_known_maximum_the_best_clock_under_load_stands_in() -> None:
    start = follow(UNSEEN, replace(WELL, at=1.0, clock_max=None, clock=1600.0), RUNNING, HOLD)
    gpu = replace(WELL, at=2.0, clock_max=None, clock=400.0, throttle=HOT["throttle"])
    assert verdict(follow(start, gpu, RUNNING, HOLD)).factor == 0.25


def test_small_moves_of_the_clock_are_not_told() -> None:
    memory = seen(HOT)
    for clock in (1000.0, 985.0, 1020.0, 1010.0, 992.0):
        memory = seen({**HOT, "clock": clock}, start=memory)
        assert verdict(memory).factor == 0.5


def test_the_weight_comes_back_when_it_was_not_throttled_for_a_while() -> None:
    hot = seen(HOT)
    assert verdict(seen(*[{}] * 30, start=hot)).factor == 0.5
    assert verdict(seen(*[{}] * 31, start=hot)) == Verdict()


def test_a_backend_is_as_good_as_its_worst_gpu() -> None:
    slow, lost = verdict(seen(HOT), "GPU 1"), verdict(seen({"state": State.LOST}), "GPU 2")
    found = worst([Verdict(), slow, lost])
    assert (found.code, found.factor) == ("gpu_lost", 0.5)
    assert worst([Verdict(), slow]).reason == slow.slow
    assert worst([]) == Verdict()


# --- for all sequences

readings = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from([State.OK, State.LOST, State.DENIED]),
        "recovery": st.sampled_from(["", "gpu_reset"]),
        "ecc_uncorrected": st.none() | st.integers(0, 3),
        "remap_pending": st.none() | st.booleans(),
        "throttle": st.sampled_from([frozenset[Throttle](), frozenset({Throttle.HW_SLOWDOWN})]),
        "clock": st.none() | st.floats(0, 3000),
        "busy": st.none() | st.floats(0, 1),
        "clock_max": st.none() | st.floats(0, 2000),
    },
)


@given(st.lists(readings, max_size=60))
def test_a_verdict_never_flaps(sequence: list[dict[str, Any]]) -> None:
    """Once back, it was good for the whole while before; and the factor stays within its bounds."""
    memory, was, hold = UNSEEN, "", 5.0
    good = 0.0
    for at, reading in enumerate(sequence, 1):
        gpu = replace(WELL, at=float(at), **reading)
        before, memory = memory, follow(memory, gpu, RUNNING, hold)
        bad = gpu.state in (State.OK, State.LOST) and any(
            rule.found(before, gpu) for rule in RULES if rule.until is Until.GOOD
        )
        good = 0.0 if bad else good + 1
        now = verdict(memory)
        assert now.sick or not bad
        if was and not now.sick:
            assert good > hold
        assert FLOOR <= now.factor <= 1.0
        was = now.code

"""From what a round brought and what live traffic says to the next belief."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.health import (
    GAP,
    NOTHING,
    PATIENCE,
    RECENT,
    SUSPECT_AFTER,
    TRIAL_AFTER,
    WEDGED_AFTER,
    Observation,
    Reply,
    become,
    follow,
    step,
    suspicious,
)
from gateway.core.types import ROUTABLE, Health, Load, Model, Op, Pulse, Sight

NOW = 10_000.0
IDLE = Pulse()
QWEN, LLAMA = Model("qwen"), Model("llama")
UP = Sight(Health.UP, since=NOW - 500, runtime="alpha", version="1", models=(QWEN,))
FINE = Observation(runtime="alpha", version="1", models=(QWEN,), answered=NOW)
TIMED_OUT = Observation(Reply.SLOW, Health.DOWN, "timed out after 5 s", misses=1)


def missed(times: int, **other: object) -> Observation:
    return replace(TIMED_OUT, misses=times, **other)  # type: ignore[arg-type]


# -- going and coming -----------------------------------------------------------------------------


def test_one_refused_connection_is_down() -> None:
    seen = Observation(Reply.REFUSED, Health.DOWN, "connection refused")
    sight = step(UP, seen, IDLE, NOW)
    assert (sight.health, sight.since) == (Health.DOWN, NOW)
    assert sight.detail == "connection refused: nothing listens there"


def test_a_refused_connection_is_down_even_while_an_old_stream_still_brings_bytes() -> None:
    seen = Observation(Reply.REFUSED, Health.DOWN, "connection refused")
    assert step(UP, seen, Pulse(1, NOW - 5, NOW), NOW).health is Health.DOWN


def test_one_missing_answer_changes_nothing_and_a_second_one_is_down() -> None:
    once = step(UP, missed(1), IDLE, NOW)
    assert (once.health, once.since) == (Health.UP, UP.since)
    assert "asking again" in once.detail
    twice = step(once, missed(2), IDLE, NOW + 5)
    assert (twice.health, twice.since) == (Health.DOWN, NOW + 5)


def test_a_backend_never_seen_is_down_after_one_missing_answer() -> None:
    assert step(Sight(), missed(1), IDLE, NOW).health is Health.DOWN


@pytest.mark.parametrize("reply", [Reply.CUT, Reply.UNREACHABLE])
def test_no_route_and_a_cut_connection_count_as_missing_answers(reply: Reply) -> None:
    seen = replace(TIMED_OUT, reply=reply)
    assert step(UP, replace(seen, misses=1), IDLE, NOW).health is Health.UP
    assert step(UP, replace(seen, misses=2), IDLE, NOW).health is Health.DOWN


def test_an_answer_brings_a_backend_back_at_once() -> None:
    down = become(UP, Health.DOWN, "gone", NOW - 100)
    sight = step(down, FINE, IDLE, NOW)
    assert (sight.health, sight.since, sight.detail) == (
        Health.UP,
        NOW,
        "answers its health check",
    )


def test_a_503_is_loading_and_an_odd_status_is_sick_in_the_rows_own_words() -> None:
    loading = step(UP, replace(FINE, health=Health.LOADING, detail="Loading model"), IDLE, NOW)
    assert (loading.health, loading.detail) == (Health.LOADING, "Loading model")
    sick = step(UP, replace(FINE, health=Health.SICK, detail="answers 418"), IDLE, NOW)
    assert (sick.health, sick.detail) == (Health.SICK, "answers 418")


def test_since_stays_while_the_health_stays() -> None:
    assert step(UP, FINE, IDLE, NOW).since == UP.since


# -- busy is not dead -----------------------------------------------------------------------------


def test_a_slow_answer_while_bytes_flow_is_busy() -> None:
    sight = step(UP, missed(9), Pulse(3, NOW - 60, NOW - 1), NOW)
    assert sight.health is Health.BUSY
    assert "make progress" in sight.detail


def test_a_slow_answer_while_the_engines_counter_moves_is_busy() -> None:
    assert step(UP, missed(9, moved=NOW - 2), IDLE, NOW).health is Health.BUSY


def test_an_engine_known_to_be_at_work_is_busy_only_for_a_while() -> None:
    working = replace(UP, load=Load(running=4.0))
    inside = missed(3, answered=NOW - PATIENCE + 1)
    assert step(working, inside, IDLE, NOW).health is Health.BUSY
    assert step(working, missed(9, answered=NOW - PATIENCE), IDLE, NOW).health is Health.DOWN
    assert step(UP, inside, Pulse(1, NOW - 20, 0), NOW).health is Health.BUSY
    assert step(UP, inside, IDLE, NOW).health is Health.DOWN


def test_waiting_requests_or_taken_slots_are_busy() -> None:
    waiting = step(UP, replace(FINE, load=Load(running=8, waiting=2)), IDLE, NOW)
    assert (waiting.health, waiting.detail) == (Health.BUSY, "2 waiting in its queue")
    full = step(UP, replace(FINE, load=Load(running=4, slots=4)), IDLE, NOW)
    assert (full.health, full.detail) == (Health.BUSY, "all of its 4 slots are taken")
    ours = step(UP, replace(FINE, load=Load(slots=1)), Pulse(1, NOW - 1, NOW), NOW)
    assert ours.health is Health.BUSY
    free = step(UP, replace(FINE, load=Load(running=3, slots=4)), IDLE, NOW)
    assert free.health is Health.UP


@given(
    reply=st.sampled_from([Reply.SLOW, Reply.CUT, Reply.UNREACHABLE]),
    misses=st.integers(1, 100),
    ago=st.floats(0, RECENT),
    by_counter=st.booleans(),
    before=st.sampled_from(list(Health)),
)
def test_busy_is_never_dead(
    reply: Reply, misses: int, ago: float, by_counter: bool, before: Health
) -> None:
    moved, byte = (NOW - ago, 0.0) if by_counter else (0.0, NOW - ago)
    seen = replace(TIMED_OUT, reply=reply, misses=misses, moved=moved)
    sight = step(replace(UP, health=before), seen, Pulse(1, NOW - 200, byte), NOW)
    assert sight.health is Health.BUSY


# -- wedged ---------------------------------------------------------------------------------------

STUCK = Pulse(2, NOW - WEDGED_AFTER, 0.0)


def test_a_200_from_an_engine_whose_requests_get_no_byte_is_seen_through() -> None:
    sight = step(UP, FINE, STUCK, NOW)
    assert (sight.health, sight.since) == (Health.WEDGED, NOW)
    assert "120 s" in sight.detail
    assert step(UP, FINE, replace(STUCK, oldest=STUCK.oldest + 1), NOW).health is Health.UP


def test_an_engine_whose_own_counter_moves_is_not_wedged() -> None:
    moving = replace(FINE, progress=7.0, moved=NOW - 30)
    assert step(UP, moving, STUCK, NOW).health is Health.UP
    frozen = replace(FINE, progress=7.0, moved=NOW - WEDGED_AFTER)
    assert step(UP, frozen, STUCK, NOW).health is Health.WEDGED


def test_an_idle_engine_is_never_wedged_however_long_ago_its_last_byte_was() -> None:
    assert step(UP, FINE, Pulse(0, 0, NOW - 9000), NOW).health is Health.UP
    assert step(UP, FINE, Pulse(1, NOW - 1, NOW - 9000), NOW).health is Health.UP


WEDGED = replace(UP, health=Health.WEDGED, since=NOW - 30, detail="stuck")


def test_a_wedge_ends_with_a_byte_or_with_progress() -> None:
    assert step(WEDGED, FINE, Pulse(1, NOW - 5, NOW - 1), NOW).health is Health.UP
    moved = replace(FINE, progress=8.0, moved=NOW)
    assert step(WEDGED, moved, Pulse(1, NOW - 5, 0), NOW).health is Health.UP


def test_a_wedge_stays_while_nothing_shows_that_it_ended() -> None:
    sight = step(WEDGED, FINE, Pulse(1, NOW - 5, 0), NOW)
    assert (sight.health, sight.detail, sight.since) == (Health.WEDGED, "stuck", WEDGED.since)
    occupied = replace(FINE, load=Load(running=2))
    assert step(WEDGED, occupied, IDLE, NOW + 9999).health is Health.WEDGED


def test_an_emptied_engine_and_one_that_tells_nothing_are_tried_again() -> None:
    assert step(WEDGED, replace(FINE, load=Load(running=0)), IDLE, NOW).health is Health.UP
    assert step(WEDGED, FINE, IDLE, NOW).health is Health.WEDGED
    assert step(WEDGED, FINE, IDLE, WEDGED.since + TRIAL_AFTER).health is Health.UP


def test_a_wedge_ends_when_the_engine_was_down() -> None:
    refused = Observation(Reply.REFUSED, Health.DOWN, "connection refused")
    down = step(WEDGED, refused, IDLE, NOW)
    assert down.health is Health.DOWN
    assert step(down, FINE, IDLE, NOW + 5).health is Health.UP


def test_silence_is_counted_across_requests_that_their_callers_gave_up() -> None:
    seen, now = NOTHING, NOW
    for age in range(0, 240, 10):
        # Every caller gives up after 60 s: no single request ever waits for 120 s.
        pulse = Pulse(1, NOW + age // 60 * 60, 0.0)
        now = NOW + age
        seen = follow(seen, FINE, pulse, now)
    assert seen.quiet_from == NOW
    assert step(UP, seen, pulse, now).health is Health.WEDGED


def test_a_silence_ends_with_a_byte_or_a_pause_in_traffic() -> None:
    quiet = follow(NOTHING, FINE, Pulse(1, NOW - 50, 0.0), NOW)
    assert quiet.quiet_from == NOW - 50
    assert follow(quiet, FINE, Pulse(1, NOW - 50, NOW), NOW + 5).quiet_from == NOW
    assert follow(quiet, FINE, IDLE, NOW + GAP - 1).quiet_from == NOW - 50
    assert follow(quiet, FINE, IDLE, NOW + GAP).quiet_from == 0.0


def test_suspicion_falls_on_the_quiet_and_on_the_wedged() -> None:
    assert suspicious(UP, Pulse(1, NOW - SUSPECT_AFTER, 0), NOW)
    assert not suspicious(UP, Pulse(1, NOW - SUSPECT_AFTER, NOW - 1), NOW)
    assert not suspicious(UP, Pulse(0, 0, NOW - 999), NOW)
    assert suspicious(WEDGED, IDLE, NOW)
    assert not suspicious(replace(UP, health=Health.DOWN), STUCK, NOW)


# -- memory ---------------------------------------------------------------------------------------


def test_misses_are_counted_and_forgotten_with_an_answer() -> None:
    once = follow(NOTHING, TIMED_OUT, IDLE, NOW)
    twice = follow(once, TIMED_OUT, IDLE, NOW + 5)
    assert (once.misses, twice.misses) == (1, 2)
    assert follow(twice, FINE, IDLE, NOW + 9).misses == 0


def test_the_moment_of_the_last_move_survives_rounds_in_which_the_counter_stands() -> None:
    def counted(value: float | None) -> Observation:
        return replace(FINE, load=Load(progress=value), moved=0.0)

    first = follow(NOTHING, counted(5), IDLE, NOW)
    still = follow(first, counted(5), IDLE, NOW + 5)
    unread = follow(still, TIMED_OUT, IDLE, NOW + 10)
    again = follow(unread, counted(5), IDLE, NOW + 15)
    assert [o.moved for o in (first, still, unread, again)] == [NOW] * 4
    assert follow(again, counted(6), IDLE, NOW + 20).moved == NOW + 20
    assert follow(again, counted(0), IDLE, NOW + 20).moved == NOW + 20


# -- models, version, lacks -----------------------------------------------------------------------


@given(
    reply=st.sampled_from(list(Reply)),
    health=st.sampled_from([h for h in Health if h not in ROUTABLE]),
    listed=st.sampled_from([None, ()]),
    misses=st.integers(0, 5),
    before=st.sampled_from(list(Health)),
)
def test_models_are_never_lost_by_an_outage(
    reply: Reply, health: Health, listed: tuple[Model, ...] | None, misses: int, before: Health
) -> None:
    seen = Observation(reply, health, "x", models=listed, misses=misses)
    assert step(replace(UP, health=before), seen, IDLE, NOW).models == UP.models


def test_an_unreadable_list_keeps_the_last_and_a_readable_one_replaces_it() -> None:
    assert step(UP, replace(FINE, models=None), IDLE, NOW).models == (QWEN,)
    assert step(UP, replace(FINE, models=(LLAMA,)), IDLE, NOW).models == (LLAMA,)
    assert step(UP, replace(FINE, models=()), IDLE, NOW).models == ()


def test_another_runtime_at_the_address_does_not_inherit_the_models() -> None:
    seen = Observation(runtime="beta", version="9")
    sight = step(UP, seen, IDLE, NOW)
    assert (sight.runtime, sight.version, sight.models) == ("beta", "9", ())


def test_fields_that_an_engine_stamps_anew_each_time_are_no_change() -> None:
    """sheet: vllm 4, 'created is not stable: do not diff entries on it'."""
    old = Model("m", entry={"id": "m", "created": 1, "permission": [{"id": "a"}], "root": "r"})
    new = Model("m", entry={"id": "m", "created": 2, "permission": [{"id": "b"}], "root": "r"})
    sight = replace(UP, models=(old,))
    assert step(sight, replace(FINE, models=(new,)), IDLE, NOW) == replace(
        sight, detail="answers its health check"
    )
    moved = replace(new, entry={**new.entry, "root": "elsewhere"})
    assert step(sight, replace(FINE, models=(moved,)), IDLE, NOW).models == (moved,)


LACKING = replace(UP, lacks=frozenset({("qwen", Op.EMBEDDINGS)}))


@pytest.mark.parametrize(
    ("sight", "seen", "kept"),
    [
        (LACKING, FINE, True),
        (LACKING, missed(1), True),
        (LACKING, replace(FINE, health=Health.LOADING), True),
        (LACKING, replace(FINE, version="2"), False),
        (LACKING, replace(FINE, models=(LLAMA,)), False),
        (LACKING, replace(FINE, runtime="beta"), False),
        (replace(LACKING, health=Health.DOWN), FINE, False),
    ],
)
def test_what_was_learned_holds_until_the_engine_may_be_another(
    sight: Sight, seen: Observation, kept: bool
) -> None:
    assert bool(step(sight, seen, IDLE, NOW).lacks) is kept


def test_load_is_kept_when_it_could_not_be_read_and_forgotten_when_down() -> None:
    loaded = replace(UP, load=Load(running=3))
    assert step(loaded, FINE, IDLE, NOW).load == Load(running=3)
    assert step(loaded, missed(2), IDLE, NOW).load == Load()


@given(
    st.builds(
        Observation,
        reply=st.sampled_from(list(Reply)),
        health=st.sampled_from(list(Health)),
        misses=st.integers(0, 9),
        models=st.sampled_from([None, (), (QWEN,), (LLAMA,)]),
        load=st.none() | st.builds(Load, running=st.none() | st.floats(0, 99)),
    ),
    st.builds(Pulse, st.integers(0, 3), st.floats(0, NOW), st.floats(0, NOW)),
    st.sampled_from(list(Health)),
)
def test_every_change_is_dated_and_explained(
    seen: Observation, pulse: Pulse, before: Health
) -> None:
    sight = replace(UP, health=before, detail="as it was")
    after = step(sight, seen, pulse, NOW)
    assert after.detail
    assert after.since == (NOW if after.health is not before else UP.since)

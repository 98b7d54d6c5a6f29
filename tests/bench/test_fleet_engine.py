"""The model of an engine: prefix cache, bounded memory, chunked prefill, preemption, leaving."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fleet.engine import Decoding, Engine
from bench.fleet.model import Job, Prompt, Spec
from bench.fleet.pool import Pool

SPEC = replace(Spec(), block=100, kv_tokens=1000, host_tokens=0, step_tokens=400)


def prompt(*keys: int, tokens: int = 0, answer: int = 10) -> Prompt:
    return Prompt(keys, tokens or 100 * len(keys), answer)


def submitted(engine: Engine, asked: Prompt, now: float = 0.0) -> Job:
    job = Job(engine.counters.arrived, asked)
    engine.submit(job, now)
    return job


def rested(engine: Engine) -> float:
    """Let it work until there is nothing left; returns when that was."""
    now = 0.0
    while engine.end is not None:
        now = engine.end
        engine.advance(now)
    return now


def test_a_lone_prompt_takes_its_cold_prefill_and_then_a_step_for_each_token() -> None:
    engine = Engine(SPEC)
    job = submitted(engine, prompt(1, 2, answer=3))
    end = rested(engine)
    assert job.first == pytest.approx(SPEC.cold(200))
    assert end == pytest.approx(SPEC.cold(200) + SPEC.step(1, 201) + SPEC.step(1, 202))
    assert job.ended == end


def test_a_slow_engine_takes_as_many_times_as_long() -> None:
    times = []
    for slow in (1.0, 3.0):
        engine = Engine(SPEC)
        engine.set_slow(slow)
        submitted(engine, prompt(1, 2))
        times.append(rested(engine))
    assert times[1] == pytest.approx(3 * times[0])


def test_the_second_of_two_prompts_that_begin_alike_finds_the_beginning_cached() -> None:
    engine = Engine(SPEC)
    submitted(engine, prompt(1, 2, 3))
    rested(engine)
    later = submitted(engine, prompt(1, 2, 9, tokens=250))
    rested(engine)
    assert later.cached == 200
    assert (engine.counters.prompt, engine.counters.hit) == (550, 200)


def test_the_last_token_of_a_known_prompt_is_computed_all_the_same() -> None:
    engine = Engine(SPEC)
    submitted(engine, prompt(1, 2))
    rested(engine)
    again = submitted(engine, prompt(1, 2))
    rested(engine)
    assert again.cached == 199


def test_a_beginning_counts_only_from_the_first_block_on() -> None:
    engine = Engine(SPEC)
    submitted(engine, prompt(1, 2, 3))
    rested(engine)
    assert engine.pool.hit(prompt(9, 2, 3)) == 0


def test_the_answer_of_a_turn_is_cached_for_the_next() -> None:
    engine = Engine(SPEC)
    submitted(engine, Prompt((1, 2), 200, 100, (7,)))
    rested(engine)
    assert engine.pool.hit(prompt(1, 2, 7, 8)) == 300


def test_a_long_prompt_is_prefilled_in_chunks_between_which_others_decode() -> None:
    engine = Engine(replace(SPEC, kv_tokens=10_000))
    short = submitted(engine, prompt(1, answer=200))
    engine.advance(SPEC.cold(100))
    assert short.first is not None
    long = submitted(engine, prompt(*range(10, 22)), short.first)
    before = engine.counters.generated
    while long.first is None:
        assert engine.end is not None
        engine.advance(engine.end)
    # 1200 tokens in steps of 400 less one for the sequence that decodes: four steps.
    assert engine.counters.generated - before >= 4
    assert short.ended is None


def test_who_does_not_fit_waits_until_memory_is_free() -> None:
    engine = Engine(SPEC)
    first = submitted(engine, prompt(*range(1, 8), answer=20))
    second = submitted(engine, prompt(*range(11, 18), answer=20))
    engine.advance(0.0)
    assert (engine.running, len(engine.waiting)) == (1, 1)
    rested(engine)
    assert first.ended is not None and second.first is not None
    assert second.first > first.ended


def test_memory_is_never_exceeded_and_old_blocks_go_first() -> None:
    engine = Engine(SPEC)
    for number in range(5):
        submitted(engine, prompt(*range(10 * number + 1, 10 * number + 5)))
        rested(engine)
        assert engine.pool.used + engine.pool.idle <= SPEC.kv_tokens
    assert engine.pool.used == 0
    assert engine.pool.hit(prompt(1, 2, 3, 4)) == 0
    assert engine.pool.hit(prompt(41, 42, 43, 44)) == 399


def test_evicted_blocks_are_fetched_from_the_host() -> None:
    engine = Engine(replace(SPEC, host_tokens=2000))
    for number in range(4):
        submitted(engine, prompt(*range(10 * number + 1, 10 * number + 5)))
        rested(engine)
    here, host = engine.pool.match(prompt(1, 2, 3, 4))
    assert (here, host) == (0, 4)
    again = submitted(engine, prompt(1, 2, 3, 4))
    rested(engine)
    assert again.cached == 399


def test_when_answers_outgrow_memory_the_youngest_is_computed_again() -> None:
    engine = Engine(SPEC)
    jobs = [submitted(engine, prompt(k, k + 1, k + 2, answer=400)) for k in (1, 11, 21)]
    rested(engine)
    assert engine.counters.preempted > 0
    assert not jobs[0].preempted
    assert all(job.ended is not None for job in jobs)
    assert engine.pool.used == 0


def test_whose_client_leaves_is_dropped_wherever_it_is() -> None:
    engine = Engine(SPEC)
    decodes = submitted(engine, prompt(1, 2, answer=1000))
    fills = submitted(engine, prompt(*range(11, 16), answer=100))
    waits = submitted(engine, prompt(*range(21, 29), answer=100))
    engine.advance(SPEC.cold(200))
    for job in (decodes, fills, waits):
        engine.cancel(job, SPEC.cold(200))
    rested(engine)
    assert (engine.running, len(engine.waiting), engine.pool.used) == (0, 0, 0)
    assert engine.counters.finished == 0
    assert engine.context == 0


def test_an_engine_that_starts_again_has_forgotten_all_but_its_counts() -> None:
    engine = Engine(SPEC)
    submitted(engine, prompt(1, 2))
    rested(engine)
    submitted(engine, prompt(3, 4))
    engine.reset()
    assert engine.end is None and engine.pool.hit(prompt(1, 2)) == 0
    assert engine.counters.finished == 1


def test_progress_is_told_while_nothing_changes() -> None:
    engine = Engine(SPEC)
    job = submitted(engine, prompt(1, answer=300))
    engine.advance(SPEC.cold(100))
    assert job.first is not None
    half = job.first + SPEC.step(1, 101) * 100
    [(told, written)] = engine.progress(half)
    assert told is job and 90 <= written <= 101
    assert engine.generated(half) == written


@given(st.integers(1, 500), st.floats(1e-4, 0.1), st.floats(0.0, 1e-4), st.floats(0.0, 60.0))
def test_the_step_under_way_ends_at_or_after_the_moment(
    steps: int, first: float, growth: float, elapsed: float
) -> None:
    plan = Decoding(0.0, steps, first, growth)
    found = plan.steps_until(elapsed)
    assert 1 <= found <= steps
    assert found == steps or plan.lasts(found) >= elapsed
    assert found == 1 or plan.lasts(found - 1) < elapsed


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 12), min_size=1, max_size=8, unique=True),
            st.integers(1, 120),
            st.floats(0.0, 0.05),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_whatever_comes_memory_is_given_back(
    asked: list[tuple[list[int], int, float, bool]],
) -> None:
    engine = Engine(replace(SPEC, host_tokens=500))
    now = 0.0
    for keys, answer, later, leaves in asked:
        now += later
        engine.advance(now)
        job = submitted(engine, prompt(*sorted(keys), answer=answer), now)
        if leaves:
            engine.cancel(job, now)
        assert engine.pool.used >= 0 and engine.pool.idle >= 0
    rested(engine)
    assert engine.pool.used == 0 and engine.running == 0 and not engine.waiting
    assert engine.pool.idle <= SPEC.kv_tokens
    # One that leaves may be done when the step under way ends.
    assert sum(not leaves for *_, leaves in asked) <= engine.counters.finished <= len(asked)


def test_a_pool_without_room_takes_nobody() -> None:
    pool = Pool(SPEC)
    assert pool.admit(Job(1, prompt(*range(1, 9))), room=0) == 0
    assert pool.admit(Job(2, prompt(11, 12, 13)), room=0) is None
    assert pool.used == 800

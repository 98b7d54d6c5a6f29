"""Loads and their text: clients and engines agree on what a prompt is."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.fleet.cells import FAULTS, USUAL, WARMING, cell, load
from bench.fleet.inside import Inside
from bench.fleet.model import Job, Prompt, Spec
from bench.fleet.summary import Result
from bench.fleet.text import Writing, block_text
from bench.fleet.virtual import Oracle, Router, Simulation
from bench.fleet.workload import (
    Row,
    Session,
    agents,
    conversations,
    read_trace,
    reuse,
    session_ids,
    tenants,
)
from gateway.state.ledger import Ledger

WRITING = Writing(block=512, width=2048)


def row(at: int, tokens: int, *ids: int) -> Row:
    return {"timestamp": at, "input_length": tokens, "output_length": 5, "hash_ids": list(ids)}


TRACE = [row(0, 600, 0, 1), row(0, 700, 0, 2), row(3000, 1300, 0, 1, 3), row(6000, 1400, 0, 2, 4)]


# --- text


def test_text_is_four_characters_a_token() -> None:
    assert len(WRITING.prompt(Prompt((1, 2, 3), 1200, 1))) == 4800


@given(st.integers(1, 2000), st.sampled_from([1, 4, 8]))
def test_an_engine_reads_the_length_that_was_written(tokens: int, width: int) -> None:
    writing = Writing(512, 512 * width)
    asked = Prompt(tuple(range(-(-tokens // 512))), tokens, 7)
    read, _ = writing.read([writing.prompt(asked)], 7)
    assert (read.tokens, len(read.keys), read.answer) == (tokens, len(asked.keys), 7)


def test_prompts_that_begin_alike_do_so_in_text_and_in_keys() -> None:
    one, two = (WRITING.prompt(Prompt((1, 2, last), 1536, 1)) for last in (3, 4))
    assert one[:4096] == two[:4096] and one != two
    first, second = WRITING.keys(one), WRITING.keys(two)
    assert first[:2] == second[:2] and first[2] != second[2]


def test_a_block_has_a_text_of_its_own() -> None:
    assert len({block_text(name, 64) for name in range(1000)}) == 1000
    assert len(block_text(1, 2048)) == 2048


def test_an_answer_that_is_sent_back_hits_what_the_engine_keeps_of_it() -> None:
    writing = Writing(128, 512)
    first = Prompt((1, 2), 256, 128, (3,))
    read, reply = writing.read([writing.prompt(first)], 128)
    second = Prompt((1, 2, 3, 4), 512, 128)
    again, _ = writing.read([writing.prompt(first), reply, writing.prompt(second, 3)], 128)
    assert again.keys[:3] == read.keys + read.answer_keys
    assert again.tokens == 512


def test_an_answer_is_as_long_as_its_tokens() -> None:
    _, reply = WRITING.read([WRITING.prompt(Prompt((1,), 300, 1))], 25)
    assert len(reply) == 100


# --- workloads


def test_a_trace_is_read_without_what_the_model_cannot_take() -> None:
    lines = [json.dumps(r) for r in (*TRACE, row(9000, 200_000, 0, 5), row(9000, 10))]
    assert read_trace(lines) == TRACE


def test_a_request_belongs_to_the_session_whose_prefix_it_shares() -> None:
    assert session_ids(TRACE) == [0, 1, 0, 1]


def test_a_rate_makes_the_same_requests_come_sooner() -> None:
    slow, fast = (conversations(TRACE, rate) for rate in (1.0, 2.0))
    assert [s.turns for s in slow] == [s.turns for s in fast]
    assert [s.start for s in fast] == pytest.approx([s.start / 2 for s in slow])
    assert slow[0].start == 0.0
    assert [s.start for s in slow] == sorted(s.start for s in slow)


def test_the_length_of_a_prompt_fits_its_blocks() -> None:
    [session] = conversations([row(0, 5000, 0, 1)], 1.0)
    assert session.turns[0].prompt.tokens == 1024


@pytest.mark.parametrize("draw", [tenants, agents])
def test_drawn_loads_are_the_same_for_the_same_seed(
    draw: Callable[[float, float, int], list[Session]],
) -> None:
    assert draw(2.0, 20.0, 3) == draw(2.0, 20.0, 3)
    assert draw(2.0, 20.0, 3) != draw(2.0, 20.0, 4)


def test_turns_of_a_session_repeat_what_was_said() -> None:
    for session in agents(1.0, 60.0):
        for before, turn in zip(session.turns, session.turns[1:], strict=False):
            said = before.prompt.keys + before.prompt.answer_keys
            assert turn.prompt.keys[: len(said)] == said
            assert turn.prompt.tokens == 128 * len(turn.prompt.keys)


def test_loads_repeat_themselves_as_much_as_they_say() -> None:
    assert reuse(agents(2.0, 60.0), 128) > 0.8
    assert 0.4 < reuse(tenants(10.0, 120.0), 512) < 0.8
    assert 0.2 < reuse(load(cell("conv:4:1.0"), None, 0).sessions, 512) < 0.4


# --- cells


@pytest.mark.parametrize("text", USUAL)
def test_the_usual_cells_have_their_name(text: str) -> None:
    found = cell(text)
    assert cell(found.name) == found


@pytest.mark.parametrize("text", ["", "conv", "conv:0:1", "conv:4:x", "conv:4:0", "what:4:1"])
def test_a_cell_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"workload|WORKLOAD|engines"):
        cell(text)


def test_a_fault_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="slow, fail, restart, hang, wedge"):
        cell("conv:4:1:tired")


def test_every_fault_but_slowness_begins_when_the_caches_are_warm() -> None:
    for name, changes in FAULTS.items():
        assert name in ("", "slow") or all(change.at >= WARMING for change in changes)


def test_a_load_can_be_cut_short() -> None:
    short = load(cell("conv:4:1.0"), 60.0, 0)
    assert 0 < len(short.sessions) < 400
    assert short.end < 60 and short.begin == pytest.approx(0.2 * short.end)


# --- the oracle


def test_the_oracle_sends_a_prompt_where_it_is_cached() -> None:
    made = tenants(1.0, 60.0)
    simulation = Simulation(made, Spec(), 4, Oracle(), slow=False)
    simulation.run()
    alone = Simulation(made, Spec(), 1, Oracle(), slow=False)
    alone.run()
    cached = [sum(r.cached for r in each.results) for each in (simulation, alone)]
    assert len(simulation.results) == len(made)
    assert cached[0] > 0.8 * cached[1] > 0


def test_the_oracle_spares_a_slow_engine() -> None:
    simulation = Simulation(tenants(6.0, 40.0), Spec(), 3, Oracle(), slow=True)
    simulation.run()
    finished = [engine["finished"] for engine in simulation.stats()]
    assert finished[0] < min(finished[1:])


# --- our own decisions in virtual time


def routed(router: Router, sessions: list[Session], engines: int, *, slow: bool) -> list[Result]:
    simulation = Simulation(sessions, Spec(), engines, router, slow)
    simulation.run()
    return simulation.results


def inside(engines: int, scale: float = 0.1, policy: str = "auto") -> Inside:
    return Inside(Spec(), engines, WRITING, scale, policy)


def wait(results: list[Result]) -> float:
    return sum(result.ttft for result in results) / len(results)


@pytest.mark.parametrize("slow", [False, True])
def test_our_decisions_are_about_as_good_as_the_oracles(slow: bool) -> None:
    made = tenants(8.0, 90.0)
    best = wait(routed(Oracle(), made, 4, slow=slow))
    assert wait(routed(inside(4), made, 4, slow=slow)) < 1.15 * best
    assert wait(routed(inside(4, policy="least_loaded"), made, 4, slow=slow)) > 1.4 * best


def test_our_decisions_do_not_depend_on_how_fast_time_goes() -> None:
    made = tenants(8.0, 90.0)
    waits = [wait(routed(inside(4, scale), made, 4, slow=False)) for scale in (0.1, 1.0)]
    assert waits[0] == pytest.approx(waits[1], rel=0.12)


def test_our_books_hear_of_every_step_of_a_request() -> None:
    router, job = inside(2), Job(1, Prompt((1, 2, 3), 1500, 20))
    [(sent, index)] = router.comes(job, (), 0.0)
    name = f"engine{index + 1}"
    assert sent is job and router.board.busy[name] == 1
    column = router.board.name(name)
    seen = []
    for step in (lambda _job, _now: None, router.first, router.ended):
        step(job, 1.0)
        standing = Ledger(router.page.lore.ledger, 0).standing(column, 2.0)
        seen.append((standing.waiting, standing.decoding))
    assert seen == [(1, 0), (0, 1), (0, 0)]
    assert router.board.busy[name] == 0

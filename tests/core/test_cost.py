"""The formula of ``auto``, term by term."""

import pytest

from gateway.core.cost import (
    EVICTION,
    PER_WAITING,
    Brief,
    Known,
    costs,
    terms,
    usual_prefill,
    wait,
)
from gateway.core.prompt import NO_PROMPT
from gateway.core.speed import prefill_seconds

IDLE = Known()


def total(tokens=4000.0, out=200.0, **known):
    return terms(tokens, out, Known(**known)).total


def test_the_terms_add_up():
    found = terms(4000, 200, Known(1000, 0.5, 2, 10, 30_000, 399_000, 3000, 400_000, 1.5, 1.2))
    assert found.total == pytest.approx(sum(found[1:]))
    assert all(term > 0 for term in found)


def test_an_idle_engine_costs_its_prefill_and_its_steps():
    found = terms(4000, 200, IDLE)
    assert found.prefill == prefill_seconds(4000, 0)
    assert found.congestion == pytest.approx(EVICTION * found.prefill)
    assert (found.queue, found.memory) == (0, 0)


@pytest.mark.parametrize(
    "worse",
    [
        {"queue": 0.5},
        {"waiting": 3},
        {"decoding": 20},
        {"context": 100_000},
        {"prefill": 2.0},
        {"decode": 3.0},
        {"held": 401_000},
    ],
    ids=str,
)
def test_whatever_is_worse_costs_more(worse):
    assert total(**worse) > total()


def test_what_is_cached_costs_less():
    assert total(cached=3500) < total() / 2


def test_a_cached_prompt_is_worth_a_wait_but_not_any_wait():
    saved = total(8000) - total(8000, cached=7500)
    assert total(8000, cached=7500, queue=saved * 0.9) < total(8000)
    assert total(8000, cached=7500, queue=saved * 1.1) > total(8000)


def test_memory_counts_only_when_it_is_short():
    assert terms(4000, 200, Known(held=300_000, fresh=4000)).memory == 0
    assert terms(4000, 200, Known(held=399_000, fresh=4000)).memory > 0


def test_those_who_wait_are_held_up_by_a_long_prompt_more_than_by_a_short_one():
    alone, crowd = terms(50_000, 10, IDLE), terms(50_000, 10, Known(waiting=5))
    assert crowd.total - alone.total == pytest.approx(5 * PER_WAITING * alone.prefill)


def test_harm_to_others_counts_at_the_usual_speed_on_a_slow_engine_too():
    known = (Known(), Known(prefill=3.0), Known())
    fast, slow, _ = costs(Brief(NO_PROMPT, 4000, 200, (), known))
    assert slow.prefill == pytest.approx(3 * fast.prefill)
    assert slow.congestion == fast.congestion
    assert slow.total > fast.total


def test_a_fleet_that_is_slow_throughout_chooses_as_a_fast_one_does():
    def in_units(factor):
        known = [
            Known(cached=3000, queue=0.5 * factor, prefill=factor, decode=factor),
            Known(decoding=5, context=20_000, prefill=factor, decode=factor),
        ]
        return [found.total / factor for found in costs(Brief(NO_PROMPT, 4000, 200, (), known))]

    assert in_units(0.1) == pytest.approx(in_units(1.0))
    assert in_units(7.0) == pytest.approx(in_units(1.0))


@pytest.mark.parametrize(
    ("factors", "usual"), [((), 1.0), ((2.0,), 2.0), ((3.0, 1.0), 1.0), ((1.0, 5.0, 2.0), 2.0)]
)
def test_the_usual_speed_is_that_of_the_middle_engine(factors, usual):
    assert usual_prefill([Known(prefill=factor) for factor in factors]) == usual


def test_the_wait_for_a_first_token_has_no_part_that_others_feel():
    brief = Brief(NO_PROMPT, 4000, 200, (), (Known(queue=1.0), Known(decoding=30)))
    assert wait(brief) == [1.0 + prefill_seconds(4000, 0), prefill_seconds(4000, 0)]
    assert [found.total for found in costs(brief)] == [
        terms(4000, 200, known).total for known in brief.known
    ]

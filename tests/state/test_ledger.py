"""What engines were given: run down by the clock, set anew by first tokens, summed over workers."""

from __future__ import annotations

import pytest

from gateway.state.ledger import NOTHING, Ledger, LedgerPage, Standing, Work, samples_of


def one(rows: int = 1) -> tuple[LedgerPage, Ledger]:
    page = LedgerPage(rows)
    return page, Ledger(page, 0)


def test_what_was_sent_is_ahead_of_the_next_and_the_clock_runs_it_down() -> None:
    _, ledger = one()
    assert ledger.standing(0, 100.0) == NOTHING
    ledger.send(Work(0, 1000, 2.0, sent=100.0))
    ledger.send(Work(0, 500, 1.0, sent=100.5))
    assert ledger.standing(0, 100.5).queue == pytest.approx(2.5)
    assert ledger.standing(0, 110.0).queue == pytest.approx(1.1), "the head is not done unseen"
    assert ledger.standing(0, 110.0).waiting == 2
    assert ledger.standing(1, 110.0) == NOTHING


def test_a_first_token_sets_the_queue_anew() -> None:
    _, ledger = one()
    first, second = Work(0, 1000, 2.0, sent=100.0), Work(0, 500, 1.0, sent=100.5)
    ledger.send(first)
    ledger.send(second)
    assert ledger.first(first, 103.0) == 3.0
    assert ledger.standing(0, 103.0) == Standing(1.0, 1, 1, 1000, 0)
    assert ledger.standing(0, 103.4).queue == pytest.approx(0.6)
    assert ledger.first(second, 104.0) == 1.0, "its turn began with the first token before"
    assert ledger.first(second, 109.0) == 0.0, "which is known once"
    ledger.end(first)
    ledger.end(second)
    ledger.end(second)
    assert ledger.standing(0, 105.0) == NOTHING


def test_a_request_that_ends_without_a_token_leaves_the_queue() -> None:
    _, ledger = one()
    work, other = Work(0, 1000, 2.0, sent=1.0), Work(0, 1000, 1.0, sent=1.0)
    ledger.send(work)
    ledger.send(other)
    ledger.end(work)
    assert ledger.standing(0, 1.0) == Standing(1.0, 1, 0, 0, 0)
    assert ledger.first(work, 2.0) == 0.0


def test_answers_that_come_whole_are_taken_to_decode_when_their_turn_should_be_over() -> None:
    _, ledger = one()
    for _ in range(3):
        ledger.send(Work(0, 1000, 2.0, sent=100.0, silent=True))
    ledger.tidy(101.0)
    assert ledger.standing(0, 101.0).waiting == 3
    ledger.tidy(104.5)
    assert ledger.standing(0, 104.5)[:4] == (pytest.approx(1.5), 1, 2, 2000)


def test_one_whose_first_token_will_be_seen_is_waited_for() -> None:
    _, ledger = one()
    ledger.send(Work(0, 1000, 2.0, sent=100.0))
    ledger.send(Work(0, 1000, 2.0, sent=100.0, silent=True))
    ledger.tidy(200.0)
    assert ledger.standing(0, 200.0).waiting == 2


def test_prompts_that_share_blocks_hold_them_once() -> None:
    _, ledger = one()
    a = Work(0, 1100, 1.0, 0.0, samples=(1, 2), each=500.0, rest=100.0)
    b = Work(0, 1700, 1.0, 0.0, samples=(1, 2, 3), each=500.0, rest=200.0)
    ledger.send(a)
    ledger.send(b)
    assert ledger.standing(0, 0.0).held == 3 * 500 + 300
    assert ledger.adds(0, (1, 3, 4)) == 1
    assert ledger.adds(1, (1, 3, 4)) == 3
    ledger.end(b)
    assert ledger.standing(0, 0.0).held == 1100
    ledger.end(a)
    assert ledger.standing(0, 0.0) == NOTHING


def test_workers_see_one_queue_whose_head_runs_down_once() -> None:
    page = LedgerPage(3)
    left, right = Ledger(page, 0), Ledger(page, 2)
    early, late = Work(7, 1000, 2.0, sent=100.0), Work(7, 1000, 2.0, sent=100.5)
    right.send(late)
    left.send(early)
    for ledger in (left, right):
        assert ledger.standing(7, 101.0)[:2] == (pytest.approx(3.0), 2)
    left.first(early, 102.0)
    assert right.standing(7, 103.0)[:4] == (pytest.approx(1.0), 1, 1, 1000)


def test_the_work_of_a_worker_that_died_is_forgotten() -> None:
    page = LedgerPage(2)
    left, right = Ledger(page, 0), Ledger(page, 1)
    left.send(Work(7, 1000, 2.0, sent=100.0))
    right.send(Work(7, 1000, 1.0, sent=100.0))
    page.clear(0)
    assert right.standing(7, 100.0)[:2] == (1.0, 1)


def test_a_sample_stands_for_the_blocks_between() -> None:
    assert samples_of(tuple(range(10)), 5120, 1280) == ((3, 7), 512.0)
    assert samples_of((), 0, 0) == ((), 0.0)

"""Who waits, over all processes."""

from __future__ import annotations

import math
import os
import threading

from gateway.state.board import Board, Page
from gateway.state.lines import MOST_MODELS, Queues, Sheet


def pair() -> tuple[Queues, Queues]:
    sheet = Sheet(2)
    return Queues(sheet, 0), Queues(sheet, 1)


def rings(queues: Queues) -> bool:
    assert queues.bell is not None
    try:
        return bool(os.read(queues.bell, 1))
    except BlockingIOError:
        return False


def test_the_bound_holds_over_all_processes() -> None:
    one, two = pair()
    assert one.enter("m", 2) and two.enter("m", 2)
    assert not one.enter("m", 2) and not two.enter("m", 2)
    assert one.enter("other", 2), "each model has its own line"
    assert (one.total("m"), two.total("m"), two.total("other")) == (2, 2, 1)
    one.leave("m")
    assert two.enter("m", 2)


def test_the_bound_holds_when_many_come_at_the_same_moment() -> None:
    sheet, came = Sheet(8, threading.Lock()), []

    def join(row: int) -> None:
        queues = Queues(sheet, row)
        came.extend(queues.enter("m", 50) for _ in range(40))

    threads = [threading.Thread(target=join, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(came) == 50


def test_whether_anybody_waits_is_known_everywhere() -> None:
    one, two = pair()
    assert not one.anyone and not two.anyone
    one.enter("m", None)
    assert one.anyone and two.anyone
    assert (one.depths, two.depths) == ({"m": 1}, {})
    one.leave("m")
    assert not two.anyone
    assert one.depths == {"m": 0}


def test_only_those_count_as_others_who_have_somebody_before() -> None:
    one, two = pair()
    for _ in range(3):
        one.enter("m", None)
    one.lead("m", 5.0)
    assert two.others("m", 6.0) == 3
    assert two.others("m", 4.0) == 0
    assert one.others("m", 6.0) == 0, "what waits here is no other"
    one.lead("m", math.inf)
    assert two.others("m", 6.0) == 0


def test_a_bell_rings_where_somebody_waits_and_nowhere_else() -> None:
    one, two = pair()
    two.ring()
    assert not rings(one)
    one.enter("m", None)
    one.ring()
    assert not rings(one), "nobody rings for himself"
    two.ring()
    two.ring()
    one.hush()
    assert not rings(one)
    two.ring()
    assert rings(one)


def test_a_bell_that_nobody_hears_stops_nobody() -> None:
    one, two = pair()
    one.enter("m", None)
    for _ in range(100_000):
        two.ring()
    one.hush()


def test_a_process_alone_has_no_bell() -> None:
    queues = Queues(Sheet(1), 0)
    assert queues.bell is None
    queues.enter("m", None)
    queues.ring()
    queues.hush()
    assert queues.anyone


def test_who_waited_in_a_process_that_died_waits_no_more() -> None:
    page = Page(2)
    dead, living = Board(page, 0).queues, Board(page, 1).queues
    dead.enter("m", None)
    living.enter("m", None)
    page.clear(0)
    assert living.total("m") == 1
    living.leave("m")
    assert not living.anyone


def test_models_beyond_the_last_column_share_it() -> None:
    queues = Queues(Sheet(1), 0)
    for number in range(MOST_MODELS + 10):
        queues.enter(f"m{number}", None)
    assert queues.total(f"m{MOST_MODELS + 5}") == 11
    assert queues.total("m5") == 1

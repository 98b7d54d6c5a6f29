"""Requests in flight: counted, limited and seen as one over forked processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.state import board as boards
from gateway.state.board import Board, Page
from gateway.supervisor import FileLock


def in_a_fork(work: Callable[[], None], *, die: bool = False) -> None:
    """Runs ``work`` in a child, to its end; ``die``: the child is killed when it is done."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(ended) if die else ended == 0


def test_what_enters_is_in_flight_until_it_leaves() -> None:
    board = Board()
    first = board.enter("m", "b", 1.0)
    second = board.enter("m", "b", 2.0)
    assert first is not None
    assert second is not None
    assert (board.busy["b"], board.by_model) == (2, {("m", "b"): 2})
    board.leave(first, "m", "b")
    board.leave(first, "m", "b")
    assert (board.busy["b"], board.by_model) == (1, {("m", "b"): 1}), "nobody leaves twice"
    board.leave(second, "m", "b")
    assert (board.busy["b"], board.by_model) == (0, {("m", "b"): 0})


def test_a_limit_is_kept_by_backend_and_places_are_given_back() -> None:
    board = Board()
    tickets = [board.enter("m", "b", 1.0, limit=2) for _ in range(3)]
    assert tickets[2] is None
    assert board.enter("m", "other", 1.0, limit=2) is not None
    assert tickets[0] is not None
    board.leave(tickets[0], "m", "b")
    assert board.enter("m", "b", 1.0, limit=2) is not None
    assert board.busy["b"] == 2


def test_busy_is_a_mapping_of_the_backends_that_were_named() -> None:
    board = Board()
    board.name("a")
    board.enter("m", "b", 1.0)
    assert dict(board.busy) == {"a": 0, "b": 1}
    assert board.busy.get("unknown", 7) == 7
    with pytest.raises(KeyError):
        board.busy["unknown"]


def test_the_pulse_tells_the_number_the_oldest_and_the_last_byte() -> None:
    board = Board()
    assert board.pulse("b") == boards.Pulse(0, 0.0, 0.0)
    first = board.enter("m", "b", 3.0)
    board.enter("m", "b", 5.0)
    board.lane("b").last_byte = 6.0
    assert board.pulse("b") == boards.Pulse(2, 3.0, 6.0)
    assert first is not None
    board.leave(first, "m", "b")
    assert board.pulse("b") == boards.Pulse(1, 5.0, 6.0)
    assert board.pulse("idle") == boards.Pulse(0, 0.0, 0.0)


def test_two_rows_of_one_page_are_summed_over_processes() -> None:
    page = Page(2)
    mine, reader = Board(page, 0), Board(page, 0)
    mine.enter("m", "b", 4.0)

    def other() -> None:
        board = Board(page, 1)
        board.enter("m", "b", 3.0)
        board.enter("m", "b", 9.0)
        board.lane("b").last_byte = 8.0
        board.show()
        assert board.busy["b"] == 3

    in_a_fork(other)
    assert mine.busy["b"] == 1
    mine.look(1.0)
    assert mine.busy["b"] == 3
    mine.show()
    assert reader.pulse("b") == boards.Pulse(3, 3.0, 8.0)
    assert mine.by_model == {("m", "b"): 1}, "labels are each process's own"


def test_the_limit_is_one_for_all_rows() -> None:
    page = Page(2)
    mine = Board(page, 0)
    assert mine.enter("m", "b", 1.0, limit=2) is not None

    def other() -> None:
        board = Board(page, 1)
        assert board.enter("m", "b", 1.0, limit=2) is not None
        assert board.enter("m", "b", 1.0, limit=2) is None

    in_a_fork(other)
    assert mine.enter("m", "b", 1.0, limit=2) is None


def test_what_a_dead_writer_had_in_flight_is_forgotten_and_nothing_else() -> None:
    page = Page(2)
    mine = Board(page, 0)
    mine.enter("m", "b", 2.0)

    def other() -> None:
        board = Board(page, 1)
        for backend in ("b", "c"):
            board.enter("m", backend, 1.0)
        board.show()

    in_a_fork(other, die=True)
    mine.name("c")
    mine.look(1.0)
    assert dict(mine.busy) == {"b": 2, "c": 1}
    page.clear(1)
    mine.look(1.0 + boards.FRESH / 2)
    assert mine.busy["c"] == 1, "it has just looked"
    mine.look(1.0 + boards.FRESH * 2)
    assert dict(mine.busy) == {"b": 1, "c": 0}
    assert mine.pulse("b").oldest == 2.0
    assert mine.pulse("c").oldest == 0.0


def test_a_backend_has_the_same_column_for_all_and_for_those_that_come_later() -> None:
    page = Page(2)
    first = Board(page, 0)
    columns = {name: first.name(name) for name in ("a", "b", "c")}
    assert sorted(columns.values()) == [0, 1, 2]

    def other() -> None:
        board = Board(page, 1)
        assert {name: board.name(name) for name in ("c", "b", "a")} == columns
        board.name("new")

    in_a_fork(other)
    assert Board(page, 0).name("new") == first.name("new") == 3


def test_backends_over_the_most_share_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MOST_BACKENDS", 4)
    board = Board()
    assert [board.name(f"b{number}") for number in range(6)] == [0, 1, 2, 3, 3, 3]


def test_the_limit_holds_when_processes_race_for_it(tmp_path: Path) -> None:
    """Each tries as fast as it can, and notes on the page when it saw more than the limit."""
    page = Page(3, FileLock(tmp_path / "lock"))
    end = time.monotonic() + 0.5

    def race(row: int) -> None:
        board = Board(page, row)
        while time.monotonic() < end:
            ticket = board.enter("m", "b", 1.0, limit=2)
            if page.total(board.name("b")) > 2:
                board.enter("m", "too many", 1.0)
            if ticket is not None:
                board.leave(ticket, "m", "b")

    pids = []
    for row in range(3):
        pid = os.fork()
        if pid == 0:
            race(row)
            os._exit(0)
        pids.append(pid)
    assert {os.waitpid(pid, 0)[1] for pid in pids} == {0}
    reader = Board(page)
    reader.name("b")
    reader.name("too many")
    assert dict(reader.busy) == {"b": 0, "too many": 0}


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    in_a_fork(lock.__enter__, die=True)
    signal.alarm(2)  # what would wait for ever is ended with the test
    try:
        with lock:
            pass
    finally:
        signal.alarm(0)


def test_a_lock_keeps_other_processes_out(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    inside, let_go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        with lock:
            os.write(inside[1], b"x")
            os.read(let_go[0], 1)
            time.sleep(0.1)
        os._exit(0)
    os.read(inside[0], 1)
    before = time.monotonic()
    os.write(let_go[1], b"x")
    with lock:
        assert time.monotonic() - before >= 0.09
    os.waitpid(pid, 0)

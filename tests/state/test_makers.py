"""Who made a stored response, known to all processes, the latest ones only."""

from __future__ import annotations

import os

import pytest

from gateway.state import makers as module
from gateway.state.board import Board, Page
from gateway.state.makers import id_in


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b'{"id":"resp_1","object":"response"}', "resp_1"),
        (b'{"object": "response", "id": "resp_a-B_9"}', "resp_a-B_9"),
        (b'event: response.created\ndata: {"response":{"id":"resp_2"}}', "resp_2"),
        (b'{"id":"chatcmpl-1"}', ""),
        (b'{"id":"resp_' + b"x" * 300, ""),
        (b"", ""),
    ],
)
def test_the_id_is_found_in_the_beginning_of_an_answer(head: bytes, found: str) -> None:
    assert id_in(head) == found


def test_a_maker_is_remembered_by_name() -> None:
    board = Board()
    for backend in ("a", "b"):
        board.name(backend)
        board.makers.remember(f"resp_{backend}", backend)
    assert [board.makers.of(f"resp_{name}") for name in "abc"] == ["a", "b", ""]


def test_the_last_word_counts() -> None:
    board = Board()
    for backend in ("a", "b"):
        board.name(backend)
        board.makers.remember("resp_1", backend)
    assert board.makers.of("resp_1") == "b"


def test_one_process_knows_what_another_made_and_so_does_a_later_one() -> None:
    page = Page(2)
    mine = Board(page, 0)
    mine.name("first")
    assert mine.makers.of("resp_1") == ""
    pid = os.fork()
    if pid == 0:
        board = Board(page, 1)
        board.name("second")
        board.makers.remember("resp_1", "second")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    mine.name("second")
    later = Board(page, 1)
    later.name("second")
    assert (mine.makers.of("resp_1"), later.makers.of("resp_1")) == ("second", "second")


def test_a_maker_that_this_process_does_not_know_is_no_maker() -> None:
    page = Page(2)
    other = Board(page, 1)
    other.name("gone")
    other.makers.remember("resp_1", "gone")
    other.makers.remember("resp_2", "never named")
    board = Board(page, 0)
    assert (board.makers.of("resp_1"), board.makers.of("resp_2")) == ("", "")


def test_only_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 5)
    page = Page(2)
    steady, late = Board(page, 0), Board(page, 1)
    for board in (steady, late):
        board.name("b")
    for number in range(13):
        steady.makers.remember(f"resp_{number}", "b")
        assert steady.makers.of(f"resp_{number}") == "b"
    for board in (steady, late):
        known = [number for number in range(13) if board.makers.of(f"resp_{number}")]
        assert known == [8, 9, 10, 11, 12]

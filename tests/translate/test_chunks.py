"""Chunks come out of a stream the same however its bytes were cut, in bounded memory."""

from __future__ import annotations

import pytest

from gateway.core.errors import Refusal
from gateway.translate.chunks import Chunks, first_choice
from gateway.translate.sse import LONGEST

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n\r\n"
    b'data: {"a": "\xc3\xa9"}\r\n\r\n'
    b'event: x\ndata:{"a": 2}\n\n'
    b"data: \n\n"
    b"data: 7\n\n"
    b"data: [DONE]\n\n"
    b'data: {"after": "the end"}\n\n'
)


def test_events_are_the_same_at_every_split_position() -> None:
    for position in range(len(STREAM) + 1):
        chunks = Chunks()
        found = [*chunks.feed(STREAM[:position]), *chunks.feed(STREAM[position:])]
        assert found == [{"a": "é"}, {"a": 2}], position
        assert chunks.ended


def test_an_event_is_given_with_the_byte_that_completes_it() -> None:
    chunks = Chunks()
    assert list(chunks.feed(b'data: {"a": 1}\n')) == []
    assert list(chunks.feed(b"\n")) == [{"a": 1}]


def test_a_last_event_without_a_blank_line_is_given_at_the_end() -> None:
    chunks = Chunks()
    assert list(chunks.feed(b'data: {"a": 1}')) == []
    assert list(chunks.rest()) == [{"a": 1}]


def test_what_is_no_json_is_the_engines_fault() -> None:
    with pytest.raises(Refusal) as caught:
        list(Chunks().feed(b"data: {oops}\n\n"))
    assert caught.value.kind == "backend_unreachable"
    assert "an event that is not JSON" in caught.value.message


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    chunks, piece = Chunks(), b"x" * (1024 * 1024)
    with pytest.raises(Refusal):
        for _ in range(2 + LONGEST // len(piece)):
            list(chunks.feed(piece))


@pytest.mark.parametrize("doc", [{}, {"choices": None}, {"choices": []}, {"choices": [7]}])
def test_a_chunk_may_have_no_choice(doc: dict[str, object]) -> None:
    assert first_choice(doc) is None


def test_only_the_first_choice_is_told() -> None:
    second, first = {"index": 1, "n": "b"}, {"index": 0, "n": "a"}
    assert first_choice({"choices": [second, first]}) == first
    assert first_choice({"choices": [second]}) is None

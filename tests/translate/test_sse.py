"""Server-sent events are the same however they are cut and ended."""

import pytest

from gateway.translate.sse import COMMENT, Event, Reader, named, plain

TEXT = b'\xef\xbb\xbfevent: a\r\ndata: {"x":1}\r\n\r\n: hi\n\ndata:1\ndata: 2\n\nid: 7\n\ndata: end'
WANTED = [Event("a", b'{"x":1}'), COMMENT, Event("", b"1\n2"), Event("", b"end")]


def test_every_split_gives_the_same_events() -> None:
    for at in range(len(TEXT) + 1):
        reader = Reader()
        found = reader.feed(TEXT[:at]) + reader.feed(TEXT[at:]) + reader.rest()
        assert found == WANTED, at


def test_byte_by_byte_too() -> None:
    reader = Reader()
    found = [event for i in range(len(TEXT)) for event in reader.feed(TEXT[i : i + 1])]
    assert found + reader.rest() == WANTED


@pytest.mark.parametrize("written", [named("a", {"x": "\n\n"}), plain({"type": "a", "x": "\n\n"})])
def test_what_is_written_is_read(written: bytes) -> None:
    [event] = Reader().feed(written)
    assert event.data == b'{"type":"a","x":"\\n\\n"}'

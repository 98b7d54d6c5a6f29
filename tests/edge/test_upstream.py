"""The size lines by which a read is known to be one whole chunk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.upstream import MOST_SIZES, SIZE_LINES, SizeLines


@given(st.integers(1, 200_000), st.booleans())
def test_a_chunk_without_extensions_is_known_by_its_length(size: int, capital: bool) -> None:
    line = (b"%X\r\n" if capital else b"%x\r\n") % size
    chunk = line + b"a" * size + b"\r\n"
    lines, start = SIZE_LINES[len(chunk)]
    assert chunk.startswith(lines)
    assert start == len(line)


@given(st.integers(0, 70_000))
def test_no_other_chunk_has_that_length(length: int) -> None:
    for line in SIZE_LINES[length][0][:1]:
        assert len(line) + int(line, 16) + 2 == length


def test_no_more_lengths_are_remembered_than_a_bound() -> None:
    known = SizeLines()
    for length in range(6, 6 + MOST_SIZES + 100):
        assert known[length] == SizeLines()[length]
    assert len(known) == MOST_SIZES

"""The size lines by which a read is known to be one whole chunk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.upstream import size_lines


@given(st.integers(1, 200_000), st.booleans())
def test_a_chunk_without_extensions_is_known_by_its_length(size: int, capital: bool) -> None:
    line = (b"%X\r\n" if capital else b"%x\r\n") % size
    chunk = line + b"a" * size + b"\r\n"
    assert chunk.startswith(size_lines(len(chunk)))
    assert len(size_lines(len(chunk))[0]) == len(line)


@given(st.integers(0, 70_000))
def test_no_other_chunk_has_that_length(length: int) -> None:
    for line in size_lines(length)[:1]:
        assert len(line) + int(line, 16) + 2 == length

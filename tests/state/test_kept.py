"""What outlives the process that wrote it, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.state.kept import Kept


def in_a_fork(kept: Kept, *values: object) -> None:
    """A child writes these values and ends."""
    pid = os.fork()
    if pid == 0:
        for value in values:
            kept.write(value)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_at_first_there_is_nothing() -> None:
    assert Kept().read() is None


def test_what_a_child_wrote_last_is_read_by_its_parent_and_by_the_next_child() -> None:
    kept = Kept()
    in_a_fork(kept, {"a": 1}, {"b": 2}, {"c": 3})
    assert kept.read() == {"c": 3}
    in_a_fork(kept, "x")
    assert Kept.read(kept) == "x"


def test_a_successor_that_read_goes_on_where_the_other_ended() -> None:
    kept = Kept()
    in_a_fork(kept, 1, 2, 3)
    assert kept.read() == 3
    kept.write(4)
    assert kept.read() == 4
    in_a_fork(kept, "long" * 1000, "short")
    assert kept.read() == "short"


@pytest.mark.parametrize("written", range(0, 120, 3))
def test_a_write_that_is_cut_short_leaves_the_value_before_it(
    written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    for value in ("a" * 90, "b" * 90, "c" * 90):
        kept.write(value)
    whole = os.pwrite

    def killed_on_the_way(fd: int, data: memoryview, at: int) -> int:
        whole(fd, data[:written], at)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", killed_on_the_way)
    with pytest.raises(KeyboardInterrupt):
        kept.write("d" * 90)
    assert kept.read() == "c" * 90


def test_a_write_in_pieces_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, whole = Kept(), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, data[:5], at))
    kept.write({"key": "value" * 20})
    assert kept.read() == {"key": "value" * 20}


def test_it_stands_in_no_file_that_has_a_name() -> None:
    link = Path(f"/proc/self/fd/{Kept()._fd}").readlink()
    assert str(link).endswith("(deleted)")

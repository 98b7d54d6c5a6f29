"""A slow, full or vanished standard error neither stops nor ends the gateway."""

from __future__ import annotations

import fcntl
import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.sink import Sink, pieces, write_all


@dataclass
class Pipe:
    reader: int
    writer: int

    def read(self, until: bytes) -> bytes:
        """What comes out, up to and including ``until``."""
        data = b""
        while until not in data:
            ready, _, _ = select.select([self.reader], [], [], 5)
            assert ready, f"only {data[-200:]!r} came"
            data += os.read(self.reader, 1 << 20)
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    yield Pipe(reader, writer)
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            assert fd in (reader, writer)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_lines_come_out_in_order(pipe: Pipe) -> None:
    sink = Sink(pipe.writer)
    for number in range(1000):
        sink.put(f"line {number}\n".encode())
    sink.close()
    data = pipe.read(b"line 999\n")
    assert data == b"".join(f"line {number}\n".encode() for number in range(1000))


def test_a_reader_that_stalls_costs_lines_but_no_time(pipe: Pipe) -> None:
    sink = Sink(pipe.writer, limit=200_000)
    line = b"x" * 999 + b"\n"
    began = time.monotonic()
    for _ in range(1000):
        sink.put(line)
    assert time.monotonic() - began < 2
    assert 300 < sink.lost < 1000
    sink.limit = 10_000_000
    sink.put(b"after\n")
    data = pipe.read(b"after\n")
    assert data.count(line) == 1000 - sink.lost
    told = re.findall(rb"^(\d+) log lines were lost: the reader .* too slow$", data, re.MULTILINE)
    assert sum(map(int, told)) == sink.lost
    sink.put(b"again\n")
    assert pipe.read(b"again\n") == b"again\n"


def test_closing_does_not_wait_for_a_reader_that_stalls(pipe: Pipe) -> None:
    sink = Sink(pipe.writer)
    sink.put((b"x" * 999 + b"\n") * 500)
    began = time.monotonic()
    sink.close(timeout=0.1)
    assert time.monotonic() - began < 2


def test_a_reader_that_went_away_is_survived_and_counted(pipe: Pipe) -> None:
    os.close(pipe.reader)
    sink = Sink(pipe.writer)
    sink.put(b"one\ntwo\n")
    eventually(lambda: sink.lost == 2)
    sink.put(b"three\n")
    eventually(lambda: sink.lost == 3)


def test_a_closed_descriptor_is_survived() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    sink = Sink(writer)
    sink.put(b"one\n")
    eventually(lambda: sink.lost == 1)


def test_losses_on_a_full_disk_are_told_once_there_is_room(tmp_path: Path) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink = Sink(fd)
    sink.put(b"one\ntwo\n")
    eventually(lambda: sink.lost == 2)
    os.dup2(log, fd)
    sink.put(b"three\n")
    sink.put(b"four\n")
    sink.close()
    assert (tmp_path / "log").read_text() == (
        "2 log lines were lost: standard error failed: No space left on device\nthree\nfour\n"
    )
    os.close(fd)
    os.close(log)


def test_a_line_that_broke_off_is_ended_before_the_next(pipe: Pipe) -> None:
    fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, 4096)
    sink = Sink(pipe.writer)
    sink.put(b"x" * 10_000 + b"\n")
    eventually(lambda: not select.select([], [pipe.writer], [], 0)[1])
    # The write is under way and waits; the reader leaves, another takes its place.
    os.close(pipe.reader)
    eventually(lambda: sink.lost == 1)
    reader, writer = os.pipe()
    os.dup2(writer, pipe.writer)
    os.close(writer)
    sink.put(b"next\n")
    fresh = Pipe(reader, pipe.writer)
    data = fresh.read(b"next\n")
    os.close(reader)
    assert data.startswith(b"\n1 log lines were lost")
    assert data.endswith(b"\nnext\n")


def test_a_descriptor_made_non_blocking_by_others_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    sink = Sink(pipe.writer)
    sink.put((b"x" * 99 + b"\n") * 5000 + b"end\n")
    data = pipe.read(b"end\n")
    assert data.count(b"\n") == 5001
    assert sink.lost == 0


def test_lines_after_the_end_are_counted_as_lost(pipe: Pipe) -> None:
    sink = Sink(pipe.writer)
    sink.close()
    sink.put(b"late\n")
    assert sink.lost == 1


def test_a_forked_child_writes_its_own_lines_and_not_its_parents(pipe: Pipe) -> None:
    sink = Sink(pipe.writer)
    sink.put(b"parent\n")
    assert pipe.read(b"parent\n") == b"parent\n"
    child = os.fork()
    if child == 0:
        sink.put(b"child\n")
        sink.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    sink.put(b"parent again\n")
    assert pipe.read(b"again\n") == b"child\nparent again\n"


def test_lines_of_several_writers_to_one_pipe_are_never_mixed(pipe: Pipe) -> None:
    sinks = [Sink(pipe.writer) for _ in range(3)]
    letters = b"abc"
    for sink, letter in zip(sinks, letters, strict=True):
        sink.put((bytes([letter]) * 299 + b"\n") * 300)
    data = b""
    while data.count(b"\n") < 900:
        data += pipe.read(b"\n")
    assert {line for line in data.split(b"\n") if line} == {bytes([c]) * 299 for c in letters}


def test_many_threads_may_put(pipe: Pipe) -> None:
    sink = Sink(pipe.writer)

    def talk(name: int) -> None:
        for number in range(100):
            sink.put(f"{name}.{number}\n".encode())

    threads = [threading.Thread(target=talk, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    lines = pipe.read(b"99\n").decode().splitlines()
    while len(lines) < 400:
        lines += pipe.read(b"\n").decode().splitlines()
    for name in range(4):
        mine = [line for line in lines if line.startswith(f"{name}.")]
        assert mine == [f"{name}.{number}" for number in range(100)]


@pytest.mark.parametrize(
    ("lines", "sizes"),
    [
        (b"", []),
        (b"short\n", [6]),
        ((b"x" * 2047 + b"\n") * 3, [4096, 2048]),
        ((b"x" * 2999 + b"\n") * 2, [3000, 3000]),
        (b"x" * 5000 + b"\n" + b"y\n", [5001, 2]),
        (b"x" * 5000, [5000]),
    ],
)
def test_writes_are_cut_at_line_ends_within_what_a_pipe_takes_whole(
    lines: bytes, sizes: list[int]
) -> None:
    cut = list(pieces(lines))
    assert b"".join(cut) == lines
    assert [len(piece) for piece in cut] == sizes


def test_a_file_takes_many_lines_in_one_write_and_a_pipe_no_more_than_it_takes_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (b"x" * 99 + b"\n") * 1000
    sizes: list[int] = []

    def counted(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return len(data)

    monkeypatch.setattr(os, "write", counted)
    with (tmp_path / "log").open("wb") as file:
        assert write_all(file.fileno(), lines) == (b"", "")
    assert sizes == [len(lines)]
    sizes.clear()
    ends = os.pipe()
    try:
        assert write_all(ends[1], lines) == (b"", "")
    finally:
        for end in ends:
            os.close(end)
    assert sum(sizes) == len(lines)
    assert max(sizes) <= select.PIPE_BUF

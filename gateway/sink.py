"""The way of log lines out of the process: one thread between the gateway and a slow reader.

Whoever reads standard error may stall (a pager, a full pipe, a terminal after Ctrl-S, a disk that
hangs) or go away. A write from the event loop would then stop every stream. Making the descriptor
non-blocking is no way out: that flag belongs to the open file, which the shell, the other workers
and the terminal share. Asking with poll before each write is none either: another worker can fill
the pipe between the question and the write. So a thread of its own does the writing and may wait
as long as it likes; what piles up meanwhile is bounded, and lines beyond that are dropped and
counted.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Callable, Iterator

PENDING_LIMIT = 4 * 1024 * 1024
"""Bytes that may wait for a stalled reader; about 10,000 access lines."""

AT_A_TIME = 256 * 1024
"""Bytes of a write to a file. It is whole there whatever its length, and each one has its price."""

Report = Callable[[int, str], bytes]
"""Gives the line (with its line end) that says how many lines were lost, and why."""


def plain_report(lost: int, reason: str) -> bytes:
    """The report as bare text."""
    return f"{lost} log lines were lost: {reason}\n".encode()


class Sink:
    """Takes whole lines as bytes from any thread and never blocks nor raises.

    ``fd`` is a file descriptor, which stays the caller's. When a write fails, its lines are gone;
    once one works again, ``report`` words the line that says so. ``lost`` counts lines over the
    whole life. After a fork the child writes with a thread of its own; lines that still waited
    are the parent's to write."""

    def __init__(self, fd: int, limit: int = PENDING_LIMIT, report: Report = plain_report) -> None:
        self.fd = fd
        self.limit = limit
        self.report = report
        self.lost = 0
        self._unreported = 0
        self._reason = ""
        self._mid_line = False
        self._start()

    def put(self, lines: bytes) -> None:
        """Hand over whole lines, each with its line end."""
        if self._pid != os.getpid():
            self._start()
        with self._changed:
            if self._closed:
                self._lose(lines, "they came after the log was closed")
            elif self._size + len(lines) > self.limit:
                self._lose(lines, "the reader of standard error was too slow")
            else:
                self._waiting.append(lines)
                self._size += len(lines)
                self._changed.notify()

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits, for at most ``timeout`` seconds; later lines are dropped. Needed
        before os._exit, which skips what is registered for a normal end."""
        if self._pid != os.getpid():
            return
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _start(self) -> None:
        """Begin in this process. The lock is a new one, since at the fork another thread may
        have held the old one."""
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._size = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while lines := self._next():
            self._write(lines)

    def _next(self) -> bytes:
        """Everything that waits, in one piece; nothing when there will be no more."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            lines = b"".join(self._waiting)
            self._waiting.clear()
            return lines

    def _write(self, lines: bytes) -> None:
        """One round: a word on what was lost before, then the lines. They count as waiting until
        they are written, so that a stalled reader never holds up more than ``limit`` bytes."""
        with self._changed:
            news, told = self._news(), self._unreported
        text = news + lines
        left, error = write_all(self.fd, text)
        with self._changed:
            self._size -= len(lines)
            written = text[: len(text) - len(left)]
            if written:
                self._mid_line = not written.endswith(b"\n")
            if len(left) <= len(lines):
                self._unreported -= told
            if error:
                self._lose(left[-len(lines) :], error)

    def _news(self) -> bytes:
        """What comes first: the end of a line that broke off, and the report that is due."""
        lead = b"\n" if self._mid_line else b""
        return lead + self.report(self._unreported, self._reason) if self._unreported else lead

    def _lose(self, lines: bytes, reason: str) -> None:
        count = lines.count(b"\n")
        self.lost += count
        self._unreported += count
        self._reason = reason


def pieces(lines: bytes, most: int = select.PIPE_BUF) -> Iterator[bytes]:
    """The lines in groups of at most ``most`` bytes that are written whole. A group ends with a
    line, and only a line that is itself longer than a group is at risk."""
    start = 0
    while start < len(lines):
        end = len(lines)
        if end - start > most:
            end = lines.rfind(b"\n", start, start + most) + 1
            end = end or lines.find(b"\n", start) + 1 or len(lines)
        yield lines[start:end]
        start = end


def at_a_time(fd: int) -> int:
    """How many bytes may go to ``fd`` in one write. Beyond PIPE_BUF one to a pipe may be torn, and
    another process's line may get into the gap (pipe(7)); a file takes any number at once."""
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        regular = False
    return AT_A_TIME if regular else select.PIPE_BUF


def write_all(fd: int, lines: bytes) -> tuple[bytes, str]:
    """Write the lines, waiting as long as it takes. Returns what could not be written and why
    (both empty when all went out)."""
    done = 0
    for piece in pieces(lines, at_a_time(fd)):
        while piece:
            try:
                written = os.write(fd, piece)
            except BlockingIOError:
                # Somebody who shares the open file made it non-blocking.
                _wait(fd)
            except OSError as error:
                return lines[done:], f"standard error failed: {os.strerror(error.errno or 0)}"
            else:
                done += written
                piece = piece[written:]  # noqa: PLW2901
    return b"", ""


def _wait(fd: int) -> None:
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    ready.poll(1000)

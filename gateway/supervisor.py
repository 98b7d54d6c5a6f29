"""One gateway from start to end: its sockets, its processes, its signals."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from gateway.config import Config
from gateway.processes import END, RELOAD, Alone, Controlling, Legacy, Setting, Ties, Working
from gateway.sink import Sink
from gateway.sockets import CannotStart, bind
from gateway.state.board import Board, Page
from gateway.state.kept import Kept

log = logging.getLogger("portico")

SHORTEST_LIFE = 1.0
"""Seconds below which a process that ended is not replaced at once, lest it be a busy loop."""

PAUSE = 0.5
"""Seconds by which the replacement of a process that keeps ending is put off."""

GC_EVERY = 20_000
"""Objects made, less those freed, between two collections of the youngest."""

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

HELD_BACK = (*WATCHED, END, RELOAD)
"""Signals that a fork keeps waiting until the child has let go of our pipe."""

CONTROL = -1
"""The control process's number; workers count from 0."""


def serve(config: Config, load: Callable[[], Config], sink: Sink) -> int:
    """Run the gateway to its end. Returns the exit status."""
    try:
        setting = Setting(config, load, sink, bind(config.server.host, config.server.port))
    except CannotStart as error:
        print(f"portico: {error}", file=sys.stderr)  # noqa: T201 - the terminal is the reader
        return 1
    workers = worker_count(config)
    if workers == 1:
        run_loop(lambda: Alone(setting).run())
        return 0
    return Supervisor(setting, workers).run()


def worker_count(config: Config) -> int:
    """How many workers: as configured, or one for each core this process may use."""
    workers = config.server.workers
    return len(os.sched_getaffinity(0)) if workers == "auto" else int(workers)


def run_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``main`` on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_begin(main))


async def _begin(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    # What was imported stays for good: the collector need not look at it again and again. Requests
    # leave no cycles behind, so that rare collections are enough.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_EVERY, 20, 50)
    await main()


class FileLock:
    """A lock that ends with the process that holds it: a semaphore would stay taken for ever when
    a worker is killed between taking and giving. Whoever holds it must not take it again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)

    def __enter__(self) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN)


class Supervisor:
    """Forks the control process and the workers, replaces those that die, and passes signals on.
    It runs no event loop itself, so that what it forks begins clean."""

    def __init__(self, setting: Setting, workers: int) -> None:
        self._setting = setting
        self._place = tempfile.TemporaryDirectory(prefix="portico-")
        lifeline, self._alive = os.pipe()
        self._ties = Ties(str(Path(self._place.name) / "control"), Kept(), lifeline)
        self._page = Page(workers, FileLock(Path(self._place.name) / "lock"))
        self._pids: dict[int, int] = {}
        self._born: dict[int, float] = {}
        self._due = dict.fromkeys((CONTROL, *range(workers)), 0.0)
        self._stopping = False
        self._announced = False

    def run(self) -> int:
        # Through a pipe, since the log's thread may be the one that a signal is delivered to.
        incoming, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for watched in WATCHED:
            signal.signal(watched, lambda *_: None)
        try:
            while self._pids or self._due:
                self._start_due()
                for signum in _arrived(incoming, self._patience()):
                    self._act(signum)
        finally:
            self._place.cleanup()
        return 0

    def _patience(self) -> float | None:
        """Seconds until the next process is due, None when none is."""
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None

    def _start_due(self) -> None:
        for number, when in list(self._due.items()):
            if when > time.monotonic():
                continue
            try:
                self._start(number)
            except OSError as error:
                log.error("a process cannot be started now (%s); trying again", error.strerror)
                self._due[number] = time.monotonic() + PAUSE

    def _act(self, signum: int) -> None:
        if signum == signal.SIGCHLD:
            self._reap()
        elif signum == signal.SIGHUP:
            self._pass_on(RELOAD, CONTROL)
        else:
            self._asked_to_stop()

    def _start(self, number: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        try:
            pid = os.fork()
            if pid == 0:
                self._live(number)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
        del self._due[number]
        self._pids[number] = pid
        self._born[number] = time.monotonic()

    def _live(self, number: int) -> NoReturn:
        """The forked process's whole life. The handlers that it inherits do nothing; they are not
        set to ignore, since what a process executes would inherit that."""
        status = 1
        try:
            os.close(self._alive)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            board = Board(self._page, max(number, 0))
            if number == CONTROL:
                announce = not self._announced
                run_loop(lambda: Controlling(self._setting, board, self._ties, announce).run())
            else:
                run_loop(lambda: Working(self._setting, board, self._ties).run())
            status = 0
        except BaseException:
            log.exception("process %d ended by a fault of ours", os.getpid())
        finally:
            self._setting.sink.close()
            os._exit(status)

    def _reap(self) -> None:
        """Bury our dead. In a container there may be others: what they started becomes ours."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                for number, pid in list(self._pids.items()):
                    if pid == found[0]:
                        self._buried(number, found[1])

    def _buried(self, number: int, status: int) -> None:
        del self._pids[number]
        if number != CONTROL:
            self._page.clear(number)
        if self._stopping:
            self._next_to_stop()
            return
        self._announced = True
        who = "the control process" if number == CONTROL else f"worker {number}"
        log.error("%s ended unexpectedly (%s) and is replaced", who, _ending(status))
        now = time.monotonic()
        self._due[number] = now + (PAUSE if now - self._born[number] < SHORTEST_LIFE else 0.0)

    def _asked_to_stop(self) -> None:
        if self._stopping:
            log.warning("second signal: leaving at once; requests in flight are cut")
            for number in list(self._pids):
                self._pass_on(signal.SIGKILL, number)
            return
        self._stopping = True
        self._due.clear()
        log.info(
            "draining: requests in flight may finish within %g s",
            self._config.server.drain_timeout,
        )
        for number in list(self._pids):
            if number != CONTROL:
                self._pass_on(END, number)
        self._next_to_stop()

    @property
    def _config(self) -> Config:
        """As it is now, after all reloads."""
        legacy: Legacy | None = self._ties.kept.read()
        return self._setting.config if legacy is None else legacy.config

    def _next_to_stop(self) -> None:
        """The control process goes last, so that the others' counts can be scraped to the end."""
        if set(self._pids) == {CONTROL}:
            self._pass_on(END, CONTROL)
        elif not self._pids:
            log.info("drained; bye")

    def _pass_on(self, signum: signal.Signals, number: int) -> None:
        if number in self._pids:
            os.kill(self._pids[number], signum)


def _arrived(incoming: int, patience: float | None) -> bytes:
    """The numbers of the signals that have come, waiting for the first as long as there is
    patience."""
    readable, _, _ = select.select([incoming], [], [], patience)
    return os.read(incoming, 64) if readable else b""


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"status {os.waitstatus_to_exitcode(status)}"

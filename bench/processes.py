"""Processes under measurement: pinned to cores, frozen between their turns, stopped by pid."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PORTS = range(20000, 32000)
"""Below those that the kernel hands out by itself, so that nobody takes one in between."""

PATIENCE = 5.0
"""Seconds a process has to end by itself."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. Everything that makes load is on ``load``, so that the gateway has its core
    to itself as far as the machine allows; ``two`` are for a gateway of two workers."""

    load: frozenset[int]
    gateway: frozenset[int]
    two: frozenset[int]

    @property
    def shared(self) -> bool:
        """Whether two workers have to share a core with the load."""
        return bool(self.two & self.load)


def cores() -> Cores:
    """A layout for the cores this process may use."""
    mine = sorted(os.sched_getaffinity(0))
    apart = mine[1:] or mine
    two = apart[:2] if len(apart) > 1 else mine[:2]
    return Cores(frozenset(mine[:1]), frozenset(apart[:1]), frozenset(two))


def raised_limit() -> int:
    """How many files this process and its children may open from now on: as many as allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@contextlib.contextmanager
def pinned(to: frozenset[int]) -> Iterator[None]:
    """What is started inside runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port(addresses: int = 1) -> int:
    """A port that nobody listens on, on the first so many loopback addresses."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 - any will do
        with contextlib.ExitStack() as stack:
            try:
                for number in range(1, addresses + 1):
                    sock = stack.enter_context(socket.socket())
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind((f"127.0.0.{number}", port))
            except OSError:
                continue
        return port


class Running:
    """A started process and its descendants. What it prints goes to ``log``; ``env`` is its whole
    environment."""

    def __init__(
        self,
        command: Sequence[str],
        on: frozenset[int],
        log: Path,
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        with pinned(on), log.open("wb") as out:
            self._process = subprocess.Popen(  # noqa: S603 - from the table of peers
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def family(self) -> list[psutil.Process]:
        """The process and its living descendants."""
        try:
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pids(self) -> list[int]:
        return [process.pid for process in self.family()]

    def threads(self) -> int:
        return sum(_or_zero(process, "num_threads") for process in self.family())

    def resident(self) -> int:
        """Resident bytes; a page that two of them share counts twice."""
        return sum(_resident(process) for process in self.family())

    def descriptors(self) -> int:
        return sum(_or_zero(process, "num_fds") for process in self.family())

    def connections(self) -> int:
        """TCP connections, listening sockets not counted."""
        return sum(_established(process) for process in self.family())

    def freeze(self) -> None:
        """Stop its housekeeping from disturbing another's turn."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def tell(self, number: signal.Signals) -> None:
        """To the process alone, not to its descendants."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As ``kill -9``: no goodbye."""
        self.tell(signal.SIGKILL)
        self._process.wait(PATIENCE)

    def stop(self) -> None:
        """End it and its descendants, by force when they do not go."""
        family = self.family()
        self.thaw()
        self._send(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=PATIENCE)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(PATIENCE)

    def _send(self, number: signal.Signals) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def _or_zero(process: psutil.Process, asked: str) -> int:
    try:
        return int(getattr(process, asked)())
    except psutil.Error:
        return 0


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _established(process: psutil.Process) -> int:
    try:
        found = process.net_connections("tcp")
    except psutil.Error:
        return 0
    return sum(connection.status != psutil.CONN_LISTEN for connection in found)

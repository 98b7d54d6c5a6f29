"""One timer for all exchanges: arming one each cost more than everything it was armed for."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

TICK = 0.1
"""Seconds by which a time-out may be late."""


class Timed(Protocol):
    """What can run out of time."""

    def check(self, now: float) -> None: ...
    def end(self) -> None: ...


class Deadlines:
    """The set of what is under way, looked through ten times a second."""

    __slots__ = ("_loop", "_timer", "_under_way")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._under_way: set[Timed] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, timed: Timed) -> None:
        self._under_way.add(timed)
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._look)

    def discard(self, timed: Timed) -> None:
        self._under_way.discard(timed)

    def end_all(self) -> None:
        """Have everything under way ended by the gateway."""
        for timed in list(self._under_way):
            timed.end()

    def _look(self) -> None:
        now = time.monotonic()
        for timed in list(self._under_way):
            timed.check(now)
        self._timer = self._loop.call_later(TICK, self._look) if self._under_way else None

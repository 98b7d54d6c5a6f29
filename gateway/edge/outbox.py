"""Writes that may wait for the end of the loop's turn, so that those of one turn leave together.

A write wakes whoever reads at the other end. When that one sleeps on another core, waking it costs
more than the write; when ten writes follow one another, nine find it awake. Requests to engines and
whole answers go this way, events of streams never do."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Posting(Protocol):
    """A connection that has something to write."""

    def flush(self) -> None: ...


class Outbox:
    """One a process. What is posted leaves once everything that had come in has been looked at."""

    __slots__ = ("_loop", "_posted")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posted: list[Posting] = []

    def post(self, connection: Posting) -> None:
        """Have the connection flushed; once a turn is enough."""
        if not self._posted:
            self._loop.call_soon(self._deliver)
        self._posted.append(connection)

    def _deliver(self) -> None:
        posted, self._posted = self._posted, []
        for connection in posted:
            connection.flush()

"""A second copy of a late request on another engine: the first to answer is relayed, the other is
cancelled before a byte of it could reach the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.core.types import Call, Op
from gateway.edge.exchange import Result
from gateway.edge.moves import repeatable

GENERATING = frozenset({Op.CHAT, Op.COMPLETIONS, Op.RESPONSES, Op.MESSAGES, Op.GENERATE})
"""Surfaces whose first byte is a first token."""

Claim = Callable[[], bool]
"""Whether this copy is the one that is relayed; the first to ask is."""

FIRST = asyncio.FIRST_COMPLETED

Copy = Coroutine[Any, Any, tuple[Result, bool]]


def hedgeable(call: Call) -> bool:
    """Whether a second copy does no harm and may help."""
    return call.op in GENERATING and repeatable(call)


class Race:
    """Two copies of one request. ``winner`` is the index of the one that is relayed, -1 while that
    is open."""

    __slots__ = ("_decided", "_running", "winner")

    def __init__(self) -> None:
        self.winner = -1
        self._decided = asyncio.Event()
        self._running: list[asyncio.Future[tuple[Result, bool]]] = []

    def claim(self, index: int) -> Claim:
        """The claim of a copy, asked when its first byte is there."""

        def asked() -> bool:
            if self.winner < 0:
                self.winner = index
                self._decided.set()
            return self.winner == index

        return asked

    async def run(
        self, first: Copy, second: Callable[[], Copy | None], delay: float
    ) -> list[tuple[Result, bool] | None]:
        """Run ``first``, and ``second()`` beside it when no byte came within ``delay`` seconds and
        it gives a copy. Returns how each ended, None for the one that was cancelled. Whatever way
        this is left, nothing of it goes on running."""
        self._running = [asyncio.ensure_future(first)]
        try:
            await self._wait(delay)
            if self.winner < 0 and not self._running[0].done() and (other := second()) is not None:
                self._running.append(asyncio.ensure_future(other))
                await self._wait(None)
            await self._end_the_others()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        return [None if task.cancelled() else task.result() for task in self._running]

    async def _wait(self, delay: float | None) -> None:
        """Until one is relayed, or all have ended, or ``delay`` is over."""
        decided = asyncio.ensure_future(self._decided.wait())
        ended = asyncio.ensure_future(asyncio.wait(self._running))
        try:
            await asyncio.wait({decided, ended}, timeout=delay, return_when=FIRST)
        finally:
            decided.cancel()
            ended.cancel()

    async def _end_the_others(self) -> None:
        """Cancel what lost, at once, and let what is relayed come to its end."""
        for index, task in enumerate(self._running):
            if self.winner >= 0 and index != self.winner:
                task.cancel()
        await asyncio.wait(self._running)

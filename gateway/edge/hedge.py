"""A second copy of a late request on another engine: the first to answer is relayed, the other is
abandoned before a byte of it could reach the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web

from gateway.core.types import Call, Op
from gateway.edge.errand import Errand, GivenUp
from gateway.edge.exchange import Result
from gateway.edge.moves import repeatable

GENERATING = frozenset({Op.CHAT, Op.COMPLETIONS, Op.RESPONSES, Op.MESSAGES, Op.GENERATE})
"""Surfaces whose first byte is a first token."""


def hedgeable(call: Call) -> bool:
    """Whether a second copy does no harm and may help."""
    return call.op in GENERATING and repeatable(call)


class Copies(Protocol):
    """Who sends copies and drops them."""

    def second(self, first: Errand, race: Race) -> Errand | None:
        """Send a copy to the plan's second place; None where that may not be."""

    def drop(self, errand: Errand) -> None:
        """Whatever runs for the errand ends now."""


class Race:
    """One request's two copies. The timer runs from when the first was sent. It is the desk of the
    second: what happens to that one happens to the request."""

    __slots__ = ("_copies", "_delay", "_first", "_loop", "_lost", "_second", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, copies: Copies, first: Errand, delay: float
    ) -> None:
        self._loop = loop
        self._copies = copies
        self._delay = delay
        self._first = first
        self._second: Errand | None = None
        self._lost: GivenUp = []
        self._timer: asyncio.TimerHandle | None = None

    def sent(self) -> None:
        """A copy is on its way."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._delay, self._fire)

    def _fire(self) -> None:
        self._first.desk.guarded(self._first, self._send_second)

    def _send_second(self, first: Errand) -> None:
        self._second = self._copies.second(first, self)

    def claim(self, errand: Errand) -> None:
        """An answer to this copy is there: it is relayed, and the other one ends at once."""
        self._stop_timer()
        for other in (self._first, self._second):
            if other is not None and other is not errand:
                self._copies.drop(other)
        account, place = errand.account, errand.place
        if errand is self._second:
            account.hedged = "won"
        account.backend = place.backend.name
        account.upstream_model = place.asked or errand.call.model
        if errand.exchange is not None:
            account.watch = errand.exchange.watch

    def failed(self, errand: Errand, result: Result) -> tuple[Errand, GivenUp]:
        """A copy got no answer. Returns the first errand, with what is to be given up by it:
        nothing as long as the other copy may still have an answer."""
        self._lost.append((errand.place, result))
        first, running = self._first, self._second is not None and len(self._lost) < 2
        if running:
            return first, []
        self._stop_timer()
        first.race = None
        return first, self._lost

    def stop(self) -> None:
        """The request is over: nothing of it goes on."""
        self._stop_timer()
        self._first.race = None
        self._copies.drop(self._first)
        if self._second is not None:
            self._copies.drop(self._second)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- the desk of the second copy

    def guarded(self, errand: Errand, step: Callable[..., None], *args: Any) -> None:
        self._first.desk.guarded(self._first, lambda _: step(errand, *args))

    def broke(self, errand: Errand) -> None:
        self._first.desk.broke(self._first)

    def answer(self, errand: Errand, response: web.Response) -> None:
        self._first.desk.answer(self._first, response)

    def over(self, errand: Errand, *, keep_alive: bool) -> None:
        self._first.desk.over(self._first, keep_alive=keep_alive)

    def left(self, errand: Errand) -> None:
        self._first.desk.left(self._first)

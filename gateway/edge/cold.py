"""Requests for a model that its engine has to load first: held while the gateway has it loaded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.core.catalog import Place
from gateway.core.errors import Refusal
from gateway.core.types import Call, Fleet, Op, Sight, Waking
from gateway.edge.refuse import draining

LOOKS_ON = frozenset({Op.SHOW, Op.TAGS, Op.PS, Op.VERSION, Op.RESPONSES_BY_ID})
"""Surfaces that do not need the model in memory."""

BEGINS_WITHIN = 1.0
"""Seconds in which a load that was asked for is heard of. A control process that is being replaced
hears of nothing; then the engine's own way of loading is as good."""

Wake = Callable[[str, str], None]
"""(backend, model id): have it loaded."""


def concerned(call: Call, place: Place) -> bool:
    """Whether the call wants a model in memory that the gateway can have loaded there."""
    wants = call.op not in LOOKS_ON and call.doc.get("keep_alive") != 0
    return wants and place.runtime.wake is not None and place.model is not None


class Cold:
    """``seen`` is called with every new fleet; ``wait`` is the bound, in seconds."""

    def __init__(self, wake: Wake) -> None:
        self.wait = 60.0
        self._wake = wake
        self._fleet: Fleet | None = None
        self._closed = False
        self._news = asyncio.Event()

    def seen(self, fleet: Fleet) -> None:
        """Something may have become resident."""
        self._fleet = fleet
        self._stir()

    def close(self) -> None:
        """Refuse all who wait, and who would: the gateway is leaving."""
        self._closed = True
        self._stir()

    def _stir(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def warmed(self, place: Place) -> None:
        """Return when the place may be asked, for a call that is concerned. Raises Refusal:
        ``overloaded`` when the load takes longer than a request may wait, at once if that is known,
        and ``draining``."""
        name = place.backend.name
        model = place.model.id if place.model else ""
        began = time.monotonic()
        self._wake(name, model)
        heard = await self._next(lambda: self._told(name, model), BEGINS_WITHIN)
        if not heard:
            return
        waking = self._waking(name, model)
        left = self.wait - (time.monotonic() - began)
        if waking is None or waking.guess or _remaining(waking) <= left:
            over = await self._next(lambda: self._waking(name, model) is None, left)
            if over:
                return
        raise _refusal(name, place, self._waking(name, model) or waking, self.wait)

    async def _next(self, there: Callable[[], bool], within: float) -> bool:
        """Whether it came true within so many seconds."""
        try:
            async with asyncio.timeout(within):
                while not there():
                    if self._closed:
                        raise draining()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _told(self, name: str, model: str) -> bool:
        """Whether the load is known to be under way, or not to be needed."""
        sight = (self._fleet.sights.get(name) if self._fleet else None) or Sight()
        resident = any(m.id == model and m.loaded is not False for m in sight.models)
        return resident or self._waking(name, model) is not None

    def _waking(self, name: str, model: str) -> Waking | None:
        sight = (self._fleet.sights.get(name) if self._fleet else None) or Sight()
        return next((waking for waking in sight.waking if waking.model == model), None)


def _remaining(waking: Waking) -> float:
    """Seconds that the load will take yet: what it took before, or, when that has passed, a
    quarter of the time it has had."""
    gone = time.monotonic() - waking.since
    return max(waking.expected - gone, gone / 4, 1.0)


def _refusal(name: str, place: Place, waking: Waking | None, wait: float) -> Refusal:
    left = _remaining(waking) if waking else 1.0
    return Refusal(
        "overloaded",
        f"The engine of '{name}' is loading '{place.asked}'; that may take another {left:.0f} s,"
        f" and requests wait {wait:g} s at most. The load goes on: try again after the time in"
        " Retry-After.",
        retry_after=left,
        headers={"X-Portico-Backend": name},
    )

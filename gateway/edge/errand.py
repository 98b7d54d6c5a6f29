"""One request under way, with all that belongs to it, and who has a say in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from aiohttp import web

from gateway.core.catalog import Place
from gateway.core.errors import Refusal
from gateway.core.plan import Plan
from gateway.core.prepare import Prepared
from gateway.core.types import Call, Caller, Wire
from gateway.edge.account import Account
from gateway.edge.body import Upload
from gateway.edge.exchange import Exchange, Result
from gateway.edge.request import Request
from gateway.edge.turn import Turn
from gateway.edge.upstream import Connection, Origin
from gateway.state.lore import Sent
from gateway.state.windows import Lease

GivenUp = list[tuple[Place, Result]]


class Desk(Protocol):
    """Where errands come from and where they end."""

    def guarded(self, errand: Errand, step: Callable[..., None], *args: Any) -> None: ...
    def broke(self, errand: Errand) -> None: ...
    def answer(self, errand: Errand, response: web.Response) -> None: ...
    def over(self, errand: Errand, *, keep_alive: bool) -> None: ...
    def left(self, errand: Errand) -> None: ...


class Carrier(Protocol):
    """Who brings errands to backends."""

    def begun(self, errand: Errand, beginning: bytes) -> None: ...
    def ended(self, errand: Errand, result: Result) -> None: ...


class Waiter(Protocol):
    """A request's stand-in in the line."""

    def leave(self) -> None: ...


class Rivals(Protocol):
    """Two errands for one request."""

    def sent(self) -> None: ...
    def claim(self, errand: Errand) -> None: ...
    def failed(self, errand: Errand, result: Result) -> tuple[Errand, GivenUp]: ...
    def stop(self) -> None: ...


class Errand:
    """``upload`` is the request's body when that still comes in; ``others`` are the places that
    come after the first, None until that has failed; ``task`` is what it waits for, if anything;
    ``waiter`` stands for it in the line, once it had to wait; ``lease`` is its hold on the limits
    of its key, where that has any; ``race`` is where a second copy of it may be sent. The rest
    describes the present attempt: ``began`` and ``trial`` as in Tried, ``held_since`` when it took
    a place where those are limited, else 0, ``key`` the number of the backend's key where it has
    several, of which ``tired`` have failed with this request, ``turn`` its translation, None where
    the engine has the surface itself. ``refused`` is why a translation could not be made."""

    __slots__ = (
        "_carrier",
        "account",
        "add_usage",
        "began",
        "call",
        "caller",
        "connection",
        "desk",
        "exchange",
        "feeding",
        "given_up",
        "held_since",
        "key",
        "lease",
        "origin",
        "others",
        "over",
        "place",
        "plan",
        "prepared",
        "race",
        "refused",
        "request",
        "sent",
        "task",
        "ticket",
        "tired",
        "trial",
        "turn",
        "upload",
        "waiter",
        "wire",
    )

    caller: Caller
    call: Call
    place: Place
    plan: Plan
    prepared: Prepared
    origin: Origin

    def __init__(
        self, desk: Desk, carrier: Carrier, request: Request, account: Account, wire: Wire
    ) -> None:
        self.desk = desk
        self._carrier = carrier
        self.request = request
        self.account = account
        self.wire = wire
        self.upload: Upload | None = None
        self.task: asyncio.Task[None] | None = None
        self.feeding: asyncio.Task[None] | None = None
        self.others: Iterator[Place] | None = None
        self.given_up: GivenUp | None = None
        self.add_usage = False
        self.over = False
        self.ticket: int | None = None
        self.began = 0.0
        self.trial = False
        self.key = 0
        self.tired: set[int] | None = None
        self.held_since = 0.0
        self.sent: Sent | None = None
        self.waiter: Waiter | None = None
        self.lease: Lease | None = None
        self.race: Rivals | None = None
        self.turn: Turn | None = None
        self.refused: Refusal | None = None
        self.exchange: Exchange | None = None
        self.connection: Connection | None = None

    @property
    def resendable(self) -> bool:
        """Whether the whole request can be sent (again)."""
        return self.upload is None or not self.upload.touched

    def copy(self, desk: Desk) -> Errand:
        """A second errand for the same request, which has no body that still comes in."""
        other = Errand(desk, self._carrier, self.request, self.account, self.wire)
        other.caller, other.call, other.plan = self.caller, self.call, self.plan
        other.add_usage, other.lease = self.add_usage, self.lease
        return other

    def cancel(self) -> None:
        """The client has gone."""
        self.desk.left(self)

    # --- from the exchange

    def claim(self) -> None:
        if self.race is not None:
            self.race.claim(self)

    def begun(self, beginning: bytes) -> None:
        self._carrier.begun(self, beginning)

    def ended(self, result: Result) -> None:
        self.desk.guarded(self, self._carrier.ended, result)

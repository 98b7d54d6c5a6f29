"""Requests that found every place taken: they wait here in line, and go as soon as one is free.

A place that comes free in this process is given out at the end of that turn of the event loop; of
one that comes free in another process this one hears by its bell. Beside that it looks around now
and then, while anybody waits."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.core import queue
from gateway.core.capacity import limit, on_trial, room
from gateway.core.errors import Refusal
from gateway.core.plan import Route
from gateway.core.priority import granted
from gateway.core.queue import PLAIN, Bounds, Entry, Line, Pace
from gateway.core.types import Call, Caller, Circuit
from gateway.edge.errand import Errand
from gateway.edge.opened import Opened, may_open
from gateway.edge.refuse import draining
from gateway.state.board import Board

LOOK = 0.02
"""Seconds between looks around while anybody waits. They are for what nobody tells: that time
passed, and that a process which was first in line for a place did not take it."""

YIELDS = 2
"""Looks for which a free place is left to another process whose request comes first."""

Spots = tuple[str, frozenset[str]]
"""What a line waits for: a model's name and the backends that can take requests for it."""


class Desk(Protocol):
    """Where those who waited go on."""

    def proceed(self, errand: Errand, way: Route) -> None: ...
    def favourite(self, errand: Errand, way: Route) -> str: ...
    def refuse(self, errand: Errand, refusal: Refusal) -> None: ...
    def guarded(self, errand: Errand, step: Callable[..., None], *args: Any) -> None: ...


Reroute = Callable[[Call, Caller], Route]


class Waiter:
    """One request in line, at the same place of it however often it comes back. ``since`` is when
    it began to wait (monotonic seconds), 0 while it does not; ``label`` is the name under which it
    is counted meanwhile."""

    __slots__ = ("_beats", "_end", "_waiting", "entry", "errand", "label", "since", "way")

    def __init__(self, waiting: Waiting, errand: Errand, way: Route, entry: Entry) -> None:
        self._waiting = waiting
        self._beats: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        self.errand = errand
        self.way = way
        self.entry = entry
        self.label = way.label
        self.since = 0.0

    @property
    def spots(self) -> Spots:
        groups = self.way.groups
        return self.way.label, frozenset(p.backend.name for g in groups for p in g.places)

    def leave(self) -> None:
        """Out of the line, if it is in it."""
        self._waiting.leave(self)

    def settle(self, loop: asyncio.AbstractEventLoop, left: float, every: float | None) -> None:
        """Begin to wait, for no more than ``left`` seconds, with a comment ``every`` so many."""
        self.since = time.monotonic()
        self._end = loop.call_later(max(left, 0.0), self._waiting.late, self)
        if every is not None and may_open(self.errand.request, self.errand.call):
            self._beats = loop.call_later(every, self._beat, loop, every)

    def _beat(self, loop: asyncio.AbstractEventLoop, every: float) -> None:
        account = self.errand.account
        if account.opened is None:
            lease = self.errand.lease
            lines = b"" if lease is None else lease.lines()
            account.opened = Opened(self.errand.request, self.errand.call, lines)
        else:
            account.opened.beat()
        self._beats = loop.call_later(every, self._beat, loop, every)

    def rise(self) -> None:
        """Wait no longer."""
        account = self.errand.account
        account.queued = (account.queued or 0.0) + time.monotonic() - self.since
        self.since = 0.0
        for timer in (self._beats, self._end):
            if timer is not None:
                timer.cancel()


@dataclass(slots=True)
class Row:
    """One line, and by number the requests that its entries stand for. ``yields`` counts the looks
    for which a free place was left to another process."""

    line: Line = field(default_factory=Line)
    waiters: dict[int, Waiter] = field(default_factory=dict)
    yields: int = 0


class Waiting:
    """The lines of this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, board: Board, desk: Desk) -> None:
        self.bounds = PLAIN
        self._loop = loop
        self._desk = desk
        self._board = board
        self._busy = board.busy
        self._queues = board.queues
        self._pace = Pace()
        self._rows: dict[Spots, Row] = {}
        self._number = 0
        self._closed = False
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        if self._queues.bell is not None:
            loop.add_reader(self._queues.bell, self._rung)

    # --- a request's way through the line

    @property
    def anyone(self) -> bool:
        """Whether anybody waits, in whichever process: no newcomer may pass them by."""
        return self._queues.anyone

    def join(self, errand: Errand, way: Route) -> None:
        """Into the line, and out of it at once if it is the errand's turn. One that comes again,
        since it found the place taken after all, stands where it stood. Raises Refusal."""
        found = errand.waiter
        again = isinstance(found, Waiter)
        waiter = found if isinstance(found, Waiter) else self._new(errand, way)
        waiter.way = way
        self._add(waiter)
        if not again:
            errand.waiter = waiter
            self._look()
        if self._stands(waiter):
            try:
                self._admit(waiter, again)
            except Refusal:
                self._drop(waiter)
                raise
            self._arm()

    def _new(self, errand: Errand, way: Route) -> Waiter:
        self._number += 1
        call = errand.call
        level, seconds = granted(call.priority, errand.caller), queue.work(len(call.body))
        entry = queue.entry(self._number, call.arrived, seconds, level)
        return Waiter(self, errand, way, entry)

    def _admit(self, waiter: Waiter, again: bool) -> None:
        """Count the waiter in, or say at once that there is no use in waiting. Raises Refusal."""
        label, bounds = waiter.way.label, self.bounds
        left = waiter.errand.call.arrived + bounds.timeout - time.monotonic()
        if self._closed:
            raise draining()
        seconds = self._seconds(waiter)
        if not again and seconds is not None and seconds > left:
            raise queue.too_late(label, seconds, bounds)
        if not self._queues.enter(label, None if again else bounds.max):
            raise queue.line_full(label, self._queues.total(label), seconds)
        waiter.label = label
        waiter.settle(self._loop, left, bounds.keepalive)

    def _seconds(self, waiter: Waiter) -> float | None:
        """In how long the waiter's turn will come, as far as that can be told."""
        rank, (label, names) = waiter.entry.rank, waiter.spots
        near = (row.line for (_, others), row in self._rows.items() if others & names)
        ahead = sum(line.ahead(rank) for line in near) + self._queues.others(label, rank)
        places = (place for group in waiter.way.groups for place in group.places)
        limits = {
            place.backend.name: 1 if on_trial(place) else limit(place) or 0
            for place in places
            if place.sight.circuit is not Circuit.OPEN
        }
        return queue.wait(ahead, self._pace.rate(limits.items()))

    def leave(self, waiter: Waiter) -> None:
        """Out of the line, whether the turn came, the client left or time is over."""
        self._drop(waiter)
        if waiter.since:
            self._queues.leave(waiter.label)
            waiter.rise()

    def late(self, waiter: Waiter) -> None:
        """The waiter's time is over."""
        refusal = queue.waited_in_vain(waiter.way.label, self._seconds(waiter), self.bounds)
        self.leave(waiter)
        self._desk.refuse(waiter.errand, refusal)

    # --- the lines

    def _stands(self, waiter: Waiter) -> bool:
        row = self._rows.get(waiter.spots)
        return row is not None and row.waiters.get(waiter.entry.number) is waiter

    def _add(self, waiter: Waiter) -> None:
        row = self._rows.setdefault(waiter.spots, Row())
        row.line.add(waiter.entry)
        row.waiters[waiter.entry.number] = waiter
        self._lead(waiter.way.label)

    def _drop(self, waiter: Waiter) -> None:
        if not self._stands(waiter):
            return
        row = self._rows[waiter.spots]
        row.line.remove(waiter.entry)
        del row.waiters[waiter.entry.number]
        if not row.waiters:
            del self._rows[waiter.spots]
        self._lead(waiter.way.label)

    def _lead(self, label: str) -> None:
        """Let the other processes know who is first here."""
        heads = (row.line.head for spots, row in self._rows.items() if spots[0] == label)
        ranks = [head.rank for head in heads if head is not None]
        self._queues.lead(label, min(ranks, default=math.inf))

    # --- places that come free

    def freed(self, backend: str, seconds: float) -> None:
        """A request has left a place that it held for ``seconds``. What that makes possible comes
        after this turn, since it may end in here again."""
        self._pace.left(backend, seconds)
        if self._rows and not self._soon:
            self._soon = True
            self._loop.call_soon(self._look)
        if self._queues.bell is not None:
            self._queues.ring()

    def _look(self) -> None:
        """Give every free place to whoever is next."""
        self._soon = False
        self._board.look(time.monotonic())
        for _ in range(sum(len(row.waiters) for row in self._rows.values())):
            ready = [row for spots, row in self._rows.items() if self._may_go(spots, row)]
            if not ready:
                return
            self._give(min(ready, key=_first))

    def _may_go(self, spots: Spots, row: Row) -> bool:
        """Whether there is a place for the line's next, beside those for whoever comes before it in
        other processes."""
        free, (rank, _) = self._free(row), _first(row)
        if free and row.yields < YIELDS:
            free -= self._queues.others(spots[0], rank)
        return free > 0

    def _free(self, row: Row) -> int:
        """How many requests the line's backends still take."""
        way = next(iter(row.waiters.values())).way
        places = {place.backend.name: place for group in way.groups for place in group.places}
        total = 0
        for place in places.values():
            more = room(place, self._busy)
            total += len(row.waiters) if more is None else more
        return total

    def _give(self, row: Row) -> None:
        """A place to the line's next."""
        entry = row.line.next(lambda entry: self._suits(row.waiters[entry.number]))
        if entry is None:
            return
        waiter = row.waiters[entry.number]
        row.yields = 0
        self.leave(waiter)
        errand = waiter.errand
        self._desk.guarded(errand, self._desk.proceed, waiter.way)

    def _suits(self, waiter: Waiter) -> bool:
        """Whether the backend that the policy likes best for it has a place."""
        name = self._desk.favourite(waiter.errand, waiter.way)
        places = (place for group in waiter.way.groups for place in group.places)
        return any(place.backend.name == name and room(place, self._busy) != 0 for place in places)

    def _rung(self) -> None:
        self._queues.hush()
        self._look()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._board.look(time.monotonic())
        for row in self._rows.values():
            row.yields = row.yields + 1 if self._free(row) else 0
        self._look()
        if self._rows:
            self._arm()

    # --- what changes for all

    def refresh(self, bounds: Bounds, reroute: Reroute) -> None:
        """The fleet or the configuration is another one: so may be where each can go."""
        self.bounds = bounds
        now = time.monotonic()
        for waiter in self._all():
            self._drop(waiter)
            errand = waiter.errand
            try:
                way = self._way(errand, reroute, now)
            except Refusal as refusal:
                self.leave(waiter)
                self._desk.refuse(errand, refusal)
            else:
                waiter.way = way
                self._add(waiter)
        if self._rows:
            self._look()

    def _way(self, errand: Errand, reroute: Reroute, now: float) -> Route:
        """Where the errand may go now. Raises Refusal where it would wait in vain."""
        way = reroute(errand.call, errand.caller)
        opens = way.opens(now)
        if opens is None or opens > max(errand.call.arrived + self.bounds.timeout - now, 0.0):
            refusal = way.refuse(self._busy, now)
            refusal.opens = None
            raise refusal
        return way

    def close(self) -> None:
        """Refuse all who wait, and who would come: the gateway is leaving."""
        self._closed = True
        for waiter in self._all():
            self.leave(waiter)
            self._desk.refuse(waiter.errand, draining())

    def _all(self) -> list[Waiter]:
        return [waiter for row in self._rows.values() for waiter in row.waiters.values()]


def _first(row: Row) -> tuple[float, int]:
    head = row.line.head
    return (math.inf, 0) if head is None else (head.rank, head.number)

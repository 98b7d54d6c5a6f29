"""One request's account: opened at the door, filled on the way, closed exactly once."""

from __future__ import annotations

import time
from bisect import bisect_left

from gateway.core.explain import Story
from gateway.core.types import ITL_BUCKETS, NO_USAGE, Usage
from gateway.core.usage import extract
from gateway.dialects import Route
from gateway.dialects.stream import Watch
from gateway.edge.opened import Opened

LEFT = 499
"""The status in metrics for a client that left before it was told any (nginx's number)."""

NO_GAPS: list[int] = []


class Account(Story):
    """A Story that still comes about. ``waited`` are seconds spent waiting for the body, which are
    not the gateway's own; ``committed`` is whether an answer of an engine has begun, ``first`` and
    ``last`` when bytes of it came; ``gaps`` are what becomes ``itl``."""

    __slots__ = (
        "_spent",
        "committed",
        "first",
        "gaps",
        "last",
        "opened",
        "waited",
        "watch",
    )

    def __init__(self, request_id: str, route: Route) -> None:
        self.arrived = time.monotonic()
        self.id = request_id
        self.surface = route.surface
        self.wire = route.spoken
        self.key = self.user = self.session = self.backend = self.upstream_model = ""
        self.refusal = self.cut_by = self.said = self.hedged = self.limit = ""
        self.model = "unknown"
        self.stream = self.committed = False
        self.status = self.attempts = self.stale = self.bytes_out = 0
        self.waited = self.first = self.last = self.itl_sum = 0.0
        self.moves: tuple[str, ...] = ()
        self.itl = ()
        self.gaps = NO_GAPS
        self.overhead = self.queued = None
        self.opened: Opened | None = None
        self.watch: Watch | None = None
        self.seen = self.tries = ()
        self.plan = None
        self._spent: Usage | None = None

    def anew(self) -> None:
        """Forget attempts that found every place taken: they reached nobody."""
        self.attempts, self.moves, self.tries = 0, (), ()
        self.backend = self.upstream_model = ""

    def commit(self, status: int, now: float, *, events: bool) -> None:
        """An engine's answer begins; ``events`` is whether it comes as a stream of them."""
        self.committed, self.status = True, status
        self.first = self.last = now
        if events:
            self.gaps = [0] * (len(ITL_BUCKETS) + 1)

    def gap(self, seconds: float) -> None:
        """So long after the one before an event came."""
        self.gaps[bisect_left(ITL_BUCKETS, seconds)] += 1
        self.itl_sum += seconds

    @property
    def answered(self) -> bool:
        """Whether an answer that is no refusal has begun."""
        return self.committed and self.status < 400

    def spent(self) -> Usage:
        """The tokens of an answer that is over."""
        if self.watch is None or not self.answered:
            return NO_USAGE
        if self._spent is None:
            pieces = self.watch.pieces if self.stream else 0
            self._spent = extract(self.watch.head, self.watch.tail, pieces)
        return self._spent

    def end(self) -> None:
        """The request is over, whatever way it went."""
        self.status = self.status or LEFT
        self.duration = time.monotonic() - self.arrived
        self.at = time.time()

    def close(self) -> Story:
        """The outcome, some time after the end; asked for exactly once."""
        self.usage = self.spent()
        self.itl = self.gaps
        self.first_byte = self.first - self.arrived if self.committed else None
        # It is kept for a while, which these need not be.
        self.watch = self.opened = None
        if self.plan is not None and self.plan.briefs:
            self.plan = self.plan.without_prompts()
        return self

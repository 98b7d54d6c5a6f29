"""One request's account: opened at the door, filled on the way, closed into one Outcome."""

from __future__ import annotations

import time

from gateway.core.catalog import Place
from gateway.core.explain import Story
from gateway.core.plan import Plan
from gateway.core.types import Outcome, Tried, Usage
from gateway.core.usage import extract
from gateway.dialects import Route
from gateway.dialects.stream import Watch
from gateway.edge.exchange import Tally
from gateway.edge.opened import Opened

LEFT = 499
"""The status in metrics for a client that left before it was told any (nginx's number)."""

NO_USAGE = Usage()


class Account:
    """What is known of a request so far. ``waited`` are seconds spent waiting for its body, which
    are not the gateway's own; ``seen`` are the places of the model's name, ``tries`` the attempts,
    ``said`` is what a refusal said."""

    __slots__ = (
        "_usage",
        "arrived",
        "attempts",
        "backend",
        "cut_by",
        "hedged",
        "id",
        "key",
        "label",
        "limit",
        "moves",
        "opened",
        "overhead",
        "plan",
        "queued",
        "refusal",
        "said",
        "seen",
        "session",
        "stale",
        "status",
        "stream",
        "surface",
        "tally",
        "tries",
        "upstream_model",
        "user",
        "waited",
        "watch",
        "wire",
    )

    def __init__(self, request_id: str, route: Route) -> None:
        self.arrived = time.monotonic()
        self.id = request_id
        self.surface = route.surface
        self.wire = route.spoken
        self.key = self.user = self.session = self.backend = self.upstream_model = ""
        self.refusal = self.cut_by = self.said = self.hedged = self.limit = ""
        self.label = "unknown"
        self.stream = False
        self.status = self.attempts = self.stale = 0
        self.waited = 0.0
        self.moves: tuple[str, ...] = ()
        self.overhead: float | None = None
        self.queued: float | None = None
        self.opened: Opened | None = None
        self.tally = Tally()
        self.watch: Watch | None = None
        self.seen: tuple[Place, ...] = ()
        self.plan: Plan | None = None
        self.tries: list[Tried] = []
        self._usage: Usage | None = None

    def anew(self) -> None:
        """Forget attempts that found every place taken: they reached nobody."""
        self.attempts, self.moves = 0, ()
        self.tries.clear()
        self.backend = self.upstream_model = ""

    @property
    def answered(self) -> bool:
        """Whether an answer that is no refusal has begun."""
        return self.tally.committed and self.tally.status < 400

    def usage(self) -> Usage:
        """The tokens of an answer that is over."""
        if self.watch is None or not self.answered:
            return NO_USAGE
        if self._usage is None:
            pieces = self.watch.pieces if self.stream else 0
            self._usage = extract(self.watch.head, self.watch.tail, pieces)
        return self._usage

    def close(self) -> Outcome:
        """The outcome; asked for exactly once, whatever way the request went."""
        tally = self.tally
        return Outcome(
            id=self.id,
            key=self.key,
            surface=self.surface,
            model=self.label,
            status=self.status or tally.status or LEFT,
            wire=self.wire,
            user=self.user,
            session=self.session,
            backend=self.backend,
            upstream_model=self.upstream_model,
            stream=self.stream,
            refusal=self.refusal,
            cut_by=self.cut_by,
            attempts=self.attempts,
            moves=self.moves,
            stale=self.stale,
            hedged=self.hedged,
            overhead=self.overhead,
            first_byte=tally.first - self.arrived if tally.committed else None,
            duration=time.monotonic() - self.arrived,
            usage=self.usage(),
            itl=tuple(tally.itl),
            itl_sum=tally.itl_sum,
            bytes_out=tally.bytes_out,
            queued=self.queued,
            limit=self.limit,
            at=time.time(),
        )

    def story(self, outcome: Outcome) -> Story:
        """What an explanation would be made from."""
        plan = self.plan.without_prompts() if self.plan and self.plan.briefs else self.plan
        return Story(outcome, self.seen, plan, self.tries, self.arrived, self.said)

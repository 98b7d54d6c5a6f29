"""One request's account: opened at the door, filled on the way, closed into one Outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from gateway.core.catalog import Place
from gateway.core.explain import Story
from gateway.core.plan import Plan
from gateway.core.types import Call, Outcome, Tried, Usage
from gateway.core.usage import extract
from gateway.dialects.stream import Watch
from gateway.edge.exchange import Tally

LEFT = 499
"""The status in metrics for a client that left before it was told any (nginx's number)."""


class Account:
    """A context manager: whatever way the block is left, exactly one Outcome is reported."""

    __slots__ = (
        "_clock",
        "_keep",
        "_report",
        "arrived",
        "attempts",
        "backend",
        "cut_by",
        "hedged",
        "id",
        "key",
        "label",
        "moves",
        "overhead",
        "patience",
        "plan",
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
        "watch",
        "wire",
    )

    def __init__(
        self,
        report: Callable[[Outcome], None],
        clock: Callable[[], float],
        request_id: str,
        keep: Callable[[Story], None],
    ) -> None:
        self._report = report
        self._keep = keep
        self._clock = clock
        self.arrived = clock()
        self.id = request_id
        self.key = ""
        self.user = ""
        self.session = ""
        self.surface = ""
        self.wire = ""
        self.label = "unknown"
        self.backend = ""
        self.upstream_model = ""
        self.stream = False
        self.status = 0
        self.refusal = ""
        self.cut_by = ""
        self.attempts = 0
        self.moves: list[str] = []
        self.stale = 0
        self.overhead: float | None = None
        self.seen: tuple[Place, ...] = ()
        self.plan: Plan | None = None
        self.said = ""
        self.hedged = ""
        self.patience: float | None = None
        self.tries: list[Tried] = []
        self.tally = Tally()
        self.watch: Watch | None = None

    def __enter__(self) -> Account:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and not self.cut_by:
            self.cut_by = "client" if not issubclass(kind, Exception) else "gateway"
        outcome = self._outcome()
        self._keep(Story(outcome, self.seen, self.plan, self.tries, self.arrived, self.said))
        self._report(outcome)

    def answered_by(self, watch: Watch, place: Place, call: Call) -> bool:
        """Of several copies under way this one is relayed; always True."""
        self.watch, self.backend = watch, place.backend.name
        self.upstream_model = place.asked or call.model
        return True

    def _usage(self) -> Usage:
        if self.watch is None or self.tally.status >= 400 or not self.tally.committed:
            return Usage()
        pieces = self.watch.pieces if self.stream else 0
        return extract(self.watch.head, self.watch.tail, pieces)

    def _outcome(self) -> Outcome:
        tally = self.tally
        return Outcome(
            id=self.id,
            key=self.key,
            user=self.user,
            session=self.session,
            surface=self.surface,
            wire=self.wire,
            model=self.label,
            backend=self.backend,
            upstream_model=self.upstream_model,
            status=self.status or tally.status or LEFT,
            stream=self.stream,
            refusal=self.refusal,
            cut_by=self.cut_by,
            attempts=self.attempts,
            moves=tuple(self.moves),
            stale=self.stale,
            hedged=self.hedged,
            overhead=self.overhead,
            first_byte=tally.first - self.arrived if tally.committed else None,
            duration=self._clock() - self.arrived,
            usage=self._usage(),
            itl=tuple(tally.itl),
            itl_sum=tally.itl_sum,
            bytes_out=tally.bytes_out,
            at=time.time(),
        )

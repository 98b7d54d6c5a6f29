"""Requests in flight, by backend and by model: written by the data plane, read by everybody."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.types import Pulse


@dataclass(slots=True)
class Lane:
    """One backend's requests in flight: when each was sent, and when a byte last came."""

    starts: dict[int, float] = field(default_factory=dict)
    last_byte: float = 0.0


class Board:
    """``busy`` is live: requests in flight by backend name (0 for one that had some)."""

    __slots__ = ("_lanes", "_next", "busy", "by_model")

    def __init__(self) -> None:
        self.busy: dict[str, int] = {}
        self.by_model: dict[tuple[str, str], int] = {}
        self._lanes: dict[str, Lane] = {}
        self._next = 0

    def enter(self, model: str, backend: str, now: float) -> int:
        """Count one request in; returns the ticket to ``leave`` with."""
        self._next += 1
        self.busy[backend] = self.busy.get(backend, 0) + 1
        key = (model, backend)
        self.by_model[key] = self.by_model.get(key, 0) + 1
        self.lane(backend).starts[self._next] = now
        return self._next

    def leave(self, ticket: int, model: str, backend: str) -> None:
        """Count one request out."""
        lane = self._lanes[backend]
        if lane.starts.pop(ticket, None) is not None:
            self.busy[backend] -= 1
            self.by_model[(model, backend)] -= 1

    def lane(self, backend: str) -> Lane:
        """The backend's lane, in which an exchange notes the bytes that come."""
        lane = self._lanes.get(backend)
        if lane is None:
            lane = self._lanes[backend] = Lane()
        return lane

    def pulse(self, backend: str) -> Pulse:
        """What live traffic says of a backend."""
        lane = self._lanes.get(backend)
        if lane is None:
            return Pulse()
        oldest = next(iter(lane.starts.values()), 0.0)
        return Pulse(len(lane.starts), oldest, lane.last_byte)

    @property
    def in_flight(self) -> int:
        return sum(self.busy.values())

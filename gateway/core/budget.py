"""How many further attempts may be made, so that an outage is not multiplied by retries.

A bucket of tokens: each request puts a share of one in, time adds a few, each further attempt takes
one out. The defaults are those of Finagle's RetryBudget: 20 %, and 10 a second."""

from __future__ import annotations

from dataclasses import dataclass

RESERVE = 10.0
"""Seconds of the constant part that may be saved up, with at least one attempt among them."""

SAVED = 50.0
"""Attempts that may be saved up from the share of requests."""


@dataclass(slots=True)
class Budget:
    """``share`` of a further attempt for each request, ``floor`` of them for each second whatever
    the traffic. Whoever holds it is its one writer; ``now`` is monotonic seconds."""

    share: float
    floor: float
    at: float
    earned: float = 0.0
    spare: float = -1.0

    def __post_init__(self) -> None:
        if self.spare < 0:
            self.spare = self._most

    @property
    def _most(self) -> float:
        return max(self.floor * RESERVE, 1.0) if self.floor else 0.0

    def earn(self) -> None:
        """A request has come."""
        self.earned = min(self.earned + self.share, SAVED)

    def take(self, now: float) -> bool:
        """Whether one more attempt may be made; it is counted then."""
        self.spare = min(self.spare + max(now - self.at, 0.0) * self.floor, self._most)
        self.at = max(now, self.at)
        if self.earned >= 1.0:
            self.earned -= 1.0
        elif self.spare >= 1.0:
            self.spare -= 1.0
        elif self.earned + self.spare >= 1.0:
            self.earned, self.spare = 0.0, self.earned + self.spare - 1.0
        else:
            return False
        return True

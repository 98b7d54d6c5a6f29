"""How late first bytes are, learned from the last ones of each model: what late means for it."""

from __future__ import annotations

from dataclasses import dataclass, field

KEPT = 256
"""First bytes of a model that are remembered."""

FEWEST = 30
"""First bytes below which nothing is said: a 95th percentile of fewer is a guess."""

AGAIN = 16
"""First bytes after which the percentile is worked out anew."""

PERCENTILE = 0.95

LATE = 4.0
"""So many times the 95th percentile is later than any load explains (routing.first_byte: auto)."""

LEAST = 5.0
"""Seconds below which no bound is set on a first token, however fast the model usually is."""


@dataclass(slots=True)
class _Recent:
    seconds: list[float] = field(default_factory=list)
    at: int = 0
    until: int = 0
    found: float | None = None


class Delays:
    """By model and by whether the answer is a stream, since a whole answer's first byte is nearly
    its last. All in seconds."""

    __slots__ = ("_models",)

    def __init__(self) -> None:
        self._models: dict[tuple[str, bool], _Recent] = {}

    def add(self, model: str, stream: bool, seconds: float) -> None:
        """A good answer began so long after its request came."""
        recent = self._models.setdefault((model, stream), _Recent())
        if len(recent.seconds) < KEPT:
            recent.seconds.append(seconds)
        else:
            recent.seconds[recent.at % KEPT] = seconds
        recent.at += 1

    def late(self, model: str, stream: bool) -> float | None:
        """The 95th percentile, None while too little is known."""
        recent = self._models.get((model, stream))
        if recent is None or len(recent.seconds) < FEWEST:
            return None
        if recent.at >= recent.until:
            ordered = sorted(recent.seconds)
            recent.found = ordered[int(len(ordered) * PERCENTILE)]
            recent.until = recent.at + AGAIN
        return recent.found

    def bound(self, model: str, stream: bool) -> float | None:
        """The longest wait for a first byte that makes sense where another engine can be asked."""
        late = self.late(model, stream)
        return None if late is None else max(late * LATE, LEAST)

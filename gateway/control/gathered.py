"""The counts of all workers: of those that live, and of those that died the last that was heard."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.control.exposition import State
from gateway.control.metrics import Metrics

LONG_GONE = 60.0
"""Seconds after which a worker that was not heard of is taken not to come back."""

GONE = ""
"""Stands for all of those."""


class Gathered:
    """By worker, since each tells its counts from its own beginning. ``now`` is in seconds."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._heard: dict[str, float] = {}

    def told(self, worker: str, state: State, now: float) -> None:
        self._states[worker] = state
        self._heard[worker] = now

    @property
    def states(self) -> list[State]:
        return [*self._states.values()]

    def tidy(self, living: Iterable[str], now: float) -> None:
        """Put the counts of those long gone together, so that there are not more and more."""
        self._heard |= dict.fromkeys(living, now)
        old = [worker for worker, when in self._heard.items() if when < now - LONG_GONE]
        if not old:
            return
        total = Metrics()
        for worker in (GONE, *old):
            self._heard.pop(worker, None)
            if (state := self._states.pop(worker, None)) is not None:
                total.merge(state)
        self._states[GONE] = total.state()

"""When an engine has all it can use: the most requests it is to be given at once.

A limit is configured, the runtime's nature, or made out from what the engine says: how many it runs
at once, whether requests wait in it, and at how many its tokens a second grew no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.catalog import Place
from gateway.core.types import Circuit, Load

IN_ITS_QUEUE = 2.0
"""Requests that may wait in an engine: with none, it would run dry between two of ours."""

LEARN = ("configured", "engine", "learned")
"""Whose word a limit is taken from; each takes the ones before it as well."""

BAND = 1.25
"""Widths of the bands of requests at once whose throughputs are compared."""

WORTH = 1.03
"""A band must bring this much more tokens a second than a lower one to be worth its waiting."""

ENOUGH = 3
"""Samples a band needs before it is believed."""

KEPT = 12
"""Samples a band keeps: at five seconds each, the last minute in which the engine was there."""


def limit(place: Place) -> int | None:
    """How many requests the backend may have at once, None where nothing says so."""
    told = place.backend.max_concurrency or place.runtime.slots
    seen = place.sight.ceiling
    if told is None or seen is None:
        return told or seen
    return min(told, seen)


def open_for(place: Place, load: int) -> bool:
    """Whether the place's backend may be given one more request, beside the ``load`` of ours that
    it has."""
    most = limit(place)
    return most is None or load < most


def on_trial(place: Place) -> bool:
    """Whether the place's backend is half open, and so gets one request at a time."""
    return place.sight.circuit is Circuit.HALF_OPEN


def trial_of(backend: str) -> str:
    """The name under which a backend's trial is counted, beside what is still in flight there
    from before. No backend's name has such a letter."""
    return backend + "\0trial"


def room(place: Place, busy: Mapping[str, int]) -> int | None:
    """How many more requests the place's backend takes now, None where nothing bounds them:
    none while its circuit is open, and one, with no other on trial, while it is half open."""
    name, circuit, most = place.backend.name, place.sight.circuit, limit(place)
    if circuit is Circuit.OPEN or not open_for(place, busy.get(name, 0)):
        return 0
    if circuit is Circuit.HALF_OPEN:
        return 0 if busy.get(trial_of(name), 0) else 1
    return None if most is None else most - busy.get(name, 0)


def of_engine(load: Load) -> int | None:
    """The limit that an engine's own numbers tell. Slots are a limit by themselves. A queue only
    tells of the moment it was seen, seconds ago; what stays true of it is that the engine runs no
    more than it ran then."""
    if load.slots:
        return load.slots
    if load.waiting is None or load.running is None or load.waiting <= IN_ITS_QUEUE:
        return None
    return max(1, round(load.running + IN_ITS_QUEUE))


@dataclass(slots=True)
class Learner:
    """One engine's throughput by requests at once. The limit is learned as TCP Vegas learns its
    window: where more at once brings no more a second, the rest only waits. It is never below a
    number that was seen to bring more, and there is none until two bands are known."""

    _bands: dict[int, deque[float]] = field(default_factory=dict)
    _tops: dict[int, int] = field(default_factory=dict)
    _last: tuple[float, float] | None = None

    def saw(self, load: Load, now: float) -> None:
        """Take in what the engine published at ``now``. ``progress`` has to count tokens; a
        counter that fell back (a restart) begins anew."""
        if load.progress is None or load.running is None:
            return
        before, self._last = self._last, (now, load.progress)
        if before is None or load.progress < before[1] or now <= before[0]:
            return
        running = round(load.running)
        if running < 1:
            return
        band = _band(running)
        rate = (load.progress - before[1]) / (now - before[0])
        self._bands.setdefault(band, deque(maxlen=KEPT)).append(rate)
        self._tops[band] = max(self._tops.get(band, 0), running)

    @property
    def limit(self) -> int | None:
        """The most that was worth it, None while the highest known band still is, or nothing is
        known to compare with."""
        known = sorted(band for band, rates in self._bands.items() if len(rates) >= ENOUGH)
        if len(known) < 2:
            return None
        best = known[0]
        for band in known[1:]:
            if _middle(self._bands[band]) > WORTH * _middle(self._bands[best]):
                best = band
        return None if best == known[-1] else self._tops[best]


def _band(running: int) -> int:
    """The number of the band: 1, 2, 3 … by themselves, then ever wider ones."""
    band, edge = 0, 1.0
    while edge < running:
        edge = max(edge + 1, edge * BAND)
        band += 1
    return band


def _middle(rates: deque[float]) -> float:
    return sorted(rates)[len(rates) // 2]


def ceiling(load: Load, learned: int | None, learn: str) -> int | None:
    """The limit that is published of an engine, by how much its own word counts (LEARN)."""
    if learn == "configured":
        return None
    told = [limit for limit in (of_engine(load), learned if learn == "learned" else None) if limit]
    return min(told, default=None)

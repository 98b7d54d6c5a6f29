"""The energy account: what each GPU drew, second by second, until it can be said for whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.core.energy import Owner, Work, spread
from gateway.core.gpus import Gpu

SLOT = 1.0
"""Seconds of one slot: the sampling interval of the sensors, below which nothing is known."""

LATEST = 2.0
"""Seconds within which every worker has told what has ended."""

LONGEST = 3600.0
"""Seconds after which a slot is divided among those that have ended, whoever is still at work."""

GAP = 30.0
"""Seconds between two readings over which power is taken to have been steady; what lies further
apart is not counted."""


@dataclass(slots=True)
class Slot:
    """One second of one GPU: joules drawn, seconds it was watched, and tokens by owner."""

    joules: float = 0.0
    seconds: float = 0.0
    tokens: dict[Owner, float] = field(default_factory=dict)


@dataclass(slots=True)
class Meter:
    """One GPU: its last reading, the joules seen so far, and the slots not yet divided."""

    at: float = 0.0
    energy: float | None = None
    power: float | None = None
    joules: float = 0.0
    slots: dict[int, Slot] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Share:
    """What one owner is charged with."""

    owner: Owner
    joules: float
    seconds: float


class Energy:
    """Readings and ended requests go in, shares come out. ``now`` is monotonic seconds."""

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}

    def read(self, gpus: Iterable[Gpu]) -> None:
        """Take in the newest readings; one that was taken in already changes nothing."""
        for gpu in gpus:
            meter = self._meters.setdefault(gpu.uuid, Meter())
            if gpu.at > meter.at:
                _draw(meter, gpu)

    def joules(self) -> dict[str, float]:
        """What each GPU has drawn since it is watched, by UUID."""
        return {uuid: meter.joules for uuid, meter in self._meters.items()}

    def done(self, works: Iterable[Work], holds: Mapping[str, tuple[str, ...]]) -> None:
        """Note ended requests; ``holds`` says which GPUs each backend has."""
        for work in works:
            meters = [self._meters.get(uuid) for uuid in holds.get(work.backend, ())]
            known = [meter for meter in meters if meter is not None]
            for number, tokens in spread(work, SLOT) if known else ():
                for meter in known:
                    by = meter.slots.setdefault(number, Slot()).tokens
                    by[work.owner] = by.get(work.owner, 0.0) + tokens

    def settle(self, oldest: Mapping[str, float], now: float) -> list[Share]:
        """Divide every slot that no request under way can have touched. ``oldest`` says, by GPU,
        when the oldest request now in flight on it was sent; a GPU without one is free."""
        shares: list[Share] = []
        for uuid, meter in self._meters.items():
            until = min(now - LATEST, max(oldest.get(uuid, now), now - LONGEST))
            ripe = [number for number in meter.slots if (number + 1) * SLOT <= until]
            for number in ripe:
                shares += _divided(meter.slots.pop(number))
        return shares


def _draw(meter: Meter, gpu: Gpu) -> None:
    """Spread what was drawn since the last reading over the slots in between: the device's own
    counter where it has one, else power times time."""
    took = gpu.at - meter.at
    joules = _drawn(meter, gpu, took)
    if meter.at and took <= GAP:
        meter.joules += joules
        first, last = int(meter.at // SLOT), int(gpu.at // SLOT)
        for number in range(first, last + 1):
            low, high = max(meter.at, number * SLOT), min(gpu.at, (number + 1) * SLOT)
            slot = meter.slots.setdefault(number, Slot())
            slot.joules += joules * (high - low) / took
            slot.seconds += high - low
    meter.at, meter.energy = gpu.at, gpu.energy
    meter.power = gpu.power


def _drawn(meter: Meter, gpu: Gpu, took: float) -> float:
    if gpu.energy is not None and meter.energy is not None and gpu.energy >= meter.energy:
        return gpu.energy - meter.energy
    known = [power for power in (meter.power, gpu.power) if power is not None]
    return sum(known) / len(known) * took if known else 0.0


def _divided(slot: Slot) -> list[Share]:
    """By tokens; a slot in which nobody worked is nobody's."""
    total = sum(slot.tokens.values())
    if not total:
        return []
    return [
        Share(owner, slot.joules * tokens / total, slot.seconds * tokens / total)
        for owner, tokens in slot.tokens.items()
    ]

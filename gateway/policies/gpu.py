"""The backend that can carry most for what it has: requests in flight over measured capacity."""

from __future__ import annotations

from gateway.core.headroom import capacities
from gateway.core.plan import View

from .weighted import weighted


def gpu(view: View) -> list[float]:
    """Requests there would be, this one included, over what the place can carry (speed shown, room
    on its GPUs, weight); ties go by ``weighted``."""
    ties = weighted(view)
    return [
        (view.in_flight(place) + 1) / capacity + tie * 1e-6
        for place, capacity, tie in zip(view.places, capacities(view.places), ties, strict=True)
    ]

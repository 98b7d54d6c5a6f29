"""The backend with the fewest requests of ours in flight for its weight; ties go by weight."""

from __future__ import annotations

from gateway.core.plan import View

from .weighted import first, ranks

TIE = 1e-6
"""Far below the smallest difference of loads that matters."""


def least_loaded(view: View) -> list[float]:
    """Requests in flight over weight. A tie is broken as by ``weighted``."""
    places, busy = view.places, view.busy.get
    ties = ranks(len(places), first(view), TIE)
    return [
        busy(place.backend.name, 0) / place.weight + tie
        for place, tie in zip(places, ties, strict=True)
    ]

"""The backend with the fewest requests of ours in flight for its weight; ties go by weight."""

from __future__ import annotations

from gateway.core.plan import View

from .weighted import weighted


def least_loaded(view: View) -> list[float]:
    """Requests in flight over weight. A tie is broken by ``weighted``, whose ranks are scaled
    below the smallest difference that matters."""
    ties, busy = weighted(view), view.busy.get
    return [
        busy(place.backend.name, 0) / place.weight + tie * 1e-6
        for place, tie in zip(view.places, ties, strict=True)
    ]

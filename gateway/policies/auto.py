"""The engine on which this request costs everybody the least time."""

from __future__ import annotations

from gateway.core.cost import costs
from gateway.core.plan import View

from .least_loaded import least_loaded
from .weighted import weighted

BARELY = 1e-7
"""What a rank of ``weighted`` adds: equals share by weight, and no difference is overruled."""


def auto(view: View) -> list[float]:
    """The cost in seconds over the place's weight. Calls without a prompt go by load."""
    brief = view.brief()
    if not brief.tokens:
        return least_loaded(view)
    return [
        found.total / (place.weight * place.sight.room) + rank * BARELY
        for found, place, rank in zip(costs(brief), view.places, weighted(view), strict=True)
    ]

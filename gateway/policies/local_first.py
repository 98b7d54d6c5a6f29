"""Engines of one's own first; providers on the internet only when those have no room."""

from __future__ import annotations

from gateway.core.catalog import Place
from gateway.core.cost import wait
from gateway.core.plan import View
from gateway.core.types import Health

from .auto import auto

TOO_LONG = 5.0
"""Seconds to the first token from which on an engine counts as overloaded."""

TIER = 1e6
"""Between the tiers: above every cost."""


def local_first(view: View) -> list[float]:
    """In tiers: own engines with room, then providers, then own engines that are overloaded; in
    each tier as ``auto``. Engines at their limit are no candidates in the first place."""
    brief, scores = view.brief(), auto(view)
    waits = wait(brief)
    return [
        score + TIER * _tier(place, seconds)
        for score, place, seconds in zip(scores, view.places, waits, strict=True)
    ]


def _tier(place: Place, seconds: float) -> int:
    if place.runtime.cloud:
        return 1
    return 2 if place.sight.health is Health.BUSY or seconds > TOO_LONG else 0

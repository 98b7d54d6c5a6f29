"""The less loaded of two drawn at random (Mitzenmacher 2001), the rest behind them by load."""

from __future__ import annotations

from gateway.core.plan import View


def power_of_two(view: View) -> list[float]:
    """Load over weight, with everything but the two drawn ones set behind."""
    count = len(view.places)
    first = int(view.dice * count) % count
    second = (first + 1 + int(view.dice * count * 7919) % max(count - 1, 1)) % count
    return [
        view.in_flight(place) / place.weight + (0.0 if index in (first, second) else 1e6)
        for index, place in enumerate(view.places)
    ]

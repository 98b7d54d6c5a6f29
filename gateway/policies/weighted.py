"""Shares in proportion to the weights, spread evenly rather than in bursts."""

from __future__ import annotations

from functools import cache

from gateway.core.plan import View

GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio, modulo one, fill the unit interval most evenly (Knuth, TAOCP 3,
6.4): over any run of turns each backend gets its share to within about one request."""


def weighted(view: View) -> list[float]:
    """Ranks: 0 for the backend whose share of the unit interval holds this turn's point, then the
    others in cyclic order, so that a failure moves on evenly too."""
    weights = [place.weight for place in view.places]
    point = view.turn * GOLDEN % 1.0 * sum(weights)
    reached, first = 0.0, len(weights) - 1
    for index, weight in enumerate(weights):
        reached += weight
        if point < reached:
            first = index
            break
    return list(_ranks(len(weights), first))


@cache
def _ranks(count: int, first: int) -> tuple[float, ...]:
    return tuple(float((index - first) % count) for index in range(count))

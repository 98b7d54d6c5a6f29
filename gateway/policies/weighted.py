"""Shares in proportion to the weights, spread evenly rather than in bursts."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from itertools import accumulate

from gateway.core.plan import View

GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio, modulo one, fill the unit interval most evenly (Knuth, TAOCP 3,
6.4): over any run of turns each backend gets its share to within about one request."""


def weighted(view: View) -> list[float]:
    """Ranks: 0 for the backend whose share of the unit interval holds this turn's point, then the
    others in cyclic order, so that a failure moves on evenly too."""
    return list(ranks(len(view.places), first(view), 1.0))


def first(view: View) -> int:
    """The number of the place whose turn it is."""
    shares = view.shares or tuple(accumulate(place.weight for place in view.places))
    point = view.turn * GOLDEN % 1.0 * shares[-1]
    return min(bisect_right(shares, point), len(shares) - 1)


@cache
def ranks(count: int, first: int, step: float) -> tuple[float, ...]:
    """The ranks of ``count`` places from the ``first`` on, ``step`` apart."""
    return tuple((index - first) % count * step for index in range(count))

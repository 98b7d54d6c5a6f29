"""The same session on the same backend, moving as few sessions as can be when the fleet changes."""

from __future__ import annotations

import math
import zlib

from gateway.core.plan import View

from .least_loaded import least_loaded


def session(view: View) -> list[float]:
    """Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after Schindelhauer and
    Schomaker 2005); a call without a session goes by load."""
    if not view.call.session:
        return least_loaded(view)
    return [_distance(view.call.session, place.backend.name, place.weight) for place in view.places]


def _distance(key: str, name: str, weight: float) -> float:
    point = (zlib.crc32(f"{name}\0{key}".encode()) + 0.5) / 2**32
    return -math.log(point) / weight

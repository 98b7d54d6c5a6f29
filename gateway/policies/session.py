"""The same session on the same backend, moving as few sessions as can be when the fleet changes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

from gateway.core.plan import View
from gateway.core.types import Call

from .least_loaded import least_loaded


def session(view: View) -> list[float]:
    """Ranks by weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after
    Schindelhauer and Schomaker 2005); a call without a session goes by load. Ranks and not
    distances, so that in a mix every session holds on to its backend equally."""
    key = session_of(view.call)
    if not key:
        return least_loaded(view)
    distances = [_distance(key, place.backend.name, place.weight) for place in view.places]
    order = sorted(distances)
    return [float(order.index(distance)) for distance in distances]


def session_of(call: Call) -> str:
    """What the client says of its session: our header, or what clients send to help caches
    (OpenAI's ``prompt_cache_key``), or who the user is (OpenAI's ``user``, Anthropic's
    ``metadata.user_id``)."""
    doc = call.doc
    metadata = doc.get("metadata")
    found = (
        call.session
        or doc.get("prompt_cache_key")
        or doc.get("user")
        or (metadata.get("user_id") if isinstance(metadata, Mapping) else "")
    )
    return found if isinstance(found, str) else ""


def _distance(key: str, name: str, weight: float) -> float:
    point = (zlib.crc32(f"{name}\0{key}".encode("utf-8", "replace")) + 0.5) / 2**32
    return -math.log(point) / weight

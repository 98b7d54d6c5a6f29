"""The engine that should give this request its first token soonest, whatever that costs others."""

from __future__ import annotations

from gateway.core.cost import wait
from gateway.core.plan import View

from .least_loaded import least_loaded

PER_REQUEST = 1e-4
"""Seconds for a unit of load: equal waits go to the less loaded."""


def lowest_latency(view: View) -> list[float]:
    """Seconds until the first token, as estimated; calls without a prompt go by load."""
    loads = least_loaded(view)
    brief = view.brief()
    if not brief.tokens:
        return loads
    return [seconds + load * PER_REQUEST for seconds, load in zip(wait(brief), loads, strict=True)]

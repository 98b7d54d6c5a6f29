"""The engine that has most of the prompt in its cache, as long as it is not much busier than the
others."""

from __future__ import annotations

from gateway.core.plan import View

from .least_loaded import least_loaded

SLACK = 4.0
STEEP = 1.5
"""An engine is too busy when it has more than STEEP times the average of requests and SLACK more.
Prompts that all begin alike would otherwise all go to one."""

BEHIND = 2.0
"""Above every share of a prompt."""


def prefix(view: View) -> list[float]:
    """The share of the prompt that is missing, 0 to 1; engines that are too busy behind all
    others; equals by load."""
    loads = least_loaded(view)
    brief = view.brief()
    if not brief.tokens:
        return loads
    mean = sum(loads) / len(loads)
    most = max(mean * STEEP, mean + SLACK)
    return [
        1.0 - known.cached / brief.tokens + load * 1e-4 + (BEHIND if load > most else 0.0)
        for known, load in zip(brief.known, loads, strict=True)
    ]

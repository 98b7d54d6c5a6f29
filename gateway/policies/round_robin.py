"""One after the other, whatever their weight or load."""

from __future__ import annotations

from gateway.core.plan import View


def round_robin(view: View) -> list[float]:
    """Cyclic distance from this turn's place."""
    count = len(view.places)
    return [float((index - view.turn) % count) for index in range(count)]

"""The engine on which this request costs everybody the least time."""

from __future__ import annotations

from gateway.core.cost import Brief, costs
from gateway.core.plan import View
from gateway.core.prompt import BLOCK

from .least_loaded import least_loaded

BARELY = 1e-7
"""What a request in flight adds among equals: no difference is overruled by it."""

ALIKE = 0.02
"""Seconds of the model engine (``core/speed.py``) by which costs must differ to be told apart where
no engine has any of the prompt: what is learned of speeds is no finer, and short prompts are dear
nowhere. Where the best engine takes twice as long it is twice as many."""

ALIKE_BY_WEIGHT = 0.5
"""The same where the operator has set unequal weights: those are meant as shares, and are kept
as such until an engine is clearly worse."""


def auto(view: View) -> list[float]:
    """The cost in seconds over what throttling and other users leave of the GPUs: what our own
    requests take of an engine is in the cost, and fresher there than in any reading. Those that are
    as good as the best are taken by load and weight. Calls without a prompt go by these altogether,
    and so do those with less than a block of it: nobody can have that cached, and the decision
    would cost more than it can win."""
    loads = least_loaded(view)
    if 0 < len(view.call.body) < BLOCK:
        return loads
    brief = view.brief()
    if not brief.tokens:
        return loads
    found = [
        terms.total / (place.sight.left * place.sight.gpu_factor)
        for terms, place in zip(costs(brief), view.places, strict=True)
    ]
    best = min(found)
    limit = best + _alike(brief) * brief.known[found.index(best)].prefill
    return [
        best + load * BARELY if cost <= limit else cost
        for cost, load in zip(found, loads, strict=True)
    ]


def _alike(brief: Brief) -> float:
    # A throttled GPU has lowered its place's weight, which is no word of the operator's.
    weights = [place.weight / place.sight.gpu_factor for place in brief.places]
    if any(weight != weights[0] for weight in weights):
        return ALIKE_BY_WEIGHT
    return 0.0 if any(known.cached for known in brief.known) else ALIKE

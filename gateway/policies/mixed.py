"""Several policies at once, each with its weight."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.plan import Policy, View

LEAST = 0.01
"""A difference of scores that is about nothing: 10 ms, a hundredth of a request or of a rank."""


def spelt(weights: Mapping[str, float]) -> str:
    """The one name of a mix: ``auto=0.7,session=0.3``."""
    return ",".join(f"{name}={weight:g}" for name, weight in sorted(weights.items()))


def read(name: str) -> dict[str, float]:
    """A mix by its name; a plain policy is a mix of one."""
    pairs = (part.partition("=") for part in name.split(","))
    return {policy: float(weight or 1) for policy, _, weight in pairs}


def mixed(weights: Mapping[str, float], policies: Mapping[str, Policy]) -> Policy:
    """A policy whose scores are the weighted sum of others', each brought to 0..1 first."""
    parts = [(policies[name], weight) for name, weight in weights.items()]

    def mix(view: View) -> list[float]:
        total = [0.0] * len(view.places)
        for policy, weight in parts:
            for index, share in enumerate(regrets(policy(view))):
                total[index] += weight * share
        return total

    return mix


def regrets(scores: list[float]) -> list[float]:
    """How much worse than the best each one is, as a share of itself: 0 for the best, a half for
    twice as much, towards 1 beyond. Unlike a stretch from best to worst, this leaves a small
    difference small. Scores are 0 or more."""
    best = min(scores)
    return [(score - best) / (score + LEAST) for score in scores]

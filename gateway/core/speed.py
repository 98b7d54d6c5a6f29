"""How fast an engine is: a model of one that is known, and by how much another differs from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

TOKEN = 28e-6
ATTENTION = 1.2e-9
WEIGHTS = 5.7e-3
STEP_FIXED = 1.8e-3
SEQUENCE = 15e-6
KV = 56e-9
CHUNK = 8192
"""Seconds for a token's prefill, for each token it attends to, for one reading of the weights, for
a step as such, for a sequence and for a token of context in a decoding step; tokens in a step.
Together an 8B model in 16 bits on an 80 GB H100: Vidur's profiles of such GPUs for the linear part
(Agrawal et al., MLSys 2024), memory bandwidth for the rest. How an engine differs is learned."""

STEP = STEP_FIXED + WEIGHTS
"""Seconds of a decoding step with nothing in the batch to speak of."""

CACHE = 400_000
"""Tokens of KV cache that such an engine has. Stands in where an engine does not say."""

FADE = 0.97
"""What an observation is worth after each further one: about the last 33 count."""

TRUST = 3.0
"""Observations of its own that an engine needs to outweigh what the others show."""

BAND = 0.35
"""Logarithm of a difference in speed that is taken for noise: load alone makes equal engines look
a third apart."""

WILDEST = 8.0
"""An observation counts as at most this many times what was expected: one request that stalled
must not make an engine look dead, and a slow one is still found out within a few requests."""

SHORTEST = 0.02
"""Seconds that are expected at least, in that respect: a network's round trip is no outlier."""


class Speed(NamedTuple):
    """An engine against the model engine: how many times as long its prefill and its decoding
    steps take."""

    prefill: float = 1.0
    decode: float = 1.0


class Seen(NamedTuple):
    """Sums over faded observations, so that those of several workers can be added up. ``expected``
    are seconds of the model engine, ``took`` those that passed; ``*_n`` their (faded) number."""

    prefill_n: float = 0.0
    prefill_expected: float = 0.0
    prefill_took: float = 0.0
    decode_n: float = 0.0
    decode_expected: float = 0.0
    decode_took: float = 0.0


Sums = tuple[float, float, float]
"""Number, expected, took: of prefills or of decoding."""


def prefill_seconds(tokens: float, cached: float) -> float:
    """The model engine's time for a prompt of ``tokens`` of which it holds ``cached``."""
    fresh = max(1.0, tokens - cached)
    steps = int((fresh - 1.0) // CHUNK) + 1
    linear = fresh * TOKEN
    return steps * STEP_FIXED + max(linear, WEIGHTS) + fresh * (cached + fresh * 0.5) * ATTENTION


def step_seconds(decoding: float, context: float) -> float:
    """The model engine's time for one token each of ``decoding`` requests with ``context`` tokens
    in all."""
    return STEP + decoding * SEQUENCE + context * KV


def faded(count: float, expected: float, took: float, saw: tuple[float, float], by: float) -> Sums:
    """One more observation ``saw`` (expected, took) in a sum. ``by`` is what the engine's speed
    was believed to be, for which see WILDEST."""
    most = WILDEST * max(saw[0] * by, SHORTEST)
    return (
        count * FADE + 1.0,
        expected * FADE + saw[0],
        took * FADE + min(saw[1], most),
    )


def speeds(seen: Sequence[Seen]) -> list[Speed]:
    """Each engine's speed. One that was hardly seen is taken to be like the others, one that is
    within BAND of their median to be the same."""
    prefill = _factors([(one.prefill_n, one.prefill_expected, one.prefill_took) for one in seen])
    decode = _factors([(one.decode_n, one.decode_expected, one.decode_took) for one in seen])
    return [Speed(*pair) for pair in zip(prefill, decode, strict=True)]


def _factors(sums: Sequence[Sums]) -> list[float]:
    typical = _median(took / expected for n, expected, took in sums if n >= 1 and took > 0)
    return [_factor(*one, typical) for one in sums]


def _factor(count: float, expected: float, took: float, typical: float) -> float:
    if count <= 0 or expected <= 0:
        return typical
    own = (took / expected * count + typical * TRUST) / (count + TRUST)
    own = min(max(own, 1e-3), 1e5)
    return typical if abs(math.log(own / typical)) < BAND else own


def _median(values: Iterable[float]) -> float:
    """The lower one of the middle; 1 where nothing was seen."""
    found = sorted(values)
    return max(found[(len(found) - 1) // 2], 1e-3) if found else 1.0

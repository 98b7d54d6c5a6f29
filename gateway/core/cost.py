"""What a request costs on an engine, in seconds of everybody's time: the formula behind ``auto``.

``q + c(1 + lambda + alpha D + alpha' W) + beta n (t + kv (C + n_in D)) + w``: the wait behind what
was sent there already; the prefill of what is not cached, weighed more than its own length because
it pushes others' blocks out of the cache (lambda) and holds up those that decode (alpha) and wait
(alpha'); the slower steps that it gives and gets while it decodes (beta); and the wait for room in
the KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.core.catalog import Place
from gateway.core.prompt import Prompt
from gateway.core.speed import CACHE, KV, STEP, prefill_seconds

EVICTION = 4.0
"""lambda: a second copy of a prefix costs somebody else theirs."""

PER_DECODING = 0.1
"""alpha: each of those that decode is held up."""

PER_WAITING = 0.2
"""alpha': and so is each that waits, whose own wait is not over yet."""

PER_STEP = 0.1
"""beta: a second of decoding spread over an answer is felt less than one before its first token.
With 0.2 whole answers came 1 to 6 % sooner in virtual time, and first tokens up to 3 % later."""

LIFE = 1.5
"""By how much a full engine's steps are longer than the sum of their parts: prefills between."""


class Known(NamedTuple):
    """What is believed of one engine at this moment, for one prompt. ``queue`` is in seconds of
    that engine; ``cached``, ``context`` (of those that decode), ``held`` (by all active requests
    together, shared ones once), ``fresh`` (that this prompt adds) and ``room`` in tokens;
    ``prefill`` and ``decode`` as in Speed."""

    cached: float = 0.0
    queue: float = 0.0
    waiting: float = 0.0
    decoding: float = 0.0
    context: float = 0.0
    held: float = 0.0
    fresh: float = 0.0
    room: float = CACHE
    prefill: float = 1.0
    decode: float = 1.0


class Terms(NamedTuple):
    """A cost and what it consists of, in seconds."""

    total: float
    queue: float
    prefill: float
    congestion: float
    decoding: float
    memory: float


class Brief(NamedTuple):
    """All that the policies may want to know of one call over its places. ``tokens`` is the
    prompt's length and ``out`` the answer's, both estimated."""

    prompt: Prompt
    tokens: float
    out: float
    places: Sequence[Place]
    known: Sequence[Known]


def terms(tokens: float, out: float, known: Known, usual: float = 1.0) -> Terms:
    """The cost of a prompt of ``tokens`` with an answer of ``out`` on one engine, among others
    whose prefill is ``usual`` (as in Speed). What a prefill does to others counts at that speed
    everywhere: what it pushes out of a cache may be computed again on any engine, and a slow one
    has the fewer to hold up."""
    alone = prefill_seconds(tokens, known.cached)
    prefill = alone * known.prefill
    decoding, decode = known.decoding, known.decode
    harm = EVICTION + PER_DECODING * decoding + PER_WAITING * known.waiting
    congestion = alone * usual * harm
    steps = PER_STEP * out * decode * (STEP + KV * (known.context + tokens * decoding))
    memory = 0.0
    over = known.held + known.fresh + decoding * out * 0.5 - known.room
    if over > 0:
        life = out * decode * (STEP + KV * known.room) * LIFE
        memory = over / known.room * life
    total = known.queue + prefill + congestion + steps + memory
    return Terms(total, known.queue, prefill, congestion, steps, memory)


def costs(brief: Brief) -> list[Terms]:
    """The cost on each of the brief's places, in their order."""
    usual = usual_prefill(brief.known)
    return [terms(brief.tokens, brief.out, known, usual) for known in brief.known]


def usual_prefill(known: Sequence[Known]) -> float:
    """How fast the engines prefill: the middle one, of two the faster."""
    factors = sorted([one.prefill for one in known])
    return factors[(len(factors) - 1) // 2] if factors else 1.0


def wait(brief: Brief) -> list[float]:
    """Seconds until each place would give this call its first token."""
    return [
        found.queue + found.prefill + found.memory
        for found in (terms(brief.tokens, brief.out, known) for known in brief.known)
    ]

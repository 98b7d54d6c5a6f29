"""The circuit breaker of one backend: which failures of live traffic take it out, and for how long.

A pure state machine. The control side feeds it: failures as they are told, successes as sums that
only grow, since a message for each of them would cost more than the breaker saves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

from gateway.core.types import Circuit

COOL_DOWN = 1.0
"""Seconds of the first cool-down. Without a minute of peace, the next one is twice as long."""

LONGEST = 12.0
"""Seconds of the longest cool-down: one that comes back must be noticed within 15 s."""

PEACE = 60.0
"""Seconds closed after which the next cool-down is a first one again."""

HALF_LIFE = 2.0
"""Seconds after which a failure, or a success, counts half: an engine that begins to fail all of a
heavy traffic must be out before the budget of retries is spent."""

MEAN_LIFE = HALF_LIFE / log(2)
"""Seconds for which a success counts in the mean."""

ENOUGH = 2.5
"""Weight of failures below which nothing opens: three within a second are over it."""

SHARE = 0.3
"""Share of failures among what ended lately from which on a backend costs more than it gives."""

IN_A_ROW = 3
"""Proven failures with nothing served in between that open it, however slowly they come."""

STREAK = 8
"""Failures in a row that no other backend contradicted, and nothing served in between. Fewer may
be the fault of what was asked for."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """``until`` (monotonic seconds) is when the cool-down ends; ``turn`` counts the cool-downs
    without peace in between. ``bad`` and ``good`` are weights at the moment ``at``; ``row`` and
    ``streak`` count proven and unproven failures with nothing served in between; ``served`` and
    ``tried`` are the sums of successes, of all and of trials, that have been taken into account;
    ``closed`` is when it closed last."""

    circuit: Circuit = Circuit.CLOSED
    until: float = 0.0
    turn: int = 0
    bad: float = 0.0
    good: float = 0.0
    at: float = 0.0
    row: int = 0
    streak: int = 0
    served: int = 0
    tried: int = 0
    closed: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure that means the engine. ``proven``: the request was not to blame, since its
    connection broke, nobody answered in time, or another backend answered it well. ``trial``: it
    was the one request of a half-open backend. ``last``: no other backend of its models is left,
    so that no cool-down longer than the first makes sense."""

    proven: bool = True
    trial: bool = False
    last: bool = False


def failed(breaker: Breaker, failure: Failure, served: int, now: float) -> Breaker:
    """After a failure; ``served`` is the sum of what the backend has answered well so far. Late
    failures of requests from before it opened change nothing."""
    aged = rested(breaker, served, now)
    if aged.circuit is Circuit.OPEN:
        return aged
    if aged.circuit is Circuit.HALF_OPEN:
        return _opened(aged, failure.last, now) if failure.trial else aged
    if failure.proven:
        aged = replace(aged, bad=aged.bad + 1, row=aged.row + 1)
    else:
        aged = replace(aged, streak=aged.streak + 1)
    costly = aged.bad >= ENOUGH and aged.bad >= SHARE * (aged.bad + aged.good)
    hopeless = aged.row >= IN_A_ROW or aged.streak >= STREAK
    return _opened(aged, failure.last, now) if costly or hopeless else aged


def looked(breaker: Breaker, served: int, tried: int, now: float) -> Breaker:
    """As time goes by: half open when the cool-down is over, closed when a trial was answered
    well (``tried`` is the sum of those)."""
    if breaker.circuit is Circuit.CLOSED:
        return breaker
    if tried > breaker.tried:
        return Breaker(turn=breaker.turn, at=now, served=served, tried=tried, closed=now)
    if breaker.circuit is Circuit.OPEN and now >= breaker.until:
        return replace(breaker, circuit=Circuit.HALF_OPEN, tried=tried)
    return replace(breaker, tried=tried)


def renewed(breaker: Breaker) -> Breaker:
    """The engine went and came back: what failed before was another life, one trial will tell."""
    if breaker.circuit is Circuit.OPEN:
        return replace(breaker, circuit=Circuit.HALF_OPEN)
    return breaker


def cool_down(turn: int) -> float:
    """Seconds of the ``turn``-th cool-down in a row, from 1."""
    return float(min(COOL_DOWN * 2 ** min(turn - 1, 10), LONGEST))


def rested(breaker: Breaker, served: int, now: float) -> Breaker:
    """Brought up to ``now``: old weights less, new successes added as if they had come evenly. A
    sum that fell belonged to a process that died."""
    new = max(served - breaker.served, 0)
    gap = max(now - breaker.at, 0.0)
    fading = 0.5 ** (gap / HALF_LIFE)
    share = (1 - fading) * MEAN_LIFE / gap if gap > 0 else 1.0
    over = new > 0 or gap >= PEACE
    return replace(
        breaker,
        bad=breaker.bad * fading,
        good=breaker.good * fading + new * min(share, 1.0),
        at=max(now, breaker.at),
        row=0 if over else breaker.row,
        streak=0 if over else breaker.streak,
        served=served,
    )


def _opened(breaker: Breaker, last: bool, now: float) -> Breaker:
    peaceful = breaker.circuit is Circuit.CLOSED and now - breaker.closed >= PEACE
    turn = 1 if peaceful else breaker.turn + 1
    return replace(
        breaker,
        circuit=Circuit.OPEN,
        until=now + (COOL_DOWN if last else cool_down(turn)),
        turn=turn,
        bad=0.0,
        good=0.0,
        row=0,
        streak=0,
    )

"""Requests let in within the limits of their keys, and settled when they end.

It is decided and booked in one grasp of the meter's lock, so that no two processes can take the
same last place. Where several gateways share limits, each counts for itself first, so that most of
what has to be refused is refused here, and then asks for what all of them count together."""

from __future__ import annotations

from typing import Protocol

from gateway.core import limits
from gateway.core.charge import Estimate, cost
from gateway.core.errors import Refusal
from gateway.core.limits import EMPTY, Used, Window
from gateway.core.types import Caller, Usage
from gateway.state.meter import REQUESTS, TOKENS, Meter, ring_of

WEIGHT = 1 / 8
"""Of a new answer's length in the mean of a key's answers."""


class Hold:
    """A request's hold on the limits that gateways share. It is ``open`` from when it was granted
    until it is settled, ``left`` when its request was over before that was known; ``asked`` is
    when it was asked for (Unix seconds), ``stamp`` when it was granted by the clock of the others
    (0: they could not be asked)."""

    __slots__ = ("asked", "left", "open", "stamp")

    def __init__(self, asked: float) -> None:
        self.open = self.left = False
        self.asked = asked
        self.stamp = 0


class Lease:
    """One request's hold on its key's limits, from the door to its end. ``began`` and ``booked``
    are when the request and its tokens were counted (monotonic seconds), ``tokens`` what was booked
    of them in the minute and ``held`` what in the budgets; ``prompt`` is the estimate of what came
    in; ``costs`` is False for a request that costs no tokens; ``used`` is what the key had used
    when that was ``seen`` last; ``refused`` that it counts as no request after all; ``hold`` is its
    part in what several gateways count, from when they are asked."""

    __slots__ = (
        "began",
        "booked",
        "caller",
        "column",
        "costs",
        "held",
        "hold",
        "prompt",
        "refused",
        "seen",
        "tokens",
        "used",
    )

    def __init__(self, caller: Caller, column: int, used: Used, now: float) -> None:
        self.caller = caller
        self.column = column
        self.used = used
        self.began = self.booked = self.seen = now
        self.tokens = self.held = self.prompt = 0
        self.costs = self.refused = False
        self.hold: Hold | None = None

    def headers(self) -> dict[str, str]:
        """What the client is told of its limits."""
        return limits.headers(self.caller, self.used, self.seen)

    def lines(self) -> bytes:
        """The same as lines of a head."""
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers().items()).encode()


class Others(Protocol):
    """What several gateways count together."""

    async def take(self, lease: Lease) -> None:
        """Count a request in there as well. Raises Refusal ``rate_limit_exceeded``."""

    def settle(self, lease: Lease, tokens: int) -> None:
        """A request is over, and cost so much."""


class Windows:
    """One process's hand on the meter. Moments: ``now`` is monotonic seconds, which all processes
    of a host share; ``wall`` is Unix seconds. ``others`` is None for a gateway that shares its
    limits with nobody; ``gateways`` is over how many they are divided while they cannot be
    counted together."""

    __slots__ = ("_columns", "_row", "gateways", "meter", "others")

    def __init__(self, meter: Meter, row: int) -> None:
        self.meter = meter
        self.others: Others | None = None
        self.gateways = 1
        self._row = row
        self._columns: dict[str, int] = {}

    def _column(self, key: str) -> int:
        column = self._columns.get(key)
        if column is None:
            column = self._columns[key] = self.meter.column(key)
        return column

    def enter(self, caller: Caller, now: float, wall: float) -> Lease:
        """Count a request in. Raises Refusal ``rate_limit_exceeded``."""
        meter, column = self.meter, self._column(caller.name)
        if self.gateways > 1:
            caller = limits.part(caller, self.gateways)
        with meter.lock:
            used = self._used(caller, column, now, wall)
            refusal = limits.admit(caller, used, now)
            if refusal is None:
                meter.running[self._cell(column)] += 1
                if caller.requests_per_minute is not None:
                    meter.book(ring_of(column, REQUESTS), 1, now)
                    _add(used.requests, 1, now)
        if refusal is not None:
            raise refusal
        return Lease(caller, column, used, now)

    def usual(self, lease: Lease) -> float:
        """Tokens that the answers to this key have come to."""
        mean: float = self.meter.means[lease.column]
        return mean

    def reserve(self, lease: Lease, expected: Estimate, now: float, wall: float) -> None:
        """Set aside the tokens that a request may cost, now that it has been understood. Where
        there is no room for them it does not count as a request either. Raises Refusal
        ``rate_limit_exceeded``."""
        meter, caller, column = self.meter, lease.caller, lease.column
        with meter.lock:
            used = self._used(caller, column, now, wall)
            refusal = limits.reserve(caller, used, expected.total, now)
            if refusal is None:
                self._hold(lease, expected, used, now)
            else:
                self._uncount(lease, now)
                if caller.requests_per_minute is not None:
                    used.requests.total -= 1
            lease.used, lease.booked, lease.seen = used, now, now
        if refusal is not None:
            refusal.headers = lease.headers()
            raise refusal

    def again(self, lease: Lease, fewer: int, now: float, wall: float) -> Refusal | None:
        """Whether a request that was let in is still within this gateway's part of the limits, now
        that there is nobody to ask: ``fewer`` of those under way are about to be refused."""
        caller = limits.part(lease.caller, self.gateways)
        with self.meter.lock:
            used = self._used(caller, lease.column, now, wall)
        used.running -= 1 + fewer
        used.held -= lease.held
        if caller.requests_per_minute is not None:
            used.requests.total -= 1 + fewer
        if caller.tokens_per_minute is not None:
            used.tokens.total -= lease.tokens
        refusal = limits.admit(caller, used, now)
        if refusal is None and lease.costs:
            refusal = limits.reserve(caller, used, lease.held, now)
        return refusal

    def uncount(self, lease: Lease, now: float) -> None:
        """Others had no room for it: it counts as no request here either."""
        with self.meter.lock:
            self._uncount(lease, now)

    def _uncount(self, lease: Lease, now: float) -> None:
        lease.refused = True
        if lease.caller.requests_per_minute is not None:
            self.meter.unbook(ring_of(lease.column, REQUESTS), 1, lease.began, now)

    def _hold(self, lease: Lease, expected: Estimate, used: Used, now: float) -> None:
        most = lease.caller.tokens_per_minute
        lease.prompt, lease.held, lease.costs = expected.prompt, expected.total, True
        self.meter.held[self._cell(lease.column)] += lease.held
        used.held += lease.held
        if most is not None:
            lease.tokens = min(expected.total, most)
            self.meter.book(ring_of(lease.column, TOKENS), lease.tokens, now)
            _add(used.tokens, lease.tokens, now)

    def settle(self, lease: Lease, usage: Usage, served: bool, now: float, wall: float) -> None:
        """The request is over: it is charged what it cost, and everything else is given back."""
        meter = self.meter
        meter.running[self._cell(lease.column)] -= 1
        tokens = cost(usage, lease.prompt, served=served) if lease.costs else 0
        if lease.costs:
            self._charge(lease, tokens, usage.output if served else 0, now, wall)
        if self.others is not None:
            self.others.settle(lease, tokens)

    def _charge(self, lease: Lease, tokens: int, output: int, now: float, wall: float) -> None:
        meter = self.meter
        with meter.lock:
            meter.held[self._cell(lease.column)] -= lease.held
            if lease.caller.tokens_per_minute is not None:
                self._correct(lease, tokens, now)
            meter.spend(lease.column, tokens, limits.day_of(wall)[0], limits.month_of(wall)[0])
            if output:
                mean = meter.means[lease.column]
                meter.means[lease.column] += (output - mean) * (WEIGHT if mean else 1)

    def _correct(self, lease: Lease, tokens: int, now: float) -> None:
        """What was reserved becomes what was used: too much goes back to when it was booked, what
        came on top is booked now."""
        minute, more = ring_of(lease.column, TOKENS), tokens - lease.tokens
        if more > 0:
            self.meter.book(minute, more, now)
        elif more < 0:
            self.meter.unbook(minute, -more, lease.booked, now)

    def _cell(self, column: int) -> int:
        return column * self.meter.rows + self._row

    def _used(self, caller: Caller, column: int, now: float, wall: float) -> Used:
        """What the key uses, as far as it has limits for it."""
        meter = self.meter
        cells = slice(column * meter.rows, (column + 1) * meter.rows)
        requests = tokens = EMPTY
        if caller.requests_per_minute is not None:
            requests = meter.window(ring_of(column, REQUESTS), now)
        if caller.tokens_per_minute is not None:
            tokens = meter.window(ring_of(column, TOKENS), now)
        running = sum(meter.running[cells])
        if caller.tokens_per_day is None and caller.tokens_per_month is None:
            return Used(running, requests, tokens)
        (day, day_left), (month, month_left) = limits.day_of(wall), limits.month_of(wall)
        today, this_month = meter.spent(column, day, month)
        held = sum(meter.held[cells])
        return Used(running, requests, tokens, today, this_month, held, day_left, month_left)


def _add(window: Window, amount: int, now: float) -> None:
    """Follow what was booked, so that the meter need not be read again."""
    window.total += amount
    window.newest = now

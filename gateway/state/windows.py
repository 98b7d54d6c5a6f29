"""Requests let in within the limits of their keys, and settled when they end.

It is decided and booked in one grasp of the meter's lock, so that no two processes can take the
same last place."""

from __future__ import annotations

from gateway.core import limits
from gateway.core.charge import Estimate, cost
from gateway.core.limits import EMPTY, Used, Window
from gateway.core.types import Caller, Usage
from gateway.state.meter import REQUESTS, TOKENS, Meter, ring_of

WEIGHT = 1 / 8
"""Of a new answer's length in the mean of a key's answers."""


class Lease:
    """One request's hold on its key's limits, from the door to its end. ``began`` and ``booked``
    are when the request and its tokens were counted (monotonic seconds), ``tokens`` what was booked
    of them in the minute and ``held`` what in the budgets; ``prompt`` is the estimate of what came
    in; ``costs`` is False for a request that costs no tokens; ``used`` is what the key had used
    right after."""

    __slots__ = (
        "began",
        "booked",
        "caller",
        "column",
        "costs",
        "held",
        "prompt",
        "tokens",
        "used",
    )

    def __init__(self, caller: Caller, column: int, used: Used, now: float) -> None:
        self.caller = caller
        self.column = column
        self.used = used
        self.began = self.booked = now
        self.tokens = self.held = self.prompt = 0
        self.costs = False

    def headers(self) -> dict[str, str]:
        """What the client is told of its limits."""
        return limits.headers(self.caller, self.used, self.booked)

    def lines(self) -> bytes:
        """The same as lines of a head."""
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers().items()).encode()


class Windows:
    """One process's hand on the meter. Moments: ``now`` is monotonic seconds, which all processes
    of a host share; ``wall`` is Unix seconds."""

    __slots__ = ("_columns", "_row", "meter")

    def __init__(self, meter: Meter, row: int) -> None:
        self.meter = meter
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
            elif caller.requests_per_minute is not None:
                meter.unbook(ring_of(column, REQUESTS), 1, lease.began, now)
                used.requests.total -= 1
            lease.used, lease.booked = used, now
        if refusal is not None:
            refusal.headers = lease.headers()
            raise refusal

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
        meter, caller, cell = self.meter, lease.caller, self._cell(lease.column)
        meter.running[cell] -= 1
        if not lease.costs:
            return
        tokens = cost(usage, lease.prompt, served=served)
        with meter.lock:
            meter.held[cell] -= lease.held
            if caller.tokens_per_minute is not None:
                self._correct(lease, tokens, now)
            meter.spend(lease.column, tokens, limits.day_of(wall)[0], limits.month_of(wall)[0])
            if served and usage.output:
                mean = meter.means[lease.column]
                meter.means[lease.column] += (usage.output - mean) * (WEIGHT if mean else 1)

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

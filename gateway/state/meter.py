"""The memory in which all processes count what each key has used: requests and tokens of the last
minute, tokens of the day and the month, and what is under way.

The first four stand there once and change under a lock. What is under way each process writes in
its own row, so that what a process had when it was killed can be given back."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from itertools import accumulate, pairwise

from gateway.core.limits import MINUTE, Part, Window

MOST_KEYS = 4096
"""Columns of the page. Keys over that (ever seen in one life) share columns, and so limits."""

SLOTS = 64
"""Slots of a ring, one a second: more than the 61 seconds that a sliding minute touches, so that
whatever stood in a slot before has left the minute when its turn comes again."""

REQUESTS, TOKENS = 0, 1
"""The two rings of a column."""

Budget = tuple[int, int, int, int]
"""(number of the day, tokens of that day, number of the month, tokens of that month)."""


def ring_of(column: int, which: int) -> int:
    """One of the two rings of a column."""
    return 2 * column + which


class Meter:
    """Memory that forked processes share: a column for each key, a row for each of ``rows``
    writers. All of it is zero at first. ``lock`` is held by whoever decides and books."""

    __slots__ = (
        "_bytes",
        "amounts",
        "budgets",
        "dues",
        "held",
        "lock",
        "marks",
        "means",
        "newest",
        "rows",
        "running",
        "stamps",
        "totals",
    )

    def __init__(self, rows: int, lock: AbstractContextManager[object] | None = None) -> None:
        rings, cells = 2 * MOST_KEYS, rows * MOST_KEYS
        sizes = [rings * SLOTS] * 2 + [rings] * 3 + [4 * MOST_KEYS, MOST_KEYS, MOST_KEYS]
        self._bytes = mmap.mmap(-1, 8 * (sum(sizes) + 2 * cells))
        ends = [0, *accumulate(8 * size for size in (*sizes, cells, cells))]
        view = memoryview(self._bytes)
        parts = [view[start:end] for start, end in pairwise(ends)]
        self.amounts, self.totals, self.budgets = (parts[at].cast("q") for at in (0, 2, 5))
        self.stamps, self.dues, self.newest, self.means = (
            parts[at].cast("d") for at in (1, 3, 4, 6)
        )
        self.marks = parts[7].cast("Q")
        self.running, self.held = parts[8].cast("q"), parts[9].cast("q")
        self.rows = rows
        self.lock: AbstractContextManager[object] = lock or nullcontext()

    def column(self, key: str) -> int:
        """The column of a key's name, given out at first sight, the same in all processes."""
        return self._column_of(mark_of(key))

    def _column_of(self, mark: int) -> int:
        with self.lock:
            for step in range(MOST_KEYS):
                column = (mark + step) % MOST_KEYS
                if self.marks[column] in (0, mark):
                    self.marks[column] = mark
                    return column
        return mark % MOST_KEYS

    def clear(self, row: int) -> None:
        """Give back what a process that died had under way."""
        for cell in range(row, self.rows * MOST_KEYS, self.rows):
            self.running[cell] = self.held[cell] = 0

    # --- a sliding minute; the lock is held

    def window(self, ring: int, now: float) -> Window:
        self._tidy(ring, now)
        return Window(self.totals[ring], self.newest[ring], lambda: self._parts(ring))

    def _tidy(self, ring: int, now: float) -> None:
        """Drop what has left the minute. The sum is made anew whenever something has, so that a
        process killed between two writes leaves nothing wrong for long."""
        if now < self.dues[ring]:
            return
        total, due = 0, math.inf
        for slot in range(ring * SLOTS, (ring + 1) * SLOTS):
            amount = self.amounts[slot]
            if not amount:
                continue
            leaves = self.stamps[slot] + MINUTE
            if leaves <= now:
                self.amounts[slot] = 0
            else:
                total += amount
                due = min(due, leaves)
        self.totals[ring], self.dues[ring] = total, due

    def _parts(self, ring: int) -> Iterable[Part]:
        slots = range(ring * SLOTS, (ring + 1) * SLOTS)
        return sorted((self.stamps[slot], self.amounts[slot]) for slot in slots)

    def book(self, ring: int, amount: int, now: float) -> None:
        """Count ``amount`` (0 or more) in. What falls into the same second leaves together, when
        the last of it has to."""
        self._tidy(ring, now)
        slot = _slot(ring, now)
        self.stamps[slot] = now
        self.amounts[slot] += amount
        self.totals[ring] += amount
        self.newest[ring] = now
        self.dues[ring] = min(self.dues[ring], now + MINUTE)

    def unbook(self, ring: int, amount: int, booked: float, now: float) -> None:
        """Take ``amount`` of what was booked at a moment back, unless it has left by itself."""
        self._tidy(ring, now)
        slot = _slot(ring, booked)
        if int(self.stamps[slot]) == int(booked):
            back = min(amount, self.amounts[slot])
            self.amounts[slot] -= back
            self.totals[ring] -= back

    # --- budgets

    def spent(self, column: int, day: int, month: int) -> tuple[int, int]:
        """Tokens of this day and this month."""
        budgets, at = self.budgets, 4 * column
        return (
            budgets[at + 1] if budgets[at] == day else 0,
            budgets[at + 3] if budgets[at + 2] == month else 0,
        )

    def spend(self, column: int, tokens: int, day: int, month: int) -> None:
        today, this_month = self.spent(column, day, month)
        at = 4 * column
        self.budgets[at], self.budgets[at + 1] = day, today + tokens
        self.budgets[at + 2], self.budgets[at + 3] = month, this_month + tokens

    def export(self) -> dict[str, Budget]:
        """The budgets of all keys that have spent any, by a mark made from each key's name: what a
        restart should not forget."""
        found = {}
        known = [(column, mark) for column, mark in enumerate(self.marks) if mark]
        with self.lock:
            for column, mark in known:
                day, today, month, this_month = self.budgets[4 * column : 4 * column + 4]
                if today or this_month:
                    found[f"{mark:016x}"] = (day, today, month, this_month)
        return found

    def restore(self, kept: Mapping[str, Budget]) -> None:
        """Take over what ``export`` gave in an earlier life, best before the first request. Where
        both know of the same day or month the greater number holds, so that doing it twice does no
        harm."""
        for mark, budget in kept.items():
            self.raise_to(self._column_of(int(mark, 16)), budget)

    def raise_to(self, column: int, budget: Budget) -> None:
        """What is known from elsewhere of what a key has spent; the greater number holds."""
        at = 4 * column
        with self.lock:
            day, today, month, this_month = self.budgets[at : at + 4]
            for i, number in enumerate(greater((day, today, month, this_month), budget)):
                self.budgets[at + i] = number


def greater(one: Budget, other: Budget) -> Budget:
    """What of two accounts of one key holds: the later day and month, and of the same day or month
    the greater number."""
    return *max(one[:2], other[:2]), *max(one[2:], other[2:])


def _slot(ring: int, now: float) -> int:
    return ring * SLOTS + int(now) % SLOTS


def mark_of(key: str) -> int:
    """By what a key's name is known in memory and in stores, in 64 bits."""
    return int.from_bytes(blake2b(key.encode("utf-8", "replace"), digest_size=8).digest()) or 1

"""What was used, by whom: sums by hour, key, user, session and model; no prompt, no answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.core.types import Outcome

HOUR = 3600

LONGEST = 128
"""Characters of a user's or a session's name that are kept."""

MOST_SLOTS = 20_000
"""Slots that one process keeps between two tellings. Beyond them users and sessions, which are
free text from callers, are counted together."""

MANY = "(others)"
"""The user and session under which what is beyond MOST_SLOTS is counted."""


class Slot(NamedTuple):
    """What is summed together. ``hour`` is the Unix time at which the hour began."""

    hour: int
    key: str
    user: str
    session: str
    model: str


class Spent(NamedTuple):
    """The sums of a slot. ``errors`` are answers of 400 and more and those cut off; ``input``
    includes ``cached``; ``ttft`` is the sum of the seconds to the first byte over the
    ``first_bytes`` requests that had one."""

    requests: int = 0
    errors: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    ttft: float = 0.0
    first_bytes: int = 0

    def plus(self, other: Spent) -> Spent:
        return Spent._make(a + b for a, b in zip(self, other, strict=True))


Sums = dict[Slot, Spent]


def slot_of(outcome: Outcome) -> Slot:
    """Where a request is counted: in the hour in which it ended."""
    hour = int(outcome.at) // HOUR * HOUR
    user, session = outcome.user[:LONGEST], outcome.session[:LONGEST]
    return Slot(hour, outcome.key, user, session, outcome.model)


def spent_by(outcome: Outcome) -> Spent:
    """What one request used."""
    usage, first = outcome.usage, outcome.first_byte
    return Spent(
        requests=1,
        errors=int(outcome.status >= 400 or outcome.cut_by != ""),
        input=usage.input,
        output=usage.output,
        cached=usage.cached,
        ttft=first or 0.0,
        first_bytes=int(first is not None),
    )


def count(sums: Sums, outcome: Outcome, most: int = MOST_SLOTS) -> None:
    """Add a request that has ended. Requests without a key that is known here are nobody's."""
    if not outcome.key:
        return
    slot = slot_of(outcome)
    if slot not in sums and len(sums) >= most:
        slot = slot._replace(user=MANY, session=MANY)
    sums[slot] = sums.get(slot, Spent()).plus(spent_by(outcome))


def merge(into: Sums, more: Mapping[Slot, Spent], most: int = MOST_SLOTS) -> None:
    """Add sums to sums, in bounded room."""
    for slot, spent in more.items():
        kept = slot
        if slot not in into and len(into) >= most:
            kept = slot._replace(user=MANY, session=MANY)
        into[kept] = into.get(kept, Spent()).plus(spent)


GROUPS: Mapping[str, Callable[[Slot], str | int]] = {
    "key": lambda slot: slot.key,
    "user": lambda slot: slot.user,
    "session": lambda slot: slot.session,
    "model": lambda slot: slot.model,
    "hour": lambda slot: slot.hour,
    "day": lambda slot: slot.hour // 86400 * 86400,
}
"""What usage can be grouped by; ``day`` is the Unix time at which the UTC day began."""


def grouped(
    rows: Iterable[tuple[Slot, Spent]], names: Sequence[str]
) -> list[tuple[tuple[str | int, ...], Spent]]:
    """The sums by the named parts of GROUPS, in the order of their values."""
    found: dict[tuple[str | int, ...], Spent] = {}
    for slot, spent in rows:
        at = tuple(GROUPS[name](slot) for name in names)
        found[at] = found.get(at, Spent()).plus(spent)
    return sorted(found.items())

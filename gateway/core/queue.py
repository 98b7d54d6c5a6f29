"""The waiting line at the door: who is next, how long it takes, and who need not wait at all.

Each entry has a rank, and the lowest is next: the moment by which it wants its first token less the
seconds its prompt takes (its slack), less a head start for its priority. As a rank never changes
while later ones begin at later moments, everybody's turn comes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from gateway.core.errors import Refusal

PATIENCE = 1.0
"""Seconds that the shortest request is meant to wait for its first token."""

STRETCH = 2.0
"""Seconds that a request is meant to wait more for each second that its prompt takes: whoever
brings a book knows that it takes a while."""

HEAD_START = 10.0
"""Seconds of waiting that a level of priority is worth. Below the usual time-out, so that the
lowest level is served as well while others keep coming."""

SCAN = 8
"""How many of the next are asked whose favourite a free place is, and how often one of them may
be passed over for that."""

BYTES_A_SECOND = 24_000
"""Prompt bytes that an engine prefills in a second: four bytes a token and 6,000 tokens a second,
an 8B model on one GPU. Only the order of the line depends on it."""

LONGEST_WORK = 5.0
"""Seconds of prefill beyond which a request only looks longer (an image in its body)."""

MEMORY = 0.1
"""Weight of the latest request in the mean time that a place is held."""

SURE = 3
"""Requests that have to have ended before the time of the next is predicted."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of each model's line: how many may wait (0: nobody does), for how many seconds, and after
    how many seconds a waiting stream is sent a comment (None: never)."""

    max: int = 512
    timeout: float = 30.0
    keepalive: float | None = None


PLAIN = Bounds()
"""What holds where nothing is configured."""


def work(size: int) -> float:
    """Seconds that a body of ``size`` bytes takes to prefill, about."""
    return min(size / BYTES_A_SECOND, LONGEST_WORK)


@dataclass(slots=True, order=True)
class Entry:
    """One request in the line. ``number`` counts arrivals and settles ties; ``passed`` is how
    often a later one went first because a place suited it better."""

    rank: float
    number: int
    priority: int = field(default=0, compare=False)
    passed: int = field(default=0, compare=False)


def entry(number: int, arrived: float, seconds: float, priority: int) -> Entry:
    """``arrived`` is monotonic seconds, ``seconds`` the work in it."""
    wanted = arrived + PATIENCE + STRETCH * seconds
    return Entry(wanted - seconds - HEAD_START * priority, number, priority)


class Line:
    """Entries in the order of their ranks."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def head(self) -> Entry | None:
        return self._entries[0] if self._entries else None

    def add(self, entry: Entry) -> None:
        insort(self._entries, entry)

    def remove(self, entry: Entry) -> None:
        """Take an entry out; one that is not there is no fault."""
        at = bisect_left(self._entries, entry)
        if at < len(self._entries) and self._entries[at] is entry:
            del self._entries[at]

    def ahead(self, rank: float) -> int:
        """How many have a lower rank."""
        return bisect_left(self._entries, rank, key=lambda entry: entry.rank)

    def next(self, suits: Callable[[Entry], bool]) -> Entry | None:
        """Whose turn it is now that a place is free: among the first few of the head's priority
        the first one ``suits`` says it is the favourite place of; else the head. An entry that was
        passed over SCAN times is not passed over again."""
        head = self.head
        passed: list[Entry] = []
        for found in self._entries[:SCAN]:
            if head is None or found.priority != head.priority:
                break
            if suits(found):
                for other in passed:
                    other.passed += 1
                return found
            if found.passed >= SCAN:
                break
            passed.append(found)
        return head


@dataclass(slots=True)
class Pace:
    """For how long a backend's places are held, as a mean that follows. A line moves by that, and
    not by how many left of late: few leave an idle engine."""

    _held: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)

    def left(self, backend: str, seconds: float) -> None:
        """A request was there for ``seconds``."""
        count = self._seen[backend] = self._seen.get(backend, 0) + 1
        mean = self._held.get(backend, 0.0)
        self._held[backend] = mean + (seconds - mean) * max(MEMORY, 1 / count)

    def rate(self, limits: Iterable[tuple[str, int]]) -> float | None:
        """Places a second that come free at these backends (name, limit) while all are full. None
        as long as too little is known of any of them."""
        total = 0.0
        for backend, limit in limits:
            if self._seen.get(backend, 0) < SURE:
                return None
            total += limit / max(self._held[backend], 1e-3)
        return total or None


def wait(ahead: int, rate: float | None) -> float | None:
    """Seconds until the turn of one who has ``ahead`` before him, None when nobody can say."""
    return None if rate is None else (ahead + 1) / rate


def too_late(name: str, seconds: float, bounds: Bounds) -> Refusal:
    """The answer to one who would wait for longer than anybody may."""
    return Refusal(
        "overloaded",
        f"All backends of '{name}' are full, and at the rate at which they finish your turn would"
        f" come in about {seconds:.0f} s; nobody waits here for more than {bounds.timeout:g} s."
        " Try again after the time in Retry-After.",
        retry_after=seconds,
    )


def line_full(name: str, waiting: int, seconds: float | None) -> Refusal:
    """The answer to one for whom there is no room in the line."""
    return Refusal(
        "overloaded",
        f"All backends of '{name}' are full and {waiting} requests wait for them already. Try"
        " again after the time in Retry-After.",
        retry_after=seconds,
    )


def waited_in_vain(name: str, seconds: float | None, bounds: Bounds) -> Refusal:
    """The answer to one whose turn did not come in time."""
    return Refusal(
        "overloaded",
        f"All backends of '{name}' stayed full for {bounds.timeout:g} s, which is as long as a"
        " request waits here (routing.queue.timeout). Try again after the time in Retry-After.",
        retry_after=seconds,
    )

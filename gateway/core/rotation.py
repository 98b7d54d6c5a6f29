"""Several keys of one backend: whose turn it is, and which have to rest."""

from __future__ import annotations

from collections.abc import Collection
from email.utils import parsedate_to_datetime

from gateway.core.runtime import Verdict

REFUSED_FOR = 300.0
"""Seconds for which a key rests that was refused: it is an operator's to mend, and asking for it
costs a request one more attempt."""

LIMITED_FOR = 30.0
"""Seconds for which a key rests that is over its limit and was not told for how long."""

LONGEST = 3600.0
"""Seconds for which a key rests at most, whatever a provider says."""


class Rotation:
    """The keys of one backend, by number. Moments are monotonic seconds."""

    __slots__ = ("_last", "_rests")

    def __init__(self, keys: int) -> None:
        self._rests = [0.0] * keys
        self._last = -1

    def turn(self, now: float, tried: Collection[int] = ()) -> int | None:
        """The next key that need not rest and was not tried; None where there is none."""
        keys = len(self._rests)
        for step in range(1, keys + 1):
            key = (self._last + step) % keys
            if self._rests[key] <= now and key not in tried:
                self._last = key
                return key
        return None

    def rest(self, key: int, until: float) -> None:
        """Let a key rest; the later moment counts."""
        self._rests[key] = max(self._rests[key], until)

    def opens(self, now: float) -> float:
        """Seconds until the first key may be used again."""
        return max(0.0, min(self._rests) - now)


def key_failed(verdict: Verdict, status: int) -> bool:
    """Whether another key may do better: an answer that means this key, not the request (403 may
    be about the model asked for) and not the provider."""
    return status == 429 or (verdict is Verdict.AUTH and status != 403)


def pause(status: int, retry_after: str, wall: float) -> float:
    """Seconds for which a key rests after such an answer, by its Retry-After (RFC 9110 10.2.3:
    seconds or a date) where that says; ``wall`` is Unix seconds."""
    told = _seconds(retry_after, wall)
    if told is None:
        return LIMITED_FOR if status == 429 else REFUSED_FOR
    return min(max(told, 1.0), LONGEST)


def _seconds(retry_after: str, wall: float) -> float | None:
    text = retry_after.strip()
    try:
        return float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - wall
    except ValueError:
        return None

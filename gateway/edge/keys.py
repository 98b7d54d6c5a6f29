"""Backends with several keys: which one a request is sent with, and what an answer means for it.

Each process learns for itself; a key that fails costs a request an attempt more, and no answer."""

from __future__ import annotations

import time

from gateway.core.catalog import Place
from gateway.core.rotation import Rotation, key_failed, pause
from gateway.core.runtime import Verdict
from gateway.edge.errand import Errand
from gateway.edge.exchange import End, Result

RESTING = "keys"
"""The reason, in metrics, of an attempt for which no key was left."""


class Keys:
    """One process's look at the keys of all backends. A change of the keys begins anew."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[str | None, ...], Rotation]] = {}

    def _of(self, place: Place) -> Rotation:
        name, keys = place.backend.name, place.backend.keys
        known = self._known.get(name)
        if known is None or known[0] != keys:
            known = self._known[name] = keys, Rotation(len(keys))
        return known[1]

    def choose(self, errand: Errand, now: float) -> bool:
        """Set the errand's key for its place; False when all of them rest."""
        key = self._of(errand.place).turn(now, errand.tired or ())
        if key is None:
            return False
        errand.key = key
        return True

    def failed(self, errand: Errand, result: Result) -> bool:
        """Let the key rest, where an answer means it. True when the request may go once more with
        another one: nothing was done for it, so that needs no leave."""
        if result.end is not End.GIVEN_UP or not key_failed(result.verdict, result.status):
            return False
        now, rotation = time.monotonic(), self._of(errand.place)
        after = pause(result.status, _retry_after(result), time.time())
        rotation.rest(errand.key, now + after)
        if errand.tired is None:
            errand.tired = set()
        errand.tired.add(errand.key)
        return errand.resendable and errand.race is None and rotation.opens(now) <= 0

    def resting(self, place: Place, now: float) -> Result:
        """The end of an attempt for which there was no key."""
        opens = self._of(place).opens(now)
        text = (
            f"all its {len(place.keyed)} keys are refused or over their limits, for {opens:.0f} s"
        )
        return Result(End.BROKEN, RESTING, text, sent=False, opens=opens)

    def last_word(self, errand: Errand, result: Result) -> Result:
        """What is made of an answer after which no key is left. That our keys are refused is no
        401 for the caller, whose own key is good; a limit is told as the provider told it."""
        if result.end is not End.GIVEN_UP or result.verdict is not Verdict.AUTH:
            return result
        return self.resting(errand.place, time.monotonic()) if errand.tired else result


def _retry_after(result: Result) -> str:
    found = (value for name, value in result.headers if name.lower() == b"retry-after")
    return next(found, b"").decode("latin-1")

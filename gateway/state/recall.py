"""The last two thousand requests of one process, kept as references until somebody asks."""

from __future__ import annotations

from collections import deque

from gateway.core.explain import Story

MOST = 2048
"""Requests that are kept."""

MOST_PLACES = 32_768
"""Places that all of them may hold together. A place of a fleet that is long gone is held by nobody
else and takes up to a kilobyte, so that this bounds the memory at some 32 MiB."""


class Recall:
    """By request id; the oldest go first. They are looked through when one is asked for, which is
    rare: an index would cost every request something."""

    __slots__ = ("_kept", "_most", "_most_places", "_places")

    def __init__(self, most: int = MOST, most_places: int = MOST_PLACES) -> None:
        self._most = most
        self._most_places = most_places
        self._kept: deque[Story] = deque()
        self._places = 0

    def keep(self, story: Story) -> None:
        """Keep a request that has ended; of two with one id the later is found."""
        kept = self._kept
        kept.append(story)
        self._places += len(story.seen)
        while len(kept) > self._most or (self._places > self._most_places and len(kept) > 1):
            self._places -= len(kept.popleft().seen)

    def of(self, request_id: str) -> Story | None:
        return next((s for s in reversed(self._kept) if s.id == request_id), None)

    def __len__(self) -> int:
        return len(self._kept)

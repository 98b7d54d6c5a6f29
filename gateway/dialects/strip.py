"""Taking a usage event that only the gateway asked for out of an OpenAI stream again."""

from __future__ import annotations

import re

_EMPTY = re.compile(rb'"choices": ?\[\]')
_OTHER = re.compile(rb'"choices": ?\[\{')

LONGEST = 65536
"""An unfinished event that is longer cannot be a usage event."""


class UsageStrip:
    """``feed(bytes) -> bytes`` and ``close() -> bytes``: all bytes but those of events with an
    empty ``choices`` and a ``usage``. Only the unfinished part of what may become such an event
    is held back."""

    __slots__ = ("_held", "_newline", "_passing")

    def __init__(self) -> None:
        self._held = b""
        self._passing = False
        self._newline = False

    def feed(self, data: bytes) -> bytes:
        if not self._passing:
            return self._whole_events(self._held + data)
        if self._newline and data.startswith(b"\n"):
            end = 1
        elif b"\n\n" in data:
            end = data.index(b"\n\n") + 2
        else:
            self._newline = data.endswith(b"\n")
            return data
        self._passing = False
        return data[:end] + self._whole_events(data[end:])

    def _whole_events(self, text: bytes) -> bytes:
        """What may go of ``text``, which begins with an event; the rest is held, unless it is
        already known not to be a usage event."""
        end = text.rfind(b"\n\n") + 2 if b"\n\n" in text else 0
        out, rest = self._without_usage(text[:end]), text[end:]
        self._held = b""
        if rest and (_OTHER.search(rest) or len(rest) > LONGEST):
            self._passing, self._newline = True, rest.endswith(b"\n")
            return out + rest
        self._held = rest
        return out

    def _without_usage(self, whole: bytes) -> bytes:
        if not _EMPTY.search(whole):
            return whole
        events = whole.split(b"\n\n")
        return b"\n\n".join(event for event in events if not _is_usage(event))

    def close(self) -> bytes:
        held, self._held = self._held, b""
        return held


def _is_usage(event: bytes) -> bool:
    return b'"usage"' in event and _EMPTY.search(event) is not None

"""One value that outlives the process which wrote it, in memory that its successor inherits."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import tempfile
from typing import Any
from zlib import crc32

from gateway.core.packed import pack

_HEAD = struct.Struct("=QQI")
"""Which write it is, the length of what follows, and a checksum of both."""

_APART = 1 << 32
"""Bytes between the two places. Nothing lies between them, and so no memory is taken there."""


class Kept:
    """Made before the fork; written by one process at a time. Each write goes to the other of two
    places, so that one which kill -9 cuts short leaves the value before it. Not in a file that
    has a name, since a configuration holds keys."""

    def __init__(self) -> None:
        self._fd = _nameless()
        self._serial = 0

    def write(self, value: Any) -> None:
        content = pack(value)
        self._serial += 1
        head = _HEAD.pack(self._serial, len(content), _check(self._serial, content))
        left = memoryview(head + content)
        at = self._serial % 2 * _APART
        while left:
            done = os.pwrite(self._fd, left, at)
            left, at = left[done:], at + done

    def read(self) -> Any:
        """What was written last, None when nothing was."""
        found = max(filter(None, map(self._at, (0, _APART))), default=None)
        if found is None:
            return None
        self._serial = found[0]
        return pickle.loads(found[1])  # noqa: S301 - our own memory

    def _at(self, place: int) -> tuple[int, bytes] | None:
        head = os.pread(self._fd, _HEAD.size, place)
        if len(head) < _HEAD.size:
            return None
        serial, length, check = _HEAD.unpack(head)
        content = os.pread(self._fd, length, place + _HEAD.size)
        return (serial, content) if serial and _check(serial, content) == check else None


def _check(serial: int, content: bytes) -> int:
    return crc32(content, serial & 0xFFFFFFFF)


def _nameless() -> int:
    if sys.platform == "linux":
        return os.memfd_create("portico-kept")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())

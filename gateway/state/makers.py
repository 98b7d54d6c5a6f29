"""Which backend made a stored response: calls by its id have to go back there."""

from __future__ import annotations

import mmap
import re
import struct
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b

MOST = 10_000
"""Ids that are remembered, the latest ones."""

_ID = re.compile(rb'"id": ?"(resp_[A-Za-z0-9_-]{1,200})"')

_COUNT = struct.Struct("=q")
_ENTRY = struct.Struct("=16sq")


def id_in(head: bytes) -> str:
    """The id of the response whose answer begins with ``head``, '' if it has none."""
    match = _ID.search(head)
    return match.group(1).decode() if match else ""


class Book:
    """The latest MOST marks of ids with the columns of their makers, in memory that forked
    processes share: whoever is asked for a response has to know of it the moment its maker has
    answered, and a message could come later than the client's next request."""

    __slots__ = ("_bytes", "_lock")

    def __init__(self, lock: AbstractContextManager[object] | None = None) -> None:
        self._lock: AbstractContextManager[object] = lock or nullcontext()
        self._bytes = mmap.mmap(-1, _COUNT.size + MOST * _ENTRY.size)

    def add(self, mark: bytes, column: int) -> None:
        with self._lock:
            (count,) = _COUNT.unpack_from(self._bytes)
            _ENTRY.pack_into(self._bytes, _place(count), mark, column)
            _COUNT.pack_into(self._bytes, 0, count + 1)

    def after(self, seen: int) -> tuple[int, list[tuple[bytes, int]]]:
        """How many were ever added, and those beyond the first ``seen``, oldest first."""
        with self._lock:
            (count,) = _COUNT.unpack_from(self._bytes)
            fresh = range(max(seen, count - MOST), count)
            return count, [_ENTRY.unpack_from(self._bytes, _place(number)) for number in fresh]


def _place(number: int) -> int:
    return _COUNT.size + number % MOST * _ENTRY.size


class Makers:
    """Response id -> backend name, bounded. ``columns`` tells backends by number, as in ``book``
    they cannot be told by name."""

    __slots__ = ("_book", "_columns", "_found", "_seen")

    def __init__(self, book: Book | None = None, columns: Mapping[str, int] | None = None) -> None:
        self._book = book or Book()
        self._columns = {} if columns is None else columns
        self._found: OrderedDict[bytes, int] = OrderedDict()
        self._seen = 0

    def remember(self, response_id: str, backend: str) -> None:
        column = self._columns.get(backend)
        if column is not None:
            self._book.add(_mark(response_id), column)

    def of(self, response_id: str) -> str:
        """The backend that made it, '' when that is not known."""
        self._catch_up()
        made_by = self._found.get(_mark(response_id))
        names = (name for name, column in self._columns.items() if column == made_by)
        return next(names, "")

    def _catch_up(self) -> None:
        """Take over what was added since, by whichever process."""
        self._seen, fresh = self._book.after(self._seen)
        for mark, column in fresh:
            self._found[mark] = column
            self._found.move_to_end(mark)
        while len(self._found) > MOST:
            self._found.popitem(last=False)


def _mark(response_id: str) -> bytes:
    return blake2b(response_id.encode(), digest_size=16).digest()

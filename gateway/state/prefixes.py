"""Which engine holds which beginnings of prompts: a table of fixed size in memory that forked
workers share, written by all of them without a lock."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

ENGINES = 1024
"""Columns: engines that can be told apart, as on the Page."""

WAYS = 8
"""Engines kept for one block; the stalest makes room."""

SLOTS = 1 << 18
"""Blocks in the table: 128 Mi characters of prompts, what twenty engines remember that share
nothing and remember 1.6 million tokens each. At 72 bytes each the table takes 18 MiB at most, and
as much of that as has been written."""

BUCKET = 4
"""Slots in which a block may stand. When all are taken, the one unused for longest makes room."""

_WIDTH = 1 + WAYS
HOLES = 2
"""Blocks in a row that may be missing before the rest is taken to be unknown as well: now and then
one loses its slot to others while what comes after it is still there."""

_TAG = 0x3FFF
_OWNER = 0xFFFFFF
_GONE = -1
"""A way taken back. It is no zero, since a zero ends the ways of a slot."""

_NO_WAYS = memoryview(bytes(8 * WAYS)).cast("q")


class Prefixes:
    """Block hash -> the engines that hold the block, and when each last used it.

    Time is the engine's own: ``clock`` counts the blocks it has taken in, and what it has not
    used while taking in more than its room is gone from its cache. So nothing need ever be
    removed, and least recently used goes first by arithmetic alone.

    A slot is the hash and eight ways; a way is one number of 64 bits: the stamp, a tag of the
    hash and the engine's column; the engine that used the block last stands first. Numbers of 64
    bits are written whole, so that writers that meet can lose each other's entries and never
    make one up: a way whose tag is not that of its slot's hash is not believed."""

    __slots__ = ("_bytes", "_cells", "_mask", "clock")

    def __init__(self, slots: int = SLOTS) -> None:
        """``slots`` is a power of two."""
        buckets = max(slots // BUCKET, 1)
        self._mask = buckets - 1
        self._bytes = mmap.mmap(-1, 8 * (buckets * BUCKET * _WIDTH + ENGINES))
        numbers = memoryview(self._bytes).cast("q")
        self.clock = numbers[:ENGINES]
        self._cells = numbers[ENGINES:]

    @property
    def size(self) -> int:
        """Bytes, fixed for life."""
        return len(self._bytes)

    def match(self, chain: Sequence[int], room: Sequence[int]) -> dict[int, int]:
        """How many blocks of the chain each engine (by column) holds, engines with none left out.
        ``room`` is each engine's cache in blocks. Whoever holds a block holds all before it: the
        end of a chain leaves a cache first."""
        cells, clock, mask = self._cells, self.clock, self._mask
        found: dict[int, int] = {}
        holes = 0
        for depth, key in enumerate(chain, 1):
            slot = (key & mask) * BUCKET * _WIDTH
            for at in (slot, slot + _WIDTH, slot + 2 * _WIDTH, slot + 3 * _WIDTH):
                if cells[at] == key:
                    break
            else:
                holes += 1
                if holes > HOLES:
                    break
                continue
            tag, held = key >> 40 & _TAG, False
            for cell in range(at + 1, at + _WIDTH):
                way = cells[cell]
                if not way:
                    break
                column = way & 0x3FF
                if way >> 10 & _TAG == tag and clock[column] - (way >> 24) <= room[column]:
                    found[column], held = depth, True
            holes = 0 if held else holes + 1
            if holes > HOLES:
                break
        return found

    def add(self, chain: Sequence[int], column: int, room: int) -> int:
        """The engine takes the chain in, or uses it again. Returns the blocks new to it."""
        cells, now, new = self._cells, self.clock[column], 0
        stamp = now << 24
        for key in chain:
            owner = (key >> 40 & _TAG) << 10 | column
            head = self._slot(key) + 1
            latest = cells[head]
            if latest & _OWNER != owner or latest < 0:
                latest = self._displaced(head, latest, owner) if latest else 0
            if not latest or now - (latest >> 24) > room:
                new += 1
            cells[head] = stamp | owner
        self.clock[column] += new
        return new

    def _slot(self, key: int) -> int:
        """The block's slot; one that is empty or unused for longest if it has none yet."""
        cells, clock = self._cells, self.clock
        slot = (key & self._mask) * BUCKET * _WIDTH
        victim, most = -1, -1
        for at in (slot, slot + _WIDTH, slot + 2 * _WIDTH, slot + 3 * _WIDTH):
            held = cells[at]
            if held == key:
                return at
            latest = cells[at + 1]
            age = clock[latest & 0x3FF] - (latest >> 24) if held and latest > 0 else 1 << 62
            if age > most:
                victim, most = at, age
        cells[victim + 1 : victim + _WIDTH] = _NO_WAYS
        cells[victim] = key
        return victim

    def _displaced(self, head: int, latest: int, owner: int) -> int:
        """Makes the first way free, where the latest user of a block stands, by putting what is
        there in place of the owner's own, of none, or of the stalest. Returns the owner's own as
        it was, 0 if it had none."""
        cells, clock = self._cells, self.clock
        stalest, most, own = head + 1, -1, 0
        for cell in range(head + 1, head + WAYS):
            way = cells[cell]
            if way > 0 and way & _OWNER == owner:
                stalest, own = cell, way
                break
            age = clock[way & 0x3FF] - (way >> 24) if way > 0 else 1 << 62
            if age > most:
                stalest, most = cell, age
            if not way:
                break
        cells[stalest] = latest
        return own

    def grow(self, column: int, blocks: int) -> None:
        """The engine took in something else: an answer, a prompt that has no chain."""
        self.clock[column] += blocks

    def age(self, key: int, column: int) -> int | None:
        """How many blocks the engine has taken in since it last used this one, None if it is not
        known to hold it."""
        owner = (key >> 40 & _TAG) << 10 | column
        slot = (key & self._mask) * BUCKET * _WIDTH
        for at in range(slot, slot + BUCKET * _WIDTH, _WIDTH):
            if self._cells[at] == key:
                for way in self._cells[at + 1 : at + _WIDTH].tolist():
                    if way > 0 and way & _OWNER == owner:
                        return int(self.clock[column] - (way >> 24))
        return None

    def truncate(self, chain: Sequence[int], column: int, kept: int) -> None:
        """The engine has only the first ``kept`` blocks of the chain after all."""
        cells = self._cells
        for key in chain[kept:]:
            slot = (key & self._mask) * BUCKET * _WIDTH
            owner = (key >> 40 & _TAG) << 10 | column
            for at in range(slot, slot + BUCKET * _WIDTH, _WIDTH):
                if cells[at] == key:
                    for cell in range(at + 1, at + _WIDTH):
                        if cells[cell] & _OWNER == owner:
                            cells[cell] = _GONE

    def forget(self, column: int, room: int) -> None:
        """The engine lost its cache: all it was known to hold is out of date."""
        self.clock[column] += room + 1

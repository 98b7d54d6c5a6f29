"""What we have given each engine to do and it has not finished: each worker writes its own row of
a shared page, and whoever asks gets the sum."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.core.prompt import BLOCK

COLUMNS = 1024
"""Engines, as on the Page."""

SAMPLED = 4
"""Of so many blocks one is counted when shared ones are to be told from others."""

NEAR = 0.95
"""Most of the head's time that the clock may run down before its first token was seen."""

_ROW = struct.Struct("8d")


class Standing(NamedTuple):
    """One engine's, over all workers. ``queue`` are seconds of prefill without a first token yet,
    run down to this moment; ``waiting`` and ``decoding`` are requests, ``context`` the tokens of
    those that decode, ``held`` the tokens of all, shared ones once."""

    queue: float = 0.0
    waiting: float = 0.0
    decoding: float = 0.0
    context: float = 0.0
    held: float = 0.0


NOTHING = Standing()


@dataclass(slots=True)
class Work:
    """One request on one engine. ``seconds`` is what its prefill should take there, ``silent``
    whether its first token will not be seen; ``samples`` are hashes of every SAMPLED-th block and
    ``rest`` the tokens that belong to no sample, ``each`` those of a sample. ``first`` is 0 until
    the first token."""

    column: int
    tokens: float
    seconds: float
    sent: float
    silent: bool = False
    samples: tuple[int, ...] = ()
    each: float = 0.0
    rest: float = 0.0
    first: float = 0.0
    done: bool = False


@dataclass(slots=True)
class Lane:
    """One engine's work of this process. ``waiting`` is in the order of sending."""

    column: int
    waiting: dict[int, Work] = field(default_factory=dict)
    seconds: float = 0.0
    last_first: float = 0.0
    decoding: int = 0
    context: float = 0.0
    active: dict[int, int] = field(default_factory=dict)
    held: float = 0.0


class LedgerPage:
    """The memory: for each engine a row of eight numbers for each writer, side by side."""

    __slots__ = ("_bytes", "rows")

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._bytes = mmap.mmap(-1, _ROW.size * rows * COLUMNS)

    def write(self, lane: Lane, row: int) -> None:
        head = next(iter(lane.waiting.values()), None)
        _ROW.pack_into(
            self._bytes,
            (lane.column * self.rows + row) * _ROW.size,
            len(lane.waiting),
            lane.seconds,
            head.sent if head else 0.0,
            head.seconds if head else 0.0,
            lane.last_first,
            lane.decoding,
            lane.context,
            lane.held,
        )

    def standing(self, column: int, now: float) -> Standing:
        """An engine prefills in the order of arrival, whichever worker sent: the clock runs down
        the one head that was sent first, since the latest first token that any of them saw."""
        start = column * self.rows * _ROW.size
        if self.rows == 1:
            waiting, seconds, since, head, last, decoding, context, held = _ROW.unpack_from(
                self._bytes, start
            )
            if not waiting and not decoding:
                return NOTHING
            queue = _run_down(seconds, head, max(since, last), now) if waiting else 0.0
            return Standing(queue, waiting, decoding, context, held)
        return self._summed(start, now)

    def _summed(self, start: int, now: float) -> Standing:
        waiting = seconds = decoding = context = held = head = last = 0.0
        since = float("inf")
        stretch = self._bytes[start : start + self.rows * _ROW.size]
        for row in _ROW.iter_unpack(stretch):
            last = max(last, row[4])
            decoding += row[5]
            context += row[6]
            held += row[7]
            if row[0]:
                waiting += row[0]
                seconds += row[1]
                if row[2] < since:
                    since, head = row[2], row[3]
        if not waiting and not decoding:
            return NOTHING
        queue = _run_down(seconds, head, max(since, last), now) if waiting else 0.0
        return Standing(queue, waiting, decoding, context, held)

    def clear(self, row: int) -> None:
        """Forget the work of a writer that died; its connections died with it."""
        for column in range(COLUMNS):
            at = (column * self.rows + row) * _ROW.size
            self._bytes[at : at + _ROW.size] = bytes(_ROW.size)


def _run_down(seconds: float, head: float, since: float, now: float) -> float:
    return max(0.0, seconds - min(max(0.0, now - since), head * NEAR))


class Ledger:
    """One process's hand on the page."""

    __slots__ = ("_lanes", "_page", "_row")

    def __init__(self, page: LedgerPage, row: int) -> None:
        self._page = page
        self._row = row
        self._lanes: dict[int, Lane] = {}

    def standing(self, column: int, now: float) -> Standing:
        return self._page.standing(column, now)

    def adds(self, column: int, samples: tuple[int, ...]) -> int:
        """How many of the samples are not held by a request of ours on that engine already."""
        lane = self._lanes.get(column)
        if lane is None or not lane.active:
            return len(samples)
        return len(samples) - len(lane.active.keys() & set(samples))

    def send(self, work: Work) -> None:
        """The request goes to its engine."""
        lane = self._lanes.get(work.column)
        if lane is None:
            lane = self._lanes[work.column] = Lane(work.column)
        lane.waiting[id(work)] = work
        lane.seconds += work.seconds
        active, new = lane.active, 0
        for key in work.samples:
            count = active.get(key, 0)
            active[key] = count + 1
            new += not count
        lane.held += new * work.each + work.rest
        self._page.write(lane, self._row)

    def first(self, work: Work, now: float) -> float:
        """Its first token came. Returns the seconds that the engine spent on it, reckoned from
        the first token before or its own sending, whichever was later; 0 if that is not known."""
        if work.done or work.first:
            return 0.0
        lane = self._lanes[work.column]
        before = max(work.sent, lane.last_first)
        self._decodes(lane, work, now)
        self._page.write(lane, self._row)
        return max(0.0, now - before)

    def _decodes(self, lane: Lane, work: Work, now: float) -> None:
        work.first = now
        self._leave_queue(lane, work)
        lane.last_first = max(lane.last_first, now)
        lane.decoding += 1
        lane.context += work.tokens

    def _leave_queue(self, lane: Lane, work: Work) -> None:
        if lane.waiting.pop(id(work), None) is not None:
            lane.seconds = lane.seconds - work.seconds if lane.waiting else 0.0

    def end(self, work: Work) -> None:
        """It is over, whatever way."""
        if work.done:
            return
        work.done = True
        lane = self._lanes[work.column]
        if work.first:
            lane.decoding -= 1
            lane.context = lane.context - work.tokens if lane.decoding else 0.0
        else:
            self._leave_queue(lane, work)
        active, gone = lane.active, 0
        for key in work.samples:
            count = active[key] - 1
            if count:
                active[key] = count
            else:
                del active[key]
                gone += 1
        idle = not lane.waiting and not lane.decoding
        lane.held = 0.0 if idle else lane.held - gone * work.each - work.rest
        self._page.write(lane, self._row)

    def tidy(self, now: float) -> None:
        """Requests whose first token nobody sees, since their answer comes whole, are taken to
        have had it when their turn should be over."""
        for lane in self._lanes.values():
            moved = False
            while lane.waiting:
                head = next(iter(lane.waiting.values()))
                due = max(head.sent, lane.last_first) + head.seconds
                if not head.silent or now < due:
                    break
                self._decodes(lane, head, due)
                moved = True
            if moved:
                self._page.write(lane, self._row)


def samples_of(chain: tuple[int, ...], length: int, tokens: float) -> tuple[tuple[int, ...], float]:
    """Every SAMPLED-th link of a chain and the tokens that each of them stands for."""
    if not length:
        return (), 0.0
    return chain[SAMPLED - 1 :: SAMPLED], SAMPLED * BLOCK / length * tokens

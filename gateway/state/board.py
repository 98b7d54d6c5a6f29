"""Requests in flight, by backend and by model: each data-plane process writes its own row of a
shared page, and everybody reads the sums."""

from __future__ import annotations

import mmap
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from hashlib import blake2b

from gateway.core.capacity import trial_of
from gateway.core.types import Pulse
from gateway.state.lines import Queues, Sheet
from gateway.state.lore import Lore, LorePage
from gateway.state.makers import Book, Makers
from gateway.state.meter import Meter
from gateway.state.windows import Windows

FRESH = 0.001
"""Seconds for which a decision takes other processes' requests in flight to be what they were. No
limit depends on it: those are kept by ``enter``."""

MOST_BACKENDS = 1024
"""Columns of the page. Backends over that (ever seen in one life) share the last one."""


@dataclass(slots=True)
class Lane:
    """One backend's requests of this process: when each was sent, when a byte last came.
    ``fell`` is when it first failed since it last answered well (0: not)."""

    name: str
    column: int
    starts: dict[int, float] = field(default_factory=dict)
    last_byte: float = 0.0
    fell: float = 0.0


class Page:
    """Memory that forked processes share: a row for each of ``rows`` writers, a column for each
    backend. ``lock`` guards what must not be exceeded by two writers at once. ``book`` says who
    made a stored response, ``sheet`` who waits, ``meter`` what keys have used; ``lore`` holds what
    the costlier policies choose by."""

    __slots__ = (
        "_bytes",
        "book",
        "counts",
        "last",
        "lock",
        "lore",
        "marks",
        "meter",
        "oldest",
        "rows",
        "served",
        "sheet",
    )

    def __init__(self, rows: int, lock: AbstractContextManager[object] | None = None) -> None:
        size = rows * MOST_BACKENDS
        self._bytes = mmap.mmap(-1, 4 * 8 * size + 8 * MOST_BACKENDS)
        view = memoryview(self._bytes)
        self.rows = rows
        self.counts = view[: 8 * size].cast("q")
        self.oldest = view[8 * size : 16 * size].cast("d")
        self.last = view[16 * size : 24 * size].cast("d")
        self.served = view[24 * size : 32 * size].cast("q")
        self.marks = view[32 * size :].cast("Q")
        self.lock: AbstractContextManager[object] = lock or nullcontext()
        self.book = Book(self.lock)
        self.sheet = Sheet(rows, self.lock)
        self.meter = Meter(rows, self.lock)
        self.lore = LorePage(rows, self.lock)

    def column(self, backend: str) -> int:
        """The column of a backend, given out at first sight. What it is stands on the page, so
        that all processes mean the same, and those that replace them too."""
        mark = _mark(backend)
        with self.lock:
            for column in range(MOST_BACKENDS - 1):
                if self.marks[column] in (0, mark):
                    self.marks[column] = mark
                    return column
        return MOST_BACKENDS - 1

    def known(self, backend: str) -> int | None:
        """The column of a backend that has one already."""
        mark = _mark(backend)
        for column in range(MOST_BACKENDS - 1):
            if self.marks[column] in (0, mark):
                return column if self.marks[column] == mark else None
        return None

    def total(self, column: int) -> int:
        """Requests in flight at a backend, over all writers."""
        start = column * self.rows
        return self.counts[start] if self.rows == 1 else sum(self.counts[start : start + self.rows])

    def clear(self, row: int) -> None:
        """Forget what a writer that died had in flight, and who waited there."""
        self.sheet.clear(row)
        self.meter.clear(row)
        for cell in range(row, self.rows * MOST_BACKENDS, self.rows):
            self.counts[cell] = 0
            self.oldest[cell] = 0.0
            self.served[cell] = 0
        self.lore.clear(row)


def _mark(backend: str) -> int:
    return int.from_bytes(blake2b(backend.encode(), digest_size=8).digest(), "big") or 1


class Board:
    """One process's hand on the page. ``busy`` are the requests in flight by backend: one's own
    always, those of other processes as ``look`` saw them last; ``columns`` says which backend has
    which column, as far as this process has seen them; ``makers`` who made which response;
    ``queues`` who waits; ``windows`` what keys have used; ``lore`` is told what becomes of
    requests."""

    __slots__ = (
        "_lanes",
        "_looked",
        "_next",
        "_page",
        "_row",
        "_trials",
        "busy",
        "by_model",
        "columns",
        "lore",
        "makers",
        "meter",
        "queues",
        "windows",
    )

    def __init__(self, page: Page | None = None, row: int = 0) -> None:
        self._page = page or Page(1)
        self._row = row
        self._lanes: dict[str, Lane] = {}
        self._next = 0
        self._trials: dict[int, Lane] = {}
        self.columns: dict[str, int] = {}
        self.busy: dict[str, int] = {}
        self._looked = 0.0
        self.makers = Makers(self._page.book, self.columns)
        self.queues = Queues(self._page.sheet, row)
        self.meter = self._page.meter
        self.windows = Windows(self.meter, row)
        self.lore = Lore(self._page.lore, row, self.name, self.busy)
        self.by_model: dict[tuple[str, str], int] = {}

    def name(self, backend: str) -> int:
        """The backend's column; ``busy`` knows the backend from here on."""
        column = self.columns.get(backend)
        if column is None:
            column = self.columns[backend] = self._page.column(backend)
            self.busy[backend] = self._page.total(column)
        return column

    def look(self, now: float) -> None:
        """Take in what other processes have in flight, unless it was just done."""
        page = self._page
        if page.rows > 1 and now - self._looked >= FRESH:
            self._looked = now
            for name, column in self.columns.items():
                self.busy[name] = page.total(column)

    def lane(self, backend: str) -> Lane:
        """The backend's lane, in which an exchange notes the bytes that come."""
        lane = self._lanes.get(backend)
        if lane is None:
            lane = self._lanes[backend] = Lane(backend, self.name(backend))
        return lane

    def enter(
        self, model: str, backend: str, now: float, limit: int | None = None, *, trial: bool = False
    ) -> int | None:
        """Count one request in; returns the ticket to ``leave`` with, or None when ``limit``
        requests are in flight there already, over all processes. Of ``trial`` requests a backend
        has one at a time, whatever else is still in flight there."""
        lane = self.lane(backend)
        if trial and not self._enter_trial(self.lane(trial_of(backend))):
            return None
        if limit is None:
            self._count(lane, 1)
        else:
            with self._page.lock:
                if self._page.total(lane.column) >= limit:
                    if trial:
                        self._count(self.lane(trial_of(backend)), -1)
                    return None
                self._count(lane, 1)
        self._next += 1
        if trial:
            self._trials[self._next] = self.lane(trial_of(backend))
        lane.starts[self._next] = now
        key = (model, backend)
        self.by_model[key] = self.by_model.get(key, 0) + 1
        return self._next

    def _enter_trial(self, lane: Lane) -> bool:
        with self._page.lock:
            if self._page.total(lane.column):
                return False
            self._count(lane, 1)
        return True

    def serve(self, ticket: int, backend: str) -> None:
        """Note that the request was answered well."""
        lane, page = self._lanes[backend], self._page
        lane.fell = 0.0
        page.served[lane.column * page.rows + self._row] += 1
        if self._trials and (tried := self._trials.get(ticket)) is not None:
            page.served[tried.column * page.rows + self._row] += 1

    def leave(self, ticket: int, model: str, backend: str) -> None:
        """Count one request out."""
        lane = self._lanes[backend]
        if self._trials and (tried := self._trials.pop(ticket, None)) is not None:
            self._count(tried, -1)
        if lane.starts.pop(ticket, None) is not None:
            self._count(lane, -1)
            self.by_model[(model, backend)] -= 1

    def _count(self, lane: Lane, step: int) -> None:
        self._page.counts[lane.column * self._page.rows + self._row] += step
        self.busy[lane.name] += step

    def show(self) -> None:
        """Write what the sensors want to know of this process's traffic onto the page."""
        for lane in self._lanes.values():
            cell = lane.column * self._page.rows + self._row
            self._page.oldest[cell] = next(iter(lane.starts.values()), 0.0)
            self._page.last[cell] = lane.last_byte

    def pulse(self, backend: str) -> Pulse:
        """What live traffic says of a backend, over all processes."""
        self.show()
        page, start = self._page, self.name(backend) * self._page.rows
        end = start + page.rows
        oldest = [when for when in page.oldest[start:end] if when]
        return Pulse(
            page.total(start // page.rows),
            min(oldest, default=0.0),
            max(page.last[start:end]),
            sum(page.served[start:end]),
            self._tried(backend),
        )

    def _tried(self, backend: str) -> int:
        """Trials that were answered well; most backends have never had one."""
        column = self._page.known(trial_of(backend))
        if column is None:
            return 0
        rows = self._page.rows
        return sum(self._page.served[column * rows : (column + 1) * rows])

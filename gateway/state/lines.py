"""Who waits at the door, over all processes: counts by model, first ranks, and a bell for each.

Each process writes its own row of a shared page and everybody reads the sums. A place that comes
free in one process is told to those in which somebody waits by a byte in their pipe."""

from __future__ import annotations

import contextlib
import mmap
import os
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b

MOST_MODELS = 1024
"""Columns of the page. Models over that (ever seen in one life) share the last one."""

_RINGS = 4096
"""Bytes that are taken out of a pipe at once."""


class Sheet:
    """Memory and pipes that forked processes share: a row for each of ``rows`` writers, a column
    for each model. ``waits`` has each row's sum. ``lock`` guards the bound on the number."""

    __slots__ = ("_bytes", "bells", "counts", "heads", "lock", "marks", "rows", "waits")

    def __init__(self, rows: int, lock: AbstractContextManager[object] | None = None) -> None:
        size = rows * MOST_MODELS
        self._bytes = mmap.mmap(-1, 8 * (2 * size + MOST_MODELS + rows))
        view = memoryview(self._bytes)
        self.rows = rows
        self.counts = view[: 8 * size].cast("q")
        self.heads = view[8 * size : 16 * size].cast("d")
        self.marks = view[16 * size : 16 * size + 8 * MOST_MODELS].cast("Q")
        self.waits = view[16 * size + 8 * MOST_MODELS :].cast("q")
        self.lock: AbstractContextManager[object] = lock or nullcontext()
        self.bells = [_bell() for _ in range(rows if rows > 1 else 0)]

    def column(self, model: str) -> int:
        """The column of a model, given out at first sight, the same in all processes."""
        mark = int.from_bytes(blake2b(model.encode("utf-8", "replace"), digest_size=8).digest())
        mark = mark or 1
        with self.lock:
            for column in range(MOST_MODELS - 1):
                if self.marks[column] in (0, mark):
                    self.marks[column] = mark
                    return column
        return MOST_MODELS - 1

    def clear(self, row: int) -> None:
        """Forget who waited in a process that died."""
        self.waits[row] = 0
        for cell in range(row, self.rows * MOST_MODELS, self.rows):
            self.counts[cell] = 0


def _bell() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


class Queues:
    """One process's hand on the sheet. ``depths`` says how many wait here, by model."""

    __slots__ = ("_columns", "_row", "_sheet", "depths")

    def __init__(self, sheet: Sheet, row: int) -> None:
        self._sheet = sheet
        self._row = row
        self._columns: dict[str, int] = {}
        self.depths: dict[str, int] = {}

    def _column(self, model: str) -> int:
        column = self._columns.get(model)
        if column is None:
            column = self._columns[model] = self._sheet.column(model)
        return column

    @property
    def anyone(self) -> bool:
        """Whether anybody waits, in whichever process."""
        waits = self._sheet.waits
        return waits[0] != 0 if self._sheet.rows == 1 else any(waits)

    def total(self, model: str) -> int:
        """How many wait for a model, over all processes."""
        start = self._column(model) * self._sheet.rows
        return sum(self._sheet.counts[start : start + self._sheet.rows])

    def enter(self, model: str, most: int | None) -> bool:
        """Count one in, unless ``most`` wait already over all processes."""
        column = self._column(model)
        with self._sheet.lock:
            if most is not None:
                start = column * self._sheet.rows
                if sum(self._sheet.counts[start : start + self._sheet.rows]) >= most:
                    return False
            self._count(column, 1)
        self.depths[model] = self.depths.get(model, 0) + 1
        return True

    def leave(self, model: str) -> None:
        """Count one out."""
        self._count(self._column(model), -1)
        self.depths[model] -= 1

    def _count(self, column: int, step: int) -> None:
        self._sheet.counts[column * self._sheet.rows + self._row] += step
        self._sheet.waits[self._row] += step

    def lead(self, model: str, rank: float) -> None:
        """Tell the others the lowest rank among those who wait here."""
        self._sheet.heads[self._column(model) * self._sheet.rows + self._row] = rank

    def others(self, model: str, rank: float) -> int:
        """How many wait for the model in the processes that have somebody of a lower rank."""
        sheet, start = self._sheet, self._column(model) * self._sheet.rows
        return sum(
            sheet.counts[start + row]
            for row in range(sheet.rows)
            if row != self._row and sheet.counts[start + row] and sheet.heads[start + row] < rank
        )

    @property
    def bell(self) -> int | None:
        """What becomes readable when another process rings; None where there is no other."""
        return self._sheet.bells[self._row][0] if self._sheet.bells else None

    def ring(self) -> None:
        """Tell every other process in which somebody waits that a place came free. A pipe that is
        full has rung already."""
        for row, (_, end) in enumerate(self._sheet.bells):
            if row != self._row and self._sheet.waits[row]:
                with contextlib.suppress(BlockingIOError):
                    os.write(end, b"\0")

    def hush(self) -> None:
        """The bell was heard."""
        if self.bell is not None:
            with contextlib.suppress(BlockingIOError):
                os.read(self.bell, _RINGS)

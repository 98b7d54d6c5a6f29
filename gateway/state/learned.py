"""What traffic has taught of engines and models: sums that each worker keeps in its own row of a
shared page. A worker that is replaced leaves its row to the next, so that nobody begins anew."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterable
from contextlib import AbstractContextManager
from hashlib import blake2b

from gateway.core.speed import Seen, Speed, faded, speeds

ENGINES = 1024
MODELS = 512
"""Models that are told apart; those over that share the last place."""

BYTES_PER_TOKEN = 4.0
"""Of English text in the tokenizers of today; other text is learned."""

ANSWER = 250.0
"""Tokens of an answer, until a model's own are known."""

CERTAIN = 4.0
"""Answers of a model that count as much as what was assumed."""

AGES = 0.995
"""What an answer is worth after each further one of its model: lengths of answers have long tails,
so that about the last 200 count."""

SHRINK = 0.25
GROW = 0.02
SMALLEST, LARGEST = math.log(1 / 256), math.log(16)
"""How an engine's cache is found to be smaller or larger than was said: the logarithm of the
factor moves towards the age at which a promise was broken, or at which more was there than was
promised, and slowly back from below with promises kept."""

_ENGINE = struct.Struct("8d")
_MODEL = struct.Struct("4d")


class LearnedPage:
    """The memory. ``lock`` guards the giving out of places to models."""

    __slots__ = ("_engines", "_lock", "_marks", "_memory", "_models", "rows")

    def __init__(self, rows: int, lock: AbstractContextManager[object]) -> None:
        self.rows = rows
        self._lock = lock
        self._engines = mmap.mmap(-1, _ENGINE.size * rows * ENGINES)
        self._models = mmap.mmap(-1, _MODEL.size * rows * MODELS)
        self._memory = mmap.mmap(-1, 8 * MODELS)
        self._marks = memoryview(self._memory).cast("Q")

    def place(self, model: str) -> int:
        """A model's place, given out at first sight, the same in all processes."""
        digest = blake2b(model.encode("utf-8", "replace"), digest_size=8).digest()
        mark = int.from_bytes(digest, "big") or 1
        with self._lock:
            for place in range(MODELS - 1):
                if self._marks[place] in (0, mark):
                    self._marks[place] = mark
                    return place
        return MODELS - 1

    def engine(self, column: int, row: int) -> tuple[float, ...]:
        return _ENGINE.unpack_from(self._engines, (column * self.rows + row) * _ENGINE.size)

    def set_engine(self, column: int, row: int, sums: Iterable[float]) -> None:
        _ENGINE.pack_into(self._engines, (column * self.rows + row) * _ENGINE.size, *sums)

    def engine_total(self, column: int) -> tuple[float, ...]:
        rows = [self.engine(column, row) for row in range(self.rows)]
        return rows[0] if len(rows) == 1 else tuple(map(sum, zip(*rows, strict=True)))

    def model(self, place: int, row: int) -> tuple[float, ...]:
        return _MODEL.unpack_from(self._models, (place * self.rows + row) * _MODEL.size)

    def set_model(self, place: int, row: int, sums: Iterable[float]) -> None:
        _MODEL.pack_into(self._models, (place * self.rows + row) * _MODEL.size, *sums)

    def model_total(self, place: int) -> tuple[float, ...]:
        rows = [self.model(place, row) for row in range(self.rows)]
        return rows[0] if len(rows) == 1 else tuple(map(sum, zip(*rows, strict=True)))


class Learned:
    """One process's hand on the page: observations go into its own row, answers come from all."""

    __slots__ = ("_page", "_places", "_row")

    def __init__(self, page: LearnedPage, row: int) -> None:
        self._page = page
        self._row = row
        self._places: dict[str, int] = {}

    # --- engines

    def speeds(self, columns: Iterable[int]) -> list[Speed]:
        """Each engine's, in the order of the columns."""
        return speeds([Seen(*self._page.engine_total(column)[:6]) for column in columns])

    def cache_factor(self, column: int) -> float:
        """How many times as large an engine's cache is as it was said or assumed to be."""
        return math.exp(min(max(self._page.engine_total(column)[6], SMALLEST), LARGEST))

    def prefilled(self, column: int, expected: float, took: float, by: float) -> None:
        """A first token came ``took`` seconds after its turn began; the model engine would have
        needed ``expected`` and this one was believed to be ``by`` times as slow."""
        n, e, t, *rest = self._page.engine(column, self._row)
        sums = faded(n, e, t, (expected, took), by)
        self._page.set_engine(column, self._row, (*sums, *rest))

    def decoded(self, column: int, expected: float, took: float, by: float) -> None:
        """A token took ``took`` seconds, on average over an answer."""
        a, b, c, n, e, t, *rest = self._page.engine(column, self._row)
        sums = faded(n, e, t, (expected, took), by)
        self._page.set_engine(column, self._row, (a, b, c, *sums, *rest))

    def cached(
        self,
        column: int,
        promised: float,
        kept: float,
        share: float | None,
        beyond: float | None = None,
    ) -> None:
        """An engine said how many blocks it had of those it was thought to have. ``share`` is how
        much of its room it had taken in since it last used the last of them, ``beyond`` since it
        last used the next one; None where that is not known. Engines that never said so of any
        request may not tell it at all: they are let be."""
        *sums, factor, told = self._page.engine(column, self._row)
        if kept > 0:
            told = 1.0
        elif not self._page.engine_total(column)[7]:
            return
        if promised >= 2 and kept < promised / 2 and share is not None:
            # It was gone at this age, so that there is room for less than that.
            factor += SHRINK * math.log(min(max(share, 0.01), 0.95))
        elif kept > promised + 1 and beyond is not None and beyond > 1:
            # It was there at this age, so that there is room for more.
            factor += SHRINK * math.log(min(beyond, 4.0))
        elif kept >= promised * 0.8 and factor < 0:
            factor = min(0.0, factor + GROW)
        factor = min(max(factor, SMALLEST), LARGEST)
        self._page.set_engine(column, self._row, (*sums, factor, told))

    # --- models

    def place(self, model: str) -> int:
        found = self._places.get(model)
        if found is None:
            found = self._page.place(model)
            if len(self._places) < MODELS:
                self._places[model] = found
        return found

    def model(self, place: int) -> tuple[float, float]:
        """Bytes of a token and tokens of an answer."""
        size, tokens, answers, out = self._page.model_total(place)
        per = (size + BYTES_PER_TOKEN * 1000) / (tokens + 1000)
        return min(max(per, 0.5), 20.0), (out + ANSWER * CERTAIN) / (answers + CERTAIN)

    def answered(self, place: int, size: int, tokens: int, out: int) -> None:
        """A prompt of ``size`` bytes had ``tokens``, its answer ``out``; 0 where unknown."""
        s, t, n, o = self._page.model(place, self._row)
        if size and tokens:
            s, t = s * AGES + size, t * AGES + tokens
        if out:
            n, o = n * AGES + 1, o * AGES + out
        self._page.set_model(place, self._row, (s, t, n, o))

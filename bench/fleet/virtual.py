"""The same load in virtual time, and the oracle: one who sees every cache and every queue.

No router can know what the oracle knows: what each engine holds, the work before it, and how long
each answer will be. There is no HTTP in it and no process that waits for a core, so that what it
says is a lower bound to compare with, not a rival.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from bench.fleet.engine import Engine, Filling
from bench.fleet.model import Job, Prompt, Spec
from bench.fleet.server import SLOWNESS
from bench.fleet.summary import End, Result
from bench.fleet.workload import Session

EVICTION, DECODING, WAITING, SLOWING = 4.0, 0.1, 0.2, 0.1
"""Weights of the cost: prefill takes cache from others; requests that decode and that wait are held
up by it; and by the memory that an answer reads, every other one takes longer."""


Sending = tuple[Job, int]
"""A request and the number of its engine."""


class Router(Protocol):
    """Who sends requests to engines. ``comes`` and ``looks`` return what goes now, and where;
    ``looks`` is asked after each event, and when ``wakes`` says so if nothing happens before."""

    def comes(self, job: Job, engines: Sequence[Engine], now: float) -> Iterable[Sending]: ...
    def first(self, job: Job, now: float) -> None: ...
    def ended(self, job: Job, now: float) -> None: ...
    def looks(self, now: float) -> Iterable[Sending]: ...
    def wakes(self) -> float | None: ...


def queue(engine: Engine, now: float) -> float:
    """Seconds of prefill before a new request."""
    plan, spec = engine.plan, engine.spec
    chunks: dict[Job, int] = {}
    left = 0.0
    if isinstance(plan, Filling) and engine.end is not None:
        chunks, left = dict(plan.chunks), (engine.end - now) / spec.slow
    for job in engine.filling:
        rest = job.to_fill - chunks.get(job, 0)
        if rest > 0:
            left += spec.cold(job.prompt.tokens, job.prompt.tokens - rest)
    waiting = (spec.cold(j.prompt.tokens, engine.pool.hit(j.prompt)) for j in engine.waiting)
    return (left + sum(waiting)) * spec.slow


def crowding(prompt: Prompt, hit: int, engine: Engine) -> float:
    """Seconds until there is memory for a request, when there is none now."""
    spec, count = engine.spec, len(engine.decoding)
    waiting = sum(job.prompt.tokens for job in engine.waiting)
    wanted = engine.pool.used + waiting + count * prompt.answer / 2 + prompt.tokens - hit
    over = wanted - spec.kv_tokens
    life = prompt.answer * spec.step(0, spec.kv_tokens) * 1.5
    return max(0.0, over / spec.kv_tokens * life)


def cost(prompt: Prompt, engine: Engine, now: float) -> float:
    """Seconds that a request would cost there, itself and others."""
    spec, count = engine.spec, len(engine.decoding)
    hit = engine.pool.hit(prompt)
    waiting = len(engine.waiting) + len(engine.filling)
    weight = 1 + EVICTION + DECODING * count + WAITING * waiting
    prefill = spec.cold(prompt.tokens, hit) * spec.slow * weight
    reading = prompt.answer * spec.context * (engine.context + prompt.tokens * count)
    late = prompt.answer * (spec.fixed + spec.weights) * (spec.slow - 1)
    slowing = SLOWING * (reading * spec.slow + late)
    return queue(engine, now) + prefill + slowing + crowding(prompt, hit, engine)


def cheapest(prompt: Prompt, engines: Sequence[Engine], now: float) -> int:
    """The engine on which a request costs least."""
    return min(range(len(engines)), key=lambda index: cost(prompt, engines[index], now))


class Oracle:
    """Sends each request where it costs least, at once."""

    def comes(self, job: Job, engines: Sequence[Engine], now: float) -> Iterable[Sending]:
        return ((job, cheapest(job.prompt, engines, now)),)

    def first(self, _job: Job, _now: float) -> None:
        """It sees the engines themselves."""

    ended = first

    def looks(self, _now: float) -> Iterable[Sending]:
        return ()

    def wakes(self) -> float | None:
        return None


class Simulation:
    """A load on engines in virtual time."""

    def __init__(
        self, sessions: Sequence[Session], spec: Spec, count: int, router: Router, slow: bool
    ) -> None:
        first = replace(spec, slow=SLOWNESS) if slow else spec
        self._engines = [
            Engine(first if index == 0 else spec, index, router.first, self._ended)
            for index in range(count)
        ]
        self._router = router
        self._coming = [(s.start, number, 0, s) for number, s in enumerate(sessions)]
        heapq.heapify(self._coming)
        self._sent: dict[Job, tuple[Result, int, int, Session]] = {}
        self.results: list[Result] = []

    def run(self) -> None:
        """Event after event: an engine's step ends, a request comes, the router wakes."""
        while True:
            busy = [engine for engine in self._engines if engine.end is not None]
            engine = min(busy, key=lambda each: each.end or 0.0, default=None)
            end = math.inf if engine is None or engine.end is None else engine.end
            comes = self._coming[0][0] if self._coming else math.inf
            wakes = self._router.wakes()
            now = min(end, comes, math.inf if wakes is None else wakes)
            if now == math.inf:
                return
            if now == comes:
                self._come()
            elif now == end and engine is not None:
                engine.advance(end)
            self._submit(self._router.looks(now), now)

    def _come(self) -> None:
        now, number, turn, session = heapq.heappop(self._coming)
        prompt = session.turns[turn].prompt
        result = Result(prompt, now)
        self.results.append(result)
        job = Job(len(self.results), prompt)
        self._sent[job] = (result, number, turn, session)
        self._submit(self._router.comes(job, self._engines, now), now)

    def _submit(self, sendings: Iterable[Sending], now: float) -> None:
        for job, index in sendings:
            self._engines[index].submit(job, now)

    def _ended(self, job: Job, now: float) -> None:
        self._router.ended(job, now)
        result, number, turn, session = self._sent.pop(job)
        result.first, result.ended, result.cached = job.first, job.ended, job.cached
        result.end = End.WHOLE
        if turn + 1 < len(session.turns):
            at = now + session.turns[turn + 1].think
            heapq.heappush(self._coming, (at, number, turn + 1, session))

    def stats(self) -> list[dict[str, Any]]:
        return [asdict(engine.counters) for engine in self._engines]

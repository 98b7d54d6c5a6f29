"""A model of one engine: continuous batching, chunked prefill, paged KV, prefix cache.

It knows no clock: the caller says what time it is. One step gives every decoding sequence a token,
then goes on with started prefills, then takes waiting requests in order, until ``step_tokens`` or
``max_sequences`` are reached. A run of steps that only decode is computed at once, so that the cost
of the simulation does not depend on the lengths of answers.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.fleet.model import Job, Spec
from bench.fleet.pool import Pool

Told = Callable[[Job, float], None]


@dataclass(slots=True)
class Counters:
    """Since the engine started. Prompts and hits are tokens; ``busy`` are seconds."""

    arrived: int = 0
    prompt: int = 0
    hit: int = 0
    prefilled: int = 0
    generated: int = 0
    finished: int = 0
    preempted: int = 0
    cancelled: int = 0
    busy: float = 0.0


@dataclass(slots=True)
class Filling:
    """One step with prefill in it."""

    start: float
    chunks: list[tuple[Job, int]]


@dataclass(slots=True)
class Decoding:
    """So many steps that only decode: the first takes ``first``, each further ``growth`` more."""

    start: float
    steps: int
    first: float
    growth: float

    def lasts(self, steps: int) -> float:
        return steps * self.first + self.growth * steps * (steps - 1) / 2

    def steps_until(self, elapsed: float) -> int:
        """The steps, at least one, after which so many seconds have gone by."""
        low, high = 1, self.steps
        while low < high:
            middle = (low + high) // 2
            if self.lasts(middle) < elapsed:
                low = middle + 1
            else:
                high = middle
        return low


def _ignore(_job: Job, _now: float) -> None:
    pass


class Engine:
    """``end`` is when the plan it is at ends, None while it is idle."""

    def __init__(
        self, spec: Spec, index: int = 0, on_first: Told = _ignore, on_end: Told = _ignore
    ) -> None:
        self.spec, self.index = spec, index
        self.on_first, self.on_end = on_first, on_end
        self.counters = Counters()
        self.reset()

    def reset(self) -> None:
        """Cold: all requests and all memory gone; the counters stay."""
        self.pool = Pool(self.spec)
        self.waiting: deque[Job] = deque()
        self.filling: list[Job] = []
        self.decoding: list[tuple[int, int, Job]] = []
        self.context = 0
        self.plan: Filling | Decoding | None = None
        self.end: float | None = None
        self._leaving: list[Job] = []
        self._tick = self._order = 0

    def set_slow(self, factor: float) -> None:
        """From the next step on."""
        self.spec = self.pool.spec = replace(self.spec, slow=factor)

    @property
    def running(self) -> int:
        return len(self.decoding) + len(self.filling)

    @property
    def usage(self) -> float:
        """Share of the KV room in use."""
        return min(1.0, self.pool.used / self.spec.kv_tokens)

    def steps_done(self, now: float) -> int:
        """Decode steps of the plan under way that are over."""
        if not isinstance(self.plan, Decoding):
            return 0
        return self.plan.steps_until(now - self.plan.start) - 1

    def progress(self, now: float) -> list[tuple[Job, int]]:
        """The requests that decode, and how many tokens each has been given."""
        tick = self._tick + self.steps_done(now)
        return [(job, job.prompt.answer - (at - tick)) for at, _, job in self.decoding]

    def generated(self, now: float) -> int:
        """Tokens written since the engine started."""
        return self.counters.generated + len(self.decoding) * self.steps_done(now)

    def submit(self, job: Job, now: float) -> None:
        self._order += 1
        job.order, job.arrived = self._order, now
        self.counters.arrived += 1
        self.waiting.append(job)
        if self.plan is None:
            self._start(now)
        else:
            self._interrupt(now)

    def cancel(self, job: Job, now: float) -> None:
        """Its client has left: it is dropped when the step that is under way ends."""
        job.dead = True
        self.counters.cancelled += 1
        if job in self.waiting:
            self.waiting.remove(job)
        else:
            self._leaving.append(job)
            self._interrupt(now)

    def advance(self, now: float) -> None:
        """Finish every plan that ends until now."""
        while self.end is not None and self.end <= now:
            self._finish(self.end)

    def _interrupt(self, now: float) -> None:
        """End a run of decode steps with the step that is under way."""
        if isinstance(self.plan, Decoding):
            self.plan.steps = self.plan.steps_until(now - self.plan.start)
            self.end = self.plan.start + self.plan.lasts(self.plan.steps)

    def _start(self, now: float) -> None:
        """Plan what comes next."""
        while self.pool.used + len(self.decoding) > self.spec.kv_tokens and len(self.decoding) > 1:
            self._preempt()
        chunks, fetched = self._schedule()
        self.plan, self.end = None, None
        if chunks:
            self.plan = Filling(now, chunks)
            self.end = now + self._step(chunks, fetched)
        elif self.decoding:
            self.plan = self._decode(now)
            self.end = now + self.plan.lasts(self.plan.steps)

    def _schedule(self) -> tuple[list[tuple[Job, int]], int]:
        """The prefills of the next step with their tokens, and tokens to fetch from the host."""
        spec, chunks, fetched = self.spec, [], 0
        budget = spec.step_tokens - len(self.decoding)
        for job in self.filling:
            if budget > 0:
                chunks.append((job, min(job.to_fill, budget)))
                budget -= chunks[-1][1]
        while self.waiting and budget > 0 and self.running < spec.max_sequences:
            job = self.waiting[0]
            taken = self.pool.admit(job, len(self.decoding) if self.running else -1)
            if taken is None:
                break
            self._admitted(self.waiting.popleft())
            fetched += taken
            chunks.append((job, min(job.to_fill, budget)))
            budget -= chunks[-1][1]
        return chunks, fetched

    def _admitted(self, job: Job) -> None:
        self.filling.append(job)
        if not job.preempted:
            job.cached = job.filled
            self.counters.prompt += job.prompt.tokens
            self.counters.hit += job.cached

    def _step(self, chunks: list[tuple[Job, int]], fetched: int) -> float:
        """Seconds of a step with prefill in it."""
        spec = self.spec
        tokens = sum(count for _, count in chunks)
        attended = sum(count * (job.filled + count / 2) for job, count in chunks)
        self.counters.prefilled += tokens
        work = spec.fixed + max(spec.weights, tokens * spec.token) + attended * spec.attention
        decode = len(self.decoding) * spec.sequence + self.context * spec.context
        return (work + fetched * spec.load + decode) * spec.slow

    def _decode(self, now: float) -> Decoding:
        """As many steps as nothing changes in: until the first answer is whole or memory ends."""
        count = len(self.decoding)
        room = (self.spec.kv_tokens - self.pool.used) // count
        steps = max(1, min(self.decoding[0][0] - self._tick, room))
        growth = count * self.spec.context * self.spec.slow
        return Decoding(now, steps, self.spec.step(count, self.context), growth)

    def _preempt(self) -> None:
        """The youngest gives its memory back and will be computed again."""
        entry = max(self.decoding, key=lambda item: item[1])
        job = self._drop(entry)
        job.preempted += 1
        self.pool.release(job, whole=False)
        self.counters.preempted += 1
        self.waiting.appendleft(job)

    def _drop(self, entry: tuple[int, int, Job]) -> Job:
        """Take a sequence out of those that decode."""
        at, _, job = entry
        self.decoding.remove(entry)
        heapq.heapify(self.decoding)
        job.written = job.prompt.answer - (at - self._tick)
        self.context -= job.prompt.tokens + job.written
        return job

    def _finish(self, now: float) -> None:
        """The plan is over: tokens are out, prefills are further, some requests are done."""
        plan = self.plan
        assert plan is not None
        self.counters.busy += now - plan.start
        self._decoded(plan.steps if isinstance(plan, Decoding) else 1, now)
        for job, count in plan.chunks if isinstance(plan, Filling) else ():
            self._filled(job, count, now)
        self._let_go()
        self.pool.evict()
        self._start(now)

    def _decoded(self, steps: int, now: float) -> None:
        if not self.decoding:
            return
        grown = len(self.decoding) * steps
        self._tick += steps
        self.context += grown
        self.pool.used += grown
        self.counters.generated += grown
        while self.decoding and self.decoding[0][0] <= self._tick:
            _, _, job = heapq.heappop(self.decoding)
            job.written = job.prompt.answer
            self.context -= job.prompt.tokens + job.written
            self._done(job, now)

    def _filled(self, job: Job, count: int, now: float) -> None:
        job.filled += count
        self.pool.keep(job)
        if job.to_fill > 0:
            return
        self.filling.remove(job)
        if job.written == 0:
            job.written, job.first = 1, now
            self.pool.used += 1
            self.counters.generated += 1
            self.on_first(job, now)
        if job.written >= job.prompt.answer:
            self._done(job, now)
            return
        ends = self._tick + job.prompt.answer - job.written
        heapq.heappush(self.decoding, (ends, job.order, job))
        self.context += job.prompt.tokens + job.written

    def _let_go(self) -> None:
        """Of those whose clients have left, unless they are done by now."""
        leaving, self._leaving = self._leaving, []
        for job in leaving:
            if job in self.filling:
                self.filling.remove(job)
                self.pool.release(job, whole=False)
            entry = next((item for item in self.decoding if item[2] is job), None)
            if entry is not None:
                self.pool.release(self._drop(entry), whole=False)
            if job in self.waiting:  # it was preempted meanwhile
                self.waiting.remove(job)

    def _done(self, job: Job, now: float) -> None:
        self.pool.release(job, whole=True)
        job.ended = now
        self.counters.finished += 1
        self.on_end(job, now)

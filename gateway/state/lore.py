"""What the costlier policies choose by: prefix index, ledger and learned speeds put together, told
of each request's sending, first token and end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from gateway.core.catalog import Place
from gateway.core.cost import Brief, Known
from gateway.core.prompt import BLOCK, Prompt, prompt_of
from gateway.core.speed import CACHE, Speed, prefill_seconds, step_seconds
from gateway.core.types import Call, Op, Usage
from gateway.state.learned import Learned, LearnedPage
from gateway.state.ledger import Ledger, LedgerPage, Standing, Work, samples_of
from gateway.state.prefixes import ENGINES, Prefixes

FRESH_FOR = 0.25
"""Seconds for which what was learned is not added up anew."""

OTHERS_CONTEXT = 1000.0
"""Tokens of context that a request of which nothing is known counts for."""

MARGIN = 1.5
NOTICED = 4.0
"""Only when an engine reports that much more than all that we had there at that moment (factor and
requests) is it taken to serve others too."""

HOST = 4.0
"""So many times its GPU's cache an engine is taken to remember, until it is found out: many keep
what is evicted in the host's memory (vLLM's offload, SGLang's HiCache, llama-server's cache-ram).
To believe too little costs hits and never shows; too much is corrected by cached_tokens."""

CROWDED = 0.8
"""Share of an engine's KV cache in use, from which on requests wait for room rather than for their
turn."""

AT_ONCE = frozenset({Op.EMBEDDINGS, Op.EMBED, Op.RERANK, Op.SCORE})
"""Surfaces without decoding: the answer is the first token."""

_SHORTEST_ANSWER = 8
"""Tokens of an answer from which on its pace says something."""


class LorePage:
    """All the memory that the workers share for this."""

    __slots__ = ("learned", "ledger", "prefixes")

    def __init__(self, rows: int, lock: AbstractContextManager[object] | None = None) -> None:
        self.prefixes = Prefixes()
        self.ledger = LedgerPage(rows)
        self.learned = LearnedPage(rows, lock or nullcontext())

    def clear(self, row: int) -> None:
        """A writer died. What it learned stays true."""
        self.ledger.clear(row)


@dataclass(slots=True)
class Sent:
    """One request on its way, from ``send`` to ``end``. ``matched`` are the blocks that its engine
    was believed to have, ``share`` the part of its room taken in since it last used them, and
    ``beyond`` the like for the block after them, if it ever had that;
    ``queue`` the seconds that others were ahead of it; ``crowded`` says that its engine's KV cache
    was about full, so that its wait tells nothing of speed; ``took`` are the seconds of its own
    prefill."""

    work: Work
    prompt: Prompt
    model: int
    matched: int
    share: float | None
    beyond: float | None
    queue: float
    cached: float
    crowded: bool
    took: float = 0.0


class _Asked(NamedTuple):
    """A prompt of ``tokens`` and its answer of ``out``, ``each`` tokens a block, and the blocks
    ``found`` by column."""

    prompt: Prompt
    tokens: float
    out: float
    each: float
    found: Mapping[int, int]


class Lore:
    """One process's hand on the page. ``column`` gives each backend its column; ``busy`` are all
    requests in flight by backend."""

    __slots__ = (
        "_busy",
        "_column",
        "_columns",
        "_fresh_until",
        "_learned",
        "_ledger",
        "_models",
        "_prefixes",
        "_room",
        "_said",
        "_speeds",
        "_tokens",
    )

    def __init__(
        self,
        page: LorePage,
        row: int,
        column: Callable[[str], int],
        busy: Mapping[str, int],
    ) -> None:
        self._prefixes = page.prefixes
        self._ledger = Ledger(page.ledger, row)
        self._learned = Learned(page.learned, row)
        self._column = column
        self._busy = busy
        self._columns: dict[str, int] = {}
        self._room = [int(CACHE * 4 / BLOCK)] * ENGINES
        self._said: dict[int, int] = {}
        self._tokens: dict[int, float] = {}
        self._speeds: dict[int, Speed] = {}
        self._models: dict[int, tuple[float, float]] = {}
        self._fresh_until = 0.0

    # --- before: what is known

    def brief(
        self, call: Call, places: Sequence[Place], now: float, prompt: Prompt | None = None
    ) -> Brief:
        """All that is known of the places for this call."""
        if prompt is None:
            prompt = prompt_of(call)
        if now >= self._fresh_until:
            self._refresh(now)
        self._ledger.tidy(now)
        per_token, out = self._model(self._learned.place(places[0].asked if places else ""))
        tokens = prompt.length / per_token
        out = _bounded(out, call)
        found = self._prefixes.match(prompt.chain, self._room) if prompt.chain else {}
        each = BLOCK / per_token
        asked = _Asked(prompt, tokens, out, each, found)
        known = [self._known(place, asked, now) for place in places]
        return Brief(prompt, tokens, out, places, known)

    def _known(self, place: Place, asked: _Asked, now: float) -> Known:
        column = self._columns.get(place.backend.name)
        if column is None:
            column = self._seen_first(place)
        queue, waiting, decoding, context, held = self._ledger.standing(column, now)
        speed = self._speeds.get(column) or Speed()
        load = place.sight.load
        if load.cache is not None and load.cache != self._said.get(column):
            self._said[column] = load.cache
            self._add_up()
        room = self._tokens.get(column, CACHE)
        mine = self._busy.get(place.backend.name, 0)
        more = mine - waiting - decoding
        if more > 0:
            decoding += more
            context += more * OTHERS_CONTEXT
        if load.running is not None or load.kv_used is not None:
            standing = Standing(queue, waiting, decoding, context, held)
            queue, waiting, decoding, context, held = _corrected(standing, place, room, speed)
        fresh = 0.0
        if held + asked.tokens + decoding * asked.out * 0.5 > room:
            fresh = self._fresh(column, asked)
        cached = asked.found.get(column, 0) * asked.each
        if place.runtime.cloud:
            queue = 0.0
        return Known(
            cached,
            queue,
            waiting,
            decoding,
            context,
            held,
            fresh,
            room,
            speed.prefill,
            speed.decode,
        )

    def _fresh(self, column: int, asked: _Asked) -> float:
        samples, each = samples_of(asked.prompt.chain, asked.prompt.length, asked.tokens)
        return asked.tokens - (len(samples) - self._ledger.adds(column, samples)) * each

    def _model(self, place: int) -> tuple[float, float]:
        found = self._models.get(place)
        if found is None:
            found = self._models[place] = self._learned.model(place)
        return found

    def _seen_first(self, place: Place) -> int:
        name = place.backend.name
        column = self._columns[name] = self._column(name)
        self._add_up()
        return column

    def _refresh(self, now: float) -> None:
        self._fresh_until = now + FRESH_FOR
        self._models.clear()
        self._add_up()

    def _add_up(self) -> None:
        columns = list(self._columns.values())
        self._speeds = dict(zip(columns, self._learned.speeds(columns), strict=True))
        for column in columns:
            tokens = self._said.get(column, CACHE)
            kept = tokens * HOST * self._learned.cache_factor(column)
            self._tokens[column] = tokens
            self._room[column] = max(1, int(kept * 4 / BLOCK))

    # --- meanwhile: what is done

    def send(self, call: Call, brief: Brief, place: Place, now: float) -> Sent:
        """The call goes to a place, of the brief or not."""
        at = next((i for i, other in enumerate(brief.places) if other is place), None)
        if at is None:
            brief, at = self.brief(call, (place,), now, brief.prompt), 0
        known, prompt = brief.known[at], brief.prompt
        column = self._columns[place.backend.name]
        seconds = prefill_seconds(brief.tokens, known.cached) * known.prefill
        samples, each = samples_of(prompt.chain, prompt.length, brief.tokens)
        rest = max(0.0, brief.tokens - len(samples) * each)
        silent = not call.stream and call.op not in AT_ONCE
        work = Work(column, brief.tokens, seconds, now, silent, samples, each, rest)
        self._ledger.send(work)
        matched = round(known.cached / brief.tokens * prompt.length / BLOCK) if known.cached else 0
        room = self._room[column]
        share = self._age(prompt, matched - 1, column, room)
        beyond = self._age(prompt, matched, column, room)
        if prompt.chain:
            self._prefixes.add(prompt.chain, column, room)
        model = self._learned.place(place.asked)
        crowded = known.held + brief.tokens > CROWDED * known.room
        return Sent(work, prompt, model, matched, share, beyond, known.queue, known.cached, crowded)

    def _age(self, prompt: Prompt, block: int, column: int, room: int) -> float | None:
        if not 0 <= block < len(prompt.chain):
            return None
        age = self._prefixes.age(prompt.chain[block], column)
        return None if age is None else age / room

    def first(self, sent: Sent, now: float) -> None:
        """The first byte of its stream came."""
        sent.took = self._ledger.first(sent.work, now)

    def end(self, sent: Sent, now: float, usage: Usage | None, op: Op = Op.CHAT) -> None:
        """Its attempt is over. ``usage`` is None when nothing of an answer came; then the engine
        is not believed to hold the prompt, beyond what it held before."""
        work = sent.work
        if work.done:
            return
        if usage is not None and op in AT_ONCE:
            sent.took = self._ledger.first(work, now)
        standing = self._ledger.standing(work.column, now)
        self._ledger.end(work)
        if usage is None:
            if not work.first:
                self._prefixes.truncate(sent.prompt.chain, work.column, sent.matched)
            return
        self._learn(sent, now, usage, standing)

    def _learn(self, sent: Sent, now: float, usage: Usage, standing: Standing) -> None:
        """What an answer taught."""
        work, learned = sent.work, self._learned
        told = usage.counted and usage.input > 0
        length = sent.prompt.length
        learned.answered(sent.model, length, usage.input if told else 0, usage.output)
        per_token, _ = self._model(sent.model)
        tokens, cached = work.tokens, sent.cached
        if told:
            tokens = float(usage.input)
            kept = usage.cached * length / usage.input / BLOCK
            learned.cached(work.column, sent.matched, kept, sent.share, sent.beyond)
            if usage.cached:
                cached = float(usage.cached)
        self._prefixes.grow(work.column, int(usage.output * per_token / BLOCK))
        speed = self._speeds.get(work.column) or Speed()
        if sent.took and length and not sent.crowded:
            expected = prefill_seconds(tokens, cached)
            learned.prefilled(work.column, expected, sent.took, speed.prefill)
        if usage.output >= _SHORTEST_ANSWER:
            step = step_seconds(max(standing.decoding, 1.0), standing.context)
            began = work.first or work.sent
            if work.silent:
                began = work.sent + sent.queue + work.seconds
            pace = (now - began) / (usage.output - 1)
            if pace > 0:
                learned.decoded(work.column, step, pace, speed.decode)

    def tidy(self, now: float) -> None:
        """To be called now and then, so that other workers see what time has changed here."""
        self._ledger.tidy(now)

    def restarted(self, backend: str) -> None:
        """The engine was away and is back: its cache is empty."""
        column = self._columns.get(backend)
        if column is not None:
            self._prefixes.forget(column, self._room[column])


def _bounded(out: float, call: Call) -> float:
    """No more than the caller allows."""
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        most = call.doc.get(name)
        if isinstance(most, int) and 0 < most < out:
            return float(most)
    return out


def _corrected(own: Standing, place: Place, room: float, speed: Speed) -> Standing:
    """With what the engine says of itself: requests that are not ours, and its KV cache."""
    load = place.sight.load
    queue, waiting, decoding, context, held = own
    running, queued = load.running or 0.0, load.waiting or 0.0
    reported = running + queued
    ours = load.ours or 0.0
    others = reported - ours
    if others > NOTICED and reported > ours * MARGIN:
        ahead = others * queued / reported
        decoding += others - ahead
        context += (others - ahead) * OTHERS_CONTEXT
        waiting += ahead
        queue += ahead * prefill_seconds(OTHERS_CONTEXT, 0.0) * speed.prefill
    if load.kv_used is not None and others > NOTICED:
        held = max(held, load.kv_used * room)
    return Standing(queue, waiting, decoding, context, held)

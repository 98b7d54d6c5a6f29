"""Who answers at an address, and how it does: the only place where a row's functions are run on
what an engine sent."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

from gateway.core.health import SILENT, Observation, Reply
from gateway.core.runtime import Answer, Evidence, Runtime
from gateway.core.types import PASSTHROUGH, Backend, Health, Load, Model
from gateway.sensors.ask import Asker, Heard

IDENTIFY_TIMEOUT = 3.0
"""Seconds for one question of an identification."""

LOAD_TIMEOUT = 3.0
"""Seconds for one question about load. llama.cpp answers it between two batches (sheet:
llamacpp 5), hence not shorter."""

HEALTH_TIMEOUT = 4.0
"""Seconds at most for a health check, whatever the row would allow."""

RECHECK_TIMEOUT = 3.0
"""Seconds for a health check that confirms a missed one: two of them have to fit, with the pauses
between, into the 15 s in which a loss is noticed."""

SETTLED_FOR = 60.0
"""Seconds for which a path that an engine does not have is not asked for again."""

AT_ONCE = 8
"""Questions to one backend at the same time."""

ABSENT_STATUS = frozenset({404, 405, 501})
MUTE_STATUS = frozenset({0, 401, 403, 429})
"""Statuses that say nothing about who answered."""

MAX_VERSION = 64
"""Characters of a version that are kept; it becomes a metrics label."""

KEY_REFUSED = "key refused (401): no api_key set for this backend is one it accepts"
KEY_MISSING = "asks for a key (401) and none is set: give this backend an api_key"
KEY_WANTED = "asks for a key before it says what it is: set its api_key, or its runtime"

SELF_PATH = "/version"

NAMELESS = "a Portico gateway that has not said yet which one it is"
PRODUCT = "portico"

T = TypeVar("T")


class Book(Protocol):
    """The table of runtimes, as the package ``backends`` has it."""

    @property
    def RUNTIMES(self) -> tuple[Runtime, ...]: ...
    @property
    def BY_NAME(self) -> dict[str, Runtime]: ...
    @property
    def CLUES(self) -> tuple[str, ...]: ...
    @property
    def detect(self) -> Callable[[Evidence], tuple[Runtime, str] | None]: ...


def shipped() -> Book:
    """The table that comes with the gateway."""
    import backends

    return backends


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answered. ``base`` is the row that was recognised and ``row`` its flavour for
    ``variant``; ``reason`` says by what; ``portico`` is set to the instance id when it is another
    gateway of this kind."""

    base: Runtime
    variant: str
    reason: str
    portico: str | None = None

    @property
    def row(self) -> Runtime:
        return self.base.row(self.variant)


@dataclass(frozen=True, slots=True)
class Stranger:
    """Nobody we know, or nobody at all: how the question fared and what to tell a person."""

    reply: Reply
    health: Health
    detail: str
    portico: str | None = None


async def identify(ask: Asker, backend: Backend, book: Book | None = None) -> Identity | Stranger:
    """Find out who answers at ``backend.url``. A configured runtime is believed; only its flavour
    is looked up."""
    book = book or shipped()
    fixed = book.BY_NAME.get(backend.runtime)
    first = await ask.get(backend, fixed, SELF_PATH, IDENTIFY_TIMEOUT)
    if first.reply not in (Reply.ANSWERED, Reply.SLOW):
        return _nobody(first)
    paths = [p for p in (fixed.clues if fixed else book.CLUES) if p != SELF_PATH]
    rest = await _get_all(ask, backend, fixed, paths, IDENTIFY_TIMEOUT)
    evidence = {SELF_PATH: first, **rest}
    portico = gateway_at(evidence)
    if portico == "" and first.reply is not Reply.ANSWERED:
        # Which Portico it is was not said in time. It may be this very one, still starting: then
        # taking it for a provider would send it its own requests.
        return Stranger(first.reply, Health.DOWN, NAMELESS, portico)
    if fixed is not None:
        variant = _safely(fixed.variant, evidence, "")
        return Identity(fixed, variant, "set in the configuration", portico)
    found = _recognise(book, evidence, portico)
    row = book.BY_NAME.get(backend.otherwise)
    if row is not None and isinstance(found, Stranger) and found.reply is Reply.ANSWERED:
        return Identity(row, "", "declared by its provider entry", portico)
    return found


def _recognise(book: Book, evidence: dict[str, Heard], portico: str | None) -> Identity | Stranger:
    try:
        found = book.detect(evidence) if portico is None else _as_provider(book, evidence)
    except Exception as fault:
        detail = f"its answers could not be read ({type(fault).__name__})"
        return Stranger(Reply.GARBLED, Health.SICK, detail, portico)
    if found is None:
        return replace(_unknown(evidence.values()), portico=portico)
    base, reason = found
    return Identity(base, _safely(base.variant, evidence, ""), reason, portico)


def _as_provider(book: Book, evidence: Evidence) -> tuple[Runtime, str] | None:
    """A gateway of this kind wears the marks of the engines behind it, so that only the rows for
    providers may claim it."""
    for row in book.RUNTIMES:
        if row.cloud and row.fingerprint(evidence) is not None:
            return row, "another Portico, used as a provider"
    return None


def _nobody(heard: Heard) -> Stranger:
    health = Health.SICK if heard.reply is Reply.GARBLED else Health.DOWN
    return Stranger(heard.reply, health, heard.error)


def _unknown(answers: Iterable[Heard]) -> Stranger:
    """What to say of a server that no fingerprint fits."""
    heard = list(answers)
    answered = [a for a in heard if a.reply is Reply.ANSWERED]
    statuses = {a.status for a in answered}
    if not answered:
        return _nobody(heard[0])
    if statuses == {503}:
        return Stranger(Reply.ANSWERED, Health.LOADING, "answers 503 to everything: still loading?")
    if statuses <= {401, 403} and 401 in statuses:
        return Stranger(Reply.ANSWERED, Health.SICK, KEY_WANTED)
    if statuses == {403}:
        detail = "refuses every question (403), perhaps for the host name it is addressed by"
        return Stranger(Reply.ANSWERED, Health.SICK, detail)
    detail = "answers HTTP, but like no runtime known here; set runtime if it is one"
    return Stranger(Reply.ANSWERED, Health.SICK, detail)


def gateway_at(evidence: Mapping[str, Answer]) -> str | None:
    """The instance id ('' if it tells none) of the Portico that gave these answers, else None."""
    doc = evidence[SELF_PATH].doc if SELF_PATH in evidence else None
    if isinstance(doc, dict) and doc.get("name") == PRODUCT:
        return str(doc.get("instance") or "")
    marked = any(a.headers.get("server", "").startswith(f"{PRODUCT}/") for a in evidence.values())
    return "" if marked else None


async def observe(
    ask: Asker, backend: Backend, who: Identity, before: Observation, *, at_work: bool = False
) -> tuple[Observation, bool]:
    """One round of questions to ``who``, and whether its answers still look like it.

    Health and load are asked together, since an engine too busy for the one may still show by the
    other that it works; the rest follows only after an answer. Nothing raises for what the engine
    sends."""
    row, now = who.row, time.monotonic()
    fresh = {p: v for p, v in before.settled.items() if now - v[0] < SETTLED_FOR}
    known = {path: answer for path, (_, answer) in fresh.items()}
    within = min(row.probe.timeout, RECHECK_TIMEOUT if before.misses else HEALTH_TIMEOUT)
    health, load = await asyncio.gather(
        _health(ask, backend, row, within),
        _get_all(ask, backend, row, [p for p in row.load_paths if p not in known], LOAD_TIMEOUT),
    )
    if health.reply is not Reply.ANSWERED:
        return _unheard(row, who, health, {**known, **load}), True
    if at_work and row.slots == 1:
        # Its model list takes the lock that the request holds, and a second caller cuts a running
        # stream short (sheet: llamacpp appendix A, Interruption).
        state, detail = _judged(backend, row, health, known)
        seen = Observation(health=state, detail=detail, runtime=who.base.name, variant=who.variant)
        return replace(seen, settled=before.settled), True
    rest = [p for p in _slow_changing(row) if p not in known and p not in load]
    evidence: dict[str, Answer] = {
        **known,
        **load,
        **await _get_all(ask, backend, row, rest, IDENTIFY_TIMEOUT),
    }
    seen = _understand(backend, who, health, evidence)
    settled = fresh | _settled(row, evidence, known, now)
    return replace(seen, settled=settled), await _still(ask, backend, who, evidence, known)


async def _still(
    ask: Asker, backend: Backend, who: Identity, evidence: Evidence, known: Evidence
) -> bool:
    """Whether the answers look like ``who``. Remembered ones are no proof: another engine may
    have taken the port since; where the marks are among them they are asked for again."""
    heard = {path: answer for path, answer in evidence.items() if path not in known}
    again = [path for path in who.base.clues if path in known]
    told = any(path in heard for path in who.base.clues)
    if not again or (told and _fits(who, heard)):
        return _fits(who, heard)
    return _fits(who, {**heard, **await _get_all(ask, backend, who.row, again, IDENTIFY_TIMEOUT)})


def _slow_changing(row: Runtime) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*row.model_paths, *row.version_paths, *row.clues)))


def _settled(
    row: Runtime, evidence: Evidence, known: Evidence, now: float
) -> dict[str, tuple[float, Answer]]:
    """The answers worth keeping: paths that this engine does not have, the model list apart."""
    return {
        path: (now, answer)
        for path, answer in evidence.items()
        if answer.status in ABSENT_STATUS and path not in row.model_paths and path not in known
    }


async def _health(ask: Asker, backend: Backend, row: Runtime, within: float) -> Heard:
    """The first of the row's health paths that the engine has."""
    heard = Heard(0, error="not asked", reply=Reply.GARBLED)
    for path in row.probe.paths:
        heard = await ask.get(backend, row, path, within)
        if heard.status not in ABSENT_STATUS:
            break
    return heard


async def _get_all(
    ask: Asker, backend: Backend, row: Runtime | None, paths: Iterable[str], within: float
) -> dict[str, Heard]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(path: str) -> Heard:
        async with gate:
            return await ask.get(backend, row, path, within)

    asked = tuple(dict.fromkeys(paths))
    return dict(zip(asked, await asyncio.gather(*map(one, asked)), strict=True))


def _unheard(row: Runtime, who: Identity, health: Heard, evidence: Evidence) -> Observation:
    """A round without an answer to the health check; the load may have come all the same."""
    return Observation(
        reply=health.reply,
        health=Health.DOWN if health.reply in SILENT else Health.SICK,
        detail=health.error,
        runtime=who.base.name,
        variant=who.variant,
        load=_load(row, evidence) if health.reply in SILENT else None,
    )


def _understand(backend: Backend, who: Identity, health: Heard, evidence: Evidence) -> Observation:
    """What the row makes of a round that was answered."""
    variant = _safely(who.base.variant, evidence, who.variant)
    row = who.base.row(variant)
    state, detail = _judged(backend, row, health, evidence)
    return Observation(
        health=state,
        detail=detail,
        runtime=who.base.name,
        variant=variant,
        version=_plain(_safely(row.version, evidence, "")),
        models=_listed(row, evidence),
        load=_load(row, evidence),
    )


def _judged(
    backend: Backend, row: Runtime, health: Heard, evidence: Evidence
) -> tuple[Health, str]:
    odd = Health.SICK, "its answer to the health check could not be read"
    state, detail = _safely(row.health, health, odd)
    listing = _listing(row, evidence)
    if 401 in (health.status, listing.status):
        if backend.secret == PASSTHROUGH:
            return (Health.UP, "") if health.status == 401 else (state, detail)
        return Health.SICK, KEY_REFUSED if backend.secret else KEY_MISSING
    if listing.status == 403 and not backend.models and state is Health.UP:
        return Health.SICK, "its model list is forbidden to us (403)"
    return state, detail


def _listing(row: Runtime, evidence: Evidence) -> Answer:
    """The answer that carries the model list."""
    nothing = Answer(0)
    return next((evidence.get(path, nothing) for path in row.model_paths), nothing)


def _listed(row: Runtime, evidence: Evidence) -> tuple[Model, ...] | None:
    """The model list, or None when it could not be read."""
    listing = _listing(row, evidence)
    if listing.status != 200 or listing.doc is None:
        return None
    models: tuple[Model, ...] | None = _safely(row.models, evidence, None)
    return None if models is None else tuple(map(_sane_model, models))


def _load(row: Runtime, evidence: Evidence) -> Load | None:
    """The load, or None when a row that can read it got nothing to read this time."""
    if row.load_paths and not any(p in evidence and evidence[p].status for p in row.load_paths):
        return None
    load: Load | None = _safely(row.load, evidence, None)
    if load is None:
        return None
    said = [item.name for item in fields(load) if item.name != "ours"]
    sane = {name: _number(getattr(load, name)) for name in said}
    slots = int(sane.pop("slots") or 0) or row.slots
    cache = int(sane.pop("cache") or 0) or None
    return Load(**sane, slots=slots, cache=cache)


def _sane_model(model: Model) -> Model:
    context = _number(model.context)
    return replace(model, context=int(context) if context is not None else None)


def _number(value: object) -> float | None:
    """A finite number no smaller than zero; None for whatever else an engine may have sent."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < math.inf else None


def _plain(value: object) -> str:
    """A version as one short printable word."""
    return "".join(c for c in str(value or "") if c.isprintable())[:MAX_VERSION].strip()


def _fits(who: Identity, evidence: Evidence) -> bool:
    """False when the row's own marks are gone. Answers that any server may give under load or for
    want of a key prove nothing."""
    asked = [evidence[path] for path in who.base.clues if path in evidence]
    mute = any(a.status in MUTE_STATUS or (a.status >= 500 and a.status != 501) for a in asked)
    if not asked or mute:
        return True
    return _safely(who.base.fingerprint, evidence, None) is not None


def _safely(function: Callable[[Any], T], given: Any, otherwise: T) -> T:
    """What a row's function makes of an engine's answers; ``otherwise`` when they are too odd for
    it. This is the one boundary between rows and hostile input, hence the broad catch."""
    try:
        return function(given)
    except Exception:
        return otherwise

"""What to believe of a backend: from one round of questions and live traffic to the next Sight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gateway.core.gpu_gate import GOOD, Mode, Verdict
from gateway.core.runtime import Answer
from gateway.core.types import ROUTABLE, Doc, Health, Load, Model, Pulse, Sight

MISSES = 2
"""So many health checks in a row must stay without an answer before a backend is DOWN."""

RECENT = 10.0
"""Seconds for which a byte of an answer, or a move of the engine's counter, proves it alive."""

PATIENCE = 10.0
"""Seconds without any answer that an engine known to be at work is given: a stopped one must be
found out within 15 s, and its requests tell of it no sooner than its health check."""

SUSPECT_AFTER = 30.0
"""Seconds without a byte, with requests in flight, after which the deep check is worth its cost."""

WEDGED_AFTER = 120.0
"""Seconds without a byte and without progress after which an engine that still answers its
health check is taken for hung (sheet: vllm 2, a hung engine keeps answering 200)."""

TRIAL_AFTER = 60.0
"""Seconds after which a wedged engine that publishes no load and has nothing in flight gets
requests again: without them no byte could ever show that it recovered."""

GAP = 15.0
"""Seconds without requests in flight after which a silence no longer counts as the same one.
Longer than a round, since a caller's time-out may end the only request between two looks."""


class Reply(StrEnum):
    """How a question fared, below HTTP."""

    ANSWERED = "answered"
    REFUSED = "refused"  # nobody listens there
    UNREACHABLE = "unreachable"  # no route, no name, no handshake in time
    SLOW = "slow"  # the connection was taken, the answer did not come in time
    CUT = "cut"  # the connection ended before the answer did
    GARBLED = "garbled"  # something came, but nothing HTTP allows: TLS faults, floods, noise


SILENT = frozenset({Reply.UNREACHABLE, Reply.SLOW, Reply.CUT})


@dataclass(frozen=True, slots=True)
class Observation:
    """What one round of questions brought.

    ``health`` and ``detail`` are the row's verdict (worth nothing when ``reply`` is silence);
    '' and None stand for what this round did not learn. The rest is memory from round to round,
    written by ``follow``: ``misses`` rounds in a row without an answer; the moments (monotonic
    seconds, 0: never) of the last answer and of the last move of the engine's own counter, whose
    value is ``progress``; ``quiet_from``, since when requests have been waiting without one byte;
    ``engaged``, the last moment at which requests were in flight.
    ``settled`` holds answers that need not be asked for again soon: path -> (when, answer)."""

    reply: Reply = Reply.ANSWERED
    health: Health = Health.UP
    detail: str = ""
    runtime: str = ""
    variant: str = ""
    version: str = ""
    models: tuple[Model, ...] | None = None
    load: Load | None = None
    misses: int = 0
    answered: float = 0.0
    moved: float = 0.0
    progress: float | None = None
    quiet_from: float = 0.0
    engaged: float = 0.0
    settled: Mapping[str, tuple[float, Answer]] = field(default_factory=dict)


NOTHING = Observation()
"""What was known before the first round."""


def follow(before: Observation, seen: Observation, pulse: Pulse, now: float) -> Observation:
    """``seen`` with the memory that ``before`` carried, brought up to ``now``."""
    silent = seen.reply in SILENT
    counter = seen.load.progress if seen.load is not None else None
    moving = counter is not None and counter != before.progress
    return replace(
        seen,
        misses=before.misses + 1 if silent else 0,
        answered=now if seen.reply is Reply.ANSWERED else before.answered,
        moved=now if moving else before.moved,
        progress=before.progress if counter is None else counter,
        quiet_from=_quiet_from(before, pulse, now),
        engaged=now if pulse.in_flight else before.engaged,
    )


def _quiet_from(before: Observation, pulse: Pulse, now: float) -> float:
    start = before.quiet_from if pulse.last_byte <= before.quiet_from else 0.0
    if pulse.in_flight:
        return start or max(pulse.oldest, pulse.last_byte)
    return start if now - before.engaged < GAP else 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """What a rule may look at."""

    sight: Sight
    seen: Observation
    pulse: Pulse
    now: float

    @property
    def load(self) -> Load:
        """What the engine said last, and how many of its requests were ours at that moment."""
        if self.seen.load is None:
            return self.sight.load
        return replace(self.seen.load, ours=self.pulse.in_flight)


Belief = tuple[Health, str]


def _refused(m: Moment) -> Belief | None:
    if m.seen.reply is Reply.REFUSED:
        return Health.DOWN, f"{m.seen.detail}: nothing listens there"
    return None


def _slow_but_working(m: Moment) -> Belief | None:
    proof = max(m.pulse.last_byte, m.seen.moved)
    if m.seen.reply in SILENT and proof > 0 and m.now - proof <= RECENT:
        return (
            Health.BUSY,
            f"slow to answer ({m.seen.detail}), but its requests make progress",
        )
    return None


def _slow_at_work(m: Moment) -> Belief | None:
    working = m.pulse.in_flight > 0 or (m.sight.load.running or 0) > 0
    patient = m.seen.answered > 0 and m.now - m.seen.answered < PATIENCE
    if m.seen.reply is Reply.SLOW and m.sight.health in ROUTABLE and working and patient:
        return Health.BUSY, f"slow to answer ({m.seen.detail}), but it is at work"
    return None


def _first_miss(m: Moment) -> Belief | None:
    unproven = m.sight.health in (Health.UNKNOWN, Health.DOWN)
    if m.seen.reply in SILENT and m.seen.misses < MISSES and not unproven:
        return m.sight.health, f"no answer to its last health check ({m.seen.detail}); asking again"
    return None


def _silent(m: Moment) -> Belief | None:
    if m.seen.reply in SILENT:
        return Health.DOWN, f"no answer to its health check ({m.seen.detail})"
    return None


def _stuck(m: Moment) -> Belief | None:
    start = m.seen.quiet_from or _quiet_from(NOTHING, m.pulse, m.now)
    quiet = m.now - start
    counting = m.seen.progress is not None and m.now - m.seen.moved < WEDGED_AFTER
    if m.seen.health in ROUTABLE and start > 0 and quiet >= WEDGED_AFTER and not counting:
        return Health.WEDGED, (
            f"answers its health check, but none of its requests got a byte for {quiet:.0f} s"
        )
    return None


def _still_stuck(m: Moment) -> Belief | None:
    was = m.sight.health is Health.WEDGED and m.seen.health in ROUTABLE
    return (Health.WEDGED, m.sight.detail) if was and not _freed(m) else None


def _freed(m: Moment) -> bool:
    """A wedge ends with a byte or a move of the counter; an engine that has emptied itself, or
    that says nothing of its load, is tried again once nothing of ours waits there."""
    if max(m.pulse.last_byte, m.seen.moved) > m.sight.since:
        return True
    if m.pulse.in_flight:
        return False
    if m.load.running is None:
        return m.now - m.sight.since >= TRIAL_AFTER
    return m.load.running == 0


def _full(m: Moment) -> Belief | None:
    if m.seen.health is not Health.UP:
        return None
    waiting, slots = m.load.waiting or 0, m.load.slots
    if waiting > 0:
        return Health.BUSY, f"{waiting:.0f} waiting in its queue"
    if slots and max(m.load.running or 0, m.pulse.in_flight) >= slots:
        return Health.BUSY, f"all of its {slots} slots are taken"
    return None


def _as_seen(m: Moment) -> Belief | None:
    return m.seen.health, m.seen.detail or SAYING.get(m.seen.health, "")


SAYING: dict[Health, str] = {
    Health.UNKNOWN: "not probed yet",
    Health.LOADING: "still loading",
    Health.UP: "answers its health check",
    Health.BUSY: "says that it is busy",
    Health.WEDGED: "says that it is stuck",
    Health.SICK: "its health check says that something is wrong",
    Health.DOWN: "does not answer",
    Health.DRAINING: "is shutting down",
}

RULES: tuple[Callable[[Moment], Belief | None], ...] = (
    _refused,
    _slow_but_working,
    _slow_at_work,
    _first_miss,
    _silent,
    _stuck,
    _still_stuck,
    _full,
    _as_seen,
)
"""In order; the first that has an opinion decides."""


def step(sight: Sight, seen: Observation, pulse: Pulse, now: float) -> Sight:
    """The next Sight. ``seen`` carries its memory (see ``follow``); ``now`` is monotonic seconds.
    ``since`` moves only with ``health``; an outage loses neither the models nor the runtime."""
    moment = Moment(sight, seen, pulse, now)
    health, detail = next(belief for rule in RULES if (belief := rule(moment)) is not None)
    swapped = bool(sight.runtime and seen.runtime and seen.runtime != sight.runtime)
    models = _models(sight, seen, health, swapped)
    version = seen.version or ("" if swapped else sight.version)
    returned = sight.health is Health.DOWN and health is not Health.DOWN
    renewed = returned or swapped or version != sight.version or _ids(models) != _ids(sight.models)
    return replace(
        become(sight, health, detail, now),
        runtime=seen.runtime or sight.runtime,
        variant=seen.variant if seen.runtime else sight.variant,
        version=version,
        models=models,
        load=Load() if health is Health.DOWN else moment.load,
        lacks=frozenset() if renewed else sight.lacks,
    )


def become(sight: Sight, health: Health, detail: str, now: float) -> Sight:
    """``sight`` with another belief; ``since`` moves only when the health really changes."""
    since = sight.since if sight.health is health else now
    return replace(sight, health=health, detail=detail, since=since)


@dataclass(frozen=True, slots=True)
class GpuSight:
    """What is known of a backend's GPUs (see ``Sight`` for the fields that it gets)."""

    uuids: tuple[str, ...] = ()
    verdict: Verdict = GOOD
    mode: Mode = Mode.ENFORCE
    room: float = 1.0
    left: float = 1.0
    speeds: Mapping[str, float] = field(default_factory=dict)


def gated(sight: Sight, gpus: GpuSight) -> Sight:
    """The Sight to publish: what is believed of the engine, overruled by the rules of
    ``gpu_gate`` where it would take requests on a sick GPU. Requests under way are left alone."""
    enforced = gpus.mode is Mode.ENFORCE
    found = replace(
        sight,
        gpus=gpus.uuids,
        gpu_factor=gpus.verdict.factor if enforced else 1.0,
        gpu_reason="" if gpus.mode is Mode.OFF else gpus.verdict.reason,
        room=gpus.room,
        left=gpus.left,
        speeds=gpus.speeds,
    )
    if not (enforced and gpus.verdict.sick and sight.health in ROUTABLE):
        return found
    return replace(found, health=Health.SICK, detail=gpus.verdict.said, since=gpus.verdict.since)


def suspicious(sight: Sight, pulse: Pulse, now: float) -> bool:
    """True when an engine that answers its cheap check had better be asked the costly one."""
    if sight.health is Health.WEDGED:
        return True
    if sight.health is Health.LOADING and now - sight.since >= SUSPECT_AFTER:
        # SGLang's flag, once set by a failed deep check, is only cleared by a good one (sheet 2).
        return True
    quiet = now - max(pulse.oldest, pulse.last_byte)
    return pulse.in_flight > 0 and sight.health in ROUTABLE and quiet >= SUSPECT_AFTER


def _models(sight: Sight, seen: Observation, health: Health, swapped: bool) -> tuple[Model, ...]:
    """The list to believe. An unreadable list, or an empty one from an engine that cannot serve,
    changes nothing; a list that differs only in what moves by itself stays the same object."""
    unheard = seen.models is None or seen.reply is not Reply.ANSWERED
    if unheard or (not seen.models and health not in ROUTABLE):
        return () if swapped and health in ROUTABLE else sight.models
    new = seen.models or ()
    same = [_gist(model) for model in sight.models] == [_gist(model) for model in new]
    return sight.models if same else new


def _gist(model: Model) -> tuple[Any, ...]:
    """What matters of an entry: vLLM stamps ``created`` and ``permission`` anew on every call
    (sheet: vllm 4)."""
    entry: Doc = {k: v for k, v in model.entry.items() if k not in ("created", "permission")}
    known = (model.id, model.aliases, model.context, model.capabilities, model.loaded)
    return *known, entry, model.tag


def _ids(models: tuple[Model, ...]) -> frozenset[str]:
    return frozenset(model.id for model in models)

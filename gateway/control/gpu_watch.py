"""What is made of the GPUs' readings: verdicts, room, speeds and energy, backend by backend."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.control.energy import Energy, Share
from gateway.core import headroom
from gateway.core.energy import Work, speed
from gateway.core.gpu_gate import (
    GOOD_FOR,
    UNSEEN,
    Engine,
    Memory,
    Mode,
    Verdict,
    called,
    follow,
    verdict,
    worst,
)
from gateway.core.gpus import Gpu, Holding, Panorama
from gateway.core.health import GpuSight

log = logging.getLogger("portico.gpu")

SMOOTH = 0.2
"""Share of a new utilization in the smoothed one: about the last ten readings count."""

THROTTLED = "throttled"
"""The reason code of a backend that lost weight, not its place."""

NOBODY = ""
"""Stands for the backend of a GPU that none is known to use."""

SPEEDS_EVERY = 10.0
"""Seconds between two tellings of a backend's speeds."""

NO_HOLDING = Holding()
NOT_TOLD = GpuSight()

Key = tuple[str, str]
"""A backend's name and a GPU's UUID."""


@dataclass(frozen=True, slots=True)
class About:
    """What else is known of a backend: its ``mode``, whether its engine is ``away``, whether it
    has requests at work (``busy``), the oldest request in flight (monotonic seconds, 0: none) and
    its own word on its cache."""

    mode: Mode = Mode.ENFORCE
    away: bool = False
    busy: bool = False
    oldest: float = 0.0
    kv_used: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """The gate has let a backend go, slowed it down, or taken it back (``code`` '')."""

    backend: str
    code: str
    verdict: Verdict
    mode: Mode


@dataclass(slots=True)
class Usual:
    """Smoothed utilization of one GPU: in all, and while nothing of ours was at work there."""

    at: float = 0.0
    busy: float = 0.0
    idle: float = 0.0


@dataclass(slots=True)
class GpuWatch:
    """Panoramas and ended requests go in; what the fleet should say of each backend's GPUs comes
    out. ``hold`` is for how many seconds readings must have been good."""

    hold: float = GOOD_FOR
    energy: Energy = field(default_factory=Energy)
    panorama: Panorama = field(default_factory=Panorama)
    _memories: dict[Key, Memory] = field(default_factory=dict)
    _usual: dict[str, Usual] = field(default_factory=dict)
    _codes: dict[str, str] = field(default_factory=dict)
    _speeds: dict[str, dict[str, float]] = field(default_factory=dict)
    _speeds_at: dict[str, float] = field(default_factory=dict)
    _told: Mapping[str, GpuSight] = field(default_factory=dict)

    def look(
        self, panorama: Panorama, backends: Mapping[str, About], now: float
    ) -> tuple[Mapping[str, GpuSight], list[Event]]:
        """What is to be said of each backend ``now`` (monotonic seconds), and what has changed."""
        self.panorama = panorama
        self._forget(backends)
        self.energy.read(gpu for gpu in panorama.gpus.values() if gpu.uuid not in panorama.stale)
        self._average(panorama, backends)
        self._remember(panorama, backends)
        self._told = {name: self._gpus(name, about, now) for name, about in backends.items()}
        modes = {name: about.mode for name, about in backends.items()}
        named = {name: gpus.verdict for name, gpus in self._told.items()}
        unclaimed = worst(self.verdicts(NOBODY).values())
        return self._told, list(self._events({**named, NOBODY: unclaimed}, modes))

    def learn(self, works: Iterable[Work]) -> None:
        """Note requests that have ended: whose they were, and how fast they went."""
        done = list(works)
        self.energy.done(done, {name: self._boards(name) for name in self.panorama.holdings})
        for work in done:
            if (value := speed(work)) is not None:
                known = self._speeds.setdefault(work.backend, {})
                known[work.model] = headroom.shown(known.get(work.model, 0.0), value)

    def settle(self, backends: Mapping[str, About], now: float) -> list[Share]:
        """The energy that can be charged by now."""
        oldest: dict[str, float] = {}
        for name, about in backends.items():
            for uuid in self._boards(name) if about.oldest else ():
                oldest[uuid] = min(about.oldest, oldest.get(uuid, about.oldest))
        return self.energy.settle(oldest, now)

    def verdicts(self, backend: str) -> dict[str, Verdict]:
        """By UUID, for the GPUs of a backend, or for those of nobody ('')."""
        return {
            uuid: self._verdict(backend, uuid) for name, uuid in self._memories if name == backend
        }

    @property
    def found(self) -> dict[str, str]:
        """What is held against each backend just now, by its reason code."""
        return {name: code for name, code in self._codes.items() if code}

    def sick(self) -> frozenset[str]:
        """The GPUs that something is held against, by UUID."""
        keys = self._memories.items()
        return frozenset(uuid for (_, uuid), memory in keys if memory.faults)

    # -- readings ---------------------------------------------------------------------------------

    def _forget(self, backends: Mapping[str, About]) -> None:
        """Let go of what is known of backends that are no more."""
        for table in (self._codes, self._speeds, self._speeds_at):
            for name in [name for name in table if name not in backends and name != NOBODY]:
                del table[name]

    def _devices(self, panorama: Panorama, holding: Holding) -> Iterator[str]:
        """The GPUs of a holding, and the board of each that is a MIG instance."""
        for uuid in holding.gpus:
            yield uuid
            gpu = panorama.gpus.get(uuid)
            if gpu is not None and gpu.mig_of:
                yield gpu.mig_of

    def _boards(self, backend: str) -> tuple[str, ...]:
        """The GPUs that a backend's power is read from."""
        gpus = self.panorama.gpus
        held = self.panorama.holdings.get(backend, NO_HOLDING).gpus
        boards = (gpus[uuid].mig_of or uuid for uuid in held if uuid in gpus)
        return tuple(dict.fromkeys(boards))

    def _remember(self, panorama: Panorama, backends: Mapping[str, About]) -> None:
        """Follow every GPU under every backend that has it; those of nobody under nobody."""
        engines: dict[Key, Engine] = {}
        for name, about in backends.items():
            holding = panorama.holdings.get(name, NO_HOLDING)
            for uuid in self._devices(panorama, holding):
                pids = holding.pids or _pids(panorama.gpus.get(uuid))
                engines[(name, uuid)] = Engine(pids, about.away)
            if not holding.gpus:
                engines |= {key: Engine(away=about.away) for key in self._condemned(name)}
        held = {uuid for _, uuid in engines}
        for uuid, gpu in panorama.gpus.items():
            if uuid not in held:
                engines[(NOBODY, uuid)] = Engine(_pids(gpu))
        self._memories = {
            (name, uuid): follow(
                self._memories.get((name, uuid), UNSEEN),
                panorama.gpus.get(uuid),
                engine,
                self.hold,
            )
            for (name, uuid), engine in engines.items()
        }

    def _condemned(self, backend: str) -> list[Key]:
        """Its GPUs that something was found on. It stays found while nobody can say what the
        engine runs on, until that engine has been restarted."""
        return [
            key for key, memory in self._memories.items() if key[0] == backend and memory.faults
        ]

    def _average(self, panorama: Panorama, backends: Mapping[str, About]) -> None:
        working = {
            uuid
            for name, about in backends.items()
            if about.busy
            for uuid in panorama.holdings.get(name, NO_HOLDING).gpus
        }
        for uuid, gpu in panorama.gpus.items():
            usual = self._usual.setdefault(uuid, Usual())
            if gpu.busy is None or gpu.at <= usual.at:
                continue
            usual.at = gpu.at
            usual.busy += (gpu.busy - usual.busy) * SMOOTH
            if uuid not in working:
                usual.idle += (gpu.busy - usual.idle) * SMOOTH

    # -- what is said -----------------------------------------------------------------------------

    def _verdict(self, backend: str, uuid: str) -> Verdict:
        gpu = self.panorama.gpus.get(uuid)
        name = called(gpu) if gpu else f"the GPU {uuid}"
        return verdict(self._memories.get((backend, uuid), UNSEEN), name)

    def _gpus(self, name: str, about: About, now: float) -> GpuSight:
        holding = self.panorama.holdings.get(name, NO_HOLDING)
        before = self._told.get(name, NOT_TOLD)
        return GpuSight(
            holding.gpus,
            worst(self.verdicts(name).values()),
            about.mode,
            headroom.stepped(before.room, self._room(holding, about)),
            headroom.stepped(before.left, self._left(holding)),
            self._told_speeds(name, before.speeds, now),
        )

    def _told_speeds(self, name: str, told: Mapping[str, float], now: float) -> Mapping[str, float]:
        """A change of fleet costs every worker a new catalog, so that speeds come in batches."""
        if now - self._speeds_at.get(name, -SPEEDS_EVERY) < SPEEDS_EVERY:
            return told
        speeds = headroom.told_speeds(told, self._speeds.get(name, {}))
        if speeds is not told:
            self._speeds_at[name] = now
        return speeds

    def _room(self, holding: Holding, about: About) -> float:
        gpus, idle = self._fresh(holding)
        busy = {gpu.uuid: self._usual[gpu.uuid].busy for gpu in gpus}
        return headroom.room(gpus, holding.pids, about.kv_used, idle, busy)

    def _left(self, holding: Holding) -> float:
        gpus, idle = self._fresh(holding)
        return headroom.left(gpus, holding.pids, idle)

    def _fresh(self, holding: Holding) -> tuple[list[Gpu], dict[str, float]]:
        """Its GPUs, and how busy each is without us. Readings that have gone stale say nothing of
        now."""
        seen = self.panorama
        gpus = [seen.gpus[u] for u in holding.gpus if u in seen.gpus and u not in seen.stale]
        return gpus, {gpu.uuid: self._usual[gpu.uuid].idle for gpu in gpus}

    def _events(
        self, verdicts: Mapping[str, Verdict], modes: Mapping[str, Mode]
    ) -> Iterator[Event]:
        for name, found in verdicts.items():
            mode = modes.get(name, Mode.WARN)
            code = "" if mode is Mode.OFF else found.code or (THROTTLED if found.factor < 1 else "")
            if code != self._codes.get(name, ""):
                self._codes[name] = code
                yield Event(name, code, found, mode)


def _pids(gpu: Gpu | None) -> frozenset[int]:
    return frozenset(process.pid for process in gpu.processes) if gpu else frozenset()


def tell(event: Event) -> None:
    """One line for the log, with what to do."""
    who = f"backend {event.backend}" if event.backend else "a GPU that no backend is known to use"
    found = event.verdict
    if not event.code:
        log.info("%s: its GPUs are well again", who)
    elif event.code == THROTTLED:
        log.warning("%s: %s%s", who, found.slow, _less(event))
    else:
        log.error("%s: %s%s. %s", who, found.said, _out(event), found.remedy)


def _less(event: Event) -> str:
    enforced = event.backend and event.mode is Mode.ENFORCE
    return f"; its weight falls to {event.verdict.factor:.0%}" if enforced else ""


def _out(event: Event) -> str:
    if not event.backend:
        return ""
    if event.mode is Mode.WARN:
        return "; it goes on taking requests (gpu_gate: warn)"
    return "; it takes no new requests"

"""All that the sources say of GPUs put together: which there are, how fresh, and whose. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gateway.core.gpus import Gpu, Gpus, Holding, Matched, Panorama

from .owners import Scene, find, local

LOCAL = ""
"""The name of this host's own source; the others go by their addresses."""

STALE_AFTER = 3
"""Intervals without an answer after which a source's readings are stale."""

GRACE = 2.0
"""Seconds more than those, for a slow network or a short interval."""

UNKNOWN_AFTER = 60.0
"""Seconds without an answer after which nothing is known of a source's GPUs any more."""

KEPT = 120.0
"""Seconds for which a backend keeps the GPUs it was last seen on while its engine is away: a
restart comes back to the same ones."""


class Kind(StrEnum):
    LOCAL = "NVML"
    AGENT = "gpu-agent"
    DCGM = "DCGM exporter"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one source said last, ``at`` what moment (monotonic seconds, 0: never), how often it is
    asked (``every``, seconds), and why it did not answer since (``error``). ``detail`` says why it
    has no GPUs. ``ports`` is what an agent found behind the ports of its host."""

    name: str
    kind: Kind
    every: float
    gpus: tuple[Gpu, ...] = ()
    ports: Mapping[int, Holding] = field(default_factory=dict)
    at: float = 0.0
    detail: str = ""
    error: str = ""
    unmatched: str = ""

    def stale(self, now: float) -> bool:
        return now - self.at > STALE_AFTER * self.every + GRACE

    def unknown(self, now: float) -> bool:
        return not self.at or now - self.at > UNKNOWN_AFTER + STALE_AFTER * self.every

    @property
    def title(self) -> str:
        return f"{self.kind} at {self.name}" if self.name else f"{self.kind} of this host"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A backend whose GPUs are looked for: where it is (``addresses`` are those of its host, empty
    while they are not known), whether that is this host, and what the configuration says."""

    name: str
    host: str
    port: int
    addresses: tuple[str, ...] = ()
    here: bool = False
    gpus: Gpus | None = None
    agent: str | None = None


def combine(
    now: float,
    sources: Sequence[Seen],
    wanted: Iterable[Wanted],
    scene: Scene,
    before: Mapping[str, tuple[Holding, float]],
) -> Panorama:
    """The panorama at ``now`` (monotonic seconds). A GPU that several sources tell is taken from
    the first that is fresh. ``before`` is what each backend held when that was last seen."""
    known = [seen for seen in sources if not seen.unknown(now)]
    gpus: dict[str, Gpu] = {}
    stale: dict[str, float] = {}
    for seen in sorted(known, key=lambda one: one.stale(now)):
        for gpu in seen.gpus:
            if gpu.uuid not in gpus:
                gpus[gpu.uuid] = gpu
                if seen.stale(now):
                    stale[gpu.uuid] = seen.at
    by_name = {seen.name: seen for seen in sources}
    holdings = {
        one.name: _kept(_hold(now, one, by_name, scene), before.get(one.name), now)
        for one in wanted
    }
    own = by_name.get(LOCAL)
    return Panorama(gpus, holdings, stale, now, _trouble(own, now) if own else "")


def _trouble(seen: Seen, now: float) -> str:
    """Why a source says nothing, or nothing new."""
    if not seen.at:
        return seen.error or f"the {seen.title} has not answered yet"
    if seen.stale(now):
        return f"the {seen.title} has stopped answering{': ' if seen.error else ''}{seen.error}"
    return seen.detail


def _hold(now: float, one: Wanted, sources: Mapping[str, Seen], scene: Scene) -> Holding:
    seen = _source(one, sources, scene)
    if seen is None:
        return Holding(
            why=(
                f"{one.host} is another host, and nobody there tells of its GPUs: run 'portico"
                f" gpu-agent' on it and set gpus: {{agent: http://{one.host}:9835}} for this"
                " backend, or gpus: {dcgm: …, devices: …} where it has a DCGM exporter"
            )
        )
    if seen.unknown(now) or (not seen.gpus and _trouble(seen, now)):
        return Holding(why=_trouble(seen, now) or f"the {seen.title} tells of no GPU")
    if one.gpus is not None and one.gpus.devices:
        return _named(one.gpus.devices, seen)
    return FINDERS[seen.kind](one, seen, scene)


def _source(one: Wanted, sources: Mapping[str, Seen], scene: Scene) -> Seen | None:
    """Who knows: whom the configuration names; this host's NVML; an agent of the same host."""
    asked = one.gpus and (one.gpus.agent or one.gpus.dcgm)
    if asked:
        return sources.get(asked)
    if one.here or any(local(scene, address) for address in one.addresses):
        return sources.get(LOCAL)
    if one.gpus is not None and one.gpus.devices and one.agent is None:
        return sources.get(LOCAL)
    return sources.get(one.agent) if one.agent else None


def _named(devices: Sequence[int | str], seen: Seen) -> Holding:
    """The devices of the configuration, by index or UUID."""
    found = {gpu.index: gpu for gpu in seen.gpus} | {gpu.uuid: gpu for gpu in seen.gpus}
    chosen = [found[str(one)] for one in devices if str(one) in found]
    missing = [str(one) for one in devices if str(one) not in found]
    why = f"the configuration names them (gpus.devices), as the {seen.title} tells them"
    if missing:
        there = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in seen.gpus)
        why = f"gpus.devices names {', '.join(missing)}, which the {seen.title} has not: {there}"
    pids = frozenset(process.pid for gpu in chosen for process in gpu.processes)
    matched = Matched.CONFIGURED if chosen else Matched.UNKNOWN
    return Holding(tuple(gpu.uuid for gpu in chosen), pids, matched, why)


def _by_process(one: Wanted, seen: Seen, scene: Scene) -> Holding:
    addresses = one.addresses or ("127.0.0.1",)
    holdings = [find(scene, seen.gpus, address, one.port) for address in addresses]
    return next((found for found in holdings if found.gpus), holdings[0])


def _by_agent(one: Wanted, seen: Seen, scene: Scene) -> Holding:
    found = seen.ports.get(one.port)
    if found is not None and found.gpus:
        return replace(found, matched=Matched.AGENT)
    why = seen.unmatched or "the engine is still loading, runs on the CPU, or is hidden from it"
    return Holding(
        why=f"the {seen.title} sees no process on a GPU behind port {one.port}: {why}; or name"
        " them (gpus: {agent: …, devices: [0]})"
    )


def _only_one(one: Wanted, seen: Seen, scene: Scene) -> Holding:
    """An exporter tells no processes."""
    whole = [gpu for gpu in seen.gpus if not gpu.mig_of]
    if len(whole) == 1 and len(seen.gpus) == 1:
        why = f"the {seen.title} tells of no other GPU"
        return Holding((whole[0].uuid,), frozenset(), Matched.CONFIGURED, why)
    return Holding(
        why=f"the {seen.title} tells of {len(seen.gpus)} GPUs and not whose they are: name this"
        " backend's (gpus: {dcgm: …, devices: [0]})"
    )


FINDERS = {Kind.LOCAL: _by_process, Kind.AGENT: _by_agent, Kind.DCGM: _only_one}
"""How a backend's GPUs are found among those of a source."""


def _kept(found: Holding, before: tuple[Holding, float] | None, now: float) -> Holding:
    """What was found; or for a while what was held before, without processes."""
    if found.gpus or before is None or now - before[1] > KEPT:
        return found
    held = before[0]
    return Holding(held.gpus, frozenset(), held.matched, f"last seen there; now: {found.why}")


def remember(
    panorama: Panorama, before: Mapping[str, tuple[Holding, float]]
) -> dict[str, tuple[Holding, float]]:
    """What to give to the next ``combine``: holdings whose processes are there, with the moment."""
    kept = {name: one for name, one in before.items() if name in panorama.holdings}
    return kept | {
        name: (one, panorama.at) for name, one in panorama.holdings.items() if one.gpus and one.pids
    }

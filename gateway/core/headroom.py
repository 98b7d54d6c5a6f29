"""What a backend can carry, by what was measured: the room on its GPUs and the speed it has shown.

Three numbers a backend, worked out on the control side and told to the data plane in steps, so
that a sample of a sensor makes no new fleet: ``room`` and ``left`` (0..1], and tokens per second by
model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from gateway.core.catalog import Place
from gateway.core.gpus import Gpu

SCARCE = 0.1
"""Share of the memory below which what is left counts as scarce. Engines that reserve their
memory at the start leave about so much free."""

LEAST = 0.125
"""The smallest room: whoever takes requests at all can carry some."""

STEP = 0.125
"""Room, and what is left of it, are told in steps of this."""

FASTER, SLOWER = 0.3, 0.02
"""How far a shown speed follows a faster and a slower answer. Answers are slower when many share
the engine, which says nothing of the GPU, so that the number keeps to the fast ones."""

RATIO = 1.25
"""A speed is told anew when it has changed by this factor."""

BUSY_HALVES = 0.5
"""What full utilization takes off the room: it is reached by one request on most engines, and the
requests that we know of count by themselves."""


def foreign(gpu: Gpu, own: frozenset[int], idle_busy: float) -> float:
    """The share (0..1) of a GPU that processes other than ``own`` take: their part of the memory,
    or the utilization seen while nothing of ours was running, whichever is more. 0 where nobody
    else is there, or where it cannot be told who is who."""
    others = [process for process in gpu.processes if process.pid not in own]
    if not own or not others:
        return 0.0
    held = (
        sum(process.memory or 0 for process in others) / gpu.memory_total
        if gpu.memory_total
        else 0.0
    )
    return min(1.0, max(held, idle_busy))


def room(
    gpus: Iterable[Gpu],
    own: frozenset[int],
    kv_used: float | None,
    idle: Mapping[str, float],
    busy: Mapping[str, float],
) -> float:
    """How much of itself a backend has left, by the worst of its GPUs; 1 where nothing is known.
    ``kv_used`` is the engine's own word on its cache and beats the GPU's memory, most of which an
    engine takes at its start; ``idle`` and ``busy`` are smoothed utilizations by UUID, without and
    with requests of ours."""
    least = min(
        (
            (1 - foreign(gpu, own, idle.get(gpu.uuid, 0.0)))
            * (1 - BUSY_HALVES * busy.get(gpu.uuid, 0.0))
            * (1.0 if kv_used is not None else _memory(gpu))
            for gpu in gpus
        ),
        default=1.0,
    )
    cache = 1.0 if kv_used is None else 1 - BUSY_HALVES * min(1.0, max(0.0, kv_used))
    return max(LEAST, least * cache)


def left(gpus: Iterable[Gpu], own: frozenset[int], idle: Mapping[str, float]) -> float:
    """What processes other than ``own`` leave of a backend, by the worst of its GPUs. Nothing that
    our own requests fill is in it, so that whoever counts those can multiply by it."""
    taken = (foreign(gpu, own, idle.get(gpu.uuid, 0.0)) for gpu in gpus)
    return max(LEAST, 1 - max(taken, default=0.0))


def _memory(gpu: Gpu) -> float:
    """1 while memory is not scarce, down to a half when nothing is left."""
    if gpu.memory_used is None or not gpu.memory_total:
        return 1.0
    left = 1 - gpu.memory_used / gpu.memory_total
    return 0.5 + 0.5 * min(1.0, max(0.0, left) / SCARCE)


def stepped(told: float, value: float) -> float:
    """The room to tell: the old one until the value is far enough from it."""
    return told if abs(value - told) < STEP * 0.75 else max(LEAST, round(value / STEP) * STEP)


def shown(before: float, speed: float) -> float:
    """Tokens per second of one answer, learned from one more."""
    return (
        speed if not before else before + (speed - before) * (FASTER if speed > before else SLOWER)
    )


def told_speeds(told: Mapping[str, float], known: Mapping[str, float]) -> Mapping[str, float]:
    """The speeds to tell: ``told`` itself while none has changed enough to matter."""
    moved = known.keys() != told.keys() or any(
        not told[model] / RATIO < speed < told[model] * RATIO for model, speed in known.items()
    )
    return dict(known) if moved else told


def capacities(places: Sequence[Place]) -> list[float]:
    """What each place can carry relative to the others, above 0: its weight (which throttling has
    lowered already), its room, and the speed it has shown for its model, where an engine that has
    shown none is taken to be as fast as the others on average."""
    speeds = [place.sight.speeds.get(place.asked, 0.0) for place in places]
    usual = fmean(known) if (known := [speed for speed in speeds if speed]) else 1.0
    return [
        place.weight * place.sight.room * (speed or usual) / usual
        for place, speed in zip(places, speeds, strict=True)
    ]

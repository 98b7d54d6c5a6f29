"""The GPUs' readings as rows of the scrape page (INTERFACE section 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.core.gpus import Gpu, Panorama, State, Throttle

from . import families as fam
from .exposition import Labels
from .families import Family

Rows = dict[str, dict[Labels, float]]

Row = tuple[Family, tuple[str, ...], float | None]
"""A family, the values of its labels beyond those of every GPU, and the value if there is one."""


def rows(panorama: Panorama, sick: frozenset[str], joules: Mapping[str, float]) -> Rows:
    """By family and labels. ``sick`` are the UUIDs that something is held against, ``joules`` what
    each has drawn. A reading that the device does not give, or whose source has stopped
    answering, has no row: a zero would be a claim."""
    found: Rows = {}
    owners = _owners(panorama)
    for uuid, gpu in panorama.gpus.items():
        labels = (gpu.host, gpu.index, uuid, owners.get(uuid, ""))
        lines = (
            _lines(gpu, uuid in sick, joules) if uuid not in panorama.stale else _left(gpu, joules)
        )
        for family, more, value in lines:
            if value is not None:
                found.setdefault(family.name, {})[(*labels, *more)] = value
    return found


def _owners(panorama: Panorama) -> dict[str, str]:
    """The backends of each GPU; those that share one are told together, so that sums stay right."""
    found: dict[str, list[str]] = {}
    for name, holding in panorama.holdings.items():
        for uuid in holding.gpus:
            found.setdefault(uuid, []).append(name)
    return {uuid: ",".join(sorted(names)) for uuid, names in found.items()}


def _lines(gpu: Gpu, sick: bool, joules: Mapping[str, float]) -> Iterator[Row]:
    yield fam.GPU_HEALTHY, (), float(not sick)
    yield fam.GPU_BUSY, (), gpu.busy
    yield fam.GPU_MEMORY_USED, (), gpu.memory_used
    yield fam.GPU_MEMORY_TOTAL, (), gpu.memory_total
    if gpu.mig_of:
        return  # what follows is the board's, and told under its UUID
    yield fam.GPU_HEAT, (), gpu.temperature
    yield fam.GPU_POWER, (), gpu.power
    if gpu.state is State.OK:
        for reason in Throttle:
            yield fam.GPU_THROTTLED, (reason.value,), float(reason in gpu.throttle)
    yield from _left(gpu, joules)


def _left(gpu: Gpu, joules: Mapping[str, float]) -> Iterator[Row]:
    """Counters, which stand also while nobody reads them on."""
    if gpu.mig_of:
        return
    yield fam.GPU_ECC, ("corrected",), _first(gpu.ecc_corrected, gpu.ecc_corrected_total)
    yield fam.GPU_ECC, ("uncorrected",), _first(gpu.ecc_uncorrected, gpu.ecc_uncorrected_total)
    for number, count in gpu.xids.items():
        yield fam.GPU_XIDS, (str(number),), count
    if gpu.power is not None or gpu.energy is not None:
        yield fam.GPU_JOULES, (), joules.get(gpu.uuid)


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)

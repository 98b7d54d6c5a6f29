"""The doctor's page on GPUs: readings, whose each is and how that was found, verdict and remedy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.config import Config
from gateway.control.gpu_watch import NOBODY, About, GpuWatch
from gateway.core.gpu_gate import Verdict, called, worst
from gateway.core.gpus import Gpu, Holding, Panorama, State
from gateway.core.types import Backend
from gateway.core.xids import Kind, xid
from gateway.sensors.gpu_sense import GpuSense
from gateway.sensors.panorama import LOCAL, Seen

PATIENCE = 6.0
"""Seconds that sources have to answer."""

SAMPLES = 3
"""Readings of a GPU before it is judged: a counter that rises shows in no single one."""

EVERY = 0.5
"""Seconds between two readings here."""

GIB = 1 << 30

COOLING = (
    "Look at nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER,CLOCK -i {gpu}; check fans, airflow and"
    " the power supply."
)


@dataclass(frozen=True, slots=True)
class Source:
    """Who was asked. ``problem`` is why it says nothing, or nothing new."""

    title: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was seen. ``verdicts`` is by UUID."""

    panorama: Panorama = field(default_factory=Panorama)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()

    def owners(self, uuid: str) -> dict[str, Holding]:
        """The backends on a GPU."""
        held = self.panorama.holdings.items()
        return {name: holding for name, holding in held if uuid in holding.gpus}


async def look(backends: Sequence[Backend], config: Config) -> Findings:
    """Ask every source of GPUs for a moment, and judge what it says as the gateway would."""
    watch, enough = GpuWatch(config.gate.good_for), asyncio.Event()
    times: dict[str, set[float]] = {}
    abouts = {backend.name: About() for backend in backends}

    def taken(panorama: Panorama) -> None:
        watch.look(panorama, abouts, time.monotonic())
        for gpu in panorama.gpus.values():
            times.setdefault(gpu.uuid, set()).add(gpu.at)
        settled = all(_answered(seen) for seen in sense.sources)
        if settled and all(len(seen) >= SAMPLES for seen in times.values()):
            enough.set()

    sense = GpuSense(lambda: backends, config.gpus, EVERY, taken)
    sense.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
    except TimeoutError:
        pass
    finally:
        sources = tuple(Source(seen.title, _silence(seen)) for seen in sense.sources)
        await sense.stop()
    return Findings(watch.panorama, _verdicts(watch, [*abouts, NOBODY]), sources)


def _answered(seen: Seen) -> bool:
    """The local driver is waited for: until its first answer it counts as one that has none."""
    return bool(seen.at or (seen.error and seen.name != LOCAL))


def _silence(seen: Seen) -> str:
    return seen.error or seen.detail or ("" if seen.at else "it did not answer")


def _verdicts(watch: GpuWatch, names: Sequence[str]) -> dict[str, Verdict]:
    found: dict[str, list[Verdict]] = {}
    for name in names:
        for uuid, verdict in watch.verdicts(name).items():
            found.setdefault(uuid, []).append(verdict)
    return {uuid: worst(verdicts) for uuid, verdicts in found.items()}


# -- judging --------------------------------------------------------------------------------------


def problems(findings: Findings) -> list[tuple[str, str, str]]:
    """(UUID, problem, remedy) of everything that is wrong with a GPU."""
    return [
        (uuid, problem, remedy)
        for uuid, gpu in findings.panorama.gpus.items()
        for problem, remedy in _problems(gpu, findings.verdicts.get(uuid, Verdict()))
    ]


def _problems(gpu: Gpu, verdict: Verdict) -> Iterator[tuple[str, str]]:
    if verdict.sick:
        yield verdict.said, verdict.remedy
    if verdict.slow:
        yield verdict.slow, COOLING.replace("{gpu}", gpu.mig_of or gpu.uuid)
    for number in gpu.xids:
        row = xid(number)
        if row.kind is Kind.FATAL and f"XID {number}:" not in verdict.said:
            yield (
                f"{called(gpu)}: XID {number} ({row.title}) was reported since its source was"
                " started; no harm if the engine was restarted after it",
                row.remedy.replace("{gpu}", gpu.mig_of or gpu.uuid),
            )
    if gpu.state is not State.OK and not verdict.sick:
        yield (
            f"{called(gpu)}: {gpu.state.value}{': ' if gpu.detail else ''}{gpu.detail}",
            "Let the user that runs this use /dev/nvidiactl and /dev/nvidia*, and see whether"
            " nvidia-smi works there.",
        )


# -- telling --------------------------------------------------------------------------------------


def lines(findings: Findings) -> Iterator[str]:
    """The page as text."""
    gpus = findings.panorama.gpus
    if not gpus:
        yield "GPUs: none was found"
    for source in findings.sources:
        if source.problem:
            yield f"  {source.title}: {source.problem}"
    for gpu in gpus.values():
        yield ""
        yield from _paragraph(gpu, findings)


def _paragraph(gpu: Gpu, findings: Findings) -> Iterator[str]:
    verdict = findings.verdicts.get(gpu.uuid, Verdict())
    yield f"{called(gpu)}  {gpu.uuid}" + (f"  (MIG, of {gpu.mig_of})" if gpu.mig_of else "")
    if gpu.uuid in findings.panorama.stale:
        yield "  stale     its source has stopped answering; these are its last words"
    yield f"  readings  {', '.join(_readings(gpu)) or 'none'}"
    yield f"  errors    {', '.join(_errors(gpu)) or 'it tells of none'}"
    for name, note in gpu.notes.items():
        yield f"  not told  {name}: {note}"
    owners = findings.owners(gpu.uuid)
    for name, holding in owners.items():
        yield f"  used by   {name}: {_how(holding)}"
    if not owners:
        yield "  used by   no backend that is known"
    yield f"  verdict   {_verdict(verdict)}"
    for problem, remedy in _problems(gpu, verdict):
        yield f"  PROBLEM   {problem}"
        yield f"  remedy    {remedy}"


def _verdict(verdict: Verdict) -> str:
    if verdict.sick:
        return f"sick ({verdict.code}): an engine on it gets no new requests"
    if verdict.slow:
        return f"slow: an engine on it gets {verdict.factor:.0%} of its weight"
    return "well"


def _readings(gpu: Gpu) -> Iterator[str]:
    if gpu.memory_used is not None and gpu.memory_total is not None:
        yield f"memory {gpu.memory_used / GIB:.1f} of {gpu.memory_total / GIB:.1f} GiB"
    if gpu.busy is not None:
        yield f"busy {gpu.busy:.0%}"
    if gpu.temperature is not None:
        limit = f" (slows down at {gpu.slowdown_at:.0f})" if gpu.slowdown_at is not None else ""
        yield f"{gpu.temperature:.0f} °C{limit}"
    if gpu.power is not None:
        yield f"{gpu.power:.0f}{_of(gpu.power_limit)} W"
    if gpu.clock is not None:
        yield f"{gpu.clock:.0f}{_of(gpu.clock_max)} MHz"
    if gpu.throttle:
        yield f"throttled: {', '.join(sorted(gpu.throttle))}"
    if gpu.processes:
        yield f"processes {', '.join(str(process.pid) for process in gpu.processes)}"


def _of(limit: float | None) -> str:
    return "" if limit is None else f" of {limit:.0f}"


def _errors(gpu: Gpu) -> Iterator[str]:
    for name, value in (
        ("ECC corrected", gpu.ecc_corrected),
        ("ECC uncorrected", gpu.ecc_uncorrected),
        ("uncorrected in its life", gpu.ecc_uncorrected_total),
        ("remapped rows", gpu.remapped_rows),
        ("retired pages", gpu.retired_pages),
        ("NVLink", gpu.nvlink_errors),
    ):
        if value is not None:
            yield f"{name} {value}"
    for number, count in gpu.xids.items():
        row = xid(number)
        yield f"XID {number} {count} times ({row.title}, {row.kind.value})"
    if gpu.recovery:
        yield f"recovery action {gpu.recovery}"


def matched(findings: Findings, backend: str) -> str:
    """The line about a backend's GPUs: which, and how that was found, or why not."""
    holding = findings.panorama.holdings.get(backend)
    if holding is None:
        return "not looked for"
    if not holding.gpus:
        return f"not known: {holding.why}" if holding.why else "not known"
    gpus = findings.panorama.gpus
    named = (f"{gpus[u].index} ({u})" if u in gpus else u for u in holding.gpus)
    return f"{', '.join(named)}: {_how(holding)}"


def _how(holding: Holding) -> str:
    return " - ".join(filter(None, (holding.matched.value, holding.why)))


def entries(findings: Findings) -> list[dict[str, Any]]:
    """The page for machines: every reading under the name that ``Gpu`` gives it."""
    found = []
    for uuid, gpu in findings.panorama.gpus.items():
        verdict = findings.verdicts.get(uuid, Verdict())
        found.append(
            {
                **asdict(gpu),
                "throttle": sorted(gpu.throttle),
                "xids": {str(number): count for number, count in gpu.xids.items()},
                "stale": uuid in findings.panorama.stale,
                "backends": {name: _how(one) for name, one in findings.owners(uuid).items()},
                "verdict": verdict.code or ("throttled" if verdict.slow else "well"),
                "reason": verdict.reason,
                "factor": verdict.factor,
                "problems": [
                    {"problem": problem, "remedy": remedy}
                    for problem, remedy in _problems(gpu, verdict)
                ],
            }
        )
    return found

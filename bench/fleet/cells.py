"""The table of loads and faults: ``conv:4:1.0`` is a workload, a number of engines and a rate."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.fleet.server import Mode
from bench.fleet.workload import (
    AGENT_BLOCK,
    TENANT_BLOCK,
    TRACE_BLOCK,
    Session,
    agents,
    conversations,
    read_trace,
    tenants,
)

TRACE = Path(__file__).parent / "traces" / "mooncake_conversation_0_900s.jsonl.xz"
WARMING = 0.2
"""Share of a load's time whose requests fill the caches and are not measured."""


@dataclass(frozen=True, slots=True)
class Workload:
    """``make`` gets rate, seconds, seed and the file of the trace. ``scale`` is the usual one: wall
    seconds for an engine second."""

    title: str
    make: Callable[[float, float, int, Path], list[Session]]
    block: int
    seconds: float
    scale: float


def _conversations(rate: float, _seconds: float, seed: int, trace: Path) -> list[Session]:
    packed = trace.read_bytes()
    lines = lzma.decompress(packed) if trace.suffix == ".xz" else packed
    return conversations(read_trace(lines.decode().splitlines()), rate, seed + 1)


WORKLOADS: Mapping[str, Workload] = {
    "conv": Workload(
        "the trace of real conversations, as many times as fast as the rate says",
        _conversations,
        TRACE_BLOCK,
        900.0,
        0.1,
    ),
    "synth": Workload(
        "multi-tenant prompts with shared documents, requests a second",
        lambda rate, seconds, seed, _: tenants(rate, seconds, seed + 5),
        TENANT_BLOCK,
        240.0,
        0.2,
    ),
    "agents": Workload(
        "sessions of tool-using programs, new ones a second",
        lambda rate, seconds, seed, _: agents(rate, seconds, seed + 7),
        AGENT_BLOCK,
        200.0,
        0.2,
    ),
}


@dataclass(frozen=True, slots=True)
class Change:
    """What befalls an engine at a share of the load's time."""

    at: float
    mode: Mode
    engine: int = 0


FAULTS: Mapping[str, tuple[Change, ...]] = {
    "": (),
    "slow": (Change(0.0, Mode.SLOW),),
    "fail": (Change(0.2, Mode.FAIL),),
    "restart": (Change(0.35, Mode.CRASH), Change(0.5, Mode.OK)),
    "hang": (Change(0.35, Mode.HANG), Change(0.7, Mode.OK)),
    "wedge": (Change(0.35, Mode.WEDGE), Change(0.7, Mode.OK)),
}

USUAL = (
    "conv:4:0.5",
    "conv:4:1.0",
    "conv:4:1.2",
    "conv:8:2.4",
    "synth:8:18",
    "agents:8:3.2",
    "conv:4:1.0:slow",
    "conv:4:1.0:fail",
    "conv:4:1.0:restart",
    "conv:4:1.0:hang",
)
"""Nearly idle, moderate, near saturation, eight engines near saturation, prompts of many tenants,
sessions, and engines that are not well."""

QUICK = ("conv:4:1.0",)
QUICK_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One load."""

    workload: str
    engines: int
    rate: float
    fault: str = ""

    @property
    def name(self) -> str:
        parts = [self.workload, str(self.engines), f"{self.rate:g}", self.fault]
        return ":".join(part for part in parts if part)

    @property
    def kind(self) -> Workload:
        return WORKLOADS[self.workload]

    @property
    def changes(self) -> tuple[Change, ...]:
        return FAULTS[self.fault]


def cell(text: str) -> Cell:
    """``workload:engines:rate[:fault]``. ValueError says what is wrong with it."""
    workload, _, rest = text.partition(":")
    engines, _, rest = rest.partition(":")
    rate, _, fault = rest.partition(":")
    if workload not in WORKLOADS:
        raise ValueError(f"{text}: the workload is one of {', '.join(WORKLOADS)}")
    if fault not in FAULTS:
        raise ValueError(f"{text}: the fault is one of {', '.join(filter(None, FAULTS))}")
    try:
        found = Cell(workload, int(engines), float(rate), fault)
    except ValueError:
        raise ValueError(f"{text}: a cell is WORKLOAD:ENGINES:RATE[:FAULT]") from None
    if not 1 <= found.engines <= 200 or found.rate <= 0:
        raise ValueError(f"{text}: 1 to 200 engines, and a rate above zero")
    return found


@dataclass(frozen=True, slots=True)
class Load:
    """Sessions, and the time (engine seconds) whose requests count."""

    sessions: tuple[Session, ...]
    begin: float
    end: float


def load(cell: Cell, seconds: float | None, seed: int, trace: Path = TRACE) -> Load:
    """What is replayed in a cell: the first so many engine seconds of it."""
    most = cell.kind.seconds if seconds is None else seconds
    made = cell.kind.make(cell.rate, most, seed, trace)
    sessions = tuple(session for session in made if session.start < most)
    end = max((session.start for session in sessions), default=0.0)
    return Load(sessions, end * WARMING, end)

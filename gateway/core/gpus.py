"""What is known of GPUs: the readings of one, its processes, and where the readings are from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """Whether a device, or one of its readings, could be read. Anything but OK is a fact to show,
    never a fault of ours; only LOST says something about the device itself."""

    OK = "ok"
    UNSUPPORTED = "not supported"
    LOST = "GPU is lost"
    DENIED = "no permission"
    MISMATCH = "driver/library version mismatch"
    FAILED = "failed"


class Throttle(StrEnum):
    """Why the clocks are held down (the reasons that condemn nothing, such as idle, are left out).
    The value is the metric's ``reason`` label."""

    HW_SLOWDOWN = "hw_slowdown"
    HW_THERMAL = "hw_thermal"
    HW_POWER_BRAKE = "hw_power_brake"
    SW_THERMAL = "sw_thermal"
    SW_POWER_CAP = "sw_power_cap"


@dataclass(frozen=True, slots=True)
class Process:
    """A process on a GPU. ``pid`` is the number in the namespace of whoever read it; ``memory`` is
    in bytes, None where the driver does not say; ``graphics`` where it only draws."""

    pid: int
    memory: int | None = None
    graphics: bool = False


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device, or one MIG instance of one, as last read. None: the device does not say.

    Memory in bytes, ``busy`` 0..1, temperatures in degrees Celsius, power in watts, clocks in MHz,
    ``energy`` in joules since the driver was loaded. ``xids`` counts critical events by their
    number since the source was started; ``notes`` says of each reading that could not be had why
    not. ``at`` is when it was read (monotonic seconds of the process that holds it).

    ``recovery`` is what the driver wants done, empty for nothing: gpu_reset, node_reboot,
    drain_p2p, drain_and_reset, recover_imex_domain, bus_reset or system_reboot. ``remapped_rows``
    counts those remapped for uncorrectable errors. A MIG instance has memory and processes of its
    own; what belongs to the board (temperature, clocks, ECC, remaps, XIDs) is its parent's, and
    its power and energy are None, since the parent tells them for all."""

    host: str
    index: str
    uuid: str
    name: str = ""
    pci: str = ""
    mig_of: str = ""
    state: State = State.OK
    detail: str = ""
    at: float = 0.0
    memory_used: int | None = None
    memory_total: int | None = None
    memory_reserved: int | None = None
    busy: float | None = None
    temperature: float | None = None
    slowdown_at: float | None = None
    power: float | None = None
    power_limit: float | None = None
    energy: float | None = None
    clock: float | None = None
    clock_max: float | None = None
    throttle: frozenset[Throttle] = frozenset()
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    ecc_corrected_total: int | None = None
    ecc_uncorrected_total: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    remapped_rows: int | None = None
    retired_pages: int | None = None
    retired_pending: bool | None = None
    nvlink_errors: int | None = None
    recovery: str = ""
    xids: Mapping[int, int] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gpus:
    """Where a backend's GPUs can be watched, as configured: addresses of a gpu-agent (with its
    key) or of a DCGM exporter's page. ``devices`` are indexes or UUIDs there, or on this host."""

    agent: str | None = None
    dcgm: str | None = None
    devices: tuple[int | str, ...] = ()
    key: str | None = field(default=None, repr=False)


class Matched(StrEnum):
    """How a backend came to its GPUs."""

    CONFIGURED = "configured"
    PROCESS = "its process was found on the GPU"
    AGENT = "the agent on its host found its process"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Holding:
    """The GPUs of one backend. ``gpus`` are uuids; ``pids`` are the engine's processes, in the
    namespace of the source; ``why`` says how they were found, or why not and what to set."""

    gpus: tuple[str, ...] = ()
    pids: frozenset[int] = frozenset()
    matched: Matched = Matched.UNKNOWN
    why: str = ""


@dataclass(frozen=True, slots=True)
class Panorama:
    """All GPUs that can be seen, by uuid, and whose they are, by backend. ``stale`` holds the
    uuids whose source has stopped answering, with the moment of its last answer."""

    gpus: Mapping[str, Gpu] = field(default_factory=dict)
    holdings: Mapping[str, Holding] = field(default_factory=dict)
    stale: Mapping[str, float] = field(default_factory=dict)
    at: float = 0.0
    detail: str = ""

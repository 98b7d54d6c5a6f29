"""What is asked of one device through NVML: a table of readings, each with what it may answer.

Calls, units and error codes are those of NVML's reference (docs.nvidia.com/deploy/nvml-api) as
nvidia-ml-py 13 names them. A reading that fails becomes a note; nothing here raises NVMLError."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pynvml as nv

from gateway.core.gpus import Gpu, Process, State, Throttle

Handle = Any
"""A device handle of pynvml, which has no types of its own."""

STATES = {
    nv.NVML_ERROR_NOT_SUPPORTED: State.UNSUPPORTED,
    nv.NVML_ERROR_FUNCTION_NOT_FOUND: State.UNSUPPORTED,
    nv.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: State.UNSUPPORTED,
    nv.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED: State.UNSUPPORTED,
    nv.NVML_ERROR_FREQ_NOT_SUPPORTED: State.UNSUPPORTED,
    nv.NVML_ERROR_DEPRECATED: State.UNSUPPORTED,
    nv.NVML_ERROR_NO_DATA: State.UNSUPPORTED,
    nv.NVML_ERROR_GPU_IS_LOST: State.LOST,
    nv.NVML_ERROR_GPU_NOT_FOUND: State.LOST,
    nv.NVML_ERROR_NO_PERMISSION: State.DENIED,
    nv.NVML_ERROR_OPERATING_SYSTEM: State.DENIED,
    nv.NVML_ERROR_LIB_RM_VERSION_MISMATCH: State.MISMATCH,
}
"""What each error code means; those not listed are FAILED."""

THROTTLES = {
    nv.nvmlClocksEventReasonHwSlowdown: Throttle.HW_SLOWDOWN,
    nv.nvmlClocksEventReasonHwThermalSlowdown: Throttle.HW_THERMAL,
    nv.nvmlClocksEventReasonHwPowerBrakeSlowdown: Throttle.HW_POWER_BRAKE,
    nv.nvmlClocksEventReasonSwThermalSlowdown: Throttle.SW_THERMAL,
    nv.nvmlClocksEventReasonSwPowerCap: Throttle.SW_POWER_CAP,
}

RECOVERIES = {
    nv.NVML_GPU_RECOVERY_ACTION_NONE: "",
    nv.NVML_GPU_RECOVERY_ACTION_GPU_RESET: "gpu_reset",
    nv.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: "node_reboot",
    nv.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P: "drain_p2p",
    nv.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET: "drain_and_reset",
    nv.NVML_GPU_RECOVERY_ACTION_RECOVER_IMEX_DOMAIN: "recover_imex_domain",
    nv.NVML_GPU_RECOVERY_ACTION_BUS_RESET: "bus_reset",
    nv.NVML_GPU_RECOVERY_ACTION_SYSTEM_REBOOT: "system_reboot",
}

NVLINK_TOTALS = (
    nv.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
    nv.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
    nv.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
    nv.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
    nv.NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_TOTAL,
)
"""Error counters over all links of a device."""

VALUES = {
    nv.NVML_VALUE_TYPE_DOUBLE: "dVal",
    nv.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    nv.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    nv.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    nv.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    nv.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    nv.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
}
"""In which member of its union a field's value stands."""

GPU_CORE = nv.NVML_TEMPERATURE_GPU
ALWAYS, OFTEN, RARELY = 0.0, 5.0, 60.0
"""Seconds between two takings of a reading: with every sample, what costs more or seldom moves,
what hardly ever changes."""


def state_of(error: nv.NVMLError) -> State:
    return STATES.get(error.value, State.FAILED)


def note_of(error: nv.NVMLError) -> str:
    """Why a reading could not be had, in a few words."""
    state = state_of(error)
    return state.value if state is not State.FAILED else f"{state.value}: {error}"


def address(handle: Handle) -> int:
    """By which a handle that an event brings is known again."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def first(*calls: Callable[[], Any]) -> Any:
    """The answer of the first call that this driver knows; the last one's error otherwise."""
    for call in calls[:-1]:
        try:
            return call()
        except nv.NVMLError as error:
            if state_of(error) is not State.UNSUPPORTED:
                raise
    return calls[-1]()


Fields = Mapping[str, Any]
"""Some fields of a Gpu and their values."""


def _identity(handle: Handle) -> Fields:
    return {"name": str(nv.nvmlDeviceGetName(handle))}


def _pci(handle: Handle) -> Fields:
    found = nv.nvmlDeviceGetPciInfo(handle).busId
    return {"pci": found.decode() if isinstance(found, bytes) else str(found)}


def _memory(handle: Handle) -> Fields:
    """Version 2 tells what the driver keeps for itself apart from what is used."""
    found = first(
        lambda: nv.nvmlDeviceGetMemoryInfo(handle, nv.nvmlMemory_v2),
        lambda: nv.nvmlDeviceGetMemoryInfo(handle),
    )
    return {
        "memory_used": int(found.used),
        "memory_total": int(found.total),
        "memory_reserved": getattr(found, "reserved", None),
    }


def _busy(handle: Handle) -> Fields:
    return {"busy": nv.nvmlDeviceGetUtilizationRates(handle).gpu / 100}


def _temperature(handle: Handle) -> Fields:
    found = first(
        lambda: nv.nvmlDeviceGetTemperatureV(handle, GPU_CORE),
        lambda: nv.nvmlDeviceGetTemperature(handle, GPU_CORE),
    )
    return {"temperature": float(found)}


def _slowdown(handle: Handle) -> Fields:
    """Newer boards tell no threshold, but how far they are from their limit and how far from it
    (mostly below zero: beyond) the slowdown begins."""
    threshold = nv.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    found = first(
        lambda: nv.nvmlDeviceGetTemperatureThreshold(handle, threshold),
        lambda: _by_margin(handle),
    )
    return {"slowdown_at": float(found)}


def _by_margin(handle: Handle) -> float:
    limit = field_values(handle, nv.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT)[0]
    if limit is None:
        raise nv.NVMLError(nv.NVML_ERROR_NOT_SUPPORTED)
    now = _temperature(handle)["temperature"]
    return float(now + nv.nvmlDeviceGetMarginTemperature(handle) - limit)


def _power(handle: Handle) -> Fields:
    return {"power": nv.nvmlDeviceGetPowerUsage(handle) / 1000}


def _power_limit(handle: Handle) -> Fields:
    return {"power_limit": nv.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000}


def _energy(handle: Handle) -> Fields:
    return {"energy": nv.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000}


def _clock(handle: Handle) -> Fields:
    return {"clock": float(nv.nvmlDeviceGetClockInfo(handle, nv.NVML_CLOCK_SM))}


def _clock_max(handle: Handle) -> Fields:
    return {"clock_max": float(nv.nvmlDeviceGetMaxClockInfo(handle, nv.NVML_CLOCK_SM))}


def _throttle(handle: Handle) -> Fields:
    """The call got a new name with driver 535."""
    mask = first(
        lambda: nv.nvmlDeviceGetCurrentClocksEventReasons(handle),
        lambda: nv.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    )
    return {"throttle": frozenset(what for bit, what in THROTTLES.items() if mask & bit)}


def _ecc(handle: Handle, kind: int, counter: int) -> int:
    return int(nv.nvmlDeviceGetTotalEccErrors(handle, kind, counter))


def _ecc_volatile(handle: Handle) -> Fields:
    """Since the driver was loaded."""
    return {
        "ecc_corrected": _ecc(handle, nv.NVML_MEMORY_ERROR_TYPE_CORRECTED, nv.NVML_VOLATILE_ECC),
        "ecc_uncorrected": _ecc(
            handle, nv.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nv.NVML_VOLATILE_ECC
        ),
    }


def _ecc_aggregate(handle: Handle) -> Fields:
    """Over the life of the board."""
    return {
        "ecc_corrected_total": _ecc(
            handle, nv.NVML_MEMORY_ERROR_TYPE_CORRECTED, nv.NVML_AGGREGATE_ECC
        ),
        "ecc_uncorrected_total": _ecc(
            handle, nv.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nv.NVML_AGGREGATE_ECC
        ),
    }


def _remaps(handle: Handle) -> Fields:
    _, uncorrectable, pending, failed = nv.nvmlDeviceGetRemappedRows(handle)
    return {
        "remapped_rows": int(uncorrectable),
        "remap_pending": bool(pending),
        "remap_failed": bool(failed),
    }


def _retired(handle: Handle) -> Fields:
    """Only boards before Ampere retire pages; later ones remap rows."""
    causes = range(nv.NVML_PAGE_RETIREMENT_CAUSE_COUNT)
    return {
        "retired_pages": sum(len(nv.nvmlDeviceGetRetiredPages(handle, cause)) for cause in causes),
        "retired_pending": bool(nv.nvmlDeviceGetRetiredPagesPendingStatus(handle)),
    }


def _nvlink(handle: Handle) -> Fields:
    found = [value for value in field_values(handle, *NVLINK_TOTALS) if value is not None]
    if not found:
        raise nv.NVMLError(nv.NVML_ERROR_NOT_SUPPORTED)
    return {"nvlink_errors": int(sum(found))}


def _recovery(handle: Handle) -> Fields:
    action = field_values(handle, nv.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)[0]
    if action is None:
        raise nv.NVMLError(nv.NVML_ERROR_NOT_SUPPORTED)
    return {"recovery": RECOVERIES.get(int(action), f"action_{int(action)}")}


def field_values(handle: Handle, *ids: int) -> list[float | None]:
    """The values of NVML's numbered fields; None for one that this device has not."""
    found = nv.nvmlDeviceGetFieldValues(handle, list(ids))
    return [
        None if one.nvmlReturn != nv.NVML_SUCCESS else getattr(one.value, VALUES[one.valueType])
        for one in found
    ]


def _processes(handle: Handle) -> Fields:
    """Computing ones first; one that draws as well is told once."""
    computing = first(
        lambda: nv.nvmlDeviceGetComputeRunningProcesses_v3(handle),
        lambda: nv.nvmlDeviceGetComputeRunningProcesses_v2(handle),
    )
    try:
        drawing = nv.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)
    except nv.NVMLError:
        drawing = []
    pids = {one.pid for one in computing}
    return {
        "processes": (
            *(Process(one.pid, one.usedGpuMemory) for one in computing),
            *(Process(one.pid, one.usedGpuMemory, True) for one in drawing if one.pid not in pids),
        )
    }


@dataclass(frozen=True, slots=True)
class Reading:
    """``call`` gives the ``fields`` of a Gpu for a handle; it is made every so many seconds."""

    name: str
    fields: tuple[str, ...]
    call: Callable[[Handle], Fields]
    every: float = ALWAYS


MEMORY = Reading("memory", ("memory_used", "memory_total", "memory_reserved"), _memory)
PROCESSES = Reading("processes", ("processes",), _processes, OFTEN)

READINGS = (
    MEMORY,
    Reading("name", ("name",), _identity, RARELY),
    Reading("pci", ("pci",), _pci, RARELY),
    Reading("utilization", ("busy",), _busy),
    Reading("temperature", ("temperature",), _temperature),
    Reading("slowdown temperature", ("slowdown_at",), _slowdown, RARELY),
    Reading("power", ("power",), _power),
    Reading("power limit", ("power_limit",), _power_limit, OFTEN),
    Reading("energy", ("energy",), _energy),
    Reading("clock", ("clock",), _clock),
    Reading("highest clock", ("clock_max",), _clock_max, RARELY),
    Reading("clock reasons", ("throttle",), _throttle),
    Reading("ECC", ("ecc_corrected", "ecc_uncorrected"), _ecc_volatile),
    Reading("ECC totals", ("ecc_corrected_total", "ecc_uncorrected_total"), _ecc_aggregate, OFTEN),
    Reading("remapped rows", ("remapped_rows", "remap_pending", "remap_failed"), _remaps),
    Reading("retired pages", ("retired_pages", "retired_pending"), _retired, OFTEN),
    Reading("NVLink errors", ("nvlink_errors",), _nvlink, OFTEN),
    Reading("recovery action", ("recovery",), _recovery),
    PROCESSES,
)
"""What is asked of a whole device."""

INSTANCE_READINGS = (MEMORY, Reading("name", ("name",), _identity, RARELY), PROCESSES)
"""What a MIG instance is asked; the rest is its parent's."""

BLANK = {one.name: one.default for one in fields(Gpu)}
"""What each field says when nothing is known."""

"""The page of a DCGM exporter as GPUs.

Names and units are those of NVIDIA's dcgm-exporter (etc/default-counters.csv) and of the DCGM
field list (docs.nvidia.com/datacenter/dcgm, Field Identifiers): MiB, MHz, watts, millijoules,
percent. An exporter publishes what its own list of counters names; what is absent stays None."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gateway.core.gpus import Gpu, Throttle

MIB = 1 << 20

THROTTLES = {
    0x8: Throttle.HW_SLOWDOWN,
    0x40: Throttle.HW_THERMAL,
    0x80: Throttle.HW_POWER_BRAKE,
    0x20: Throttle.SW_THERMAL,
    0x4: Throttle.SW_POWER_CAP,
}
"""Bits of the clock reasons, the same as NVML's nvmlClocksEventReasons."""


def _throttles(mask: float) -> frozenset[Throttle]:
    return frozenset(what for bit, what in THROTTLES.items() if int(mask) & bit)


def _share(percent: float) -> float:
    return percent / 100


def _bytes(mib: float) -> int:
    return int(mib * MIB)


COLUMNS: Mapping[str, tuple[str, Callable[[float], Any]]] = {
    "DCGM_FI_DEV_FB_USED": ("memory_used", _bytes),
    "DCGM_FI_DEV_FB_TOTAL": ("memory_total", _bytes),
    "DCGM_FI_DEV_FB_RESERVED": ("memory_reserved", _bytes),
    "DCGM_FI_DEV_GPU_UTIL": ("busy", _share),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature", float),
    "DCGM_FI_DEV_SLOWDOWN_TEMP": ("slowdown_at", float),
    "DCGM_FI_DEV_POWER_USAGE": ("power", float),
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": ("power_limit", float),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy", lambda millijoules: millijoules / 1000),
    "DCGM_FI_DEV_SM_CLOCK": ("clock", float),
    "DCGM_FI_DEV_MAX_SM_CLOCK": ("clock_max", float),
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": ("throttle", _throttles),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": ("throttle", _throttles),
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": ("ecc_corrected", int),
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": ("ecc_uncorrected", int),
    "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": ("ecc_corrected_total", int),
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": ("ecc_uncorrected_total", int),
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": ("remapped_rows", int),
    "DCGM_FI_DEV_ROW_REMAP_PENDING": ("remap_pending", bool),
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": ("remap_failed", bool),
    "DCGM_FI_DEV_RETIRED_PENDING": ("retired_pending", bool),
}
"""A metric, the field of a Gpu that it fills, and how."""

SUMS: Mapping[str, str] = {
    "DCGM_FI_DEV_RETIRED_SBE": "retired_pages",
    "DCGM_FI_DEV_RETIRED_DBE": "retired_pages",
    "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": "nvlink_errors",
    "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": "nvlink_errors",
    "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": "nvlink_errors",
    "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL": "nvlink_errors",
}
"""Metrics that are added up."""

FREE = "DCGM_FI_DEV_FB_FREE"
XID = "DCGM_FI_DEV_XID_ERRORS"
"""The number of the last event, which stays until the next."""

BLANK = 0x7FFFFFF0
"""From here on DCGM's 32-bit values mean 'not there' (dcgm_fields.h: DCGM_INT32_BLANK)."""
BLANK_64 = 0x7FFFFFFFFFFFFFF0


class Page:
    """Reads the pages of one exporter one after the other, since events only show as a change of
    the last one's number. An event that was there at first may be from any time: it is noted, not
    counted. The same event twice in a row cannot be seen."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._counts: dict[str, Counter[int]] = {}

    def read(self, text: str, now: float) -> tuple[Gpu, ...]:
        """Raises ValueError for what is no page of an exporter, written for people."""
        devices: dict[str, dict[str, Any]] = {}
        free: dict[str, float] = {}
        last: dict[str, int] = {}
        for name, labels, value in _samples(text):
            key = _key(labels)
            if not key:
                continue
            fields = devices.setdefault(key, _identity(labels))
            if name == FREE:
                free[key] = value
            elif name == XID:
                last[key] = int(value)
            elif name in SUMS:
                fields[SUMS[name]] = fields.get(SUMS[name], 0) + int(value)
            elif name in COLUMNS:
                column, convert = COLUMNS[name]
                fields[column] = convert(value)
        if not devices:
            raise ValueError("the page there has no DCGM metric of a GPU")
        for key, value in free.items():
            _total(devices[key], value)
        return tuple(self._gpu(fields, key, last, now) for key, fields in devices.items())

    def _gpu(self, fields: Mapping[str, Any], key: str, last: Mapping[str, int], now: float) -> Gpu:
        gpu = replace(Gpu("", "", ""), **fields, at=now)
        xid = last.get(key, 0)
        first = key not in self._last
        counts = self._counts.setdefault(key, Counter())
        if xid and not first and xid != self._last[key]:
            counts[xid] += 1
        self._last[key] = xid
        notes = {"XID events": f"the last one, of an unknown time, was {xid}"} if xid else {}
        return replace(gpu, xids=dict(counts), notes=notes)


def _samples(text: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    """Every sample of DCGM that has a value."""
    try:
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                name = one.name.removesuffix("_total") if one.name not in COLUMNS else one.name
                if name.startswith("DCGM_FI_") and _there(one.value):
                    yield name, one.labels, one.value
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"the page there is not in Prometheus' format: {error}") from None


def _there(value: float) -> bool:
    return math.isfinite(value) and not (BLANK <= value <= 0x7FFFFFFF or value >= BLANK_64)


def _key(labels: Mapping[str, str]) -> str:
    """The device; a MIG instance of one is another."""
    uuid = labels.get("UUID") or labels.get("uuid") or ""
    part = labels.get("GPU_I_ID", "")
    return f"{uuid}/{part}" if uuid and part else uuid


def _identity(labels: Mapping[str, str]) -> dict[str, Any]:
    """A MIG instance goes by its parent's UUID and its own number."""
    uuid, part = labels.get("UUID") or labels.get("uuid") or "", labels.get("GPU_I_ID", "")
    name, profile = labels.get("modelName", ""), labels.get("GPU_I_PROFILE", "")
    index = labels.get("gpu", "")
    return {
        "host": labels.get("Hostname", ""),
        "index": f"{index}:{part}" if part else index,
        "uuid": f"{uuid}/{part}" if part else uuid,
        "name": f"{name} MIG {profile}".strip() if part else name,
        "pci": labels.get("pci_bus_id", ""),
        "mig_of": uuid if part else "",
    }


def _total(fields: dict[str, Any], free: float) -> None:
    """Older lists of counters have free and used, and no total."""
    if "memory_total" not in fields and "memory_used" in fields:
        reserved = fields.get("memory_reserved", 0)
        fields["memory_total"] = fields["memory_used"] + reserved + _bytes(free)

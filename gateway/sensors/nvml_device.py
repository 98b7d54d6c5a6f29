"""One device read again and again: what is due is asked, what fails becomes a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pynvml as nv

from gateway.core.gpus import Gpu, State

from .nvml_read import (
    ALWAYS,
    BLANK,
    INSTANCE_READINGS,
    MEMORY,
    OFTEN,
    PROCESSES,
    RARELY,
    READINGS,
    Handle,
    Reading,
    note_of,
    state_of,
)

LOST = "the driver has lost it: it no longer answers on the bus"


@dataclass(slots=True, eq=False)
class Device:
    """A device or MIG instance and what was last read of it. ``due`` says when a reading is asked
    for next (monotonic seconds); ``instance`` is the GPU instance of a MIG device."""

    handle: Handle
    gpu: Gpu
    readings: Sequence[Reading] = READINGS
    instance: int | None = None
    due: dict[str, float] = field(default_factory=dict)
    parts: list[Device] = field(default_factory=list)

    def read(self, now: float, processes: float) -> Gpu:
        """Ask for what is due; ``processes`` is how often (seconds) their list is."""
        found: dict[str, Any] = {}
        notes = dict(self.gpu.notes)
        fault: nv.NVMLError | None = None
        for reading in self.readings:
            if self.due.get(reading.name, 0.0) > now:
                continue
            every = processes if reading is PROCESSES else reading.every
            try:
                found.update(reading.call(self.handle))
                notes.pop(reading.name, None)
            except nv.NVMLError as error:
                found.update((name, BLANK[name]) for name in reading.fields)
                notes[reading.name] = note_of(error)
                every = RARELY if state_of(error) is State.UNSUPPORTED else ALWAYS
                if state_of(error) is State.LOST:
                    return self._lost(now)
                if reading is MEMORY or error.value == nv.NVML_ERROR_RESET_REQUIRED:
                    fault = error
            self.due[reading.name] = now + every
        return self._take(now, found, notes, fault)

    def _take(self, now: float, found: dict[str, Any], notes: Mapping[str, str], fault: Any) -> Gpu:
        """Every device tells its memory: one that does not is not well, whatever else it says."""
        state, detail = State.OK, ""
        if fault is not None:
            state, detail = state_of(fault), note_of(fault)
            if fault.value == nv.NVML_ERROR_RESET_REQUIRED:
                found["recovery"] = "gpu_reset"
        self.gpu = replace(self.gpu, at=now, state=state, detail=detail, notes=notes, **found)
        return self.gpu

    def _lost(self, now: float) -> Gpu:
        """What it was is kept, what it said last is not."""
        self.due.clear()
        self.gpu = lost(self.gpu, now)
        return self.gpu

    def refresh_parts(self, now: float) -> None:
        """See which MIG instances there are, every few seconds."""
        if self.due.get("MIG", 0.0) > now:
            return
        self.due["MIG"] = now + OFTEN
        try:
            split = nv.nvmlDeviceGetMigMode(self.handle)[0] == nv.NVML_DEVICE_MIG_ENABLE
            count = nv.nvmlDeviceGetMaxMigDeviceCount(self.handle) if split else 0
        except nv.NVMLError:
            self.due["MIG"] = now + RARELY
            count = 0
        known = {part.gpu.uuid: part for part in self.parts}
        there = [self._part(number) for number in range(count)]
        self.parts = [known.get(part.gpu.uuid, part) for part in there if part is not None]

    def _part(self, number: int) -> Device | None:
        """One MIG instance; numbers have holes."""
        try:
            handle = nv.nvmlDeviceGetMigDeviceHandleByIndex(self.handle, number)
            uuid = str(nv.nvmlDeviceGetUUID(handle))
            instance = int(nv.nvmlDeviceGetGpuInstanceId(handle))
        except nv.NVMLError:
            return None
        index = f"{self.gpu.index}:{number}"
        gpu = Gpu(self.gpu.host, index, uuid, mig_of=self.gpu.uuid)
        return Device(handle, gpu, INSTANCE_READINGS, instance)


def lost(gpu: Gpu, now: float) -> Gpu:
    """The same device without readings."""
    return Gpu(
        gpu.host,
        gpu.index,
        gpu.uuid,
        name=gpu.name,
        pci=gpu.pci,
        mig_of=gpu.mig_of,
        state=State.LOST,
        detail=LOST,
        at=now,
        memory_total=gpu.memory_total,
        xids=gpu.xids,
    )


OWN = (
    *("index", "uuid", "name", "mig_of", "detail", "at", "processes", "notes", "xids"),
    *("memory_used", "memory_total", "memory_reserved"),
)
"""What a MIG instance says itself."""


def part_of(parent: Gpu, part: Gpu) -> Gpu:
    """A MIG instance with what belongs to the whole board. Power and energy stay the parent's:
    told by every instance, they would be counted several times."""
    state = part.state if parent.state is State.OK else parent.state
    own = {name: getattr(part, name) for name in OWN}
    own["detail"] = part.detail or parent.detail
    return replace(parent, **own, state=state, busy=None, power=None, energy=None)

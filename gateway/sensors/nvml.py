"""This host's GPUs through NVML, in a thread of its own: no call of the driver holds anybody up."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import pynvml as nv

from gateway.core.gpus import Gpu, State

from .nvml_device import Device, lost, part_of
from .nvml_read import OFTEN, RARELY, note_of, state_of
from .xid_events import XidWatch

log = logging.getLogger("portico.gpu")

ABSENT = {
    nv.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "no NVIDIA driver library (libnvidia-ml.so.1) is here; in a container, start it with"
        " --gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    ),
    nv.NVML_ERROR_DRIVER_NOT_LOADED: (
        "the NVIDIA driver is not loaded; if there is a GPU, 'modprobe nvidia' or the system's log"
        " says why"
    ),
    nv.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the kernel's NVIDIA driver and libnvidia-ml.so.1 have different versions, as after an"
        " update: reboot the host or load the new driver, then restart this process"
    ),
    nv.NVML_ERROR_NO_PERMISSION: (
        "no permission to use the NVIDIA driver; give this user access to /dev/nvidiactl and"
        " /dev/nvidia*"
    ),
}
"""Why there are no readings at all, and what to do, by the error of the first call."""

UNWELL = frozenset({State.LOST, State.MISMATCH, State.FAILED})
"""After these the library may need to be initialised anew before it says anything else."""

NO_DEVICE = "the NVIDIA driver is there, but it has no GPU"


@dataclass(frozen=True, slots=True)
class Sample:
    """All devices of this host at one moment (monotonic seconds). ``detail`` says why there are
    none; ``driver`` is its version."""

    gpus: tuple[Gpu, ...] = ()
    at: float = 0.0
    state: State = State.OK
    detail: str = ""
    driver: str = ""


class Sampler:
    """Reads every device each ``interval`` seconds and their processes each ``processes``; where
    there is no driver, or a device is lost, looks anew every ``retry``. ``taken(sample)`` is called
    in the sampler's own thread. ``clock`` gives monotonic seconds."""

    def __init__(
        self,
        host: str,
        taken: Callable[[Sample], None],
        *,
        interval: float = 1.0,
        processes: float = OFTEN,
        retry: float = RARELY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interval = interval
        self._host = host
        self._taken = taken
        self._processes = processes
        self._retry = retry
        self._clock = clock
        self._devices: list[Device] = []
        self._known: dict[str, Gpu] = {}
        self._events: XidWatch | None = None
        self._past: Counter[tuple[str, int | None, int]] = Counter()
        self._open = False
        self._open_again = 0.0
        self._trouble: nv.NVMLError | None = None
        self._driver = ""
        self._ask_processes = False
        self._wake = threading.Event()
        self._ending = False
        self._said: dict[str, str] = {}
        self._began = 0.0
        self.thread = threading.Thread(target=self._run, name="nvml", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self, within: float = 1.0) -> bool:
        """End the thread; False when a call of the driver still holds it after so many seconds.
        It then ends with the process."""
        self._ending = True
        self._wake.set()
        if self.thread.is_alive():
            self.thread.join(within)
        return not self.thread.is_alive()

    def wake(self, processes: bool = False) -> None:
        """Sample now; with ``processes``, their lists as well."""
        self._ask_processes = self._ask_processes or processes
        self._wake.set()

    def silent(self, now: float) -> float:
        """Seconds for which the call that runs has not come back; 0 between two samples."""
        began = self._began
        return now - began if began else 0.0

    # -- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending:
            began = self._began = self._clock()
            try:
                self._taken(self.look(began))
            except Exception:
                log.exception("a fault of ours while reading the GPUs")
            self._began = 0.0
            self._wake.wait(max(0.0, self.interval - (self._clock() - began)))
            self._wake.clear()
        if self._events is None or self._events.stop(0.0):
            self._shut()

    def look(self, now: float) -> Sample:
        """One sample. What the driver refuses is told in it, never raised."""
        trouble = self._opened(now)
        if trouble is not None:
            return self._say(Sample((), now, state_of(trouble), self._absence(trouble)))
        if not self._devices and not self._known:
            return self._say(Sample((), now, State.OK, NO_DEVICE, self._driver))
        if self._ask_processes:
            self._ask_processes = False
            for device in self._devices:
                for one in (device, *device.parts):
                    one.due.pop("processes", None)
        gpus = [gpu for device in self._devices for gpu in self._read(device, now)]
        there = {gpu.uuid for gpu in gpus}
        self._known |= {gpu.uuid: gpu for gpu in gpus if not gpu.mig_of}
        gone = [lost(gpu, now) for uuid, gpu in self._known.items() if uuid not in there]
        return self._say(Sample((*gpus, *gone), now, driver=self._driver))

    def _read(self, device: Device, now: float) -> list[Gpu]:
        """A device, then its MIG instances, whose processes it does not repeat."""
        counts = self._past + self._events.counts if self._events else self._past
        whole = device.read(now, self._processes)
        device.refresh_parts(now)
        parts = [part_of(whole, part.read(now, self._processes)) for part in device.parts]
        split = {process.pid for part in parts for process in part.processes}
        notes = self._events.notes if self._events else {}
        if whole.uuid in notes:
            whole = replace(whole, notes={**whole.notes, "XID events": notes[whole.uuid]})
        rest = tuple(one for one in whole.processes if one.pid not in split)
        whole = replace(whole, xids=_xids(counts, whole.uuid, None), processes=rest)
        return [
            whole,
            *(
                replace(part, xids=_xids(counts, whole.uuid, one.instance))
                for part, one in zip(parts, device.parts, strict=True)
            ),
        ]

    def _opened(self, now: float) -> nv.NVMLError | None:
        """Make sure that NVML is initialised; the error if it is not."""
        if self._open and self._open_again and now >= self._open_again:
            self._close()
        if self._open:
            self._plan_retry(now)
            return None
        if now < self._open_again and self._trouble is not None:
            return self._trouble
        try:
            nv.nvmlInit()
            self._driver = str(nv.nvmlSystemGetDriverVersion())
            self._find()
        except nv.NVMLError as error:
            self._trouble = error
            self._open_again = now + self._retry
            return error
        self._open, self._trouble, self._open_again = True, None, 0.0
        self._plan_retry(now)
        return None

    def _plan_retry(self, now: float) -> None:
        """Whether the devices have to be looked for anew: a lost one only comes back that way."""
        unwell = any(device.gpu.state in UNWELL for device in self._devices)
        fewer = len(self._devices) < len(self._known) or not self._devices
        if not (unwell or fewer):
            self._open_again = 0.0
        elif not self._open_again:
            self._open_again = now + self._retry

    def _close(self) -> None:
        """Give NVML back, unless the thread of the events does not let go of it."""
        if self._events is not None and not self._events.stop():
            self._open_again = self._clock() + self._retry
            return
        if self._events is not None:
            self._past += self._events.counts
        self._events = None
        self._shut()

    def _shut(self) -> None:
        if self._open:
            self._open = False
            try:
                nv.nvmlShutdown()
            except nv.NVMLError:
                return

    def _find(self) -> None:
        """All devices that can be named; one that is lost already keeps the name it had."""
        self._devices = []
        for number in range(int(nv.nvmlDeviceGetCount())):
            try:
                handle = nv.nvmlDeviceGetHandleByIndex(number)
                uuid = str(nv.nvmlDeviceGetUUID(handle))
            except nv.NVMLError as error:
                self._say_once(f"GPU {number}", f"GPU {number} cannot be read: {note_of(error)}")
                continue
            known = self._known.get(uuid, Gpu(self._host, str(number), uuid))
            self._devices.append(Device(handle, replace(known, index=str(number))))
        handles = {device.gpu.uuid: device.handle for device in self._devices}
        self._events = XidWatch(handles, self.wake) if handles else None

    def _absence(self, error: nv.NVMLError) -> str:
        return ABSENT.get(error.value, f"NVML cannot be used: {error}")

    def _say(self, sample: Sample) -> Sample:
        """Say once what is there, or why nothing is."""
        names = Counter(gpu.name or "unnamed GPU" for gpu in sample.gpus)
        what = ", ".join(f"{count} x {name}" for name, count in names.items())
        text = sample.detail or f"{what}, driver {sample.driver}"
        self._say_once("all", f"GPUs of this host: {text}")
        return sample

    def _say_once(self, topic: str, text: str) -> None:
        if self._said.get(topic) != text:
            self._said[topic] = text
            log.info("%s", text)


def _xids(
    counts: Counter[tuple[str, int | None, int]], uuid: str, instance: int | None
) -> dict[int, int]:
    """The events of a device; for an instance, those of the whole device and its own."""
    found: Counter[int] = Counter()
    for (of, part, xid), count in counts.items():
        if of == uuid and (instance is None or part in (None, instance)):
            found[xid] += count
    return dict(found)

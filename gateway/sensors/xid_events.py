"""XID events: a thread that waits for the driver to report critical errors, and counts them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping

import pynvml as nv

from .nvml_read import Handle, address, note_of

WAIT = 500
"""Milliseconds that one wait may take: how long the end of the watch may be held up."""

NO_INSTANCE = 0xFFFFFFFF
"""The instance of an event that concerns a whole device."""


class XidWatch:
    """Counts the events of ``handles`` (by uuid) from now on. ``counts`` holds (uuid, instance,
    xid), instance None for the whole device; ``woken`` is called with every event, in the thread;
    ``notes`` say of a device why it cannot be watched."""

    def __init__(self, handles: Mapping[str, Handle], woken: Callable[[], None]) -> None:
        self.notes: dict[str, str] = {}
        self._uuids = {address(handle): uuid for uuid, handle in handles.items()}
        self._woken = woken
        self._counts: Counter[tuple[str, int | None, int]] = Counter()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._set = self._register(handles)
        self._thread: threading.Thread | None = None
        if self._set is not None:
            self._thread = threading.Thread(target=self._run, name="nvml-events", daemon=True)
            self._thread.start()

    @property
    def counts(self) -> Counter[tuple[str, int | None, int]]:
        with self._lock:
            return self._counts.copy()

    def stop(self, within: float = 2.0) -> bool:
        """Whether the thread ended in time (seconds). It does after its wait, or never while a call
        hangs."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(within)
        return self._thread is None or not self._thread.is_alive()

    def _register(self, handles: Mapping[str, Handle]) -> object | None:
        try:
            events = nv.nvmlEventSetCreate()
        except nv.NVMLError as error:
            self.notes = dict.fromkeys(handles, note_of(error))
            return None
        for uuid, handle in handles.items():
            try:
                nv.nvmlDeviceRegisterEvents(handle, nv.nvmlEventTypeXidCriticalError, events)
            except nv.NVMLError as error:
                self.notes[uuid] = note_of(error)
        return events if len(self.notes) < len(handles) else None

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._take(nv.nvmlEventSetWait_v2(self._set, WAIT))
            except nv.NVMLError as error:
                if error.value != nv.NVML_ERROR_TIMEOUT:
                    self._ending.wait(1.0)  # a lost device would answer at once, for ever
        try:
            nv.nvmlEventSetFree(self._set)
        except nv.NVMLError:
            return

    def _take(self, event: nv.c_nvmlEventData_t) -> None:
        uuid = self._uuids.get(address(event.device))
        if uuid is None or not event.eventType & nv.nvmlEventTypeXidCriticalError:
            return
        instance = None if event.gpuInstanceId == NO_INSTANCE else int(event.gpuInstanceId)
        with self._lock:
            self._counts[uuid, instance, int(event.eventData)] += 1
        self._woken()

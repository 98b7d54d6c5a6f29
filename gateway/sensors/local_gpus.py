"""This host's GPUs and the processes on them, brought to the event loop; used by the gateway and by
``portico gpu-agent`` alike."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable

from gateway.tasks import Tasks

from . import owners
from .gpu_doc import Report
from .nvml import Sample, Sampler
from .nvml_read import RARELY
from .owners import Scene
from .panorama import LOCAL, Kind, Seen
from .proc import Looker

log = logging.getLogger("portico.gpu")

LOOK_EVERY = 15.0
"""Seconds between two looks at /proc while the processes on the GPUs stay the same."""

SILENCE = 3.0
"""Seconds, or three intervals, after which a call of the driver is said to hang."""


class LocalGpus:
    """``changed()`` is called on the loop with every sample and every new scene. ``retry`` is how
    long a missing driver or a lost device is left alone (seconds)."""

    def __init__(
        self,
        changed: Callable[[], None],
        interval: float = 1.0,
        *,
        host: str = "",
        retry: float = RARELY,
        looker: Looker | None = None,
    ) -> None:
        self.host = host or socket.gethostname()
        self.scene = Scene()
        self.sample: Sample | None = None
        self._interval = interval
        self._changed = changed
        self._looker = looker or Looker()
        self._tasks = Tasks()
        self._looked: frozenset[int] = frozenset()
        self._looked_at = 0.0
        self._looking = False
        self._hangs = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sampler = Sampler(self.host, self._sampled, interval=interval, retry=retry)

    def report(self) -> Report:
        """What an agent says of its host now."""
        seen = self.seen
        ports = owners.ports(self.scene, seen.gpus)
        age = time.monotonic() - seen.at if seen.at else 0.0
        unmatched = owners.obstacle(self.scene, seen.gpus)
        return Report(self.host, seen.gpus, ports, age, seen.error or seen.detail, unmatched)

    @property
    def seen(self) -> Seen:
        """What NVML said last. A sample that is late says so by its age."""
        kind, sample = Kind.LOCAL, self.sample
        error = HANGS if self._hangs else ""
        if sample is None:
            return Seen(LOCAL, kind, self._interval, error=error or "NVML has not answered yet")
        return Seen(
            LOCAL,
            kind,
            self._interval,
            sample.gpus,
            at=sample.at,
            detail=sample.detail,
            error=error,
        )

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sampler.start()
        self._tasks.spawn(self._watch(), "GPUs: watch of NVML")

    async def stop(self) -> None:
        """Ends everything but a call of the driver that does not come back."""
        await self._tasks.cancel_all()
        self._loop = None
        if not self._sampler.stop(0.0):
            await asyncio.to_thread(self._sampler.stop, 1.0)

    def refresh(self) -> None:
        """Ask for the processes now rather than in some seconds: one has come or gone."""
        self._looked_at = 0.0
        self._sampler.wake(processes=True)

    def set_interval(self, interval: float) -> None:
        self._interval = self._sampler.interval = interval

    def _sampled(self, sample: Sample) -> None:
        """In the sampler's thread."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._take, sample)
            except RuntimeError:
                return  # the loop has been closed meanwhile

    def _take(self, sample: Sample) -> None:
        if self._loop is None:
            return
        self.sample = sample
        self._hangs = self._hangs and self._say_back()
        pids = frozenset(one.pid for gpu in sample.gpus for one in gpu.processes)
        due = time.monotonic() - self._looked_at >= LOOK_EVERY
        if sample.gpus and not self._looking and (pids != self._looked or due):
            self._looking = True
            self._tasks.spawn(self._look(pids), "GPUs: whose they are")
        self._changed()

    async def _look(self, pids: frozenset[int]) -> None:
        try:
            self.scene = await asyncio.to_thread(self._looker.look, pids)
        finally:
            self._looked, self._looked_at, self._looking = pids, time.monotonic(), False
        self._changed()

    async def _watch(self) -> None:
        """Say once that the driver hangs. The thread is left waiting; no other is started."""
        while True:
            await asyncio.sleep(min(1.0, self._interval))
            quiet = self._sampler.silent(time.monotonic())
            if quiet > max(SILENCE, 3 * self._interval) and not self._hangs:
                self._hangs = True
                log.warning("%s; readings of this host's GPUs are stale", HANGS)
                self._changed()

    def _say_back(self) -> bool:
        log.info("the NVIDIA driver answers again")
        return False


HANGS = "a call of the NVIDIA driver does not come back; 'dmesg' on the host may say why"

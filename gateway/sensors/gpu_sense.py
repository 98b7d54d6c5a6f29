"""The GPU sense at work: this host's NVML, agents and exporters; a Panorama on every change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from gateway.core.gpus import Gpus, Holding, Panorama
from gateway.core.types import Backend
from gateway.tasks import Tasks

from .agents import Remote
from .ask import Asker
from .discover import HERE, place_of
from .local_gpus import LocalGpus
from .panorama import Kind, Seen, Wanted, combine, remember
from .proc import resolve

RESOLVE_EVERY = 60.0
"""Seconds between two questions for the addresses of the backends' hosts."""


GATHER = 0.05
"""Seconds for which changes are gathered: with many agents, each answer is one."""


class GpuSense:
    """``backends()`` are those whose GPUs are looked for, discovered ones too; ``gpus`` is what the
    configuration says of them by name; ``publish(panorama)`` is called on the loop with every
    change, about once an ``interval`` (seconds)."""

    def __init__(
        self,
        backends: Callable[[], Iterable[Backend]],
        gpus: Mapping[str, Gpus],
        interval: float,
        publish: Callable[[Panorama], None],
        *,
        local: LocalGpus | None = None,
    ) -> None:
        self.panorama = Panorama()
        self._backends = backends
        self._gpus = gpus
        self._interval = interval
        self._publish = publish
        self._local = local or LocalGpus(self._changed, interval)
        self._ask = Asker()
        self._tasks = Tasks()
        self._remotes: dict[str, tuple[Remote, asyncio.Task[None]]] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._before: dict[str, tuple[Holding, float]] = {}
        self._new_hosts = asyncio.Event()
        self._places: dict[str, tuple[str, int]] = {}
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._local.start()
        self._settle()
        self._tasks.spawn(self._keep_resolving(), "GPUs: addresses")
        self._tasks.spawn(self._keep_aging(), "GPUs: ages")

    def configure(self, gpus: Mapping[str, Gpus], interval: float) -> None:
        """Take over another configuration. Sources that stay keep what they know."""
        self._gpus, self._interval = gpus, interval
        self._local.set_interval(interval)
        self._settle()
        self._combine()

    def engine_changed(self) -> None:
        """A backend came or went: look at the processes on the GPUs now."""
        self._local.refresh()

    @property
    def sources(self) -> list[Seen]:
        """What each source said last, this host's first."""
        return [self._local.seen, *(remote.seen for remote, _ in self._remotes.values())]

    async def stop(self) -> None:
        await self._tasks.cancel_all()
        if self._due is not None:
            self._due.cancel()
        await self._local.stop()
        await self._ask.close()

    def _settle(self) -> None:
        """Start asking the sources that are named, stop asking those that are not any more."""
        wanted: dict[str, tuple[Kind, str | None]] = {}
        for one in self._gpus.values():
            if one.agent:
                key = one.key or wanted.get(one.agent, (Kind.AGENT, None))[1]
                wanted[one.agent] = (Kind.AGENT, key)
            elif one.dcgm:
                wanted[one.dcgm] = (Kind.DCGM, None)
        for url, (remote, task) in list(self._remotes.items()):
            if (*wanted.get(url, ()), self._interval) != remote.asked_with:
                task.cancel()
                del self._remotes[url]
        for url, (kind, key) in wanted.items():
            if url not in self._remotes:
                remote = Remote(kind, url, key, self._interval)
                asking = remote.keep_asking(self._ask, self._changed)
                self._remotes[url] = (remote, self._tasks.spawn(asking, f"GPUs: {url}"))

    def _changed(self) -> None:
        """Something new is known: tell it soon, with what else comes."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(GATHER, self._combine)

    def _combine(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        now = time.monotonic()
        panorama = combine(now, self.sources, self._wanted(), self._local.scene, self._before)
        self._before = remember(panorama, self._before)
        self.panorama = panorama
        self._publish(panorama)

    def _wanted(self) -> list[Wanted]:
        agents = {_host(one.agent): one.agent for one in self._gpus.values() if one.agent}
        found = []
        for backend in self._backends():
            here, port = self._place(backend.url)
            host = _host(backend.url)
            if host not in self._addresses:
                self._new_hosts.set()
            found.append(
                Wanted(
                    backend.name,
                    host,
                    port,
                    self._addresses.get(host, ()),
                    here == HERE,
                    self._gpus.get(backend.name),
                    agents.get(host) or self._same_host(host, agents),
                )
            )
        return found

    def _place(self, url: str) -> tuple[str, int]:
        """Host and port; remembered, since telling this host's names asks the kernel."""
        if url not in self._places:
            self._places[url] = place_of(url)
        return self._places[url]

    def _same_host(self, host: str, agents: Mapping[str, str]) -> str | None:
        """The agent whose host has another name and the same address."""
        own = set(self._addresses.get(host, ()))
        same = (url for name, url in agents.items() if own & set(self._addresses.get(name, ())))
        return next(same, None)

    async def _keep_resolving(self) -> None:
        """Names to addresses, beside the loop: a resolver may take seconds."""
        while True:
            self._places.clear()
            hosts = {_host(backend.url) for backend in self._backends()}
            hosts |= {_host(one.agent) for one in self._gpus.values() if one.agent}
            for host in hosts:
                self._addresses[host] = await asyncio.to_thread(resolve, host)
            self._new_hosts.clear()
            self._changed()
            try:
                async with asyncio.timeout(RESOLVE_EVERY):
                    await self._new_hosts.wait()
            except TimeoutError:
                continue

    async def _keep_aging(self) -> None:
        """Publish what the passing of time alone changes: that readings are stale, or gone."""
        while True:
            await asyncio.sleep(self._interval)
            if time.monotonic() - self.panorama.at >= self._interval:
                self._changed()


def _host(url: str | None) -> str:
    return (urlsplit(url or "").hostname or "").lower()

"""Engines that nobody configured: a look at the well-known ports of this host."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import psutil

from gateway.core.health import NOTHING, Observation
from gateway.core.types import Backend, Health, Model, Sight
from gateway.sensors.ask import Asker
from gateway.sensors.probe import Book, Identity, Stranger, identify, observe

KNOCK_TIMEOUT = 0.5
"""Seconds to find out whether a port of this host is open."""

STRANGER_FOR = 60.0
"""Seconds for which an open port that is no engine is left alone."""

NAMED_MODELS = 3

HERE = "localhost"
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Found:
    """An engine that was found, and who it is."""

    backend: Backend
    who: Identity


def silent(text: str) -> None:
    """For those who do not want to hear of changes."""


class Discoverer:
    """Looks at ``ports`` on ``hosts``, never at the ports in ``own``. What it finds and loses is
    told to ``on_change`` in one line each. A server that is no engine is asked rarely."""

    def __init__(
        self,
        ports: Iterable[int],
        own: Collection[int],
        hosts: Iterable[str] = ("127.0.0.1",),
        *,
        on_change: Callable[[str], None] = silent,
        book: Book | None = None,
    ) -> None:
        self._ports = tuple(dict.fromkeys(port for port in ports if port not in own))
        self._hosts = tuple(hosts)
        self._on_change = on_change
        self._book = book
        self._strangers: dict[Place, float] = {}

    async def look(self, ask: Asker, known: Collection[Backend]) -> list[Found]:
        """The engines on ports that no backend of ``known`` covers."""
        covered = {place_of(backend.url) for backend in known}
        places = [
            (host, port)
            for host in self._hosts
            for port in self._ports
            if place_of(origin(host, port)) not in covered
        ]
        seen = await asyncio.gather(*(self._visit(ask, place) for place in places))
        taken = {backend.name for backend in known}
        return [
            self._welcome(found, observation, taken) for found, observation in filter(None, seen)
        ]

    def lost(self, backend: Backend, title: str) -> None:
        """Tell that a discovered engine left the fleet."""
        self._on_change(f"{title} at {backend.url} is gone")

    async def _visit(self, ask: Asker, place: Place) -> tuple[Found, Observation] | None:
        if not await is_open(place):
            self._strangers.pop(place, None)
            return None
        if time.monotonic() - self._strangers.get(place, -STRANGER_FOR) < STRANGER_FOR:
            return None
        backend = Backend(f"{place[0]}:{place[1]}", origin(*place), discovered=True)
        who = await identify(ask, backend, self._book)
        if isinstance(who, Stranger):
            # An engine that is still loading has nothing to be recognised by: ask it again soon.
            if who.health is not Health.LOADING:
                self._strangers[place] = time.monotonic()
            return None
        if who.base.cloud or who.portico is not None:
            self._strangers[place] = time.monotonic()
            return None
        observation, _ = await observe(ask, backend, who, NOTHING)
        return Found(backend, who), observation

    def _welcome(self, found: Found, seen: Observation, taken: set[str]) -> Found:
        url = found.backend.url
        name = found.who.base.name
        if name in taken:
            name = f"{name}-{urlsplit(url).port}"
        taken.add(name)
        self._on_change(f"found {announcement(found.who.row.title, url, seen)}")
        return Found(Backend(name, url, discovered=True), found.who)


async def is_open(place: Place) -> bool:
    """Whether somebody accepts connections there; nothing is sent."""
    try:
        async with asyncio.timeout(KNOCK_TIMEOUT):
            _, writer = await asyncio.open_connection(*place)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def announcement(title: str, url: str, seen: Observation) -> str:
    """One engine in words: ``vLLM 0.33.0 at http://127.0.0.1:8000 serving a, b and 2 more``."""
    who = " ".join(filter(None, (title, seen.version)))
    return f"{who} at {url}{_state(seen)}"


def _state(seen: Observation) -> str:
    if seen.health is Health.LOADING:
        return ", still loading"
    if seen.models:
        return f" serving {listed(seen.models)}"
    return f": {seen.detail}" if seen.detail else " serving no model yet"


def listed(models: Collection[Model]) -> str:
    """The first few ids, and how many more there are."""
    ids = [model.id for model in models]
    more = len(ids) - NAMED_MODELS
    return ", ".join(ids[:NAMED_MODELS]) + (f" and {more} more" if more > 0 else "")


def told(backend: Backend, sight: Sight) -> str:
    """A backend's address and belief in one line, for logs."""
    return f"{backend.name} at {backend.url} is {sight.health}: {sight.detail}"


def origin(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def place_of(url: str) -> Place:
    """Host and port of an http or https address; every name of this host is the same one."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    default = 443 if parts.scheme == "https" else 80
    return HERE if host in local_addresses() else host, parts.port or default


def local_addresses() -> frozenset[str]:
    """The names and addresses by which this host reaches itself."""
    own = {HERE, "127.0.0.1", "::1", "0.0.0.0", "::", socket.gethostname().lower()}
    for nics in psutil.net_if_addrs().values():
        own |= {nic.address.partition("%")[0].lower() for nic in nics}
    return frozenset(own)


def is_near(host: str) -> bool:
    """Whether ``host`` looks like one of ours rather than a provider's on the internet."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan", ".localhost"))

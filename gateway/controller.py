"""The control side put together: sensors, metrics, reload, the demo engine, what is announced.

It runs in the one process of a plain gateway, or in a process of its own beside the workers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from backends import BY_NAME, DEMO, PLAIN, RUNTIMES
from gateway import __version__
from gateway.config import Config, ConfigError
from gateway.config.addresses import backend_url
from gateway.control.desk import Records
from gateway.control.exposition import State, exposition
from gateway.control.gpu_rows import rows as rows_of
from gateway.control.gpu_watch import About, GpuWatch, tell
from gateway.control.keys import merged
from gateway.control.metrics import Metrics
from gateway.control.providers import backend as provided
from gateway.core.addresses import networks
from gateway.core.energy import Work
from gateway.core.errors import Refusal
from gateway.core.gpus import Panorama
from gateway.core.keys import Keyring, known_as
from gateway.core.runtime import Runtime
from gateway.core.types import ROUTABLE, Backend, Doc, Fleet, Health
from gateway.demo.child import DemoEngine, DemoError
from gateway.keeper import Keeper, Stored
from gateway.sensors.discover import Discoverer
from gateway.sensors.gpu_sense import GpuSense
from gateway.sensors.guard import Spot, spot
from gateway.sensors.loop import Sensors
from gateway.sockets import address
from gateway.state.board import Board
from gateway.state.sealed import Seal
from gateway.state.store import StoreError
from gateway.tasks import Tasks

log = logging.getLogger("portico")

FIRST_LOOK = 3.0
"""Seconds that the first look at all backends may hold the start up. A dead one does not."""

ACCOUNTS = 1.0
"""Seconds between two looks at what ended requests have cost."""

IN_FORCE = 2.0
"""Seconds that the answer to a change waits for the providers to have been looked at."""

CHECK_EVERY = 10.0
"""Seconds between looks at where the names of providers lead."""

DEMO_PAUSE, DEMO_PAUSE_MOST = 1.0, 30.0
"""Seconds before a demo engine that has ended is started again, and how far they double."""

FIXED_STORE = ("store_url", "store_secret")
"""Settings of ``store`` that only a restart changes."""

FIXED = ("host", "port", "workers", "tls_cert", "tls_key")
"""Settings of ``server`` that only a restart changes."""


def rows(name: str, variant: str) -> Runtime | None:
    """The row of a runtime and flavour. What was not recognised yet is taken for a plain
    OpenAI-like server, so that its configured models are known (and refused while it is away)."""
    return BY_NAME.get(name, PLAIN).row(variant)


class Controller:
    """``see(fleet)`` is called with every new fleet, ``configured(config)`` with a configuration
    that took over; ``load`` reads it again; ``works`` gives the requests that have ended since it
    was asked last, of all workers; ``recall(request id)`` finds out why a request went where it
    went. It is the Desk of ``control/admin.py``."""

    def __init__(
        self,
        config: Config,
        port: int,
        *,
        instance: str,
        board: Board,
        load: Callable[[], Config],
        see: Callable[[Fleet], None],
        configured: Callable[[Config], None],
        works: Callable[[], list[Work]],
        recall: Callable[[str], Awaitable[Doc | None]],
        drained: Iterable[str] = (),
        stored: Stored | None = None,
    ) -> None:
        self.config = config
        self.keeper = Keeper(
            config.store_url, self._store_changed, board.meter, stored, config.retention
        )
        self.explain = recall
        self.gpus = GpuWatch(config.gate.good_for)
        self._board = board
        self._works = works
        self.metrics = Metrics()
        self._port = port
        self._load = load
        self._see = see
        self._configured = configured
        self._tasks = Tasks()
        self._seal = Seal(config.store_secret)
        self._provided: tuple[Backend, ...] = ()
        self._applying = asyncio.Lock()
        self._warned: dict[str, str] = {}
        self._demo = DemoEngine()
        self._extra: tuple[Backend, ...] = ()
        discoverer = None
        if config.discover:
            ports = [port for row in RUNTIMES for port in row.ports]
            discoverer = Discoverer(ports, {port}, on_change=log.info)
        self.sensors = Sensors(
            config.backends,
            pulse=board.pulse,
            publish=self._publish,
            discoverer=discoverer,
            instance=instance,
            drained=drained,
        )
        self.sensors.learn = config.learn

        self.panorama = Panorama()
        self._serving: frozenset[str] = frozenset()
        self.gpu_sense = GpuSense(
            self._backends,
            config.gpus,
            config.gpu_interval,
            self.see_gpus,
        )

    def _publish(self, fleet: Fleet) -> None:
        serving = frozenset(name for name, one in fleet.sights.items() if one.health in ROUTABLE)
        if serving != self._serving:
            self._serving = serving
            self.gpu_sense.engine_changed()
        self.metrics.fleet(fleet)
        self._see(fleet)

    def _backends(self) -> Iterable[Backend]:
        return self.sensors.fleet.backends.values()

    def see_gpus(self, panorama: Panorama) -> None:
        """Take over what the sensors saw of the GPUs, and judge it."""
        self.panorama = panorama
        self._judge()

    def _judge(self) -> None:
        known, events = self.gpus.look(self.panorama, self._abouts(), time.monotonic())
        for event in events:
            tell(event)
            if event.code:
                self.metrics.gpu_gate(event.backend, event.code)
        self.sensors.gpus(known)

    def _abouts(self) -> dict[str, About]:
        """What the judges of the GPUs want to know of each backend."""
        found: dict[str, About] = {}
        for name, sight in self.sensors.beliefs().items():
            pulse, load = self._board.pulse(name), sight.load
            found[name] = About(
                mode=self.config.gate.of(name),
                away=sight.health is Health.DOWN,
                busy=pulse.in_flight > 0 or (load.running or 0) > 0,
                oldest=pulse.oldest,
                kv_used=load.kv_used,
            )
        return found

    async def _keep_accounts(self) -> None:
        """Once a second: who has used what. Also what time alone changes in a verdict."""
        while True:
            await asyncio.sleep(ACCOUNTS)
            self._judge()
            self.gpus.learn(self._works())
            for share in self.gpus.settle(self._abouts(), time.monotonic()):
                self.metrics.charge(*share.owner, share.joules, share.seconds)

    @property
    def fleet(self) -> Fleet:
        """What was seen last."""
        return self.sensors.fleet

    @property
    def records(self) -> Records:
        """The store."""
        return self.keeper

    @property
    def keyring(self) -> Keyring:
        """The configured keys."""
        return self.config.keyring

    def now(self) -> float:
        return time.time()

    @property
    def told(self) -> Config:
        """The configuration as the data plane gets it: with the keys of the store."""
        if self.keeper.url is None:
            return self.config
        stored = self.keeper.stored
        if stored is None:
            return replace(self.config, keyring=replace(self.config.keyring, unread=True))
        ring = merged(self.config.keyring, stored.keys, stored.closed)
        return replace(self.config, keyring=ring)

    async def _store_changed(self, stored: Stored) -> None:
        self._tell()
        if stored.providers or self._provided:
            applied = self._tasks.spawn(self.apply(), "providers")
            await asyncio.wait({applied}, timeout=IN_FORCE)

    async def apply(self) -> None:
        """Give the sensors all backends: those of the configuration, the providers of the store
        where each is now, the demo engine."""
        async with self._applying:
            stored = self.keeper.stored or Stored()
            found = await asyncio.gather(*map(self._backend, stored.providers))
            self._provided = tuple(one for one in found if one is not None)
            await self.sensors.replace((*self.config.backends, *self._provided, *self._extra))

    async def _backend(self, kept: Doc) -> Backend | None:
        """A provider as a backend; None, with a line on the log, when it must not be one."""
        name = kept["providerId"]
        if any(name == backend.name for backend in self.config.backends):
            self._once(name, "a configured backend of that name is used instead")
            return None
        try:
            place = await self._spot(kept["baseUrl"], self._used(name, kept["baseUrl"]))
        except ValueError as error:
            self._once(name, f"it is not used, since its baseUrl {error}")
            return None
        if not place.found:
            self._once(name, "the name in its baseUrl leads nowhere now")
        return provided(kept, place.url, place.host, self._opened(kept))

    def _opened(self, kept: Doc) -> str | None:
        """A provider's key, None where there is none or it cannot be read."""
        if kept["apiKey"] is None:
            return None
        try:
            return self._seal.open(kept["apiKey"], kept["id"])
        except StoreError as error:
            self._once(kept["providerId"], f"its key cannot be used: {error}")
            return None

    def _once(self, name: str, text: str) -> None:
        """Warn of a provider; again only when something else is wrong with it."""
        if self._warned.get(name) != text:
            log.warning("provider %s: %s", name, text)
        self._warned[name] = text

    def _used(self, name: str, url: str) -> str:
        """The address at which a provider is used now, if its URL is still the same."""
        host = urlsplit(backend_url(url)).netloc
        return next((b.url for b in self._provided if (b.name, b.host) == (name, host)), "")

    async def _spot(self, url: str, used: str = "") -> Spot:
        return await spot(backend_url(url), self._port, networks(self.config.allow), used=used)

    async def _keep_checking(self) -> None:
        """Names may come to lead elsewhere: an address is never used that was not checked."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            if self._provided or (self.keeper.stored or Stored()).providers:
                await self.apply()

    @property
    def administrators(self) -> frozenset[str]:
        """By what administrators are known in records."""
        return frozenset(map(known_as, self.config.keyring.admins))

    def taken(self, name: str) -> str | None:
        """Why no provider may be called so, None when one may."""
        if name.casefold() in BY_NAME or name.casefold() in ("auto", "portico"):
            return "it is a name that is built in"
        known = self.sensors.fleet.backends
        if name in known and name not in {backend.name for backend in self._provided}:
            return "a backend of this gateway has it"
        return None

    async def check_address(self, url: str) -> None:
        """Raises ValueError for a base URL where no provider may be."""
        await self._spot(url)

    def seal(self, secret: str, about: str) -> dict[str, str]:
        """A secret as it is kept. Raises Refusal when it cannot be encrypted."""
        try:
            return self._seal.shut(secret, about)
        except StoreError as error:
            raise Refusal("overloaded", f"Nothing was changed: {error}.") from None

    def _tell(self) -> None:
        """Give the data plane what holds now."""
        self._configured(self.told)

    def drain(self, name: str) -> bool:
        """Give a backend no new requests; False when there is none of that name."""
        known = self.sensors.drain(name)
        if known:
            log.info("backend %s: drained by an administrator", name)
        return known

    def undrain(self, name: str) -> bool:
        """Give it requests again; False when there is none of that name."""
        known = self.sensors.undrain(name)
        if known:
            log.info("backend %s: given requests again by an administrator", name)
        return known

    def in_flight(self, name: str) -> int:
        """Requests that a backend works on for this gateway, over all processes."""
        return self._board.pulse(name).in_flight

    async def start(self) -> None:
        """Look at everything once, and start the demo engine where nothing is found."""
        self._tasks.spawn(self._keep_accounts(), "GPU accounts")
        self.gpu_sense.start()
        await asyncio.gather(self.sensors.start(FIRST_LOOK), self.keeper.start())
        self._tasks.spawn(self._keep_checking(), "providers' addresses")
        if self.config.demo and not self.sensors.fleet.backends:
            url = await self._start_demo()
            if url:
                log.info("no engine was found, so the built-in demo engine was started at %s", url)
                self._tasks.spawn(self._keep_demo(), "demo engine")

    async def _start_demo(self) -> str:
        """The address of the demo engine, which is a backend then; '' where it did not start."""
        try:
            url = await self._demo.start()
        except DemoError as error:
            log.error("the demo engine did not start: %s", error)
            return ""
        self._extra = (Backend("demo", url, DEMO.name),)
        await self.apply()
        return url

    async def _keep_demo(self) -> None:
        """Nobody but us can start it again, so we do."""
        pause = DEMO_PAUSE
        while True:
            began, url = time.monotonic(), ""
            how = await self._demo.ended()
            if time.monotonic() - began > DEMO_PAUSE_MOST:
                pause = DEMO_PAUSE
            log.warning("the demo engine ended (%s) and is started again in %.0f s", how, pause)
            while not url:
                await asyncio.sleep(pause)
                pause = min(2 * pause, DEMO_PAUSE_MOST)
                url = await self._start_demo()
            log.info("the demo engine was started again at %s", url)

    def announce(self, models: list[str]) -> None:
        """Say on the log where the gateway is, what it found and how to try it."""
        url = address(self.config, self._port)
        log.info("Portico %s listens on %s", __version__, url)
        for warning in self.config.warnings:
            log.warning("%s", warning)
        for line in summary(self.sensors.fleet, self.config, url, models):
            log.info("%s", line)

    def asked_to_reload(self) -> None:
        self._tasks.spawn(self._reload(), "reload")

    async def _reload(self) -> None:
        """A faulty file changes nothing; a good one takes over without dropping a request."""
        try:
            config = await asyncio.to_thread(self._load)
        except ConfigError as error:
            self.metrics.reload("failure")
            for fault in error.faults:
                log.error("reload refused: %s", fault)
            log.error("the running configuration was kept; put the faults right and reload again")
            return
        self.config = self._settled(config)
        self.sensors.learn = config.learn
        self.gpus.hold = config.gate.good_for
        self.keeper.retention = config.retention
        await self.apply()
        self.gpu_sense.configure(config.gpus, config.gpu_interval)
        self._tell()
        self.metrics.reload("success")
        log.info("reloaded: %d backends, %d public names", len(config.backends), len(config.models))

    def _settled(self, config: Config) -> Config:
        """The new configuration, less what only a restart can change."""
        old = {name: getattr(self.config.server, name) for name in FIXED}
        changed = [name for name in FIXED if getattr(config.server, name) != old[name]]
        for name in changed:
            log.warning("server.%s only changes with a restart; the old value stays", name)
        kept = {name: getattr(self.config, name) for name in FIXED_STORE}
        for name, value in kept.items():
            if getattr(config, name) != value:
                setting = name.replace("_", ".")
                log.warning("%s only changes with a restart; the old value stays", setting)
        return replace(config, server=replace(config.server, **old), **kept)

    async def page(
        self,
        accept: str,
        states: list[State],
        in_flight: Mapping[tuple[str, str], int],
        queued: Mapping[str, int],
    ) -> tuple[bytes, str]:
        """The scrape page over all processes: our own counts and the workers' ``states``. Writing
        it takes milliseconds, so it is done beside the event loop."""
        total = Metrics()
        for state in (self.metrics.state(), *states):
            total.merge(state)
        total.fleet(self.sensors.fleet)
        total.readings(rows_of(self.panorama, self.gpus.sick(), self.gpus.energy.joules()))
        total.set_in_flight_source(lambda: in_flight)
        total.set_queued_source(lambda: queued)
        return await asyncio.to_thread(exposition, total.snapshot(), accept)

    async def close(self) -> None:
        await self._tasks.cancel_all()
        await self.gpu_sense.stop()
        await self.keeper.close()
        await self.sensors.stop()
        await self._demo.stop()


def summary(fleet: Fleet, config: Config, url: str, models: list[str]) -> list[str]:
    """What was found and how to try it, for the terminal."""
    lines = [
        " ".join(f"backend {name}: {sight.runtime or 'unknown runtime'} {sight.version}".split())
        + f" at {fleet.backends[name].url} is {sight.health.value}"
        + (f" ({sight.detail})" if sight.detail else "")
        for name, sight in fleet.sights.items()
    ]
    if not models:
        return [*lines, _nothing_yet(config)]
    lines.append(f"models: {', '.join(models[:20])}{' …' if len(models) > 20 else ''}")
    key = "" if config.keyring.open else " -H 'Authorization: Bearer YOUR_KEY'"
    body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    lines.append(
        f"try: curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
    )
    return lines


def _nothing_yet(config: Config) -> str:
    if config.discover:
        return (
            "no engine found yet on this host's well-known ports; still looking. Start one, name"
            " one with --backend http://HOST:PORT, or try --demo"
        )
    return "no backend serves a model yet; 'portico doctor' says what is wrong with each"

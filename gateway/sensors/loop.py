"""The sensors at work: one loop per backend, and a new Fleet whenever something changed."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import not_

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_incrementing, wait_random

from gateway.core.breaker import Breaker, Failure, failed, looked, renewed, rested
from gateway.core.capacity import LEARN, Learner, ceiling
from gateway.core.health import (
    NOTHING,
    GpuSight,
    Observation,
    Reply,
    become,
    follow,
    gated,
    step,
    suspicious,
)
from gateway.core.types import (
    ROUTABLE,
    Backend,
    Circuit,
    Fleet,
    Health,
    Load,
    Model,
    Op,
    Pulse,
    Sight,
)
from gateway.sensors.ask import Asker
from gateway.sensors.discover import Discoverer, Found, is_near, place_of, told
from gateway.sensors.loading import Loader
from gateway.sensors.probe import Book, Identity, Stranger, identify, observe, shipped
from gateway.tasks import Tasks

log = logging.getLogger("portico.sensors")

RARELY = 60.0
"""Seconds between questions to a provider that is down, and to ourselves."""

GONE_AFTER = 60.0
"""Seconds after which a discovered engine that does not come back leaves the fleet."""

NUDGE_GAP = 1.2
"""Seconds between two rounds at least, however often the data plane asks for one. Over a second,
since a llama-server asked more often keeps abandoned requests running (sheet: llamacpp 8)."""

DEEP_EVERY = 60.0
"""Seconds between two costly checks of the same suspect."""

CIRCUITS_EVERY = 0.1
"""Seconds between looks at circuits that are not closed."""

NEWCOMER_WAIT = 3.0
"""Seconds that a reload waits for the first sight of what it brings, so that no request meets a
backend nobody has looked at."""

NO_GPUS = GpuSight()
"""What holds for a backend of whose GPUs nothing was ever said."""

ITSELF = "this address is the gateway itself; take it out of the backends"
DRAINED = "an operator drains it; POST /admin/backends/NAME/undrain ends that"
AILING = frozenset({Health.UNKNOWN, Health.DOWN, Health.LOADING})

chance = random.SystemRandom()


@dataclass(slots=True, eq=False)
class Watch:
    """What the loop of one backend knows. ``kind`` is the runtime under which it was discovered;
    ``absent`` since when (monotonic seconds) it has been away or somebody else, 0 if it is there;
    ``proved`` when a costly check last showed it to work, ``deep_at`` when that was last tried."""

    backend: Backend
    sight: Sight
    seen: Observation = NOTHING
    who: Identity | None = None
    kind: str = ""
    absent: float = 0.0
    proved: float = 0.0
    deep_at: float = 0.0
    breaker: Breaker = field(default_factory=Breaker)
    began: float = 0.0
    learner: Learner = field(default_factory=Learner)
    nudge: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until nudged, but never start two rounds at once."""
        least = min(seconds, max(0.0, self.began + NUDGE_GAP - time.monotonic()))
        await asyncio.sleep(least)
        try:
            async with asyncio.timeout(seconds - least):
                await self.nudge.wait()
        except TimeoutError:
            return
        finally:
            self.nudge.clear()

    @property
    def rare(self) -> bool:
        """Whether asking often would be rude, or pointless."""
        if self.who is None or self.sight.health is not Health.DOWN:
            return False
        far = self.who.base.cloud and not is_near(place_of(self.backend.url)[0])
        return far or self.sight.detail == ITSELF


class Sensors:
    """Keeps the Fleet true. ``pulse(name)`` tells what live traffic says of a backend;
    ``publish(fleet)`` is called with every new Fleet; ``instance`` is this gateway's own id, by
    which it knows itself behind a backend's address; ``interval`` is in seconds; ``learn`` is whose
    word a backend's limit is taken from (core/capacity.py)."""

    def __init__(
        self,
        backends: Iterable[Backend],
        *,
        pulse: Callable[[str], Pulse],
        publish: Callable[[Fleet], None],
        discoverer: Discoverer | None,
        instance: str,
        interval: float = 5.0,
        book: Book | None = None,
        drained: Iterable[str] = (),
    ) -> None:
        self.learn = LEARN[0]
        self._pulse = pulse
        self._announce = publish
        self._discoverer = discoverer
        self._instance = instance
        self._interval = interval
        self._book = book or shipped()
        self._ask = Asker()
        self._tasks = Tasks()
        self._reloading = asyncio.Lock()
        self._scanned = asyncio.Event()
        self._gpus: Mapping[str, GpuSight] = {}
        self._failing = asyncio.Event()
        self._loader = Loader(
            self._ask,
            self._tasks,
            look=self.stale,
            resident=self._resident,
            done=self._became_resident,
            changed=self._publish,
        )
        self._drained: set[str] = set(drained)
        self._watches = {backend.name: self._fresh(backend) for backend in backends}
        self._fleet = Fleet(0, time.monotonic(), {}, {})

    @property
    def fleet(self) -> Fleet:
        """What was published last."""
        return self._fleet

    async def start(self, wait: float) -> None:
        """Start looking; return when every backend was seen once, or after ``wait`` seconds."""
        self._publish()
        for watch in self._watches.values():
            self._run(watch)
        if self._discoverer is not None:
            self._tasks.spawn(self._discover(self._discoverer), "sensors: discovery")
        self._tasks.spawn(self._keep_circuits(), "sensors: circuits")
        try:
            async with asyncio.timeout(wait):
                if self._discoverer is not None:
                    await self._scanned.wait()
                for watch in list(self._watches.values()):
                    await watch.looked.wait()
        except TimeoutError:
            log.debug("not every backend was seen within %g s; going on", wait)

    async def replace(self, backends: Iterable[Backend]) -> None:
        """Take over a new configuration. A backend at the same place keeps its Sight and loop;
        newcomers are looked at before they are published."""
        wanted = {backend.name: backend for backend in backends}
        async with self._reloading:
            newcomers = [self._fresh(b) for b in wanted.values() if not self._adopt(b)]
            if newcomers:
                looks = [self._tasks.spawn(self._look(w), "sensors: newcomer") for w in newcomers]
                await asyncio.wait(looks, timeout=NEWCOMER_WAIT)
                for look in looks:
                    look.cancel()
            for watch in list(self._watches.values()):
                if self._outdated(watch, wanted):
                    self._remove(watch)
            for watch in newcomers:
                if (old := self._watches.get(watch.backend.name)) is not None:
                    self._remove(old)
                self._watches[watch.backend.name] = watch
                self._run(watch)
            self._publish()

    def trouble(self, name: str, detail: str) -> None:
        """The data plane found nobody at a backend's address: DOWN at once, and look again."""
        watch = self._watches.get(name)
        if watch is None:
            return
        sight = become(watch.sight, Health.DOWN, detail, time.monotonic())
        _believe(watch, replace(sight, load=Load()))
        watch.nudge.set()
        self._publish()

    def learned(self, name: str, model_id: str, op: Op) -> None:
        """The engine said that this model has no such surface."""
        watch = self._watches.get(name)
        if watch is not None:
            watch.sight = replace(watch.sight, lacks=watch.sight.lacks | {(model_id, op)})
            self._publish()

    def gpus(self, known: Mapping[str, GpuSight]) -> None:
        """What is known now of the GPUs of each backend, by its name."""
        self._gpus = known
        self._publish()

    def beliefs(self) -> dict[str, Sight]:
        """What is believed of each engine by itself, whatever is thought of its GPUs."""
        return {name: watch.sight for name, watch in self._watches.items()}

    def stale(self, name: str) -> None:
        """Something about a backend seems to have changed: look now."""
        watch = self._watches.get(name)
        if watch is not None:
            watch.nudge.set()

    def wake(self, name: str, model_id: str) -> None:
        """A request is there for a model that its engine would have to load first."""
        watch = self._watches.get(name)
        if watch is not None and watch.who is not None and not self._resident(name, model_id):
            self._loader.wake(watch.backend, watch.who.row, model_id)

    def _resident(self, name: str, model_id: str) -> bool:
        watch = self._watches.get(name)
        models = watch.sight.models if watch else ()
        return any(model.loaded for model in models if model.id == model_id)

    def _became_resident(self, name: str, model_id: str) -> None:
        """Known from the load itself, before the next look."""
        watch = self._watches.get(name)
        if watch is not None:
            models = tuple(
                replace(model, loaded=True) if model.id == model_id else model
                for model in watch.sight.models
            )
            watch.sight = replace(watch.sight, models=models)
            watch.nudge.set()
        self._publish()

    def failed(self, name: str, reason: str, failure: Failure) -> None:
        """A request failed on a backend in a way that means the engine."""
        watch = self._watches.get(name)
        if watch is None:
            return
        now, pulse = time.monotonic(), self._pulse(name)
        before = watch.breaker.circuit
        failure = replace(failure, last=not self._others(watch))
        watch.breaker = failed(watch.breaker, failure, pulse.served, now)
        if watch.breaker.circuit is Circuit.OPEN and before is not Circuit.OPEN:
            wait = watch.breaker.until - now
            log.warning("backend %s cools down for %.0f s: requests fail (%s)", name, wait, reason)
            watch.nudge.set()
        self._failing.set()
        self._publish()

    def _others(self, watch: Watch) -> bool:
        """Whether another backend that takes requests has a model of this one."""
        own = {model.id for model in watch.sight.models}
        return any(
            not own.isdisjoint(model.id for model in other.sight.models)
            for name, other in self._watches.items()
            if other is not watch
            and other.sight.health in ROUTABLE
            and other.breaker.circuit is not Circuit.OPEN
            and name not in self._drained
        )

    async def _keep_circuits(self) -> None:
        """Half open what has cooled down, close what stood its trial."""
        while True:
            await self._failing.wait()
            self._failing.clear()
            await asyncio.sleep(CIRCUITS_EVERY)
            self._look_at_circuits()

    def _look_at_circuits(self) -> None:
        now = time.monotonic()
        for name, watch in self._watches.items():
            before = watch.breaker.circuit
            if before is Circuit.CLOSED:
                continue
            pulse = self._pulse(name)
            watch.breaker = looked(watch.breaker, pulse.served, pulse.tried, now)
            if watch.breaker.circuit is not Circuit.CLOSED:
                self._failing.set()
            else:
                log.info("backend %s takes all requests again", name)
        self._publish()

    def drain(self, name: str) -> bool:
        """Give a backend no new requests until ``undrain``; False when it is not known."""
        if name not in self._watches:
            return False
        self._drained.add(name)
        self._publish()
        return True

    def undrain(self, name: str) -> bool:
        """Let a drained backend take requests again; False when it is not known."""
        known = name in self._watches or name in self._drained
        self._drained.discard(name)
        self._publish()
        return known

    @property
    def drained(self) -> frozenset[str]:
        """The names of the backends that an operator has drained."""
        return frozenset(self._drained)

    async def stop(self) -> None:
        await self._tasks.cancel_all()
        await self._ask.close()

    # -- one backend ------------------------------------------------------------------------------

    def _fresh(self, backend: Backend, who: Identity | None = None) -> Watch:
        """A watch that has seen nothing. What the configuration says is known already, so that a
        model of an engine that was never up is unavailable rather than unknown."""
        sight = Sight(
            since=time.monotonic(),
            runtime=backend.runtime if backend.runtime in self._book.BY_NAME else "",
            models=tuple(Model(model) for model in backend.models),
        )
        return Watch(backend, sight, who=who, kind=who.base.name if who else "")

    def _run(self, watch: Watch) -> None:
        watch.task = self._tasks.spawn(self._keep_looking(watch), f"sensors: {watch.backend.name}")

    async def _keep_looking(self, watch: Watch) -> None:
        """Rounds for ever: 1 s, 2 s, … apart while something is wrong, else ``interval``."""
        most = self._interval * 0.8
        soon = wait_incrementing(1, 1, most) + wait_random(0, self._interval - most)

        def backoff(state: RetryCallState) -> float:
            return RARELY if watch.rare else soon(state)

        while True:
            rounds = AsyncRetrying(retry=retry_if_result(not_), wait=backoff, sleep=watch.pause)
            await rounds(self._look, watch)
            await watch.pause(chance.uniform(most, self._interval))

    async def _look(self, watch: Watch) -> bool:
        """One round; True when the backend needs no quick second look."""
        watch.began = time.monotonic()
        try:
            seen = await self._observe(watch)
        except Exception:
            log.exception("a fault of ours while looking at %s", watch.backend.name)
            seen = Observation(health=Health.SICK, detail="our own sensor failed; see the log")
        now, pulse = time.monotonic(), self._pulse(watch.backend.name)
        if watch.proved > pulse.last_byte:
            pulse = replace(pulse, last_byte=watch.proved)
        watch.seen = follow(watch.seen, seen, pulse, now)
        before = watch.sight
        _believe(watch, step(before, watch.seen, pulse, now))
        watch.learner.saw(watch.sight.load, now)
        most = ceiling(watch.sight.load, watch.learner.limit, self.learn)
        watch.sight = replace(watch.sight, ceiling=most)
        self._check_deeply(watch, pulse, now)
        watch.breaker = rested(watch.breaker, pulse.served, now)
        if before.health in (Health.DOWN, Health.LOADING) and watch.sight.health in ROUTABLE:
            watch.breaker = renewed(watch.breaker)
        watch.absent = watch.absent or now if watch.sight.health is Health.DOWN else 0.0
        watch.looked.set()
        self._publish()
        return watch.sight.health not in AILING and not watch.seen.misses

    async def _observe(self, watch: Watch) -> Observation:
        if watch.who is None or watch.sight.health is Health.DOWN:
            who = await identify(self._ask, watch.backend, self._book)
            if isinstance(who, Stranger):
                return self._from_stranger(who)
            watch.who = who
        if self._instance and watch.who.portico == self._instance:
            return Observation(health=Health.DOWN, detail=ITSELF)
        at_work = self._pulse(watch.backend.name).in_flight > 0
        seen, fits = await observe(self._ask, watch.backend, watch.who, watch.seen, at_work=at_work)
        if not fits and watch.backend.runtime not in self._book.BY_NAME:
            return await self._again(watch, watch.who, seen)
        if seen.runtime:
            watch.who = replace(watch.who, variant=seen.variant)
        return seen

    def _from_stranger(self, who: Stranger) -> Observation:
        itself = bool(self._instance) and who.portico == self._instance
        if itself:
            return Observation(health=Health.DOWN, detail=ITSELF)
        return Observation(reply=who.reply, health=who.health, detail=who.detail)

    async def _again(self, watch: Watch, was: Identity, seen: Observation) -> Observation:
        """The marks of ``was`` are gone: find out who took its place."""
        who = await identify(self._ask, watch.backend, self._book)
        if isinstance(who, Identity):
            watch.who = who
            return (await observe(self._ask, watch.backend, who, NOTHING))[0]
        if who.reply is not Reply.ANSWERED:
            return self._from_stranger(who)
        # Forgotten, so that every further round starts by asking who it is.
        watch.who = None
        detail = f"no longer answers like {was.row.title}, nor like any other runtime known here"
        return replace(seen, health=Health.SICK, detail=detail, models=None)

    def _check_deeply(self, watch: Watch, pulse: Pulse, now: float) -> None:
        """Start the row's costly check, if it has one and the engine is under suspicion. It runs
        beside the rounds: a bad answer may take 20 s (sheet: sglang 2)."""
        due = now - watch.deep_at >= DEEP_EVERY
        if watch.who and watch.who.row.deep and due and suspicious(watch.sight, pulse, now):
            watch.deep_at = now
            self._tasks.spawn(self._deep(watch, watch.who), f"sensors: deep {watch.backend.name}")

    async def _deep(self, watch: Watch, who: Identity) -> None:
        probe = who.row.deep
        assert probe is not None
        for path in probe.paths:
            answer = await self._ask.get(watch.backend, who.row, path, probe.timeout)
            if 200 <= answer.status < 300:
                watch.proved = time.monotonic()
                watch.nudge.set()
                return

    # -- the fleet --------------------------------------------------------------------------------

    def _adopt(self, backend: Backend) -> bool:
        """Give a running watch its new settings, if it may go on with what it knows."""
        watch = self._watches.get(backend.name)
        if watch is None or not _same_place(watch.backend, backend):
            return False
        watch.backend = backend
        return True

    def _outdated(self, watch: Watch, wanted: dict[str, Backend]) -> bool:
        if not watch.backend.discovered:
            return watch.backend.name not in wanted
        place = place_of(watch.backend.url)
        return place in {place_of(backend.url) for backend in wanted.values()}

    def _remove(self, watch: Watch) -> None:
        if watch.task is not None:
            watch.task.cancel()
        del self._watches[watch.backend.name]

    def _publish(self) -> None:
        """Send out a new Fleet if it would differ from the last."""
        backends = {name: watch.backend for name, watch in self._watches.items()}
        sights = {name: self._shown(watch) for name, watch in self._watches.items()}
        if (backends, sights) == (self._fleet.backends, self._fleet.sights) and self._fleet.serial:
            return
        self._fleet = Fleet(self._fleet.serial + 1, time.monotonic(), backends, sights)
        self._announce(self._fleet)

    def _shown(self, watch: Watch) -> Sight:
        """What is told of a backend: what was seen of it and of its GPUs, what live traffic and the
        operator say."""
        sight, breaker = self._loader.shown(watch.backend.name, watch.sight), watch.breaker
        if breaker.circuit is not Circuit.CLOSED:
            sight = replace(sight, circuit=breaker.circuit, until=breaker.until)
        sight = gated(sight, self._gpus.get(watch.backend.name, NO_GPUS))
        if watch.backend.name in self._drained:
            sight = replace(sight, health=Health.DRAINING, detail=DRAINED)
        return sight

    # -- discovery --------------------------------------------------------------------------------

    async def _discover(self, discoverer: Discoverer) -> None:
        while True:
            try:
                await self._scan(discoverer)
            except Exception:
                log.exception("a fault of ours while looking for engines")
            self._scanned.set()
            await asyncio.sleep(chance.uniform(self._interval * 0.8, self._interval))

    async def _scan(self, discoverer: Discoverer) -> None:
        for watch in list(self._watches.values()):
            if watch.backend.discovered and _gone(watch, time.monotonic()):
                row = self._book.BY_NAME.get(watch.kind)
                self._remove(watch)
                discoverer.lost(watch.backend, row.title if row else watch.backend.name)
                self._publish()
        known = [watch.backend for watch in self._watches.values()]
        for found in await discoverer.look(self._ask, known):
            self._take_in(found)

    def _take_in(self, found: Found) -> None:
        # A reload may have brought the same name while the ports were being looked at.
        if found.backend.name not in self._watches:
            watch = self._fresh(found.backend, found.who)
            self._watches[found.backend.name] = watch
            self._run(watch)
            self._publish()


def _believe(watch: Watch, sight: Sight) -> None:
    """Another belief, and a line on the log where it is about another health: a warning when the
    backend takes requests no more."""
    before, watch.sight = watch.sight, sight
    if before.health is sight.health:
        return
    if before.health is Health.UNKNOWN:
        log.info("%s", told(watch.backend, sight))
        return
    lost = before.health in ROUTABLE and sight.health not in ROUTABLE
    log.log(
        logging.WARNING if lost else logging.INFO,
        "backend %s: %s -> %s: %s",
        *(watch.backend.name, before.health, sight.health, sight.detail),
    )


def _same_place(old: Backend, new: Backend) -> bool:
    """Whether what is known of ``old`` holds for ``new``."""
    return _place(old) == _place(new)


def _place(backend: Backend) -> tuple[object, ...]:
    return (
        *(backend.url, backend.host, backend.runtime, backend.otherwise),
        *(backend.keys, backend.proxy, backend.discovered),
    )


def _gone(watch: Watch, now: float) -> bool:
    """Whether a discovered engine left for good, or another took its port and name."""
    if watch.absent and now - watch.absent > GONE_AFTER:
        return True
    replaced = watch.who is not None and watch.who.base.name != watch.kind
    alien = watch.who is None and watch.looked.is_set()
    return replaced or alien

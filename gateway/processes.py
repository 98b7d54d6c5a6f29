"""The three ways a process of the gateway lives: alone, as the control process, as a worker.

All three put the same parts together; only the wires between them differ."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.config import Config
from gateway.control import admin
from gateway.control.desk import Answered
from gateway.control.exposition import State
from gateway.control.gathered import Gathered
from gateway.control.gpu_watch import GpuWatch
from gateway.control.openapi import document
from gateway.controller import Controller
from gateway.core.breaker import Failure
from gateway.core.energy import Work
from gateway.core.errors import Refusal
from gateway.core.explain import explain
from gateway.core.types import Ask, Doc, Fleet, Op
from gateway.dialects import ROUTES
from gateway.edge import manage
from gateway.edge.handler import Tables
from gateway.edge.ops import Ops
from gateway.keeper import Stored
from gateway.logs import AccessLog
from gateway.sink import Sink
from gateway.sockets import tls_context
from gateway.state.board import Board
from gateway.state.kept import Kept
from gateway.state.link import Asked, Hub, Message, Spoke
from gateway.tasks import Tasks
from gateway.worker import Worker

log = logging.getLogger("portico")

ANSWER_WITHIN = 1.0
"""Seconds that a worker has to tell its counts when a scraper asks."""

PAGE_WITHIN = 5.0
"""Seconds that the control process has to write the scrape page."""

TELL_EVERY = 0.5
"""Seconds between a worker's unasked tellings: as much as its sudden death can lose."""

USAGE_EVERY = 1.0
"""Seconds between a worker's tellings of what was used."""

UNASKED = 0

END, RELOAD = signal.SIGUSR1, signal.SIGUSR2
"""What the supervisor asks of its processes. They do not heed the signals that ask it of the whole
gateway, since those may be sent to all of a group at once and would count twice."""


@dataclass(frozen=True, slots=True)
class Now:
    """What goes on in a worker at one moment: requests in flight by model and backend, and those
    that wait, by model."""

    in_flight: Counter[tuple[str, str]] = field(default_factory=Counter)
    queued: Counter[str] = field(default_factory=Counter)

    @classmethod
    def on(cls, board: Board) -> Now:
        return cls(Counter(board.by_model), Counter(board.queues.depths))

    def add(self, other: Now) -> None:
        self.in_flight.update(other.in_flight)
        self.queued.update(other.queued)


@dataclass(frozen=True, slots=True)
class Setting:
    """What every process of one gateway is given. ``instance`` is the gateway's own id, by which
    it knows itself behind an address."""

    config: Config
    load: Callable[[], Config]
    sink: Sink
    sockets: list[socket.socket]
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def port(self) -> int:
        port: int = self.sockets[0].getsockname()[1]
        return port

    def access(self) -> AccessLog:
        return AccessLog(self.sink, self.config.log_format)


@dataclass(frozen=True, slots=True)
class Ties:
    """What the supervisor shares with all that it forks: where the control process listens, what
    it has kept, and a pipe that ends with the supervisor."""

    path: str
    kept: Kept
    lifeline: int


@dataclass(frozen=True, slots=True)
class Legacy:
    """What a control process leaves to the next: the configuration that took over last, which
    need not be what the file says now, all that was counted, what is held against GPUs, which a
    restart of ours does not heal, the backends that are drained, and what the store held."""

    config: Config
    own: State
    gathered: Gathered
    gpus: GpuWatch
    drained: frozenset[str] = frozenset()
    stored: Stored | None = None


class Serving(ABC):
    """What alone and worker have in common: a data plane, its pages, its end by a signal."""

    def __init__(self, setting: Setting, board: Board) -> None:
        self.setting = setting
        self.config = setting.config
        self.board = board
        self.stop = asyncio.Event()
        self.worker = Worker(
            board=board,
            access=setting.access(),
            senses=self,
            own_pages=Ops(self),
            instance=setting.instance,
        )

    @property
    def instance(self) -> str:
        return self.setting.instance

    @property
    def tables(self) -> Tables:
        return self.worker.handler.tables

    @property
    def fleet(self) -> Fleet:
        return self.worker.fleet

    @property
    def draining(self) -> bool:
        return self.worker.handler.draining

    @abstractmethod
    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The scrape page and its content type."""

    def openapi(self) -> Doc:
        return document(__version__, {**ROUTES, **manage.ROUTES})

    def admin_methods(self, path: str) -> tuple[str, ...]:
        return admin.methods(path)

    @abstractmethod
    async def admin(self, ask: Ask) -> Answered:
        """What the control side answers to an administrator. Raises Refusal."""

    def told(self, request_id: str) -> Doc | None:
        """Why a request of this process went where it went, None when it is not known here."""
        self.worker.handler.enter()
        story = self.worker.handler.recall.of(request_id)
        return None if story is None else explain(story)

    @abstractmethod
    def trouble(self, name: str, detail: str) -> None:
        """The data plane found nobody at a backend."""

    @abstractmethod
    def learned(self, name: str, model_id: str, op: Op) -> None:
        """An engine refused a surface for a model."""

    @abstractmethod
    def stale(self, name: str) -> None:
        """What is known of a backend seems out of date."""

    @abstractmethod
    def wake(self, name: str, model_id: str) -> None:
        """A request is there for a model that its engine would have to load first."""

    @abstractmethod
    def failed(self, name: str, reason: str, failure: Failure) -> None:
        """A request failed on a backend in a way that means the engine."""

    async def drain(self) -> None:
        if not await self.worker.drain(self.config.server.drain_timeout):
            log.warning(
                "server.drain_timeout is over; %d requests are cut", self.worker.handler.active
            )


def on_signals(*numbers: signal.Signals, call: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, call)
    # The supervisor holds them back over a fork, so that none comes before there is a handler.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def on_end_of(lifeline: int, call: Callable[[], None]) -> None:
    """Call once when the supervisor is gone, whatever way: its end of the pipe closes with it."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(lifeline)
        call()

    loop.add_reader(lifeline, ended)


class Alone(Serving):
    """Everything in one process."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, Board())
        self._tasks = Tasks()
        self.controller = Controller(
            setting.config,
            setting.port,
            instance=setting.instance,
            board=self.board,
            load=setting.load,
            see=self.worker.see,
            configured=self._configured,
            works=self.worker.take_works,
            recall=self._recall,
        )
        self.worker.configure(self.controller.told)

    async def _recall(self, request_id: str) -> Doc | None:
        return self.told(request_id)

    async def admin(self, ask: Ask) -> Answered:
        return await admin.answer(self.controller, ask)

    def _configured(self, config: Config) -> None:
        self.config = config
        self.worker.configure(config)

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        board = self.board
        return await self.controller.page(
            accept, [self.worker.counts()], board.by_model, board.queues.depths
        )

    def trouble(self, name: str, detail: str) -> None:
        self.controller.sensors.trouble(name, detail)

    def learned(self, name: str, model_id: str, op: Op) -> None:
        self.controller.sensors.learned(name, model_id, op)

    def stale(self, name: str) -> None:
        self.controller.sensors.stale(name)

    def wake(self, name: str, model_id: str) -> None:
        self.controller.sensors.wake(name, model_id)

    def failed(self, name: str, reason: str, failure: Failure) -> None:
        self.controller.sensors.failed(name, reason, failure)

    async def run(self) -> None:
        """Serve until a signal ends it."""
        on_signals(signal.SIGTERM, signal.SIGINT, call=self.asked_to_stop)
        on_signals(signal.SIGHUP, call=self.controller.asked_to_reload)
        self._tasks.spawn(self._keep_counting(), "usage")
        try:
            await self.controller.start()
            await self.worker.listen(self.setting.sockets, tls_context(self.config.server))
            self.controller.announce(self.worker.models)
            await self.stop.wait()
            log.info(
                "draining: requests in flight may finish within %g s",
                self.config.server.drain_timeout,
            )
            await self.drain()
            log.info("drained; bye")
        finally:
            await self.worker.close()
            await self._tasks.cancel_all()
            self.controller.keeper.spent(self.worker.take_used())
            await self.controller.close()

    async def _keep_counting(self) -> None:
        while True:
            await asyncio.sleep(USAGE_EVERY)
            self.controller.keeper.spent(self.worker.take_used())

    def asked_to_stop(self) -> None:
        """The first time drain, the second time leave."""
        if self.stop.is_set():
            log.warning("second signal: leaving at once; requests in flight are cut")
            self.worker.flush()
            self.setting.sink.close()
            os._exit(0)
        self.stop.set()


class Working(Serving):
    """A worker beside a control process, from which it gets configuration and fleets. Without it,
    it goes on with the last it was given."""

    def __init__(self, setting: Setting, board: Board, ties: Ties) -> None:
        super().__init__(setting, board)
        self._ties = ties
        self._tasks = Tasks()
        self._asked = Asked()
        self._spoke = Spoke(uuid.uuid4().hex, self._hear, self._asked.lost)
        self._told = 0
        self._known = asyncio.Event()

    def _hear(self, kind: str, content: Any) -> None:
        match kind:
            case "config":
                self.config = content
                self.worker.configure(content)
            case "fleet":
                self.worker.see(content)
                self._known.set()
            case "counts?":
                self._tell_counts(content)
            case "page" | "admin":
                self._asked.answered(*content)
            case "explain?":
                number, request_id = content
                self._spoke.say("explain", (number, self.told(request_id)))

    def _tell_counts(self, number: int) -> None:
        counts = (number, self.worker.counts(), Now.on(self.board))
        self._spoke.say("counts", counts)

    async def _keep_telling(self) -> None:
        """Tell the counts now and then, so that few are lost when this process is killed."""
        while True:
            await asyncio.sleep(TELL_EVERY)
            if self._told != self.worker.reported and self._spoke.connected.is_set():
                self._told = self.worker.reported
                self._tell_counts(UNASKED)
                self._spoke.say("works", self.worker.take_works())

    async def _keep_telling_usage(self) -> None:
        """What is not told stays here, so that a control process that is away misses nothing."""
        while True:
            await asyncio.sleep(USAGE_EVERY)
            if self._spoke.connected.is_set():
                self._tell_usage()

    def _tell_usage(self) -> None:
        used = self.worker.take_used()
        if used:
            self._spoke.say("usage", used)

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Ask the control process, which asks all the others."""
        page: tuple[bytes, str] = await self._ask_control("page?", accept)
        return page

    async def admin(self, ask: Ask) -> Answered:
        wired: admin.Wired = await self._ask_control("admin?", ask)
        return admin.unwired(wired)

    async def _ask_control(self, kind: str, content: Any) -> Any:
        """The answer of the control process. One that has died is replaced in a moment, so it is
        worth waiting for the next. Raises Refusal ``overloaded``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAGE_WITHIN):
                while True:
                    await self._spoke.connected.wait()
                    with contextlib.suppress(ConnectionError):
                        return await self._asked.ask(
                            lambda number: self._spoke.say(kind, (number, content)), PAGE_WITHIN
                        )
        raise Refusal(
            "overloaded",
            "The process that keeps metrics and settings does not answer; it is being restarted."
            " Requests are served meanwhile. Ask again.",
        )

    def trouble(self, name: str, detail: str) -> None:
        self._spoke.say("trouble", (name, detail))

    def learned(self, name: str, model_id: str, op: Op) -> None:
        self._spoke.say("learned", (name, model_id, op))

    def stale(self, name: str) -> None:
        self._spoke.say("stale", (name,))

    def wake(self, name: str, model_id: str) -> None:
        self._spoke.say("wake", (name, model_id))

    def failed(self, name: str, reason: str, failure: Failure) -> None:
        self._spoke.say("failed", (name, reason, failure))

    def _abandoned(self) -> None:
        """Without a supervisor nobody would replace us or end us. What has begun may end, but the
        port is left to whoever is started instead."""
        log.warning("the supervisor is gone: this worker drains and ends")
        self.worker.stop_listening()
        self.stop.set()

    async def run(self) -> None:
        """Serve until the supervisor ends it."""
        on_signals(END, call=self.stop.set)
        on_end_of(self._ties.lifeline, self._abandoned)
        self._tasks.spawn(self._spoke.run(self._ties.path), "link")
        self._tasks.spawn(self._keep_telling(), "counts")
        self._tasks.spawn(self._keep_telling_usage(), "usage")
        waits = [asyncio.ensure_future(e.wait()) for e in (self._known, self.stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        try:
            if not self.stop.is_set():
                await self.worker.listen(self.setting.sockets, tls_context(self.config.server))
                self._spoke.say("ready", None)
                await self.stop.wait()
            await self.drain()
        finally:
            await self.worker.close()
            self._tell_counts(UNASKED)
            self._tell_usage()
            await self._tasks.cancel_all()


class Controlling:
    """The control process: it looks, reloads and counts, and tells the workers."""

    def __init__(self, setting: Setting, board: Board, ties: Ties, announce: bool) -> None:
        self._setting = setting
        self._ties = ties
        self._announce = announce
        self._to_keep = False
        self._stop = asyncio.Event()
        self._tasks = Tasks()
        self._hub = Hub(self._hear, self._greeting)
        self._asked = Asked()
        self._looked = False
        self._found: Mapping[str, str] = {}
        self._works: list[Work] = []
        legacy: Legacy | None = ties.kept.read()
        self._gathered = Gathered() if legacy is None else legacy.gathered
        self.controller = Controller(
            setting.config if legacy is None else legacy.config,
            setting.port,
            instance=setting.instance,
            board=board,
            load=setting.load,
            see=self._see,
            configured=self._configured,
            works=self._take_works,
            recall=self._recall,
            drained=frozenset() if legacy is None else legacy.drained,
            stored=None if legacy is None else legacy.stored,
        )
        if legacy is not None:
            self.controller.metrics.merge(legacy.own)
            self.controller.gpus = legacy.gpus

    def _take_works(self) -> list[Work]:
        works, self._works = self._works, []
        return works

    def _see(self, fleet: Fleet) -> None:
        if self._looked:
            self._hub.tell_all("fleet", fleet)

    def _configured(self, config: Config) -> None:
        self._keep()
        self._to_keep = True  # the reload is yet to be counted
        self._hub.tell_all("config", config)

    def _greeting(self) -> list[Message]:
        return [("config", self.controller.told), ("fleet", self.controller.sensors.fleet)]

    def _hear(self, worker: str, kind: str, content: Any) -> None:
        sensors = self.controller.sensors
        match kind:
            case "trouble":
                sensors.trouble(*content)
            case "learned":
                sensors.learned(*content)
            case "stale":
                sensors.stale(*content)
            case "works":
                self._works += content
            case "wake":
                sensors.wake(*content)
            case "failed":
                sensors.failed(*content)
            case "counts":
                number, state, now = content
                self._gathered.told(worker, state, time.monotonic())
                self._to_keep = True
                self._asked.answered(number, now)
            case "usage":
                self.controller.keeper.spent(content)
            case "page?":
                self._tasks.spawn(self._page(worker, *content), "metrics page")
            case "admin?":
                self._tasks.spawn(self._admin(worker, *content), "admin")
            case "explain":
                self._asked.answered(*content)
            case "ready" if self._announce:
                self._announce = False
                self.controller.announce(sorted(_served(sensors.fleet)))

    def _keep(self) -> None:
        """Leave all to the next control process, should this one be killed now."""
        controller = self.controller
        self._ties.kept.write(
            Legacy(
                controller.config,
                controller.metrics.state(),
                self._gathered,
                controller.gpus,
                controller.sensors.drained,
                controller.keeper.stored,
            )
        )
        self._to_keep, self._found = False, controller.gpus.found

    async def _keep_keeping(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            self._gathered.tidy(self._hub.workers, time.monotonic())
            if self._to_keep or self._found != self.controller.gpus.found:
                self._keep()

    async def _page(self, worker: str, number: int, accept: str) -> None:
        """Every worker's counts, of those that are gone the last that was heard. What has been
        shown is kept, since a counter must not go down."""
        total = Now()
        for now in await asyncio.gather(*(self._now(w) for w in self._hub.workers)):
            total.add(now)
        self._keep()
        page = await self.controller.page(
            accept, self._gathered.states, total.in_flight, total.queued
        )
        self._hub.tell(worker, "page", (number, page))

    async def _now(self, worker: str) -> Now:
        """Ask a worker for its counts; what is counted for good is noted as it comes."""
        try:
            answer: Now = await self._asked.ask(
                lambda number: self._hub.tell(worker, "counts?", number), ANSWER_WITHIN
            )
        except TimeoutError:
            return Now()
        return answer

    async def _admin(self, worker: str, number: int, ask: Ask) -> None:
        wired = await admin.answer_wired(self.controller, ask)
        if ask.method != "GET":
            self._keep()
        self._hub.tell(worker, "admin", (number, wired))

    async def _recall(self, request_id: str) -> Doc | None:
        """Ask every worker; at most a few know the id, of whom the last one counts."""
        answers = await asyncio.gather(*(self._told(w, request_id) for w in self._hub.workers))
        known = [answer for answer in answers if answer is not None]
        return max(known, key=lambda doc: float(doc["at"]), default=None)

    async def _told(self, worker: str, request_id: str) -> Doc | None:
        try:
            answer: Doc | None = await self._asked.ask(
                lambda number: self._hub.tell(worker, "explain?", (number, request_id)),
                ANSWER_WITHIN,
            )
        except TimeoutError:
            return None
        return answer

    def _abandoned(self) -> None:
        """The supervisor is gone, and with it whoever would clear up."""
        shutil.rmtree(Path(self._ties.path).parent, ignore_errors=True)
        self._stop.set()

    async def run(self) -> None:
        """Look and tell until the supervisor ends it."""
        on_signals(END, call=self._stop.set)
        on_signals(RELOAD, call=self.controller.asked_to_reload)
        on_end_of(self._ties.lifeline, self._abandoned)
        for sock in self._setting.sockets:
            sock.close()  # the port is the workers'
        self._tasks.spawn(self._keep_keeping(), "keeping")
        try:
            await self.controller.start()
            self._looked = True
            await self._hub.listen(self._ties.path)
            await self._stop.wait()
        finally:
            self._hub.close()
            await self._tasks.cancel_all()
            await self.controller.close()


def _served(fleet: Fleet) -> set[str]:
    return {model.id for sight in fleet.sights.values() for model in sight.models}

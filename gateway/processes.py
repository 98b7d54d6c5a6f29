"""The three ways a process of the gateway lives: alone, as the control process, as a worker.

All three put the same parts together; only the wires between them differ."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.config import Config
from gateway.control.exposition import State
from gateway.control.openapi import document
from gateway.controller import Controller
from gateway.core.errors import Refusal
from gateway.core.types import Doc, Fleet, Op
from gateway.dialects import ROUTES
from gateway.edge.handler import Tables
from gateway.edge.ops import Ops
from gateway.logs import AccessLog
from gateway.sink import Sink
from gateway.sockets import tls_context
from gateway.state.board import Board
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

UNASKED = 0

InFlight = Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Setting:
    """What every process of one gateway is given."""

    config: Config
    load: Callable[[], Config]
    sink: Sink
    sockets: list[socket.socket]

    @property
    def port(self) -> int:
        port: int = self.sockets[0].getsockname()[1]
        return port

    def access(self) -> AccessLog:
        return AccessLog(self.sink, self.config.log_format)


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
            made=self.made,
        )

    @property
    @abstractmethod
    def instance(self) -> str:
        """This gateway's own id, by which it knows itself behind an address."""

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
        return document(__version__, ROUTES)

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
    def made(self, response_id: str, backend: str) -> None:
        """A backend made a response that is stored there."""

    def asked_to_stop(self) -> None:
        """The first time drain, the second time leave."""
        if self.stop.is_set():
            self.leave_at_once()
        self.stop.set()

    def leave_at_once(self) -> None:
        self.worker.flush()
        self.setting.sink.close()
        os._exit(0)

    async def drain(self) -> None:
        if not await self.worker.drain(self.config.server.drain_timeout):
            log.warning(
                "server.drain_timeout is over; %d requests are cut", self.worker.handler.active
            )


def on_signals(*numbers: signal.Signals, call: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, call)


class Alone(Serving):
    """Everything in one process."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, Board())
        self.controller = Controller(
            setting.config,
            setting.port,
            board=self.board,
            load=setting.load,
            see=self.worker.see,
            configured=self._configured,
        )
        self.worker.configure(setting.config)

    def _configured(self, config: Config) -> None:
        self.config = config
        self.worker.configure(config)

    @property
    def instance(self) -> str:
        return self.controller.instance

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return await self.controller.page(
            accept, [self.worker.metrics.state()], self.board.by_model
        )

    def trouble(self, name: str, detail: str) -> None:
        self.controller.sensors.trouble(name, detail)

    def learned(self, name: str, model_id: str, op: Op) -> None:
        self.controller.sensors.learned(name, model_id, op)

    def stale(self, name: str) -> None:
        self.controller.sensors.stale(name)

    def made(self, response_id: str, backend: str) -> None:
        """The one handler remembers by itself."""

    async def run(self) -> None:
        """Serve until a signal ends it."""
        on_signals(signal.SIGTERM, signal.SIGINT, call=self.asked_to_stop)
        on_signals(signal.SIGHUP, call=self.controller.asked_to_reload)
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
            await self.controller.close()

    def asked_to_stop(self) -> None:
        if self.stop.is_set():
            log.warning("second signal: leaving at once; requests in flight are cut")
        super().asked_to_stop()


class Working(Serving):
    """A worker beside a control process, from which it gets configuration and fleets. Without it,
    it goes on with the last it was given."""

    def __init__(self, setting: Setting, board: Board) -> None:
        super().__init__(setting, board)
        self._tasks = Tasks()
        self._spoke = Spoke(os.getpid(), self._hear)
        self._told = 0
        self._asked = Asked()
        self._instance = ""
        self._known = asyncio.Event()

    @property
    def instance(self) -> str:
        return self._instance

    def _hear(self, kind: str, content: Any) -> None:
        match kind:
            case "instance":
                self._instance = content
            case "config":
                self.config = content
                self.worker.configure(content)
            case "fleet":
                fleet, columns = content
                self.board.columns.update(columns)
                self.worker.see(fleet)
                self._known.set()
            case "made":
                self.worker.handler.makers.remember(*content)
            case "counts?":
                self._tell_counts(content)
            case "page":
                self._asked.answered(*content)

    def _tell_counts(self, number: int) -> None:
        counts = (number, self.worker.metrics.state(), dict(self.board.by_model))
        self._spoke.say("counts", counts)

    async def _keep_telling(self) -> None:
        """Tell the counts now and then, so that few are lost when this process is killed."""
        while True:
            await asyncio.sleep(TELL_EVERY)
            if self._told != self.worker.reported and self._spoke.connected:
                self._told = self.worker.reported
                self._tell_counts(UNASKED)

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Ask the control process, which asks all the others."""
        try:
            page: tuple[bytes, str] = await self._asked.ask(
                lambda number: self._spoke.say("page?", (number, accept)), PAGE_WITHIN
            )
        except TimeoutError:
            raise Refusal(
                "overloaded",
                "The process that keeps the metrics does not answer; it is being restarted."
                " Requests are served meanwhile. Scrape again.",
            ) from None
        return page

    def trouble(self, name: str, detail: str) -> None:
        self._spoke.say("trouble", (name, detail))

    def learned(self, name: str, model_id: str, op: Op) -> None:
        self._spoke.say("learned", (name, model_id, op))

    def stale(self, name: str) -> None:
        self._spoke.say("stale", (name,))

    def made(self, response_id: str, backend: str) -> None:
        self._spoke.say("made", (response_id, backend))

    async def run(self, path: str) -> None:
        """Serve until the supervisor ends it."""
        on_signals(signal.SIGTERM, call=self.asked_to_stop)
        self._tasks.spawn(self._spoke.run(path), "link")
        self._tasks.spawn(self._keep_telling(), "counts")
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
            await self._tasks.cancel_all()


class Controlling:
    """The control process: it looks, reloads and counts, and tells the workers."""

    def __init__(self, setting: Setting, board: Board, announce: bool) -> None:
        self._announce = announce
        self._board = board
        self._stop = asyncio.Event()
        self._tasks = Tasks()
        self._hub = Hub(self._hear, self._greeting, self._left)
        self._kept = Path()
        self._asked = Asked()
        # By process id: what a worker that died had counted stays.
        self._last: dict[int, State] = {}
        self.controller = Controller(
            setting.config,
            setting.port,
            board=board,
            load=setting.load,
            see=self._see,
            configured=lambda config: self._hub.tell_all("config", config),
        )
        self._looked = False

    def _see(self, fleet: Fleet) -> None:
        if self._looked:
            self._hub.tell_all("fleet", (fleet, self._board.columns))

    def _greeting(self) -> list[Message]:
        return [
            ("instance", self.controller.instance),
            ("config", self.controller.config),
            ("fleet", (self.controller.sensors.fleet, self._board.columns)),
        ]

    def _hear(self, worker: int, kind: str, content: Any) -> None:
        sensors = self.controller.sensors
        match kind:
            case "trouble":
                sensors.trouble(*content)
            case "learned":
                sensors.learned(*content)
            case "stale":
                sensors.stale(*content)
            case "made":
                self._hub.tell_all("made", content, but=worker)
            case "counts":
                number, state, in_flight = content
                self._last[worker] = state
                self._asked.answered(number, (state, in_flight))
            case "page?":
                self._tasks.spawn(self._page(worker, *content), "metrics page")
            case "ready" if self._announce:
                self._announce = False
                self.controller.announce(sorted(_served(sensors.fleet)))

    def _left(self, worker: int) -> None:
        """Write down what the departed had counted, for a control process after this one."""
        gone = {pid: state for pid, state in self._last.items() if pid not in self._hub.workers}
        with contextlib.suppress(OSError):
            self._kept.write_bytes(pickle.dumps(gone))

    def _recall(self) -> None:
        with contextlib.suppress(OSError, pickle.UnpicklingError, EOFError):
            self._last.update(pickle.loads(self._kept.read_bytes()))  # noqa: S301 - our own file

    async def _page(self, worker: int, number: int, accept: str) -> None:
        """Every worker's counts, of those that are gone the last that was heard."""
        answers = await asyncio.gather(*(self._counts(w) for w in self._hub.workers))
        in_flight: dict[tuple[str, str], int] = {}
        for _, busy in answers:
            for key, count in busy.items():
                in_flight[key] = in_flight.get(key, 0) + count
        states = [*self._last.values()]
        page = await self.controller.page(accept, states, in_flight)
        self._hub.tell(worker, "page", (number, page))

    async def _counts(self, worker: int) -> tuple[State | None, InFlight]:
        try:
            answer: tuple[State, InFlight] = await self._asked.ask(
                lambda number: self._hub.tell(worker, "counts?", number), ANSWER_WITHIN
            )
        except TimeoutError:
            return None, {}
        return answer

    async def run(self, path: str) -> None:
        """Look and tell until the supervisor ends it."""
        on_signals(signal.SIGTERM, call=self._stop.set)
        on_signals(signal.SIGHUP, call=self.controller.asked_to_reload)
        self._kept = Path(f"{path}.counts")
        self._recall()
        try:
            await self.controller.start()
            self._looked = True
            await self._hub.listen(path)
            await self._stop.wait()
        finally:
            self._hub.close()
            await self._tasks.cancel_all()
            await self.controller.close()


def _served(fleet: Fleet) -> set[str]:
    return {model.id for sight in fleet.sights.values() for model in sight.models}

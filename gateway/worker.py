"""The data plane put together: sockets, server, pool, handler, its counts and its log lines."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.config import Config
from gateway.control.exposition import State
from gateway.control.metrics import Metrics
from gateway.controller import rows
from gateway.core.capacity import trial_of
from gateway.core.catalog import build
from gateway.core.energy import LEAST_TIME, Work, work
from gateway.core.plan import Means
from gateway.core.spending import Sums, count
from gateway.core.types import ROUTABLE, Circuit, Fleet, Health, Outcome, PublicModel
from gateway.edge.attempts import Senses
from gateway.edge.front import FrontServer
from gateway.edge.handler import Handler, OwnPages
from gateway.edge.outbox import Outbox
from gateway.edge.upstream import Pool
from gateway.logs import AccessLog
from gateway.policies import policies_for
from gateway.sockets import BACKLOG
from gateway.state.board import Board
from gateway.tasks import Tasks

if TYPE_CHECKING:
    from gateway.state.joint import Joint

POLL = 0.05
"""Seconds between looks at what is still in flight while draining."""

HOUSEKEEPING = 0.1
"""Seconds between writes of gathered access lines and of this process's traffic to the page."""

AWAY = frozenset({Health.DOWN, Health.LOADING})
MOST_WORKS = 20_000
"""Ended requests that wait to be told to the control side; it asks once a second at least."""

SHARED_STORES = ("redis:", "rediss:")
"""Addresses of stores that several gateways may have in common."""

NOTHING = Fleet(0, 0.0, {}, {})


class Worker:
    """Given a configuration and fleets, it answers on its sockets."""

    def __init__(
        self,
        *,
        board: Board,
        access: AccessLog,
        senses: Senses,
        own_pages: OwnPages,
        instance: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.metrics = Metrics()
        self.fleet = NOTHING
        self.reported = 0
        self._works: list[Work] = []
        self._gauged = False
        self.used: Sums = {}
        self._access = access
        self._board = board
        self._instance = instance
        self._joint: Joint | None = None
        self._tasks = Tasks()
        self._counts_usage = False
        self._public: tuple[PublicModel, ...] = ()
        outbox = Outbox(self._loop)
        self._pool = Pool(self._loop, outbox)
        self._servers: list[asyncio.Server] = []
        self.handler = Handler(
            loop=self._loop,
            pool=self._pool,
            board=board,
            senses=senses,
            report=self._report,
            own_pages=own_pages,
        )
        self._front = FrontServer(self.handler, outbox, self._loop)
        self._chores = self._loop.call_later(HOUSEKEEPING, self._do_chores)

    def _report(self, outcome: Outcome) -> None:
        self.reported += 1
        self.metrics.observe(outcome)
        if self._counts_usage:
            count(self.used, outcome)
        self._access.write(outcome)
        if self._gauged or outcome.duration >= LEAST_TIME:
            self._learn(outcome)

    def _learn(self, outcome: Outcome) -> None:
        """Keep what a request tells of energy and speed."""
        if len(self._works) < MOST_WORKS and (done := work(outcome, time.monotonic())):
            self._works.append(done)

    def counts(self) -> State:
        """All that was counted since the start."""
        self.handler.enter()
        return self.metrics.state()

    def take_works(self) -> list[Work]:
        """The requests that have ended since this was asked last, for energy and speed."""
        self.handler.enter()
        works, self._works = self._works, []
        return works

    def _do_chores(self) -> None:
        self.flush()
        self._board.show()
        self._board.lore.tidy(time.monotonic())
        self._chores = self._loop.call_later(HOUSEKEEPING, self._do_chores)

    def take_used(self) -> Sums:
        """What was used since this was last asked."""
        self.handler.enter()
        used, self.used = self.used, {}
        return used

    def flush(self) -> None:
        """Hand over the access lines that have gathered."""
        self.handler.enter()
        self._access.flush()

    def configure(self, config: Config) -> None:
        """Take over a configuration; requests under way keep the tables they began with."""
        self._public = config.models
        self._counts_usage = config.store_url is not None
        policies = policies_for([config.policy, *(model.policy for model in config.models)])
        self._share_limits(config.store_url or "")
        self.handler.tables = replace(
            self.handler.tables,
            means=Means(policies, config.policy, self._board.busy, self._board.lore),
            keyring=config.keyring,
            max_body=config.server.max_body,
            stream_usage=config.server.stream_usage,
            queue=config.queue,
            ways={},
        )
        self.handler.adopt(config.tactics)
        self.see(self.fleet)

    def _share_limits(self, url: str) -> None:
        """Count limits of keys together with the gateways that have the same Redis. The address of
        the store only changes with a restart. That its package is missing, the keeper says."""
        if self._joint is not None or not url.lower().startswith(SHARED_STORES):
            return
        with contextlib.suppress(ImportError):
            from gateway.state.joint import Joint

            windows = self._board.windows
            windows.others = self._joint = Joint(url, self._instance, windows)
            self._tasks.spawn(self._joint.run(), "limits")

    def see(self, fleet: Fleet) -> None:
        """Take over what the sensors saw."""
        kept = {backend.url for backend in fleet.backends.values()}
        gone = {backend.url for backend in self.fleet.backends.values()} - kept
        for name in fleet.backends:
            self._board.name(name)
            if fleet.sights[name].circuit is not Circuit.CLOSED:
                self._board.name(trial_of(name))
            if _back(name, self.fleet, fleet):
                self._board.lore.restarted(name)
        self.fleet = fleet
        self._gauged = any(sight.gpus for sight in fleet.sights.values())
        catalog = build(fleet, self._public, rows)
        tables = self.handler.tables = replace(self.handler.tables, catalog=catalog, ways={})
        self.handler.waiting.refresh(tables.queue, tables.way)
        self.handler.cold.seen(fleet)
        if gone:
            self._pool.forget(kept)

    async def listen(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Begin to accept."""
        if self._joint is not None:
            await self._joint.ready()
        for sock in sockets:
            server = await self._loop.create_server(
                self._front, sock=sock, ssl=tls, backlog=BACKLOG
            )
            self._servers.append(server)

    @property
    def models(self) -> list[str]:
        """The names that are listed now."""
        return list(self.handler.tables.catalog.listed)

    async def drain(self, within: float) -> bool:
        """Refuse new requests and wait for those under way, for ``within`` seconds. The sockets
        stay open, so that whoever comes is told. False when some had to be left."""
        self.handler.drain()
        end = time.monotonic() + within
        while self.handler.active and time.monotonic() < end:  # noqa: ASYNC110 - happens once
            await asyncio.sleep(POLL)
        if not self.handler.active:
            return True
        self.handler.end_all()
        await asyncio.sleep(POLL)
        return False

    def stop_listening(self) -> None:
        """Leave the port to others; what has been accepted goes on."""
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        """Close everything; what is still in flight is cut."""
        self.stop_listening()
        await self._front.shutdown(within=0.2)
        self._pool.close()
        self._chores.cancel()
        await self._tasks.cancel_all()
        if self._joint is not None:
            await self._joint.close()
        self.flush()


def _back(name: str, before: Fleet, after: Fleet) -> bool:
    """Whether a backend was away and is there again, so that its engine began anew."""
    was, now = before.sights.get(name), after.sights.get(name)
    return bool(was and now and was.health in AWAY and now.health in ROUTABLE)

"""The data plane put together: sockets, server, pool, handler. Given tables, it answers."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace

from gateway.config import Config
from gateway.core.catalog import Rows, build
from gateway.core.types import Fleet, Outcome, PublicModel
from gateway.edge.attempts import Senses
from gateway.edge.front import FrontServer
from gateway.edge.handler import Handler, OwnPages
from gateway.edge.upstream import Pool
from gateway.policies import POLICIES
from gateway.state.board import Board

log = logging.getLogger("portico")

POLL = 0.05
"""Seconds between looks at what is still in flight while draining."""


class Worker:
    """One data-plane process's insides. The controller gives it fleets, the supervisor its
    configuration and its sockets."""

    def __init__(
        self,
        config: Config,
        *,
        board: Board,
        senses: Senses,
        report: Callable[[Outcome], None],
        own_pages: OwnPages,
        rows: Rows,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._rows = rows
        self._public: tuple[PublicModel, ...] = ()
        self._fleet = Fleet(0, time.monotonic(), {}, {})
        self._pool = Pool(loop)
        self._servers: list[asyncio.Server] = []
        self.handler = Handler(
            loop=loop,
            pool=self._pool,
            board=board,
            senses=senses,
            report=report,
            own_pages=own_pages,
        )
        self._front = FrontServer(self.handler, loop)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take over a configuration; requests under way keep the tables they began with."""
        self._public = config.models
        self.handler.tables = replace(
            self.handler.tables,
            keyring=config.keyring,
            policies=POLICIES,
            policy=config.policy,
            max_body=config.server.max_body,
            stream_usage=config.server.stream_usage,
        )
        self.see(self._fleet)

    def see(self, fleet: Fleet) -> None:
        """Take over what the sensors saw."""
        gone = {b.url for b in self._fleet.backends.values()} - {
            b.url for b in fleet.backends.values()
        }
        self._fleet = fleet
        catalog = build(fleet, self._public, self._rows)
        self.handler.tables = replace(self.handler.tables, catalog=catalog)
        if gone:
            self._pool.forget(gone)

    async def listen(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Begin to accept."""
        for sock in sockets:
            server = await self._loop.create_server(self._front, sock=sock, ssl=tls, backlog=2048)
            self._servers.append(server)

    async def drain(self, within: float) -> bool:
        """Refuse new requests and wait for those under way, for ``within`` seconds. The sockets
        stay open, so that whoever comes is told. False when some had to be left."""
        self.handler.draining = True
        end = time.monotonic() + within
        while self.handler.active and time.monotonic() < end:  # noqa: ASYNC110 - happens once
            await asyncio.sleep(POLL)
        return not self.handler.active

    async def close(self) -> None:
        """Close everything; what is still in flight is cut."""
        for server in self._servers:
            server.close()
        await self._front.shutdown(timeout=0.2)
        self._pool.close()

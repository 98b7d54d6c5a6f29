"""The control side put together: sensors, metrics, access log; and the gateway's own pages."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable

from backends import BY_NAME, RUNTIMES
from gateway.config import Config
from gateway.control.metrics import Metrics
from gateway.core.runtime import Runtime
from gateway.core.types import Fleet, Outcome
from gateway.logs import AccessLog
from gateway.sensors.discover import Discoverer
from gateway.sensors.loop import Sensors
from gateway.state.board import Board

log = logging.getLogger("portico")

FLUSH_EVERY = 0.1
"""Seconds between writes of gathered access lines."""

FIRST_LOOK = 3.0
"""Seconds that the first look at all backends may hold the start up. A dead one does not."""


def rows(name: str, variant: str) -> Runtime | None:
    """The row of a runtime and flavour. What was not recognised yet is taken for a plain
    OpenAI-like server, so that its configured models are known (and refused while it is away)."""
    return BY_NAME.get(name, BY_NAME["openai"]).row(variant)


class Controller:
    """Feeds fleets to ``see`` and takes Outcomes by ``report``."""

    def __init__(
        self,
        config: Config,
        *,
        board: Board,
        access: AccessLog,
        see: Callable[[Fleet], None],
        own_ports: set[int],
    ) -> None:
        self.instance = uuid.uuid4().hex
        self.metrics = Metrics()
        self.metrics.set_in_flight_source(lambda: board.by_model)
        self._access = access
        self._see = see
        self._flusher = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._flush)
        discoverer = None
        if config.discover:
            ports = [port for row in RUNTIMES for port in row.ports]
            discoverer = Discoverer(ports, own_ports, on_change=log.info)
        self.sensors = Sensors(
            config.backends,
            pulse=board.pulse,
            publish=self._publish,
            discoverer=discoverer,
            instance=self.instance,
        )

    def report(self, outcome: Outcome) -> None:
        self.metrics.observe(outcome)
        self._access.write(outcome)

    def _publish(self, fleet: Fleet) -> None:
        self.metrics.fleet(fleet)
        self._see(fleet)

    def flush(self) -> None:
        """Hand over the access lines that have gathered."""
        self._access.flush()

    def _flush(self) -> None:
        self.flush()
        self._flusher = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._flush)

    async def start(self) -> None:
        await self.sensors.start(FIRST_LOOK)

    async def close(self) -> None:
        self._flusher.cancel()
        await self.sensors.stop()
        self._access.flush()

"""All engines of a fleet in one process, in time that runs faster or slower than the wall's.

``python -m bench.fleet.engines '{"count": 4, "port": 20001, "control": 20000, ...}'``. Engine i
listens on 127.0.0.(i+1). The control port answers ``GET /stats`` and takes ``POST /mode`` with
``{"engine": 0, "mode": "slow"}``.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from dataclasses import dataclass, replace

import orjson
import uvloop

from bench.fleet.model import Spec
from bench.fleet.protocol import Connection
from bench.fleet.server import Callback, Mode, Server
from bench.fleet.text import Writing
from gateway.tasks import Tasks

BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Setting:
    """``scale`` are wall seconds for an engine second, ``flush`` wall seconds between two events of
    a stream; ``seconds`` after which the process ends whatever happens."""

    count: int
    port: int
    control: int
    scale: float
    block: int
    width: int
    kv_tokens: int
    host_tokens: int
    flush: float
    seconds: float

    @property
    def spec(self) -> Spec:
        sizes = {"kv_tokens": self.kv_tokens, "host_tokens": self.host_tokens}
        return replace(Spec(), block=self.block, **sizes)


class ScaledClock:
    """Engine seconds since the start."""

    def __init__(self, loop: asyncio.AbstractEventLoop, scale: float) -> None:
        self._loop, self._scale, self._begin = loop, scale, loop.time()

    def now(self) -> float:
        return (self._loop.time() - self._begin) / self._scale

    def call_at(self, when: float, act: Callback) -> asyncio.TimerHandle:
        return self._loop.call_at(self._begin + when * self._scale, act)


class Fleet:
    """The engines and their listeners; it is itself what stands behind the control port."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._loop = setting, asyncio.get_running_loop()
        clock = ScaledClock(self._loop, setting.scale)
        writing = Writing(setting.block, setting.width)
        self._servers = [
            Server(setting.spec, index, clock, writing) for index in range(setting.count)
        ]
        self._listeners: dict[int, asyncio.Server] = {}
        self._changing = Tasks()
        self.connections: set[Connection] = set()

    async def open(self) -> None:
        for index in range(len(self._servers)):
            await self._listen(index)
        self._control = await self._loop.create_server(
            lambda: Connection(self), "127.0.0.1", self._setting.control, backlog=BACKLOG
        )

    async def close(self) -> None:
        """Stop listening and drop who is connected."""
        await self._changing.cancel_all()
        for listener in (self._control, *self._listeners.values()):
            listener.close()
        for server in self._servers:
            server.restart()
        for connection in list(self.connections):
            connection.abort()

    async def _listen(self, index: int) -> None:
        server, host = self._servers[index], f"127.0.0.{index + 1}"
        self._listeners[index] = await self._loop.create_server(
            lambda: Connection(server), host, self._setting.port, backlog=BACKLOG
        )

    def handle(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        if (method, path) == ("GET", "/stats"):
            connection.reply(200, [server.stats() for server in self._servers])
        elif (method, path) == ("POST", "/mode"):
            asked = orjson.loads(body)
            change = self._change(connection, int(asked["engine"]), Mode(asked["mode"]))
            self._changing.spawn(change, f"engine {asked['engine']} becomes {asked['mode']}")
        else:
            connection.reply(404, {"detail": "the control port has GET /stats and POST /mode"})

    async def _change(self, connection: Connection, index: int, mode: Mode) -> None:
        """A crashed engine does not listen."""
        if mode is Mode.CRASH and index in self._listeners:
            self._listeners.pop(index).close()
        self._servers[index].set_mode(mode)
        if mode is not Mode.CRASH and index not in self._listeners:
            await self._listen(index)
        connection.reply(200, {"mode": mode})

    def flush(self) -> None:
        for server in self._servers:
            server.flush()


async def play(setting: Setting) -> None:
    fleet = Fleet(setting)
    await fleet.open()
    end = asyncio.get_running_loop().time() + setting.seconds
    while asyncio.get_running_loop().time() < end:
        await asyncio.sleep(setting.flush)
        fleet.flush()


def main() -> None:
    setting = Setting(**orjson.loads(sys.argv[1]))
    gc.freeze()
    uvloop.run(play(setting))


if __name__ == "__main__":
    main()

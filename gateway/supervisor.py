"""One gateway from start to end: sockets, signals, reload, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import replace

import psutil

from gateway import __version__
from gateway.config import Config, ConfigError
from gateway.control.exposition import exposition
from gateway.control.metrics import Metrics
from gateway.control.openapi import document
from gateway.controller import Controller, rows
from gateway.core.types import Backend, Doc, Fleet, Op
from gateway.demo.child import DemoEngine, DemoError
from gateway.dialects import ROUTES
from gateway.edge.handler import Tables
from gateway.edge.ops import Ops
from gateway.logs import AccessLog
from gateway.sink import Sink
from gateway.state.board import Board
from gateway.tasks import Tasks
from gateway.worker import Worker

log = logging.getLogger("portico")


class CannotStart(Exception):
    """The gateway cannot serve; the text says why and which option would help."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to an address, not yet listening. Raises CannotStart."""
    try:
        infos = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise CannotStart(
            f"server.host: '{host}' is no address of this host ({error.strerror or error});"
            " use --host with one that is, such as 127.0.0.1 or 0.0.0.0"
        ) from None
    sockets: list[socket.socket] = []
    for family, kind, proto, _, address in dict.fromkeys(infos):
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
            sock.listen(2048)
        except OSError as error:
            sock.close()
            for other in sockets:
                other.close()
            raise CannotStart(_why_not(host, port, error)) from None
        sockets.append(sock)
    return sockets


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == 98:
        return (
            f"port {port} on {host} is taken by {holder(port)};"
            " choose another with --port, or stop that program"
        )
    if error.errno == 13:
        return f"port {port} needs privileges; choose one above 1023 with --port"
    return f"cannot listen on {host}:{port}: {error.strerror}; see --host and --port"


def holder(port: int) -> str:
    """Which program listens on a port of this host, in words."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,):
                if connection.pid is None:
                    break
                command = " ".join(psutil.Process(connection.pid).cmdline())[:120]
                return f"process {connection.pid} ({command})"
    except (psutil.Error, OSError):
        return "another program (which one cannot be seen without more rights)"
    return "another program"


def tls_context(config: Config) -> ssl.SSLContext | None:
    server = config.server
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls_cert, server.tls_key)
    return context


class Gateway:
    """The running gateway. ``load`` reads the configuration again for a reload."""

    def __init__(self, config: Config, load: Callable[[], Config], sink: Sink) -> None:
        self._config = config
        self._load = load
        self._sink = sink
        self._board = Board()
        self._demo = DemoEngine()
        self._extra: tuple[Backend, ...] = ()
        self._tasks = Tasks()
        self._stop = asyncio.Event()
        self._sockets = bind(config.server.host, config.server.port)
        self.port: int = self._sockets[0].getsockname()[1]
        self._controller = Controller(
            config,
            board=self._board,
            access=AccessLog(sink, config.log_format),
            see=self._see,
            own_ports={self.port},
        )
        self._worker = Worker(
            config,
            board=self._board,
            senses=self,
            report=self._controller.report,
            own_pages=Ops(self),
            rows=rows,
        )

    # --- what the pages ask

    @property
    def instance(self) -> str:
        return self._controller.instance

    @property
    def tables(self) -> Tables:
        return self._worker.handler.tables

    @property
    def fleet(self) -> Fleet:
        return self._controller.sensors.fleet

    @property
    def draining(self) -> bool:
        return self._worker.handler.draining

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The scrape page. Writing it takes milliseconds, so streams must not wait for it."""
        return await asyncio.to_thread(exposition, self._metrics.snapshot(), accept)

    def openapi(self) -> Doc:
        return document(__version__, ROUTES)

    @property
    def _metrics(self) -> Metrics:
        return self._controller.metrics

    # --- what the data plane tells

    def trouble(self, name: str, detail: str) -> None:
        self._controller.sensors.trouble(name, detail)

    def learned(self, name: str, model_id: str, op: Op) -> None:
        self._controller.sensors.learned(name, model_id, op)

    def stale(self, name: str) -> None:
        self._controller.sensors.stale(name)

    def _see(self, fleet: Fleet) -> None:
        self._worker.see(fleet)

    # --- life

    async def run(self) -> None:
        """Serve until a signal ends it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._asked_to_reload)
        try:
            await self._controller.start()
            if self._config.demo and not self._any_engine():
                await self._start_demo()
            await self._worker.listen(self._sockets, tls_context(self._config))
            self._announce()
            await self._stop.wait()
            await self._drain()
        finally:
            await self._tasks.cancel_all()
            await self._worker.close()
            await self._controller.close()
            await self._demo.stop()

    def _any_engine(self) -> bool:
        return bool(self.fleet.backends)

    async def _start_demo(self) -> None:
        try:
            url = await self._demo.start()
        except DemoError as error:
            log.error("the demo engine did not start: %s", error)
            return
        self._extra = (Backend("demo", url, "llamacpp"),)
        await self._controller.sensors.replace((*self._config.backends, *self._extra))
        log.info("no engine was found, so the built-in demo engine was started at %s", url)

    def _announce(self) -> None:
        config = self._config
        scheme = "https" if config.server.tls_cert else "http"
        host = config.server.host if config.server.host not in ("0.0.0.0", "::") else "127.0.0.1"
        host = f"[{host}]" if ":" in host else host
        url = f"{scheme}://{host}:{self.port}"
        log.info("Portico %s listens on %s", __version__, url)
        for warning in config.warnings:
            log.warning("%s", warning)
        for line in summary(self.fleet, config, url, list(self.tables.catalog.listed)):
            log.info("%s", line)

    def _asked_to_stop(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("second signal: leaving at once; requests in flight are cut")
            self._controller.flush()
            self._sink.close()
            os._exit(0)
        log.info(
            "%s: draining; requests in flight may finish within %g s",
            signal.Signals(number).name,
            self._config.server.drain_timeout,
        )
        self._stop.set()

    async def _drain(self) -> None:
        if await self._worker.drain(self._config.server.drain_timeout):
            log.info("drained; bye")
        else:
            log.warning(
                "server.drain_timeout is over; %d requests are cut", self._worker.handler.active
            )

    def _asked_to_reload(self) -> None:
        self._tasks.spawn(self._reload(), "reload")

    async def _reload(self) -> None:
        """A faulty file changes nothing; a good one takes over without dropping a request."""
        try:
            config = await asyncio.to_thread(self._load)
        except ConfigError as error:
            self._metrics.reload("failure")
            for fault in error.faults:
                log.error("reload refused: %s", fault)
            log.error("the running configuration was kept; put the faults right and reload again")
            return
        old = self._config.server
        if (config.server.host, config.server.port) != (old.host, old.port):
            log.warning("server.host and server.port only change with a restart")
            server = replace(config.server, host=old.host, port=old.port)
            config = replace(config, server=server)
        self._config = config
        await self._controller.sensors.replace((*config.backends, *self._extra))
        self._worker.configure(config)
        self._metrics.reload("success")
        log.info("reloaded: %d backends, %d public names", len(config.backends), len(config.models))


def summary(fleet: Fleet, config: Config, url: str, models: list[str]) -> list[str]:
    """What was found and how to try it, for the terminal."""
    lines = [
        f"backend {name}: {sight.runtime or 'unknown runtime'} {sight.version} at"
        f" {fleet.backends[name].url} is {sight.health.value}"
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


def serve(config: Config, load: Callable[[], Config], sink: Sink) -> int:
    """Run the gateway to its end. Returns the exit status."""

    async def main() -> None:
        await Gateway(config, load, sink).run()

    try:
        _run(main)
    except CannotStart as error:
        print(f"portico: {error}", file=sys.stderr)  # noqa: T201 - the terminal is the reader
        return 1
    return 0


def _run(main: Callable[[], object]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())  # type: ignore[arg-type]
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())  # type: ignore[arg-type]

"""The GPU agent put together: this host's GPUs over HTTP, for gateways and for Prometheus."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import signal
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from aiohttp import web

from gateway import __version__
from gateway.sensors.gpu_doc import to_doc
from gateway.sensors.gpu_page import page
from gateway.sensors.local_gpus import LocalGpus

log = logging.getLogger("portico.gpu")

OPEN = frozenset({"/healthz"})
"""What needs no key."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the agent listens, who may ask it, how often it looks (seconds)."""

    host: str
    port: int
    key: str | None = None
    tls: ssl.SSLContext | None = None
    interval: float = 1.0


class Agent:
    """Answers from what was read last: a driver that hangs makes answers old, not slow."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._gpus = LocalGpus(lambda: None, setting.interval)
        self._digest = hashlib.sha256((setting.key or "").encode()).digest()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._door], client_max_size=1024)
        app.router.add_get("/v1/gpus", self._document)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        return app

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set. Raises OSError where the port cannot be had."""
        runner = web.AppRunner(self.app(), access_log=None, handle_signals=False)
        await runner.setup()
        try:
            site = web.TCPSite(
                runner, self._setting.host, self._setting.port, ssl_context=self._setting.tls
            )
            await site.start()
            self._gpus.start()
            port = runner.addresses[0][1]
            scheme = "https" if self._setting.tls else "http"
            host = f"[{self._setting.host}]" if ":" in self._setting.host else self._setting.host
            log.info("Portico %s gpu-agent listens on %s://%s:%d", __version__, scheme, host, port)
            await stop.wait()
        finally:
            await self._gpus.stop()
            await runner.cleanup()

    @web.middleware
    async def _door(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN and not self._may(request):
            return refusal(401, "unauthorized", "this agent wants its key: Authorization: Bearer …")
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return refusal(404, "not_found", "this agent has /v1/gpus, /metrics and /healthz")
        except web.HTTPMethodNotAllowed:
            return refusal(405, "method_not_allowed", "this agent only answers GET")

    def _may(self, request: web.Request) -> bool:
        """Digests are compared: the time that takes tells nothing of the key."""
        if self._setting.key is None:
            return True
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = (
            token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        )
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(digest, self._digest)

    async def _document(self, request: web.Request) -> web.Response:
        return _json(to_doc(self._gpus.report()))

    async def _metrics(self, request: web.Request) -> web.Response:
        body = await asyncio.to_thread(page, self._gpus.seen.gpus)
        return web.Response(
            body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _healthz(self, request: web.Request) -> web.Response:
        return _json({"status": "ok"})


def refusal(status: int, kind: str, message: str) -> web.Response:
    return _json({"error": {"type": kind, "message": message}}, status)


def _json(doc: object, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(doc, option=orjson.OPT_NON_STR_KEYS),
        status=status,
        content_type="application/json",
    )


async def serve(setting: Setting) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Agent(setting).run(stop)

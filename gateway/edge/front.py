"""The client's side: aiohttp's server with two hooks that a relay on transports needs."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler, RequestPayloadError
from aiohttp.web_request import BaseRequest

from gateway import __version__
from gateway.core.errors import Refusal
from gateway.dialects import openai

SERVER = f"portico/{__version__}"

WRITE_HIGH = 32768
"""Bytes that may wait for a client before the engine is no longer read."""


class FrontProtocol(RequestHandler):
    """One client connection. ``on_pause`` is called when the client does not read fast enough,
    ``on_resume`` when it has caught up."""

    __slots__ = ("on_pause", "on_resume")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(transport, asyncio.WriteTransport):
            transport.set_write_buffer_limits(high=WRITE_HIGH)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.on_pause is not None:
            self.on_pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_resume is not None:
            self.on_resume()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp itself refuses (a head that is not HTTP), in our envelope."""
        kind = "invalid_request" if status < 500 else "internal"
        text = (message or "").replace("\n", " ").strip() or "it cannot be read"
        refusal = Refusal(kind, f"This is not a valid HTTP request: {text[:300]}")
        response = web.Response(
            status=refusal.status,
            body=openai.refuse(refusal, uuid.uuid4().hex),
            content_type="application/json",
            headers={"Server": SERVER},
        )
        response.force_close()
        return response


def _quiet() -> logging.Logger:
    """aiohttp's log, less the faults of clients: those are answered, and are nobody's alarm."""
    logger = logging.getLogger("portico.front")
    logger.filters = [_no_client_fault]
    return logger


def _no_client_fault(record: logging.LogRecord) -> bool:
    fault = record.exc_info[1] if record.exc_info else None
    return not isinstance(fault, RequestPayloadError | HttpProcessingError)


class FrontServer(web.Server):
    """aiohttp's low-level server (no router: the gateway's routes are a table), which cancels a
    handler when its client leaves (trap 1 of aiohttp's AppRunner)."""

    def __init__(
        self, handler: Callable[[BaseRequest], Awaitable[Any]], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            loop=loop,
            access_log=None,
            logger=_quiet(),
            keepalive_timeout=75.0,
            max_line_size=16384,
            max_field_size=32768,
            tcp_keepalive=True,
        )

    def __call__(self) -> RequestHandler:
        return FrontProtocol(self, loop=self._loop, **self._kwargs)


class Relayed:
    """Stands in for aiohttp's response when the answer has been written to the transport."""

    __slots__ = ("keep_alive",)

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive

    async def prepare(self, request: BaseRequest) -> None:
        """Nothing is left to send."""

    async def write_eof(self) -> None:
        """Nothing is left to send."""

"""One bounded question to a backend, whatever it answers: the sensors' only way to the network."""

from __future__ import annotations

import asyncio
import errno
import ssl
from dataclasses import dataclass, replace
from typing import Any, Self

import aiohttp
import orjson

from gateway.core.health import Reply
from gateway.core.runtime import Answer, Runtime
from gateway.core.types import PASSTHROUGH, Backend, Doc

MAX_BODY = 4 * 1024 * 1024
"""Bytes of an answer that are read before it counts as a flood."""

KEEPALIVE = 3.5
"""Seconds an idle connection is kept: less than the 5 s after which vLLM and SGLang close it."""

AGENT = "portico-sensors"

KEY_STATUS = frozenset({401, 402, 403, 429})
"""Answers that another key may not get."""


@dataclass(frozen=True, slots=True)
class Heard(Answer):
    """An Answer, how the asking fared, and how long it took (seconds)."""

    reply: Reply = Reply.ANSWERED
    took: float = 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is sent, and for how many seconds an answer is waited for."""

    method: str
    path: str
    within: float
    body: bytes | None = None


class TooMuchError(Exception):
    """An answer went past MAX_BODY."""


class Asker:
    """Asks backends small questions over a pool of its own. Never raises for what a server does:
    every failure becomes a Heard with status 0 and an ``error`` written for people."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._keys: dict[str, int] = {}

    async def get(self, backend: Backend, row: Runtime | None, path: str, within: float) -> Heard:
        """GET ``backend.url + path`` within ``within`` seconds, with the backend's key in the
        row's own header (in every usual header while the runtime is not known). Of several keys
        the one that was taken last is shown, and when it is refused the next."""
        question = Question("GET", path, within)
        if not backend.spares:
            return await self._ask(backend, row, question)
        keys, heard = backend.keys, Heard(0)
        for _ in keys:
            at = self._keys.get(backend.name, 0) % len(keys)
            heard = await self._ask(replace(backend, secret=keys[at]), row, question)
            if heard.status not in KEY_STATUS:
                break
            self._keys[backend.name] = at + 1
        return heard

    async def post(
        self, backend: Backend, row: Runtime | None, path: str, doc: Doc, within: float
    ) -> Heard:
        """The same with a JSON document: for orders, of which the loading of a model is the one."""
        return await self._ask(backend, row, Question("POST", path, within, orjson.dumps(doc)))

    async def _ask(self, backend: Backend, row: Runtime | None, question: Question) -> Heard:
        loop, within = asyncio.get_running_loop(), question.within
        began = loop.time()
        try:
            async with asyncio.timeout(within):
                return await self._answer(backend, row, question, began)
        except (aiohttp.ClientError, TooMuchError, OSError, ValueError, RuntimeError) as fault:
            reply, error = explain(fault, within, _connect(backend, within))
            return Heard(0, error=error, reply=reply, took=loop.time() - began)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _answer(
        self, backend: Backend, row: Runtime | None, question: Question, began: float
    ) -> Heard:
        sent = {} if question.body is None else {"Content-Type": "application/json"}
        async with self._open().request(
            question.method,
            backend.url + question.path,
            headers=headers(backend, row) | sent,
            data=question.body,
            allow_redirects=False,
            proxy=backend.proxy or None,
            timeout=aiohttp.ClientTimeout(sock_connect=_connect(backend, question.within)),
        ) as answer:
            content = await _read(answer.content)
            return Heard(
                answer.status,
                {name.lower(): value for name, value in answer.headers.items()},
                content,
                parsed(content),
                took=asyncio.get_running_loop().time() - began,
            )

    def _open(self) -> aiohttp.ClientSession:
        # Made on first use: aiohttp binds a session to the loop that runs at that moment.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
                # A small compressed body can be a very large plain one.
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


async def _read(content: aiohttp.StreamReader) -> bytes:
    parts, size = [], 0
    async for part in content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise TooMuchError
    return b"".join(parts)


def _connect(backend: Backend, within: float) -> float:
    return min(backend.timeouts.connect, within)


def headers(backend: Backend, row: Runtime | None) -> dict[str, str]:
    """The headers of a sensor's question: the backend's key and what the row always adds."""
    sent = {"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
    if backend.host:
        sent["Host"] = backend.host
    if row is not None:
        sent.update(row.adds)
    key = backend.secret
    if not key or key == PASSTHROUGH:
        return sent
    if row is None:
        return sent | {"Authorization": f"Bearer {key}", "x-api-key": key}
    name, form = row.auth
    return sent | {name: form.format(key=key)}


def parsed(body: bytes) -> Any:
    """The JSON value of ``body``, None when it is none."""
    if body.lstrip()[:1] not in (b"{", b"[", b'"'):
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def explain(fault: BaseException, timeout: float, connect: float) -> tuple[Reply, str]:
    """A failed question in words for people. The order matters: aiohttp's classes are nested."""
    match fault:
        case TooMuchError():
            return Reply.GARBLED, f"answered more than {MAX_BODY // 1024 // 1024} MiB"
        case aiohttp.ClientConnectorCertificateError():
            return Reply.GARBLED, f"TLS: {_certificate(fault.certificate_error)}"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Reply.GARBLED, f"TLS: {_ssl_reason(fault)}"
        case aiohttp.ClientConnectorDNSError():
            return Reply.UNREACHABLE, f"the name {fault.host} is not known to the resolver"
        case aiohttp.ConnectionTimeoutError():
            return Reply.UNREACHABLE, f"no connection within {connect:g} s"
        case TimeoutError():
            return Reply.SLOW, f"timed out after {timeout:g} s"
        case OSError(errno=errno.ECONNREFUSED):
            return Reply.REFUSED, "connection refused"
        case aiohttp.ClientHttpProxyError() | aiohttp.ClientProxyConnectionError():
            status = getattr(fault, "status", 0)
            told = f"answers {status} to CONNECT" if status else "cannot be reached"
            return Reply.UNREACHABLE, f"the proxy on the way there {told}"
        case aiohttp.ClientConnectorError():
            return Reply.UNREACHABLE, f"no connection: {fault.os_error.strerror or fault.os_error}"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | OSError():
            return Reply.CUT, "the connection was closed before the answer was complete"
        case aiohttp.InvalidURL():
            return Reply.GARBLED, "not an address that can be asked"
        case _:
            return Reply.GARBLED, "not HTTP: the answer breaks the protocol"


def _certificate(fault: BaseException) -> str:
    return getattr(fault, "verify_message", "") or "the certificate is not accepted"


def _ssl_reason(fault: BaseException) -> str:
    reason = getattr(getattr(fault, "os_error", fault), "reason", None)
    return str(reason or "the handshake failed").replace("_", " ").lower()

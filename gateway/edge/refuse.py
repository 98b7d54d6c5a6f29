"""The gateway's own refusals, in the client's dialect, and the headers that they carry."""

from __future__ import annotations

from math import ceil

from aiohttp import web

from gateway.core.errors import KINDS, Refusal
from gateway.core.headers import safe_value
from gateway.core.types import Wire
from gateway.dialects import DIALECTS
from gateway.edge.front import SERVER


def internal(rid: str) -> Refusal:
    return Refusal(
        "internal", f"The gateway itself failed; its log has the reason under request id {rid}."
    )


def draining() -> Refusal:
    """For whoever comes too late; a kept connection would only bring more."""
    return Refusal(
        "draining",
        "This gateway is shutting down and takes no new requests. Try again: another instance, or"
        " this one after its restart, will answer.",
        headers={"Connection": "close"},
    )


def not_allowed(method: str, path: str, methods: tuple[str, ...]) -> Refusal:
    allow = ", ".join(methods)
    return Refusal(
        "method_not_allowed",
        f"{path} does not take {method}; it takes {allow}.",
        headers={"Allow": allow},
    )


def own_headers(rid: str, backend: str, model: str) -> dict[str, str]:
    """The headers that say who answered."""
    return {
        "X-Request-Id": rid,
        "X-Portico-Backend": backend,
        "X-Portico-Model": safe_value(model),
        "Server": SERVER,
    }


def backend_lines(backend: str, model: str) -> bytes:
    """The same headers, but for the request's id, as whole lines of a head."""
    return (
        f"X-Portico-Backend: {backend}\r\nX-Portico-Model: {safe_value(model)}\r\n"
        f"Server: {SERVER}\r\n"
    ).encode()


def refused(refusal: Refusal, wire: Wire, rid: str) -> web.Response:
    """A refusal in the client's dialect."""
    dialect = DIALECTS[wire]
    headers = {"X-Request-Id": rid, "Server": SERVER, "Content-Type": dialect.CONTENT_TYPE}
    wait = refusal.retry_after or KINDS[refusal.kind].retry_after
    if wait is not None:
        headers["Retry-After"] = str(max(1, ceil(wait)))
    elif KINDS[refusal.kind].fault == "caller":
        # OpenAI's and Anthropic's SDKs ask again after any 5xx, our 501 among them, and Claude Code
        # for minutes after a 401, unless they are told that it is no use.
        headers["X-Should-Retry"] = "false"
    response = web.Response(
        status=refusal.status,
        body=dialect.refuse(refusal, rid),
        headers={**headers, **refusal.headers},
    )
    if refusal.headers.get("Connection") == "close":
        response.force_close()
    return response

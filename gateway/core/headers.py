"""Which headers cross the gateway, in each direction, and how the heads are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from gateway.core.runtime import Runtime
from gateway.core.types import PASSTHROUGH, Backend

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110 7.6.1, and what older proxies add."""

CREDENTIALS = frozenset(
    {"authorization", "x-api-key", "api-key", "xi-api-key", "x-goog-api-key", "cookie"}
)
"""Everything by which a client of one of the dialects, or a browser, proves who it is."""

OURS = frozenset(
    {"host", "content-length", "content-encoding", "accept-encoding", "expect", "x-request-id"}
)
"""Set by the gateway: the body is sent decoded and whole, and answers must be readable."""

ANSWER_DROPS = HOP_BY_HOP | {"server", "x-request-id", "set-cookie"}
"""Not passed on from an answer: what belongs to the engine's own connection or identity."""

SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z")

REASONS: dict[int, str] = {status.value: status.phrase for status in HTTPStatus}


def request_head(
    method: str,
    target: str,
    netloc: str,
    *,
    headers: Iterable[tuple[str, str]],
    runtime: Runtime,
    backend: Backend,
    request_id: str,
    length: int | None,
) -> bytes:
    """The head sent to an engine. ``headers`` are the caller's; ``length`` None sends the body
    chunked. The caller's credentials go only to a backend that is set to pass them through."""
    pairs = list(headers)
    lines = [f"{method} {target} HTTP/1.1", f"Host: {netloc}"]
    ours = {name.lower() for name in (*runtime.adds, *runtime.request_ids)}
    named = connection_names(pairs) | ours
    for name, value in pairs:
        low = name.lower()
        if not _stays_behind(low, named, runtime):
            lines.append(f"{name}: {value}")
    lines += credential(pairs, runtime, backend)
    lines.append("Accept-Encoding: identity")
    lines += [f"{name}: {value}" for name, value in runtime.adds.items()]
    lines += [f"{name}: {request_id}" for name in runtime.request_ids]
    if length is None:
        lines.append("Transfer-Encoding: chunked")
    elif length or method not in ("GET", "HEAD", "DELETE"):
        lines.append(f"Content-Length: {length}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"


def _stays_behind(low: str, named: frozenset[str], runtime: Runtime) -> bool:
    return (
        low in HOP_BY_HOP
        or low in CREDENTIALS
        or low in OURS
        or low in named
        or low in runtime.drops
        or low.startswith("x-portico-")
    )


def connection_names(pairs: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The headers that a Connection header declares to be of this hop only."""
    return frozenset(
        name.strip().lower()
        for key, value in pairs
        if key.lower() == "connection"
        for name in value.split(",")
    )


def credential(pairs: Iterable[tuple[str, str]], runtime: Runtime, backend: Backend) -> list[str]:
    """The header lines that prove who we are to the engine: its own key, the caller's where the
    backend is set to pass it through, or none."""
    if backend.secret is None:
        return []
    if backend.secret != PASSTHROUGH:
        name, form = runtime.auth
        return [f"{name}: {form.format(key=backend.secret)}"]
    return [f"{k}: {v}" for k, v in pairs if k.lower() in ("authorization", "x-api-key")]


def answer_head(
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    extra: Mapping[str, str],
    *,
    chunked: bool,
    drop_length: bool,
    stream: bool,
    close: bool,
) -> bytes:
    """The head sent to the client: the engine's own headers, less those of its connection, and
    ours. Event streams get what keeps proxies from buffering them (vLLM sends neither, sheet 7)."""
    lines = [b"HTTP/1.1 %d %s" % (status, REASONS.get(status, "Unknown").encode())]
    seen = set()
    for name, value in headers:
        low = name.lower().decode("latin-1")
        if (
            low in ANSWER_DROPS
            or low.startswith("x-portico-")
            or (low == "content-length" and (drop_length or chunked))
        ):
            continue
        if low == "access-control-allow-origin" and not value.strip():
            continue  # llama-server sends it empty, which browsers refuse (sheet llamacpp 1)
        seen.add(low)
        lines.append(name + b": " + value)
    if stream and "cache-control" not in seen:
        lines.append(b"Cache-Control: no-cache")
    if stream and "x-accel-buffering" not in seen:
        lines.append(b"X-Accel-Buffering: no")
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    if close:
        lines.append(b"Connection: close")
    lines += [
        f"{name}: {value}".encode("utf-8", "surrogateescape") for name, value in extra.items()
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def safe_value(text: str) -> str:
    """A text as a header value: control characters and line ends cannot split the head."""
    return "".join(c if c.isprintable() and ord(c) < 0x7F else "?" for c in text)

"""Which headers cross the gateway, in each direction, and how the heads are written.

Everything here is bytes: heads are copied, not understood, and what is the same in every request
to a backend is written once (an Envelope)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from gateway.core.runtime import Runtime
from gateway.core.types import PASSTHROUGH, Backend

Pairs = Iterable[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110 7.6.1, and what older proxies add."""

CREDENTIALS = frozenset(
    {b"authorization", b"x-api-key", b"api-key", b"xi-api-key", b"x-goog-api-key", b"cookie"}
)
"""Everything by which a client of one of the dialects, or a browser, proves who it is."""

OURS = frozenset(
    {
        b"host",
        b"content-length",
        b"content-encoding",
        b"accept-encoding",
        b"expect",
        b"x-request-id",
    }
)
"""Set by the gateway: the body is sent decoded and whole, and answers must be readable."""

FORWARDABLE = frozenset({b"authorization", b"x-api-key"})
"""The caller's credentials that go on to a backend that is set to pass them through."""

ANSWER_DROPS = HOP_BY_HOP | {b"server", b"x-request-id", b"set-cookie"}
"""Not passed on from an answer: what belongs to the engine's own connection or identity."""

EMPTY_ORIGIN = b"access-control-allow-origin"
"""llama-server sends it empty, which browsers refuse (sheet llamacpp 1)."""

PREFIX = b"x-portico-"

RATES = b"x-ratelimit-"
"""What a provider says of our limits there is not passed on where the caller is told its own."""

SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z")

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


CONNECTION = b"connection"

MOST_NAMES = 1024
"""Names of headers that are remembered; callers may send any."""


class Verdicts(dict[bytes, bool | None]):
    """Header name as it came -> whether it is passed on, None where that depends on its value.
    Worked out at first sight: names are few, and each is met in every request."""

    def __init__(self, drops: frozenset[bytes], prefixes: tuple[bytes, ...]) -> None:
        super().__init__()
        self.drops = drops
        self.prefixes = prefixes

    def __missing__(self, name: bytes) -> bool | None:
        low = name.lower()
        found: bool | None = low not in self.drops and not low.startswith(self.prefixes)
        if low == CONNECTION or (low == EMPTY_ORIGIN and found):
            found = None
        if len(self) < MOST_NAMES:
            self[name] = found
        return found

    def less(self, names: frozenset[bytes]) -> Verdicts:
        """The same without further names (lower case)."""
        return Verdicts(self.drops | names, self.prefixes)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is the same in every request to one backend: which of the caller's headers are
    ``passed`` on, the ``fixed`` lines (without the last line end), and the names of the headers
    that carry the ``ids``."""

    passed: Verdicts
    fixed: bytes
    ids: tuple[bytes, ...]


_VERDICTS: dict[tuple[frozenset[bytes], tuple[bytes, ...]], Verdicts] = {}


def _verdicts(drops: frozenset[bytes], starts: tuple[bytes, ...]) -> Verdicts:
    """The same for all backends that are alike. There are as many as runtimes, twice at most."""
    return _VERDICTS.setdefault((drops, starts), Verdicts(drops, starts))


def envelopes(backend: Backend, runtime: Runtime) -> tuple[Envelope, ...]:
    """The envelopes of a backend, one for each of its keys."""
    return tuple(_envelope(backend, runtime, key) for key in backend.keys)


def _envelope(backend: Backend, runtime: Runtime, key: str | None) -> Envelope:
    """The backend's own key is written in the runtime's way; the caller's credentials stay behind
    unless the backend is set to pass them through."""
    drops = {*HOP_BY_HOP, *CREDENTIALS, *OURS}
    drops |= {name.lower().encode() for name in (*runtime.drops, *runtime.adds)}
    drops |= {name.lower().encode() for name in runtime.request_ids}
    lines = [
        ("Host", backend.host or urlsplit(backend.url).netloc),
        ("Accept-Encoding", "identity"),
    ]
    if key == PASSTHROUGH:
        drops -= FORWARDABLE
    elif key is not None:
        name, form = runtime.auth
        lines.append((name, form.format(key=key)))
    lines += runtime.adds.items()
    starts = (d[:-1].lower().encode() for d in runtime.drops if d.endswith("*"))
    return Envelope(
        _verdicts(frozenset(drops), (PREFIX, *starts)),
        "\r\n".join(f"{name}: {value}" for name, value in lines).encode(),
        tuple(name.encode() for name in runtime.request_ids),
    )


def passed(headers: Pairs, verdicts: Verdicts) -> bytes:
    """The lines of the caller's headers that cross the gateway, each with its end."""
    return b"".join(line + b"\r\n" for line in _passed(headers, verdicts))


def head_of(
    method: str,
    target: str,
    crossing: bytes,
    *,
    sent: Envelope,
    request_id: str,
    length: int | None,
) -> bytes:
    """The head sent to an engine. ``crossing`` are the lines of the caller's headers that go along;
    ``length`` None sends the body chunked."""
    first = f"{method} {target} HTTP/1.1\r\n".encode()
    last = b"\r\n"
    if length is None:
        last = b"Transfer-Encoding: chunked\r\n\r\n"
    elif length or method == "POST":
        last = b"Content-Length: %d\r\n\r\n" % length
    ids = [b"%b: %b\r\n" % (name, request_id.encode()) for name in sent.ids]
    return b"%b%b\r\n%b%b%b" % (first, sent.fixed, crossing, b"".join(ids), last)


def _passed(headers: Pairs, verdicts: Verdicts) -> list[bytes]:
    """The lines of those headers that cross the gateway."""
    lines = []
    for header in headers:
        verdict = verdicts[header[0]]
        if verdict:
            lines.append(b": ".join(header))
        elif verdict is None:
            name, value = header
            if name.lower() == EMPTY_ORIGIN:
                if value.strip():
                    lines.append(b": ".join(header))
            elif named := named_by(value) - verdicts.drops:
                return _passed(headers, verdicts.less(named))
    return lines


_WORDED = frozenset({b"accept", b"content-type"})
_DIALECTS = (b"anthropic-", b"openai-")


def translated(headers: Pairs) -> list[tuple[bytes, bytes]]:
    """The caller's headers for a request that was translated: without those that belong to the
    dialect it came in. Several engines take no body that is not called JSON, and Ollama's clients
    need not say what theirs is."""
    kept = [
        (name, value)
        for name, value in headers
        if (low := name.lower()) not in _WORDED and not low.startswith(_DIALECTS)
    ]
    return [*kept, (b"Content-Type", b"application/json")]


def proven(headers: Pairs, key: str | None, auth: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers in which the caller shows its own ``key`` in the engine's way (``Runtime.auth``), for
    a backend that it is passed through to."""
    kept = [(name, value) for name, value in headers if name.lower() not in FORWARDABLE]
    name, form = auth
    return kept if key is None else [*kept, (name.encode(), form.format(key=key).encode())]


_OF_THE_BODY = frozenset(
    {b"content-type", b"content-length", b"content-encoding", b"etag", b"content-md5", b"digest"}
)


def retyped(headers: Pairs, content_type: bytes) -> list[tuple[bytes, bytes]]:
    """An answer's headers for a body that was translated."""
    kept = [(name, value) for name, value in headers if name.lower() not in _OF_THE_BODY]
    return [(b"Content-Type", content_type), *kept]


_USUAL = {b"keep-alive": frozenset[bytes](), b"close": frozenset[bytes]()}


def named_by(connection: bytes) -> frozenset[bytes]:
    """The headers that a Connection header declares to be of this hop only."""
    low = connection.lower()
    usual = _USUAL.get(low)
    if usual is not None:
        return usual
    return frozenset(name.strip() for name in low.split(b","))


def answer_head(
    status: int,
    headers: Pairs,
    extra: bytes,
    *,
    chunked: bool,
    drop_length: bool,
    stream: bool,
    close: bool,
) -> bytes:
    """The head sent to the client: the engine's own headers, less those of its connection, and
    ours (``extra``, whole lines). Event streams get what keeps proxies from buffering them (vLLM
    sends neither, sheet 7)."""
    verdicts = _UNSIZED if drop_length or chunked else _SIZED
    if RATES in extra:
        verdicts = _UNSIZED_UNRATED if verdicts is _UNSIZED else _SIZED_UNRATED
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown" % status]
    lines += _passed(headers, verdicts)
    if stream:
        told = {name.lower() for name, _ in headers}
        if b"cache-control" not in told:
            lines.append(b"Cache-Control: no-cache")
        if b"x-accel-buffering" not in told:
            lines.append(b"X-Accel-Buffering: no")
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    if close:
        lines.append(b"Connection: close")
    lines += (extra, b"")
    return b"\r\n".join(lines)


_SIZED = Verdicts(ANSWER_DROPS, (PREFIX,))
_UNSIZED = Verdicts(ANSWER_DROPS | {b"content-length"}, (PREFIX,))
_SIZED_UNRATED = Verdicts(ANSWER_DROPS, (PREFIX, RATES))
_UNSIZED_UNRATED = Verdicts(ANSWER_DROPS | {b"content-length"}, (PREFIX, RATES))


def safe_value(text: str) -> str:
    """A text as a header value: control characters and line ends cannot split the head."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() and c.isascii() else "?" for c in text)

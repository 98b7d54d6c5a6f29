"""A stream that has begun before any engine answers it: its head went out so that comments could
keep it alive. From then on everything that happens is told inside it."""

from __future__ import annotations

from aiohttp import web

from gateway.core.errors import Refusal
from gateway.core.headers import answer_head
from gateway.core.types import Call, Op, Wire
from gateway.dialects import DIALECTS
from gateway.dialects.stream import parse
from gateway.edge.front import SERVER
from gateway.edge.request import Request

COMMENT = b": waiting\n\n"
"""What every client of server-sent events passes over (WHATWG HTML 9.2.6)."""

STATUS = 200


def may_open(request: Request, call: Call) -> bool:
    """Whether a stream can begin early: lines of JSON have no comments, and HTTP/1.0 has no way of
    telling that an answer was cut."""
    events = DIALECTS[call.wire].grammar(call.op).separator == b"\n\n"
    return call.stream and events and request.http11


class Opened:
    """One such stream. Made with its first comment; ``lines`` go into its head."""

    __slots__ = ("_call", "_client")

    def __init__(self, request: Request, call: Call, lines: bytes = b"") -> None:
        self._client = request.client
        self._call = call
        self._client.write(
            answer_head(
                STATUS,
                [(b"Content-Type", b"text/event-stream; charset=utf-8")],
                f"X-Request-Id: {call.id}\r\nServer: {SERVER}\r\n".encode() + lines,
                chunked=True,
                drop_length=False,
                stream=True,
                close=not request.keep_alive,
            )
            + _chunk(COMMENT)
        )

    def beat(self) -> None:
        """Show that somebody still waits."""
        self._client.write(_chunk(COMMENT))

    def refuse(self, refusal: Refusal) -> None:
        """What would have been an error answer, as the stream's last event. The stream does not
        end in good order: no part of an answer came."""
        dialect = DIALECTS[self._call.wire]
        self._client.write(_chunk(dialect.cut(self._call.op, refusal, self._call.id)))

    def tell(self, answer: web.Response) -> None:
        """An engine's own error answer, with its own words."""
        call = self._call
        text = answer.body if isinstance(answer.body, bytes) else b""
        doc = parse(text)
        if call.op is Op.RESPONSES or not (isinstance(doc, dict) and "error" in doc):
            self.refuse(_as_refusal(answer.status, doc, text))
            return
        name = b"" if call.wire is Wire.OPENAI else b"event: error\n"
        self._client.write(_chunk(name + b"data: " + b"".join(text.splitlines()) + b"\n\n"))


def _as_refusal(status: int, doc: object, text: bytes) -> Refusal:
    kind = "invalid_request" if status < 500 else "backend_unreachable"
    error = doc.get("error") if isinstance(doc, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    words = said if isinstance(said, str) else " ".join(text.decode("utf-8", "replace").split())
    return Refusal(kind, f"The engine answered {status}: {words[:300]}")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)

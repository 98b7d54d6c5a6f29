"""Reading a stream as it passes: what is an error, what is the end, what was generated.

The bytes themselves are relayed untouched; a Watch only looks. It keeps a few kilobytes however
long the stream is, and works on any split of the bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

NEVER = re.compile(rb"(?!)")

TAIL = 1280
"""Bytes of a stream's end that are kept: an engine's usage object has some 300 to 600."""

CHUNK_END = b"\r\n"

BATCH = 3072
"""Bytes of events that may gather before they are looked at."""

HEAD = 768
"""Bytes of a stream's beginning that are kept, for dialects that say input tokens first."""

LONGEST_PIECE = 8192
"""A line that is longer is counted as far as it has come."""

LONGEST_LINE = 65536
"""A line that is longer is no error event, and is not kept to be looked at."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """How one surface's stream looks. ``end`` matches its regular last event (``end_hint`` is a
    cheap necessary condition); ``finish`` matches a finish reason; ``content`` matches once for
    each piece of generated text, of which ``usual`` is the beginning that nearly all have and
    ``empty`` the same without text, so that they can mostly be counted without the pattern;
    ``separator`` ends an event; ``failure_ends`` where an event that tells of a failure is a
    regular end; ``head`` is how much of the beginning is worth keeping (bytes). A quotation mark
    inside a JSON string is always escaped, so that a pattern with bare quotes cannot match
    generated text."""

    end_hint: bytes = b""
    end: re.Pattern[bytes] = NEVER
    finish: re.Pattern[bytes] = NEVER
    content: re.Pattern[bytes] = NEVER
    usual: bytes = b""
    empty: bytes = b""
    separator: bytes = b"\n\n"
    failure_ends: bool = False
    head: int = HEAD

    @property
    def has_end(self) -> bool:
        return bool(self.end_hint)

    @property
    def has_finish(self) -> bool:
        return self.finish is not NEVER

    def count(self, data: bytes) -> int:
        """How many pieces of generated text stand in ``data``."""
        found = data.count(self.usual) if self.usual else 0
        if found and found == data.count(self.separator) and self.empty not in data:
            return found
        return len(self.content.findall(data))


@dataclass(frozen=True, slots=True)
class Fault:
    """An error that an engine put into a stream. ``status`` is what it says about itself, 0 if
    nothing; ``start`` and ``end`` are where, in the bytes last fed, its line begins and is over."""

    status: int
    message: str
    end: int = 0
    start: int = 0


EventFault = Callable[[Any], tuple[int, str] | None]
"""A runtime's own idea of an error event: (status, message) or None."""


def _no_fault(event: Any) -> tuple[int, str] | None:
    return None


def payload_of(line: bytes) -> bytes:
    """The JSON text in a line of SSE or NDJSON; empty for anything else."""
    if line.startswith(b"data:"):
        return line[5:].strip()
    return line.strip() if line.startswith(b"{") else b""


def parse(text: bytes) -> Any:
    """The JSON value, or None when it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def fault_in(event: Any, own: EventFault = _no_fault) -> tuple[int, str] | None:
    """(status, message) if a parsed event tells of a failure, in any shape that engines use:
    ``{"error": {…}}``, ``{"error": "text"}``, ``{"type": "error", …}``,
    ``{"object": "error", …}``, ``response.failed``, or the runtime's own."""
    if not isinstance(event, dict):
        return None
    known = own(event)
    if known is not None:
        return known
    if event.get("type") == "response.failed":
        response = event.get("response")
        return _described(response.get("error") if isinstance(response, dict) else None, event)
    error = event.get("error")
    if error or event.get("type") == "error" or event.get("object") == "error":
        return _described(error, event)
    return None


def _described(error: Any, event: dict[str, Any]) -> tuple[int, str]:
    if isinstance(error, str):
        return _status(event, {}), error
    inner = error if isinstance(error, dict) else event
    message = inner.get("message")
    return _status(inner, event), message if isinstance(
        message, str
    ) else "the engine gave no reason"


STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What Anthropic's and OpenAI's names of errors would have been as a status: the events of
``/v1/messages`` and ``/v1/responses`` carry no number."""


def _status(*places: dict[str, Any]) -> int:
    """The first thing that looks like an HTTP error status, or the name of one."""
    return _number(places) or _named(places)


def _named(places: tuple[dict[str, Any], ...]) -> int:
    names = (place.get(key) for place in places for key in ("code", "type"))
    found = (STATUS_OF.get(name, 0) for name in names if isinstance(name, str))
    return next(filter(None, found), 0)


def _number(places: tuple[dict[str, Any], ...]) -> int:
    for place in places:
        for key in ("code", "status", "status_code", "http_status_code"):
            value = place.get(key)
            if isinstance(value, str) and value.isdigit():
                value = int(value)
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return 0


class Watch:
    """Looks at one answer as it passes. ``feed`` before the bytes are written, ``note`` after.
    ``finishes`` asks for an eye on finish reasons, which only some runtimes' streams need.

    Nearly every event of every stream takes neither way: chunks that hold whole lines without the
    word 'error' are gathered in ``fresh`` as they came, framing and all, and looked at some
    kilobytes at a time, by ``settle`` (the relay says when; ``due`` is its mark). The size lines
    between them are no JSON, and stand where an event begins. ``line`` is the beginning of the
    line in whose middle what was fed last ended."""

    __slots__ = (
        "_ended",
        "_finishes",
        "_grammar",
        "_head",
        "_own",
        "_pieces",
        "_rest",
        "_tail",
        "due",
        "finished",
        "fresh",
        "line",
    )

    def __init__(
        self, grammar: Grammar, own: EventFault | None = None, *, finishes: bool = False
    ) -> None:
        self._grammar = grammar
        self._own = own or _no_fault
        self._finishes = finishes
        self._rest = self._head = self._tail = b""
        self._ended = False
        self._pieces = 0
        self.finished = False
        self.fresh: list[bytes] = []
        self.due = 0
        self.line = b""

    def feed(self, data: bytes) -> Fault | None:
        """Look for an error event that is complete with ``data``. Returns it with the offset in
        ``data`` after which the stream must not go on, or None."""
        before = len(self.line)
        text = self.line + data if before else data
        fault = None
        if b"error" in text or self._own is not _no_fault:
            fault = self._fault(text, before)
        if data[-1:] == b"\n":
            self.line = b""
        else:
            rest = text[text.rfind(b"\n") + 1 :]
            self.line = rest if len(rest) <= LONGEST_LINE else b""
        self._look_for_end(text)
        if self._finishes and not self.finished:
            self.finished = self._grammar.finish.search(text) is not None
        return fault

    def _look_for_end(self, text: bytes) -> None:
        hint = self._grammar.end_hint
        if hint and hint in text and not self._ended:
            self._ended = self._grammar.end.search(text) is not None

    def _fault(self, text: bytes, before: int) -> Fault | None:
        for start, line in _lines(text):
            found = fault_in(parse(payload_of(line)), self._own)
            if found is not None:
                end = start + len(line) - before
                return Fault(*found, end=max(end, 0), start=max(start - before, 0))
        return None

    def note(self, data: bytes) -> None:
        """Remember the ends of the answer and count what was generated."""
        if self.fresh:
            self.settle()
        self._count(data)
        self._keep(data)

    def keep(self, data: bytes) -> None:
        """Remember the ends of an answer that is no stream."""
        self._keep(data)

    def settle(self) -> None:
        """Look at what has gathered."""
        text = b"".join(self.fresh)
        self.fresh = []
        self._look_for_end(text)
        self._count(text)
        self._keep(text)

    def _keep(self, data: bytes) -> None:
        if len(self._head) < self._grammar.head:
            self._head += data[: self._grammar.head - len(self._head)]
        self._tail = data[-TAIL:] if len(data) >= TAIL else (self._tail + data)[-TAIL:]

    def _count(self, data: bytes) -> None:
        """Count in whole lines only: a read may end in the middle of a piece."""
        if self._rest or data[-1:] != b"\n":
            data = self._rest + data
            end = data.rfind(b"\n") + 1
            if len(data) - end > LONGEST_PIECE:
                end = len(data)
            data, self._rest = data[:end], data[end:]
        self._pieces += self._grammar.count(data)

    @property
    def ended(self) -> bool:
        """Whether the stream's regular last event has come."""
        if self.fresh:
            self.settle()
        return self._ended

    @property
    def pieces(self) -> int:
        """How many pieces of generated text have gone by."""
        if self.fresh:
            self.settle()
        return self._pieces

    @property
    def head(self) -> bytes:
        """The first bytes, as many as the grammar says are worth keeping."""
        if self.fresh:
            self.settle()
        return self._head

    @property
    def tail(self) -> bytes:
        """The last TAIL bytes, or all if there were fewer."""
        if self.fresh:
            self.settle()
        return self._tail

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes noted so far end with a whole event."""
        tail = self.tail
        separator = self._grammar.separator
        return not tail or tail.endswith((separator, separator + CHUNK_END))


def _lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, line with its newline) for each complete line."""
    start = 0
    while (end := text.find(b"\n", start)) >= 0:
        yield start, text[start : end + 1]
        start = end + 1


BOM = b"\xef\xbb\xbf"

FAULT_NAMES = (b"error", b"response.failed")
"""What names an error, as the name of an event or as its ``type`` or ``object``."""

FAULT_KEYS = (b"error", b"message", b"code", b"detail", b"status", b"status_code")
NAMING_KEYS = (b"type", b"object")

_FIRST_MEMBER = re.compile(
    rb"\s*\{?\s*(?:\"(?P<key>\w*)(?:(?P<whole>\")\s*:?\s*(?:\"(?P<name>[\w.]*)(?P<end>\")?)?)?)?"
)
"""The beginning of an object, as far as it has come."""


def could_be_fault(beginning: bytes) -> bool:
    """Whether an incomplete first event may still turn out to be an error: only then is it worth
    holding it back until the rest has come. Its first member tells: regular events begin with an
    id, a model, their choices, or a type of their own."""
    *lines, last = _opening(beginning).split(b"\n")
    if any(line.startswith((b"event:", b"data:")) and not _line_could(line) for line in lines):
        return False
    return _line_could(last)


def _opening(data: bytes) -> bytes:
    return data.removeprefix(BOM).replace(b"\r\n", b"\n").lstrip(b"\r\n")


def _line_could(line: bytes) -> bool:
    field, colon, value = line.partition(b":")
    if line[:1] == b"{":
        return _object_could(line)
    if not colon:
        return any(name.startswith(line) for name in (b"data", b"event", b"id", b"retry", BOM))
    if field == b"event":
        return any(name.startswith(value.strip()) for name in FAULT_NAMES)
    return field in (b"id", b"retry") or (field == b"data" and _object_could(value))


def _object_could(text: bytes) -> bool:
    match = _FIRST_MEMBER.match(text)
    if match is None or match["key"] is None:
        return not text.strip(b" \t{")
    key, name = match["key"], match["name"]
    if not match["whole"]:
        return any(known.startswith(key) for known in (*FAULT_KEYS, *NAMING_KEYS))
    if key not in NAMING_KEYS:
        return key in FAULT_KEYS
    return (
        any(known.startswith(name or b"") for known in FAULT_NAMES)
        if not match["end"]
        else name in FAULT_NAMES
    )


def first_event(data: bytes, separator: bytes) -> bytes | None:
    """The first event of a stream, None while it is incomplete. Comments that came with it, which
    only keep a connection awake, are passed over."""
    text = _opening(data)
    end = text.find(separator)
    while end >= 0 and _only_comment(text[:end]) and text[end + len(separator) :]:
        text = text[end + len(separator) :].lstrip(b"\n")
        end = text.find(separator)
    return None if end < 0 else text[: end + len(separator)]


def _only_comment(event: bytes) -> bool:
    return all(line.startswith((b":", b"retry:")) for line in event.split(b"\n"))


def first_fault(event: bytes, own: EventFault = _no_fault) -> tuple[int, str] | None:
    """(status, message) if the complete first event is an error."""
    lines = event.splitlines()
    payloads = [payload for payload in map(payload_of, lines) if payload]
    for text in (*payloads, b"\n".join(payloads)):
        found = fault_in(parse(text), own)
        if found is not None:
            return found
    if any(line.replace(b" ", b"") == b"event:error" for line in lines):
        return _told(b"\n".join(payloads))
    return None


def _told(text: bytes) -> tuple[int, str]:
    """What an event named ``error`` says that has no ``error`` in it."""
    doc = parse(text)
    plain = text.decode("utf-8", "replace")
    return _described(None, doc) if isinstance(doc, dict) else _described(plain, {})

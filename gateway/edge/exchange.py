"""One request on one upstream connection, its answer relayed to one client as it arrives.

Everything happens in the callback in which the bytes came: look at the first event before the
status is committed, pass bytes on, keep the time, notice the end. How it ended is told once, in
that same call."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from time import monotonic
from types import ModuleType
from typing import Protocol

from gateway.core.catalog import Place
from gateway.core.errors import Refusal
from gateway.core.headers import answer_head
from gateway.core.rotation import key_failed
from gateway.core.runtime import MOVE_ON, Verdict, judge, no_fault
from gateway.core.types import ITL_BUCKETS, Call, Op, Wire
from gateway.dialects import DIALECTS
from gateway.dialects.stream import (
    BATCH,
    EventFault,
    Grammar,
    Watch,
    could_be_fault,
    first_event,
    first_fault,
    payload_of,
)
from gateway.dialects.strip import UsageStrip
from gateway.edge.account import Account
from gateway.edge.deadlines import Deadlines
from gateway.edge.request import Request
from gateway.edge.upstream import Connection
from gateway.state.board import Lane

HELD_LIMIT = 1 << 20
"""Bytes of an answer that are held until it is known what it is."""

STALL = 300.0
"""Seconds for which a client may read nothing before it is taken for gone."""

LAST = b"\n\r\n"
"""How a chunk ends that holds whole lines."""

USUAL = b'data: {"id":'
"""How the first event of nearly every stream begins, which is no error then."""

STREAM_TYPES = (b"text/event-stream", b"application/x-ndjson")

UNFINISHED = "The engine ended its answer before it was finished."

Headers = tuple[tuple[bytes, bytes], ...]


class End(StrEnum):
    """How an exchange ended."""

    # Enum's own is written in Python, and every look-up by a member pays for it.
    __hash__ = str.__hash__

    DONE = "done"  # the whole answer was relayed
    CUT = "cut"  # the answer had begun and broke off
    GIVEN_UP = "given_up"  # an answer that another backend might better; nothing was relayed
    BROKEN = "broken"  # no answer; nothing was relayed
    STALLED = "stalled"  # the client stopped reading
    ENDED = "ended"  # the gateway itself is leaving
    REFUSED = "refused"  # the gateway itself refuses, nothing was relayed: ``refusal`` says why


@dataclass(frozen=True, slots=True)
class Result:
    """``verdict``, ``status``, ``headers`` and ``body`` describe an answer given up; ``reason``
    is a word for metrics, ``text`` a clause for people. ``told`` is True when the error was an
    event inside a stream of status 200; ``sent`` is False when the request never left;
    ``opens`` is in how many seconds the backend can be asked again, where that is known."""

    end: End
    reason: str = ""
    text: str = ""
    verdict: Verdict = Verdict.OK
    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    told: bool = False
    sent: bool = True
    opens: float = 0.0
    refusal: Refusal | None = None


DONE = Result(End.DONE)


class Job(Protocol):
    """What the exchange is for. ``claim`` is called, where another copy of the request may be under
    way, before an answer is committed; ``begun`` gets the bytes that it begins with, before they
    are relayed; ``ended`` is called exactly once, unless the exchange is closed before."""

    request: Request
    call: Call
    account: Account

    def claim(self) -> None: ...
    def begun(self, beginning: bytes) -> None: ...
    def ended(self, result: Result) -> None: ...
    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Course:
    """What is the same in every exchange with one place on one surface. ``dialect`` is the
    client's; ``wire`` and ``op`` are the surface on which the engine is asked, ``grammar`` how it
    answers there; ``own`` are its own words for an error, None where it has none; ``lane`` is where
    bytes from it are noted; ``lines`` go into the client's head."""

    place: Place
    dialect: ModuleType
    wire: Wire
    op: Op
    grammar: Grammar
    own: EventFault | None
    finishes: bool
    lane: Lane
    lines: bytes


def course_of(
    place: Place, client: Wire, surface: tuple[Wire, Op], lane: Lane, lines: bytes
) -> Course:
    """The course of a place for clients that speak ``client``."""
    wire, op = surface
    runtime, grammar = place.runtime, DIALECTS[wire].grammar(op)
    own = None if runtime.event_fault is no_fault else partial(runtime.event_fault, wire, op)
    finishes = runtime.needs_finish and grammar.has_finish
    return Course(place, DIALECTS[client], wire, op, grammar, own, finishes, lane, lines)


class Exchange:
    """See the module. ``patience`` are the seconds that the first byte may take; ``contested`` is
    whether another copy of the request may be under way. One whose answer is translated is a
    ``TurnedExchange``."""

    __slots__ = (
        "_account",
        "_call",
        "_chunked",
        "_client",
        "_connection",
        "_contested",
        "_course",
        "_deadlines",
        "_ending",
        "_extra",
        "_head",
        "_headers",
        "_held",
        "_http11",
        "_job",
        "_lane",
        "_opened",
        "_passing",
        "_patience",
        "_paused_at",
        "_phase_start",
        "_raw",
        "_sized",
        "_status",
        "_stream",
        "_strip",
        "keep_alive",
        "over",
        "watch",
    )

    def __init__(
        self,
        job: Job,
        course: Course,
        connection: Connection,
        extra: bytes,
        strip: UsageStrip | None,
        *,
        patience: float,
        contested: bool,
        deadlines: Deadlines,
        now: float,
    ) -> None:
        request, account = job.request, job.account
        client = request.client
        self._job = job
        self._course = course
        self._connection = connection
        self._client = client
        self._http11 = request.http11
        self.keep_alive = request.keep_alive
        self._call = job.call
        self._account = account
        self._opened = account.opened is not None
        self._extra = extra
        self._strip = strip
        self._patience = patience
        self._contested = contested
        self._deadlines = deadlines
        self._lane = course.lane
        self.watch = Watch(course.grammar, course.own, finishes=course.finishes)
        self._headers: list[tuple[bytes, bytes]] = []
        self._held = self._head = b""
        self._status = 0
        self._ending = False
        self.over = self._stream = self._sized = self._passing = self._raw = self._chunked = False
        self._paused_at = 0.0
        self._phase_start = now
        deadlines.add(self)
        if not contested:
            client.relay = self

    # --- from the connection

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        self._headers = headers
        for name, value in headers:
            low = name.lower()
            if low == b"content-type":
                self._stream = value.lower().startswith(STREAM_TYPES)
            elif low == b"content-length":
                self._sized = True

    def on_payload(self, data: bytes) -> None:
        now = monotonic()
        self._phase_start = now
        if self._passing:
            self._pass(data, now)
            return
        self._held += data
        if self._status >= 400:
            if len(self._held) > HELD_LIMIT and self._opened:
                self._connection.abort()
                self._judge_whole()
            elif len(self._held) > HELD_LIMIT:
                self._commit(now)
        elif self._stream:
            self._peek(now)
        elif self._opened:
            self._connection.abort()
            self._resolve(Result(End.BROKEN, "engine", "it answered a stream with no stream"))
        else:
            self._commit(now)

    def on_chunk(self, data: bytes, start: int) -> None:
        """One whole chunk as it came, framing and all, its payload from ``start`` on. In the middle
        of a stream whole events pass on as they are; anything else takes the longer way."""
        watch = self.watch
        if not self._raw or data[-3:] != LAST or b"error" in data or watch.line:
            self.on_payload(data[start:-2])
            return
        transport = self._client.transport
        if transport is not None:
            transport.write(data)
        now = monotonic()
        account = self._account
        seconds = now - account.last
        account.gaps[bisect_left(ITL_BUCKETS, seconds)] += 1
        account.itl_sum += seconds
        account.last = self._lane.last_byte = now
        watch.fresh.append(data)
        account.bytes_out = out = account.bytes_out + len(data)
        if out > watch.due:
            watch.settle()
            watch.due = out + BATCH

    def on_last(self, data: bytes) -> None:
        """The payload of the read in which the answer ends, which ``on_end`` will tell: what is
        written of it leaves with the end of the answer to the client."""
        self._ending = True
        self.on_payload(data)

    def on_end(self) -> None:
        self._ending = False
        if self.over:
            return
        if not self._passing and not self._settle_unrelayed():
            return
        self._finish()

    def on_broken(self, reason: str) -> None:
        if self.over:
            return
        if self._passing:
            self._cut("backend_unreachable", f"The engine broke off: {reason}.")
        else:
            self._resolve(Result(End.BROKEN, "reset", reason))

    def refuse(self, refusal: Refusal) -> None:
        """The request turned out to be at fault while its body was being passed on."""
        self._connection.abort()
        if not self.over:
            if self._passing:
                self._end_cut("refused", refusal.message)
            else:
                self._resolve(Result(End.REFUSED, refusal=refusal))

    # --- before the status is committed

    def _peek(self, now: float) -> None:
        """Commit, unless the first event is an error or may still become one."""
        held = self._held
        usual = held.startswith(USUAL) and held.endswith(b"\n\n") and b"rror" not in held
        if usual and self._course.own is None:
            self._commit(now)
            return
        event = first_event(self._held, self._course.grammar.separator)
        if event is None:
            if not could_be_fault(self._held) or len(self._held) > HELD_LIMIT:
                self._commit(now)
            return
        fault = self._fault_in(event)
        if fault is None:
            self._commit(now)
        else:
            self._give_up_event(*fault, event)

    def _fault_in(self, event: bytes) -> tuple[int, str] | None:
        if self._course.own is not None:
            return first_fault(event, self._course.own)
        return first_fault(event) if b"error" in event else None

    def _give_up_event(self, status: int, message: str, event: bytes) -> None:
        """HTTP 200 whose first event is an error: say what it truly is."""
        text = f"{message}\n{event.decode('utf-8', 'replace')}"
        verdict = judge(self._course.place.runtime, self._course.op, status or 500, text)
        self._connection.abort()
        body = next((p for p in map(payload_of, event.splitlines()) if p.startswith(b"{")), b"")
        body = self._event_told(status or 500, message, body)
        self._resolve(
            Result(
                End.GIVEN_UP, verdict.value, message, verdict, status or 500, body=body, told=True
            )
        )

    def _settle_unrelayed(self) -> bool:
        """The answer ended before anything was relayed. True when it is to be relayed now."""
        if self._status >= 400:
            return self._judge_whole()
        if (self._stream or self._opened) and not self._held:
            self._resolve(Result(End.BROKEN, "empty", "it ended its stream before any event"))
            self._connection.abort()
            return False
        fault = self._fault_in(self._held) if self._stream else None
        if fault is not None:
            self._give_up_event(*fault, self._held)
            return False
        self._commit(monotonic())
        return True

    def _judge_whole(self) -> bool:
        text = self._held.decode("utf-8", "replace")
        place = self._course.place
        verdict = judge(place.runtime, self._course.op, self._status, text)
        another = bool(place.keyed) and key_failed(verdict, self._status)
        if verdict in MOVE_ON or verdict is Verdict.UNSUPPORTED or self._opened or another:
            told, status = _message_of(text), self._status
            headers, body = self._as_told(status, self._held)
            reason = verdict.value
            self._resolve(Result(End.GIVEN_UP, reason, told, verdict, status, headers, body))
            return False
        self._commit(monotonic())
        return True

    def _as_told(self, status: int, body: bytes) -> tuple[Headers, bytes]:
        """Headers and body of an error answer, as a client would get them."""
        return tuple(self._headers), body

    def _event_told(self, status: int, message: str, payload: bytes) -> bytes:
        """The same of an error that was a stream's first event."""
        return payload

    # --- relaying

    def _commit(self, now: float) -> None:
        """Send the head and what was held; from here on no other backend can answer."""
        if self._contested:
            self._job.claim()
            self._client.relay = self
        # The head leaves with the first bytes behind it, in one system call.
        course, self._head = self._course, self._choose_framing()
        self._passing = True
        self._raw = (
            self._stream
            and self._chunked
            and self._strip is None
            and course.own is None
            and course.grammar.usual != b""
            and not course.place.runtime.needs_finish
        )
        self._account.commit(self._status, now, events=self._stream)
        held, self._held, self._headers = self._held, b"", []
        self._job.begun(held)
        if held:
            self._pass(held, now)
        if self._head:
            self._write(b"")

    def _choose_framing(self) -> bytes:
        """Settle how the body goes to the client (RFC 9112 6): with the engine's own length, in
        chunks, or until the connection closes. Returns the head that says so, empty where it went
        out while the request waited."""
        if self._opened:
            self._chunked = True
            return b""
        bodiless = self._status in (204, 304) or self._call.method == "HEAD"
        rewritten = self._strip is not None and self._stream
        if not rewritten:
            self._strip = None
        self._chunked = self._http11 and not bodiless and (rewritten or not self._sized)
        if not self._chunked and not self._sized and not bodiless:
            self.keep_alive = False
        return answer_head(
            self._status,
            self._headers,
            self._extra,
            chunked=self._chunked,
            drop_length=rewritten,
            stream=self._stream,
            close=not self.keep_alive,
        )

    def _pass(self, data: bytes, now: float) -> None:
        """Relay one read. What is observed is observed after the bytes have gone."""
        out = data if self._strip is None else self._strip.feed(data)
        if self._stream and not self._relay_events(out):
            return
        if not self._stream and out:
            self._write(self._framed(out))
        account = self._account
        if self._stream and now > account.first:
            account.gap(now - account.last)
        account.last = self._lane.last_byte = now
        if self._stream:
            self.watch.note(data)
        else:
            self.watch.keep(data)

    def _relay_events(self, out: bytes) -> bool:
        """Write what came of a stream. False when the stream was cut there."""
        fault = self.watch.feed(out)
        if fault is not None and not (self._course.grammar.failure_ends and self.watch.ended):
            self.watch.note(out)
            tail = b"\n" if self._course.grammar.separator == b"\n\n" else b""
            self._write(self._framed(out[: fault.end] + tail))
            self._end_cut("engine_error", fault.message)
            return False
        if self._course.place.runtime.needs_finish and self.watch.ended and self._unfinished():
            self.watch.note(out)
            done = max(out.rfind(b"data: [DONE]"), 0)
            if out[:done]:
                self._write(self._framed(out[:done]))
            self._cut("backend_unreachable", UNFINISHED)
            return False
        if out:
            self._write(self._framed(out))
        return True

    def _unfinished(self) -> bool:
        return self._course.grammar.has_finish and not self.watch.finished

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def _write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        if self._ending:
            self._head = data
            return
        if self._stream:
            self._client.write(data)
        else:
            self._client.post(data)
        self._account.bytes_out += len(data)

    def pause(self) -> None:
        """The client reads too slowly: back-pressure, all the way to the engine."""
        self._paused_at = monotonic()
        self._connection.pause()

    def resume(self) -> None:
        self._paused_at = 0.0
        self._phase_start = monotonic()
        self._connection.resume()

    # --- the end

    def _finish(self) -> None:
        if self._strip is not None and (rest := self._strip.close()):
            self._write(self._framed(rest))
        if self._stream and self._course.grammar.has_end and not self.watch.ended:
            self._cut("backend_unreachable", UNFINISHED)
            return
        if self._chunked:
            self._write(b"0\r\n\r\n")
        self._resolve(DONE)

    def _cut(self, kind: str, message: str) -> None:
        """The answer had begun: tell the client in its own dialect, and do not end cleanly."""
        if self._stream:
            self._tell(kind, message)
        self._end_cut(kind, message)

    def _tell(self, kind: str, message: str) -> None:
        """The one error event of a stream that breaks off."""
        refusal = Refusal(kind, f"{message} What was sent is not the whole answer; ask again.")
        event = self._course.dialect.cut(self._call.op, refusal, self._call.id)
        self._write(self._framed(self._seam() + event))

    def _seam(self) -> bytes:
        """What ends an event that was cut in its middle."""
        return b"" if self.watch.at_boundary else self._course.grammar.separator

    def _end_cut(self, reason: str, text: str) -> None:
        self._connection.abort()
        self._resolve(Result(End.CUT, reason, text))

    def _resolve(self, result: Result) -> None:
        if self.over:
            return
        if self._head:
            self._ending = False
            self._write(b"")
        self.over = True
        self._job.ended(result)

    def close(self) -> None:
        """Let go of everything, whether the exchange ended or is abandoned."""
        self.over = True
        self._deadlines.discard(self)
        if self._client.relay is self:
            self._client.relay = None

    # --- time

    def end(self) -> None:
        """The gateway is leaving: say so where an answer has begun, refuse where none has."""
        if self.over:
            return
        self._connection.abort()
        if not self._passing:
            refusal = Refusal(
                "draining", "This gateway was stopped before the engine had answered."
            )
            self._resolve(Result(End.REFUSED, refusal=refusal))
            return
        if self._stream:
            self._tell("draining", "This gateway was stopped while the engine was answering.")
        self._resolve(Result(End.ENDED, "draining"))

    def check(self, now: float) -> None:
        """Give up what has been silent for too long."""
        if self.over:
            return
        if self._paused_at:
            late = now - self._paused_at >= STALL
        elif self._passing:
            late = (
                now - max(self._phase_start, self._account.last)
                >= self._course.place.backend.timeouts.idle
            )
        else:
            late = now - self._phase_start >= self._patience
        if late:
            self._expire()

    def _expire(self) -> None:
        if self._paused_at:
            self._connection.abort()
            self._resolve(Result(End.STALLED, "stalled", "the client stopped reading"))
        elif self._passing:
            silence = self._course.place.backend.timeouts.idle
            self._cut("backend_timeout", f"The engine sent nothing more for {silence:g} s.")
        else:
            self._connection.abort()
            wait = self._patience
            self._resolve(Result(End.BROKEN, "timeout", f"no answer began within {wait:g} s"))


def _message_of(text: str) -> str:
    """A few words of an error body, for messages and logs."""
    return " ".join(text.split())[:300]

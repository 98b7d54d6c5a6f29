"""An exchange whose answer is translated on its way.

The engine's bytes are watched in the engine's grammar; what the client gets is what the translation
makes of them, each event in the turn in which it came. A whole answer is gathered first."""

from __future__ import annotations

from time import monotonic
from typing import Any

import orjson

from gateway.core.errors import Refusal
from gateway.core.headers import retyped
from gateway.dialects.strip import UsageStrip
from gateway.edge.exchange import HELD_LIMIT, UNFINISHED, End, Exchange, Headers, Result
from gateway.edge.turn import Turn
from gateway.translate.bridge import Stream

WHOLE_LIMIT = 64 << 20
"""Bytes of a whole answer that are held to be translated: embeddings can be long."""


class TurnedExchange(Exchange):
    """See the module. ``unasked`` takes out what only the gateway asked for."""

    __slots__ = ("_gathered", "_size", "_telling", "_turn", "_unasked")

    def __init__(self, turn: Turn, unasked: UsageStrip | None, *common: Any, **more: Any) -> None:
        super().__init__(*common, **more)
        self._turn = turn
        self._unasked = unasked
        self._telling: Stream | None = None
        self._gathered: list[bytes] = []
        self._size = 0

    # --- before the status is committed

    def on_payload(self, data: bytes) -> None:
        if self._passing or (self._status < 400 and (self._stream or self._opened)):
            super().on_payload(data)
            return
        self._phase_start = self._lane.last_byte = monotonic()
        self._gathered.append(data)
        self._size += len(data)
        if self._size > self._most:
            self._connection.abort()
            self._too_long()

    @property
    def _most(self) -> int:
        return WHOLE_LIMIT if self._status < 400 else HELD_LIMIT

    def _too_long(self) -> None:
        if self._status >= 400:
            self._held = b"".join(self._gathered)
            if self._judge_whole():
                self._finish()
            return
        self._refuse_whole(
            Refusal(
                "backend_unreachable",
                f"The engine's answer is over {WHOLE_LIMIT >> 20} MiB, which is more than is"
                " translated at once. Ask for less at a time.",
            )
        )

    def on_end(self) -> None:
        if self._gathered:
            self._held = b"".join(self._gathered)
            self._gathered = []
        super().on_end()

    def _as_told(self, status: int, body: bytes) -> tuple[Headers, bytes]:
        worded = self._turn.error(status, body)
        return tuple(retyped(self._headers, self._turn.kind)), worded

    def _event_told(self, status: int, message: str, payload: bytes) -> bytes:
        told = payload or orjson.dumps({"error": {"message": message}})
        return self._turn.error(status, told)

    # --- relaying

    def _commit(self, now: float) -> None:
        turn = self._turn
        try:
            if self._status >= 400:
                self._take_whole(turn.error(self._status, self._held))
            elif self._stream:
                self._telling = turn.stream()
                self._headers = retyped(self._headers, turn.stream_kind)
                self._sized = False
            else:
                self._take_whole(turn.reply(self._held))
        except Refusal as refusal:
            self._refuse_whole(refusal)
            return
        super()._commit(now)
        self._raw = False

    def _take_whole(self, body: bytes) -> None:
        """``body`` is what the client gets in place of what was held."""
        self.watch.keep(self._held)
        self._stream, self._sized = False, True
        length = (b"Content-Length", b"%d" % len(body))
        self._headers = [*retyped(self._headers, self._turn.kind), length]
        self._held = body

    def _refuse_whole(self, refusal: Refusal) -> None:
        self._connection.abort()
        self._resolve(Result(End.REFUSED, refusal=refusal))

    def _pass(self, data: bytes, now: float) -> None:
        if self._stream:
            super()._pass(data, now)
        else:
            self._write(self._framed(data))
            self._account.last = self._lane.last_byte = now

    def _relay_events(self, out: bytes) -> bool:
        fault = self.watch.feed(out)
        if fault is not None and not (self._course.grammar.failure_ends and self.watch.ended):
            self._break(out, fault.start, f"The engine failed: {fault.message}")
            return False
        if self._course.place.runtime.needs_finish and self.watch.ended and self._unfinished():
            self._break(out, max(out.rfind(b"data: [DONE]"), 0), UNFINISHED)
            return False
        return self._say(out)

    def _break(self, out: bytes, end: int, message: str) -> None:
        """The answer breaks off behind the first ``end`` bytes."""
        self.watch.note(out)
        if self._say(out[:end]):
            self._cut("backend_unreachable", message)

    def _say(self, data: bytes) -> bool:
        """Tell the client what these bytes of the engine's mean. False when that ended the
        answer."""
        assert self._telling is not None
        try:
            self._tell_on(self._telling.feed(data))
        except Refusal as refusal:
            self._cut(refusal.kind, refusal.message)
        return not self.over

    def _tell_on(self, said: bytes) -> None:
        if self._unasked is not None:
            said = self._unasked.feed(said)
        if said:
            self._write(self._framed(said))

    # --- the end

    def _finish(self) -> None:
        if self.over:
            return
        if self._telling is not None and (self.watch.ended or not self._course.grammar.has_end):
            try:
                self._tell_on(self._telling.close())
                if self._unasked is not None and (rest := self._unasked.close()):
                    self._write(self._framed(rest))
            except Refusal as refusal:
                self._cut(refusal.kind, refusal.message)
                return
        super()._finish()

    def _seam(self) -> bytes:
        """Translations speak in whole events."""
        return b""

"""Trying the places of a plan in turn until one answers, and the last word when none does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

from aiohttp import web
from aiohttp.web_request import BaseRequest

from gateway.core.breaker import Failure
from gateway.core.catalog import Place
from gateway.core.delays import Delays
from gateway.core.errors import KINDS, Refusal
from gateway.core.fit import unsupported
from gateway.core.headers import request_head
from gateway.core.plan import Plan, limit, on_trial, takes
from gateway.core.prepare import Prepared, prepare, wants_usage
from gateway.core.runtime import Verdict
from gateway.core.types import Call, Caller, Op, Outcome, Tactics, Timeouts, Tried
from gateway.dialects import DIALECTS
from gateway.dialects.stream import parse
from gateway.dialects.strip import UsageStrip
from gateway.edge.account import Account
from gateway.edge.body import Upload
from gateway.edge.deadlines import Deadlines
from gateway.edge.exchange import End, Exchange, Result
from gateway.edge.front import SERVER, FrontProtocol, Relayed
from gateway.edge.hedge import Claim, Race, hedgeable
from gateway.edge.moves import Moves, others_may_do_better, repeatable
from gateway.edge.refuse import own_headers, own_lines
from gateway.edge.upstream import ConnectFailed, Connection, Origin, Pool
from gateway.state.board import Board
from gateway.state.makers import id_in

JOIN_BELOW = 16384
"""Bytes of a body up to which it is cheaper to send it in one write with the head."""


class Senses(Protocol):
    """What the data plane tells the sensors."""

    def trouble(self, name: str, detail: str) -> None: ...
    def learned(self, name: str, model_id: str, op: Op) -> None: ...
    def stale(self, name: str) -> None: ...
    def wake(self, name: str, model_id: str) -> None: ...
    def failed(self, name: str, reason: str, failure: Failure) -> None: ...


@dataclass(frozen=True, slots=True)
class Errand:
    """One request with all that belongs to it. ``upload`` is its body when that still comes in."""

    request: BaseRequest
    call: Call
    caller: Caller
    upload: Upload | None
    account: Account

    @property
    def resendable(self) -> bool:
        """Whether the whole request can be sent (again)."""
        return self.upload is None or not self.upload.touched


FINAL = frozenset({End.DONE, End.CUT, End.STALLED, End.ENDED})
"""Ends after which something of an answer has been relayed."""

ABANDONED = Result(
    End.STALLED, "abandoned", "given up: its client left, or another engine was quicker"
)
"""The end of an attempt of which nothing came: its handler was cancelled, or raised."""

FULL = Result(End.BROKEN, "full", "it is full", sent=False)

GivenUp = list[tuple[Place, Result]]


class Attempts:
    """Carries errands to backends."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: Pool, board: Board, senses: Senses
    ) -> None:
        self._loop = loop
        self._deadlines = Deadlines(loop)
        self._pool = pool
        self._board = board
        self._senses = senses
        self.moves = Moves(board, senses.failed, time.monotonic())
        self.delays = Delays()
        self.tactics = Tactics()

    async def run(
        self, errand: Errand, plan: Plan, stream_usage: str
    ) -> web.StreamResponse | Relayed:
        """Each place of the plan until one answers. What was given up is remembered: the last
        word is a backend's own answer where there was one. Raises Refusal."""
        add_usage = wants_usage(errand.call, errand.caller, stream_usage)
        given_up: GivenUp = []
        self.moves.budget.earn()
        delay = self._hedge_delay(errand, plan) if self.tactics.hedge else None
        for place in plan.places:
            if given_up and not self._still_open(place, given_up):
                continue
            if self.tactics.first_byte:
                errand.account.patience = self._patience(errand, place is plan.places[-1])
            if delay is not None and not given_up:
                ended = await self._hedged(errand, plan, delay, add_usage)
            else:
                prepared = prepare(errand.call, place, add_usage)
                ended = [(place, *await self._attempt(errand, place, prepared))]
            for tried, result, keep_alive in ended:
                if result.end in FINAL:
                    return self._relayed(errand, result, keep_alive, bool(given_up))
                given_up.append((tried, result))
                errand.account.moves.append(result.reason)
                self._learn(errand.call, tried, result)
            if not self._may_move(errand, given_up[-1][1]):
                break
        self.moves.settled(errand.account.tries, answered=False)
        return _last_word(errand, given_up)

    def _still_open(self, place: Place, given_up: GivenUp) -> bool:
        """Whether a place has not been tried, and can take the request now."""
        tried = any(place is other for other, _ in given_up)
        return not tried and takes(place, self._board.busy)

    def _relayed(self, errand: Errand, result: Result, keep_alive: bool, moved: bool) -> Relayed:
        """Something was relayed: that is the answer."""
        errand.account.cut_by = _CUT_BY.get(result.end, "")
        whole = result.end is End.DONE
        if moved:
            well = whole and errand.account.tally.status < 400
            self.moves.settled(errand.account.tries, answered=well)
        return Relayed(keep_alive and whole)

    def _hedge_delay(self, errand: Errand, plan: Plan) -> float | None:
        """Seconds after which a second copy of the request is worth it, None for never."""
        call, tactics = errand.call, self.tactics
        if len(plan.places) < 2 or errand.upload is not None or not hedgeable(call):
            return None
        if tactics.hedge_after is not None:
            return tactics.hedge_after
        return self.delays.late(errand.account.label, call.stream)

    def _patience(self, errand: Errand, last: bool) -> float | None:
        """The learned bound on the first byte, where there is anybody else to ask."""
        return None if last else self.delays.bound(errand.account.label, errand.call.stream)

    async def _hedged(
        self, errand: Errand, plan: Plan, delay: float, add_usage: bool
    ) -> list[tuple[Place, Result, bool]]:
        """The first place and, when it is late, the second beside it. Returns how those ended that
        were not cancelled, the one that was relayed first of all."""
        call, race = errand.call, Race()
        first, second = plan.places[:2]

        def another() -> Coroutine[Any, Any, tuple[Result, bool]] | None:
            allowed = takes(second, self._board.busy) and self.moves.budget.take(time.monotonic())
            if not allowed:
                return None
            errand.account.hedged = "lost"
            prepared = prepare(call, second, add_usage)
            return self._attempt(errand, second, prepared, race.claim(1))

        prepared = prepare(call, first, add_usage)
        copy = self._attempt(errand, first, prepared, race.claim(0))
        results = await race.run(copy, another, delay)
        if race.winner == 1:
            errand.account.hedged = "won"
        ended = [(p, *r) for p, r in zip((first, second), results, strict=False) if r is not None]
        return sorted(ended, key=lambda one: one[1].end not in FINAL)

    def _may_move(self, errand: Errand, result: Result) -> bool:
        if not errand.resendable or not others_may_do_better(result):
            return False
        tried = errand.account.tries[-1]
        return self.moves.allowed(errand.call, result, tried)

    async def _attempt(
        self, errand: Errand, place: Place, prepared: Prepared, claim: Claim | None = None
    ) -> tuple[Result, bool]:
        """One backend, counted as in flight there from before the connection is asked for. With a
        ``claim``, another copy of the request may be under way."""
        account, name = errand.account, place.backend.name
        account.attempts += 1
        account.backend = name
        account.upstream_model = place.asked or errand.call.model
        began, trial, result = time.monotonic(), on_trial(place), ABANDONED
        ticket = self._board.enter(account.label, name, began, limit(place), trial=trial)
        if ticket is None:
            # Another process was quicker between the plan and now.
            self._note(account, place, began, FULL, trial)
            return FULL, False
        try:
            result, keep_alive = await self._connected(errand, place, prepared, claim)
            if result.end is End.DONE and account.tally.status < 400:
                self._board.serve(ticket, name)
            return result, keep_alive
        finally:
            self._board.leave(ticket, account.label, name)
            self._note(account, place, began, result, trial)

    def _note(
        self, account: Account, place: Place, began: float, result: Result, trial: bool
    ) -> None:
        """Keep how an attempt ended, and hold it against the backend where that is due."""
        tried = Tried(
            place.backend.name,
            place.asked,
            began,
            time.monotonic(),
            result.end.value,
            result.reason,
            result.text,
            account.tally.status if result.end is End.DONE else result.status,
            trial,
        )
        account.tries.append(tried)
        if result.end is not End.DONE:
            self.moves.ended(tried, result)

    async def _connected(
        self, errand: Errand, place: Place, prepared: Prepared, claim: Claim | None
    ) -> tuple[Result, bool]:
        """On a kept connection if there is one. One that turns out to have been closed while it
        was idle is replaced by a new one, without counting as a failure of the backend."""
        backend = place.backend
        origin = self._pool.origin(backend.url, place.runtime.idle, place.runtime.uses)
        # A kept connection may turn out to be dead only after the request was sent.
        connection = self._pool.reuse(origin) if repeatable(errand.call) else None
        if connection is not None:
            exchange = self._relay(errand, place, prepared, connection, claim)
            result, keep_alive = await self._exchange(errand, place, prepared, origin, exchange)
            if not _went_stale(result, connection) or not errand.resendable:
                return result, keep_alive
            errand.account.stale += 1
        try:
            connection = await self._pool.connect(origin, backend.timeouts.connect)
        except ConnectFailed as failure:
            self._senses.trouble(backend.name, str(failure))
            return Result(End.BROKEN, failure.reason, str(failure), sent=False), False
        exchange = self._relay(errand, place, prepared, connection, claim)
        return await self._exchange(errand, place, prepared, origin, exchange)

    async def _exchange(
        self,
        errand: Errand,
        place: Place,
        prepared: Prepared,
        origin: Origin,
        exchange: Exchange,
    ) -> tuple[Result, bool]:
        """Send the request and relay the answer; whatever way this ends, nothing goes on running
        on the engine for it."""
        connection = exchange.connection
        connection.begin(exchange)
        feeding: asyncio.Future[None] | None = None
        result: Result | None = None
        try:
            _send(connection, *_request(errand, place, prepared, origin))
            if errand.upload is not None and not errand.upload.complete:
                feeding = asyncio.ensure_future(_feed(connection, errand.upload, exchange))
            result = await exchange.result
        finally:
            if feeding is not None:
                feeding.cancel()
            exchange.close()
            if result is None:
                connection.abort()
        if result.end is End.DONE or (result.end is End.GIVEN_UP and not result.told):
            self._pool.give_back(origin, connection)
        return result, exchange.keep_alive

    def _relay(
        self,
        errand: Errand,
        place: Place,
        prepared: Prepared,
        connection: Connection,
        claim: Claim | None,
    ) -> Exchange:
        call, account, request = errand.call, errand.account, errand.request
        client = request.protocol
        assert isinstance(client, FrontProtocol)
        name = place.backend.name
        exchange = Exchange(
            loop=self._loop,
            connection=connection,
            client=client,
            call=call,
            dialect=DIALECTS[call.wire],
            runtime=place.runtime,
            timeouts=_timeouts(place, account.patience),
            extra=own_lines(call.id, name, place.asked or call.model),
            strip=UsageStrip() if prepared.strip_usage else None,
            http11=request.version >= (1, 1),
            keep_alive=request.keep_alive,
            tally=account.tally,
            lane=self._board.lane(name),
            deadlines=self._deadlines,
            begun=lambda beginning: self._begun(errand, prepared, beginning),
        )
        account.watch = exchange.watch
        if claim is not None:
            exchange.claim = lambda: claim() and account.answered_by(exchange.watch, place, call)
        return exchange

    def adopt(self, tactics: Tactics) -> None:
        """Take over how far to go for a request."""
        self.tactics = tactics
        self.moves.adopt(tactics, time.monotonic())

    def ended(self, outcome: Outcome) -> None:
        """Learn from a request that is over, where anything is to be learned for."""
        learns = self.tactics.hedge or self.tactics.first_byte
        if learns and outcome.first_byte is not None and outcome.status < 400:
            self.delays.add(outcome.model, outcome.stream, outcome.first_byte)

    def end_all(self) -> None:
        """Cut what is under way, telling each client: the gateway itself is leaving."""
        self._deadlines.end_all()

    def _begun(self, errand: Errand, prepared: Prepared, beginning: bytes) -> None:
        """An answer has begun, and none of it was relayed yet: nothing of the request will be sent
        again, and calls by the id of a stored response must find its maker from now on."""
        errand.call.forget()
        prepared.body = b""
        if errand.call.op is Op.RESPONSES and (made := id_in(beginning)):
            self._board.makers.remember(made, errand.account.backend)

    def _learn(self, call: Call, place: Place, result: Result) -> None:
        """Tell the sensors what an answer said about the backend."""
        name = place.backend.name
        if result.verdict is Verdict.UNSUPPORTED and place.model is not None:
            self._senses.learned(name, place.model.id, call.op)
        elif result.verdict in (Verdict.UNKNOWN_MODEL, Verdict.LOADING) or result.status == 503:
            # Full, or on its way out: an engine that shuts down says 503 as well.
            self._senses.stale(name)


def _timeouts(place: Place, patience: float | None) -> Timeouts:
    """The backend's own, with a learned bound on the first byte where there is one."""
    own = place.backend.timeouts
    return own if patience is None else replace(own, first_byte=min(own.first_byte, patience))


_CUT_BY = {End.CUT: "engine", End.STALLED: "client", End.ENDED: "gateway"}


def _went_stale(result: Result, connection: Connection) -> bool:
    return result.end is End.BROKEN and result.reason == "reset" and not connection.answered


def _request(
    errand: Errand, place: Place, prepared: Prepared, origin: Origin
) -> tuple[bytes, bytes]:
    """The head and the (first) bytes of the body as they go to the engine."""
    call, upload, request = errand.call, errand.upload, errand.request
    body: bytes = prepared.body
    whole: int | None = len(body)
    if upload is not None:
        body, whole = upload.renamed(place.asked or call.model)
    query = request.rel_url.raw_query_string
    head = request_head(
        request.method,
        origin.path + prepared.path + (f"?{query}" if query else ""),
        request.raw_headers,
        sent=place.sent,
        request_id=call.id,
        length=whole,
    )
    if whole is None and upload is not None:
        body = _chunk(body) + (b"0\r\n\r\n" if upload.complete else b"")
    return head, body


def _send(connection: Connection, head: bytes, body: bytes) -> None:
    if len(body) < JOIN_BELOW:
        connection.write(head + body)
    else:
        connection.write(head)
        connection.write(body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _feed(connection: Connection, upload: Upload, exchange: Exchange) -> None:
    """Pass the rest of an upload on, no faster than the engine takes it."""
    chunked = upload.length is None
    try:
        async for data in upload.rest():
            connection.write(_chunk(data) if chunked else data)
            await connection.drain()
        if chunked:
            connection.write(b"0\r\n\r\n")
    except OSError:
        return  # the exchange hears of it from the connection itself
    except Refusal as refusal:
        exchange.refuse(refusal)


# --- when no backend answered


def _last_word(errand: Errand, given_up: GivenUp) -> web.StreamResponse:
    """A backend's own refusal if there was one, else what the gateway has to say. Raises
    Refusal."""
    unfit = [place for place, result in given_up if result.verdict is Verdict.UNSUPPORTED]
    answers = [
        (place, result)
        for place, result in given_up
        if result.end is End.GIVEN_UP and result.verdict is not Verdict.UNSUPPORTED
    ]
    if answers:
        return _own_answer(errand, *answers[-1])
    if unfit:
        raise unsupported(errand.call, unfit)
    raise _unreached(given_up)


def _own_answer(errand: Errand, place: Place, result: Result) -> web.StreamResponse:
    """The backend's own refusal, as it came. An overload that was told inside a stream gets its
    true status and our envelope, since it had neither."""
    account = errand.account
    account.backend = place.backend.name
    account.upstream_model = place.asked or errand.call.model
    extra = own_headers(errand.call.id, place.backend.name, account.upstream_model)
    if result.told and result.verdict in (Verdict.OVERLOADED, Verdict.LOADING):
        raise Refusal(
            "overloaded",
            f"The engine of '{place.backend.name}' has no room now (it says: {result.text})."
            " Try again after the time in Retry-After.",
            headers=extra,
        )
    if result.told and not _explains(result.body):
        raise Refusal(
            "backend_unreachable",
            f"The engine of '{place.backend.name}' failed before its answer began (it says:"
            f" {result.text}). Try again, and if it stays so ask whoever runs the engine.",
            headers=extra,
        )
    account.status = result.status
    headers = {"Content-Type": "application/json"} if result.told else {}
    if result.status in (429, 503):
        headers["Retry-After"] = str(KINDS["overloaded"].retry_after)
    for name, value in result.headers:
        shown = name.decode("latin-1").title()
        if shown in ("Content-Type", "Retry-After", "Www-Authenticate"):
            headers[shown] = value.decode("latin-1")
    return web.Response(
        status=result.status, body=result.body, headers={**headers, **extra, "Server": SERVER}
    )


def _explains(event: bytes) -> bool:
    """Whether an event can stand as the body of an error answer."""
    doc = parse(event)
    return isinstance(doc, dict) and bool({"error", "message"} & doc.keys())


def _unreached(given_up: GivenUp) -> Refusal:
    """No backend gave any answer: 504 when the last one was too slow, else 502."""
    told = "; ".join(f"'{place.backend.name}': {result.text}" for place, result in given_up)
    place, last = given_up[-1]
    if last.reason == "full":
        return Refusal(
            "overloaded",
            f"Every backend of this model is full ({told}). Try again after the time in"
            " Retry-After.",
        )
    return Refusal(
        "backend_timeout" if last.reason == "timeout" else "backend_unreachable",
        f"No answer came from the engine ({told}). The request was well received here; try again,"
        " and if it stays so ask whoever runs the engine.",
        headers={"X-Portico-Backend": place.backend.name},
    )

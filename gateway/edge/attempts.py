"""Trying the places of a plan in turn until one answers, and the last word when none does."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import orjson
from aiohttp import web

from gateway.core.breaker import Failure
from gateway.core.capacity import limit, on_trial
from gateway.core.catalog import Place
from gateway.core.delays import Delays
from gateway.core.errors import KINDS, Refusal
from gateway.core.fit import Detour, detours, unsupported
from gateway.core.headers import head_of, passed, proven, translated
from gateway.core.keys import presented
from gateway.core.plan import Plan, takes
from gateway.core.prepare import prepare, wants_usage
from gateway.core.runtime import Verdict
from gateway.core.types import PASSTHROUGH, Call, Doc, Op, Outcome, Tactics, Tried, Wire
from gateway.dialects import DIALECTS
from gateway.dialects.stream import parse
from gateway.dialects.strip import UsageStrip
from gateway.edge.body import Upload
from gateway.edge.deadlines import Deadlines
from gateway.edge.errand import Errand, GivenUp
from gateway.edge.exchange import Course, End, Exchange, Result, course_of
from gateway.edge.front import SERVER
from gateway.edge.hedge import Race, hedgeable
from gateway.edge.keys import RESTING, Keys
from gateway.edge.moves import Moves, others_may_do_better, repeatable
from gateway.edge.refuse import backend_lines, own_headers
from gateway.edge.request import Request
from gateway.edge.turn import asking, idle, turned
from gateway.edge.turned import TurnedExchange
from gateway.edge.upstream import ConnectFailed, Connection, Pool
from gateway.state.board import Board
from gateway.state.makers import id_in
from gateway.tasks import Tasks
from gateway.translate import BRIDGES

JOIN_BELOW = 16384
"""Bytes of a body up to which it is cheaper to send it in one write with the head."""


class Senses(Protocol):
    """What the data plane tells the sensors."""

    def trouble(self, name: str, detail: str) -> None: ...
    def learned(self, name: str, model_id: str, op: Op) -> None: ...
    def stale(self, name: str) -> None: ...
    def wake(self, name: str, model_id: str) -> None: ...
    def failed(self, name: str, reason: str, failure: Failure) -> None: ...


class Places(Protocol):
    """Who is told of places that come free."""

    def freed(self, backend: str, seconds: float) -> None: ...


MOST_COURSES = 4096
"""Courses that are kept; a backend may be asked for any name."""

FINAL = frozenset({End.DONE, End.CUT, End.STALLED, End.ENDED})
"""Ends after which something of an answer has been relayed."""

ABANDONED = Result(
    End.STALLED, "abandoned", "given up: its client left, or another engine was quicker"
)
"""The end of an attempt of which nothing came."""

FULL = Result(End.BROKEN, "full", "it is full", sent=False)


class Attempts:
    """Carries errands to backends. Each step is taken in the call that made it possible."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        board: Board,
        senses: Senses,
        places: Places,
    ) -> None:
        self._loop = loop
        self._deadlines = Deadlines(loop)
        self._pool = pool
        self._board = board
        self._senses = senses
        self._places = places
        self._tasks = Tasks()
        self._moves = Moves(board, senses.failed, time.monotonic())
        self._keys = Keys()
        self._delays = Delays()
        self._courses: dict[tuple[str, str, Wire, tuple[Wire, Op]], Course] = {}
        self.tactics = Tactics()

    def adopt(self, tactics: Tactics) -> None:
        """Take over how far to go for a request."""
        self.tactics = tactics
        self._moves.adopt(tactics, time.monotonic())

    def observe(self, outcome: Outcome) -> None:
        """Learn from a request that is over, where anything is to be learned for."""
        if not (self.tactics.hedge or self.tactics.first_byte):
            return
        if outcome.first_byte is not None and outcome.status < 400:
            self._delays.add(outcome.model, outcome.stream, outcome.first_byte)

    def start(self, errand: Errand, plan: Plan, stream_usage: str) -> None:
        """Each place of the plan until one answers. What was given up is remembered: the last
        word is a backend's own answer where there was one. Raises Refusal."""
        errand.add_usage = wants_usage(errand.call, errand.caller, stream_usage)
        errand.plan, errand.others = plan, None
        errand.refused = None
        if not errand.began:
            self._moves.budget.earn()
        if self.tactics.hedge:
            errand.race = self._race(errand)
        errand.place, errand.tired = plan.first, None
        if not self._try(errand):
            self._next(errand)

    def _next(self, errand: Errand) -> None:
        for place in _others(errand):
            if errand.given_up and not takes(place, self._board.busy):
                continue
            errand.place, errand.tired = place, None
            if self._try(errand):
                return
        self._give_in(errand)

    def _try(self, errand: Errand) -> bool:
        """Send the request to its place, in the words that are understood there."""
        place, ways = errand.place, errand.plan.ways
        found = ways.get((place.backend.name, place.asked)) if ways else None
        return self._attempt(errand) if found is None else self._detour(errand, found)

    def _give_in(self, errand: Errand) -> None:
        """Nobody answered. Raises Refusal."""
        self._moves.settled(errand.account.tries, answered=False)
        errand.desk.answer(errand, _last_word(errand, errand.given_up or []))

    def _attempt(self, errand: Errand) -> bool:
        """The backend has the surface itself: the request goes as it came."""
        errand.turn = None
        errand.prepared = prepare(errand.call, errand.place, errand.add_usage)
        return self._enter(errand, time.monotonic())

    def _detour(self, errand: Errand, ways: Sequence[Detour]) -> bool:
        """The same in the words of another surface. False also when they do not suffice."""
        call, place, now = errand.call, errand.place, time.monotonic()
        asked = asking(call, place, now)
        doc = idle(call, asked)
        if doc is not None:
            errand.desk.answer(errand, _made_here(errand, doc))
            return True
        try:
            errand.turn, errand.prepared = turned(call, place, ways, asked, errand.add_usage)
        except Refusal as refusal:
            errand.refused = errand.refused or refusal
            return False
        return self._enter(errand, now)

    def _enter(self, errand: Errand, now: float) -> bool:
        """One backend, counted as in flight there from before the connection is asked for. On a
        kept connection if there is one. False when another process was quicker and it is full."""
        account, place = errand.account, errand.place
        backend = place.backend
        account.attempts += 1
        account.backend = backend.name
        account.upstream_model = place.asked or errand.call.model
        errand.began = now
        if place.keyed and not self._keys.choose(errand, now):
            rest = self._keys.resting(place, now)
            self._note(errand, rest)
            self._give_up(errand, place, rest)
            return False
        most, trial = limit(place), on_trial(place)
        errand.trial = trial
        errand.ticket = self._board.enter(account.model, backend.name, now, most, trial=trial)
        if errand.ticket is None:
            self._note(errand, FULL)
            self._give_up(errand, place, FULL)
            return False
        errand.held_since = now if trial or most is not None else 0.0
        idle, uses = place.runtime.idle, place.runtime.uses
        errand.origin = self._pool.origin(backend.url, idle, uses, backend.proxy)
        # A kept connection may turn out to be dead only after the request was sent.
        kept = repeatable(errand.call)
        connection = self._pool.reuse(errand.origin, now) if kept else None
        if connection is None:
            self._connect(errand)
        else:
            self._exchange(errand, connection, now)
        if errand.plan.briefs and (brief := errand.plan.brief_of(place)):
            errand.sent = self._board.lore.send(errand.call, brief, place, now)
        return True

    def _connect(self, errand: Errand) -> None:
        errand.task = self._tasks.spawn(self._connected(errand), "connect")

    async def _connected(self, errand: Errand) -> None:
        backend = errand.place.backend
        try:
            connection = await self._pool.connect(errand.origin, backend.timeouts.connect)
        except ConnectFailed as failure:
            self._senses.trouble(backend.name, str(failure))
            errand.ended(Result(End.BROKEN, failure.reason, str(failure), sent=False))
            return
        except Exception:
            errand.desk.broke(errand)
            return
        now = time.monotonic()
        errand.desk.guarded(errand, self._exchange, connection, now)

    def _exchange(self, errand: Errand, connection: Connection, now: float) -> None:
        """Send the request; the exchange relays the answer and says how it ended. That is made
        while the engine reads already."""
        errand.connection = connection
        _send(connection, *_request(errand), at_once=errand.call.stream)
        exchange = errand.exchange = self._relay(errand, connection, now)
        connection.begin(exchange, bodiless=errand.request.method == "HEAD")
        if errand.upload is not None and not errand.upload.complete:
            errand.feeding = self._tasks.spawn(_feed(connection, errand.upload, exchange), "feed")
        if errand.race is not None:
            errand.race.sent()

    def _relay(self, errand: Errand, connection: Connection, now: float) -> Exchange:
        call, account, place, turn = errand.call, errand.account, errand.place, errand.turn
        patience = place.backend.timeouts.first_byte
        if self.tactics.first_byte and place is not errand.plan.places[-1]:
            patience = min(self._delays.bound(account.model, call.stream) or patience, patience)
        strip = UsageStrip() if errand.prepared.strip_usage else None
        make: type[Exchange] = Exchange
        unasked: UsageStrip | None = None
        surface, lines = (call.wire, call.op), b""
        if turn is not None:
            surface, lines = (turn.bridge.to_wire, turn.bridge.to_op), turn.lines
            make, unasked, strip = TurnedExchange, strip, None
        found = self._course(place, call, surface)
        extra = b"X-Request-Id: %b\r\n%b%b" % (call.id.encode(), found.lines, lines)
        if errand.lease is not None:
            extra += errand.lease.lines()
        exchange = make(
            errand,
            found,
            connection,
            extra,
            strip,
            patience=patience,
            contested=errand.race is not None,
            deadlines=self._deadlines,
            now=now,
        )
        if turn is not None and isinstance(exchange, TurnedExchange):
            exchange.turn_by(turn, unasked)
        account.watch = exchange.watch
        return exchange

    def _course(self, place: Place, call: Call, surface: tuple[Wire, Op]) -> Course:
        """The course of a call there, made once for all like it until the fleet changes."""
        name, model = place.backend.name, place.asked or call.model
        key = (name, model, call.wire, surface)
        found = self._courses.get(key)
        if found is None or found.place is not place:
            if len(self._courses) >= MOST_COURSES:
                self._courses.clear()
            lines = backend_lines(name, model)
            found = course_of(place, call.wire, surface, self._board.lane(name), lines)
            self._courses[key] = found
        return found

    def ended(self, errand: Errand, result: Result) -> None:
        """An attempt is over: the answer was relayed, or it is another backend's turn. A kept
        connection that turns out to have been closed while it was idle is replaced by a new one,
        without counting as a failure of the backend. Raises Refusal."""
        exchange, connection = errand.exchange, errand.connection
        self._let_go(errand)
        if connection is not None and exchange is not None:
            if result.end is End.DONE or (result.end is End.GIVEN_UP and not result.told):
                self._pool.give_back(errand.origin, connection)
            elif _went_stale(result, connection) and errand.resendable:
                errand.account.stale += 1
                self._connect(errand)
                return
        well = result.end is End.DONE and errand.account.status < 400
        if well and errand.ticket is not None:
            self._board.serve(errand.ticket, errand.place.backend.name)
        self._leave(errand, result)
        if result.refusal is not None:
            if errand.race is not None:
                errand.race.stop()
            if errand.turn is not None:
                result.refusal.headers.setdefault("X-Portico-Backend", errand.account.backend)
            raise result.refusal
        if result.end in FINAL:
            errand.account.cut_by = _CUT_BY.get(result.end, "")
            if len(errand.account.tries) > 1:
                self._moves.settled(errand.account.tries, answered=well)
            keep = exchange is not None and exchange.keep_alive and result.end is End.DONE
            errand.desk.over(errand, keep_alive=keep)
            return
        turn = errand.turn
        if turn is None:
            self._learn(errand.call.op, errand.place, result)
        elif not turn.bridge.chat:  # what a tokenizer takes tells nothing of its other uses
            self._learn(turn.bridge.to_op, errand.place, result)
        self._failed(errand, result)

    def _failed(self, errand: Errand, result: Result) -> None:
        """Nothing was relayed: it is another backend's turn, if there may be another attempt.
        Raises Refusal."""
        if errand.place.keyed:
            if self._keys.failed(errand, result) and self._enter(errand, time.monotonic()):
                return
            result = self._keys.last_word(errand, result)
        lost = [(errand.place, result)]
        if errand.race is not None:
            errand, lost = errand.race.failed(errand, result)
            if not lost:
                return
        for place, ended in lost:
            self._give_up(errand, place, ended)
        if result.verdict is Verdict.UNSUPPORTED and self._goes_round(errand):
            return
        if self._may_move(errand, result):
            self._next(errand)
        else:
            self._give_in(errand)

    def _may_move(self, errand: Errand, result: Result) -> bool:
        if not errand.resendable or not others_may_do_better(result):
            return False
        return self._moves.allowed(errand.call, result, errand.account.tries[-1])

    def _goes_round(self, errand: Errand) -> bool:
        """Whether a backend that turned out not to have the surface is asked by another one."""
        if errand.turn is not None or errand.race is not None or not errand.resendable:
            return False
        found = detours(errand.call, errand.place, BRIDGES)
        return bool(found) and self._detour(errand, found)

    def _give_up(self, errand: Errand, place: Place, result: Result) -> None:
        if errand.given_up is None:
            errand.given_up = []
        errand.given_up.append((place, result))
        errand.account.moves += (result.reason,)

    def abandon(self, errand: Errand) -> None:
        """Whatever is under way for the errand ends now; nothing goes on running on the engine."""
        if errand.race is not None:
            errand.race.stop()
        else:
            self.drop(errand)

    def drop(self, errand: Errand) -> None:
        """End this copy of the request, if there are others."""
        task, connection = errand.task, errand.connection
        self._let_go(errand)
        if connection is not None:
            connection.abort()
        self._leave(errand, ABANDONED)
        if task is not None:
            task.cancel()

    def _let_go(self, errand: Errand) -> None:
        if errand.exchange is not None:
            errand.exchange.close()
            errand.exchange = None
        errand.connection = errand.task = None
        if errand.feeding is not None:
            errand.feeding.cancel()
            errand.feeding = None

    def _leave(self, errand: Errand, result: Result) -> None:
        """The attempt is over, whichever way."""
        if errand.ticket is None:
            return
        account, name, now = errand.account, errand.place.backend.name, time.monotonic()
        self._board.leave(errand.ticket, account.model, name)
        errand.ticket = None
        if errand.sent is not None:
            sent, errand.sent = errand.sent, None
            usage = account.spent() if account.answered else None
            self._board.lore.end(sent, now, usage, errand.call.op)
        self._note(errand, result)
        if errand.held_since:
            self._places.freed(name, now - errand.held_since)

    def _note(self, errand: Errand, result: Result) -> None:
        """Keep how an attempt ended, and hold it against the backend where that is due."""
        place, whole = errand.place, result.end is End.DONE
        tried = Tried(
            place.backend.name,
            place.asked,
            errand.began,
            time.monotonic(),
            result.end,
            result.reason,
            result.text,
            errand.account.status if whole else result.status,
            errand.trial,
        )
        errand.account.tries = (*errand.account.tries, tried)
        if not whole:
            self._moves.ended(tried, result)

    # --- second copies

    def _race(self, errand: Errand) -> Race | None:
        """Where the request may be sent a second time, should it be late."""
        call, tactics = errand.call, self.tactics
        if len(errand.plan.places) < 2 or errand.upload is not None or not hedgeable(call):
            return None
        delay = tactics.hedge_after
        if delay is None:
            delay = self._delays.late(errand.account.model, call.stream)
        return None if delay is None else Race(self._loop, self, errand, delay)

    def second(self, first: Errand, race: Race) -> Errand | None:
        """Send a copy to the plan's second place; None where that is full, or the budget spent."""
        place = first.plan.places[1]
        allowed = not first.given_up and takes(place, self._board.busy)
        if not allowed or not self._moves.budget.take(time.monotonic()):
            return None
        next(_others(first))
        errand = first.copy(race)
        errand.place, errand.race = place, race
        if not self._try(errand):
            return None
        first.account.hedged = "lost"
        return errand

    def end_all(self) -> None:
        """Cut what is under way, telling each client: the gateway itself is leaving."""
        self._deadlines.end_all()

    def begun(self, errand: Errand, beginning: bytes) -> None:
        """An answer has begun, and none of it was relayed yet: nothing of the request will be sent
        again, and calls by the id of a stored response must find its maker from now on."""
        errand.call.forget()
        errand.request.forget()
        errand.prepared.body = b""
        account = errand.account
        if errand.sent is not None and account.stream and account.answered:
            self._board.lore.first(errand.sent, account.first)
        kept = errand.call.op is Op.RESPONSES and errand.turn is None
        if kept and (made := id_in(beginning)):
            self._board.makers.remember(made, account.backend)

    def _learn(self, op: Op, place: Place, result: Result) -> None:
        """Tell the sensors what an answer said about the backend, asked on the surface ``op``."""
        name = place.backend.name
        if result.verdict is Verdict.UNSUPPORTED and place.model is not None:
            self._senses.learned(name, place.model.id, op)
        elif result.verdict in (Verdict.UNKNOWN_MODEL, Verdict.LOADING) or result.status == 503:
            # Full, or on its way out: an engine that shuts down says 503 as well.
            self._senses.stale(name)


def _others(errand: Errand) -> Iterator[Place]:
    """The places behind the first that were not tried yet."""
    if errand.others is None:
        errand.others = iter(errand.plan.places[1:])
    return errand.others


_CUT_BY = {End.CUT: "engine", End.STALLED: "client", End.ENDED: "gateway"}


def _went_stale(result: Result, connection: Connection) -> bool:
    """Whether a connection that had served before broke without a byte of an answer."""
    return (
        result.end is End.BROKEN
        and result.reason == "reset"
        and connection.used > 1
        and not connection.answered
    )


def _request(errand: Errand) -> tuple[bytes, bytes]:
    """The head and the (first) bytes of the body as they go to the engine."""
    call, upload, request = errand.call, errand.upload, errand.request
    place, prepared = errand.place, errand.prepared
    body: bytes = prepared.body
    whole: int | None = len(body)
    if upload is not None:
        body, whole = upload.renamed(place.asked or call.model)
    query = f"?{request.head.query}" if request.head.query and errand.turn is None else ""
    sent = place.keyed[errand.key] if place.keyed else place.sent
    if errand.turn is None:
        crossing = request.head.crossing(sent.passed)
    else:
        crossing = passed(_headers(request, place), sent.passed)
    target = errand.origin.path + prepared.path + query
    head = head_of(request.method, target, crossing, sent=sent, request_id=call.id, length=whole)
    if whole is None and upload is not None:
        begun = _chunk(body) if body else b""
        body = begun + (b"0\r\n\r\n" if upload.complete else b"")
    return head, body


def _headers(request: Request, place: Place) -> list[tuple[bytes, bytes]]:
    """The caller's headers, for a request that was translated."""
    headers = translated(request.head.raw_headers)
    if place.backend.secret != PASSTHROUGH:
        return headers
    return proven(headers, presented(request.fields), place.runtime.auth)


def _send(connection: Connection, head: bytes, body: bytes, *, at_once: bool) -> None:
    """For the first token of a stream somebody waits; a whole answer takes longer anyway."""
    if len(body) < JOIN_BELOW:
        if at_once:
            connection.write(head + body)
        else:
            connection.post(head + body)
    else:
        connection.write(head)
        connection.write(body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _feed(connection: Connection, upload: Upload, exchange: Exchange) -> None:
    """Pass the rest of an upload on, no faster than the engine takes it."""
    chunked = upload.length is None
    try:
        while data := await upload.more():
            connection.write(_chunk(data) if chunked else data)
            await connection.drain()
        if chunked:
            connection.write(b"0\r\n\r\n")
    except OSError:
        return  # the exchange hears of it from the connection itself
    except Refusal as refusal:
        exchange.refuse(refusal)


# --- when no backend answered


def _last_word(errand: Errand, given_up: GivenUp) -> web.Response:
    """A backend's own refusal if there was one, else what the gateway has to say. Raises
    Refusal."""
    unfit = [place for place, result in given_up if result.verdict is Verdict.UNSUPPORTED]
    if errand.refused is not None and len(unfit) == len(given_up):
        raise errand.refused
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


def _made_here(errand: Errand, doc: Doc) -> web.Response:
    """An answer that no engine had to give."""
    account, place = errand.account, errand.place
    account.backend = place.backend.name
    account.upstream_model = place.asked or errand.call.model
    account.status = 200
    extra = own_headers(errand.call.id, place.backend.name, account.upstream_model)
    kind = {"Content-Type": DIALECTS[errand.call.wire].CONTENT_TYPE}
    return web.Response(status=200, body=orjson.dumps(doc), headers={**kind, **extra})


def _own_answer(errand: Errand, place: Place, result: Result) -> web.Response:
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
    if last.reason == RESTING:
        return Refusal(
            "overloaded",
            f"No backend of this model can be asked now ({told}). Try again after the time in"
            " Retry-After; a key that is refused is for whoever runs this gateway to correct.",
            retry_after=float(max(1, math.ceil(last.opens))),
            headers={"X-Portico-Backend": place.backend.name},
        )
    if last.reason == "full":
        return Refusal(
            "overloaded",
            f"Every backend of this model is full ({told}). Try again after the time in"
            " Retry-After.",
            opens=0.0 if all(result.reason == "full" for _, result in given_up) else None,
        )
    return Refusal(
        "backend_timeout" if last.reason == "timeout" else "backend_unreachable",
        f"No answer came from the engine ({told}). The request was well received here; try again,"
        " and if it stays so ask whoever runs the engine.",
        headers={"X-Portico-Backend": place.backend.name},
    )

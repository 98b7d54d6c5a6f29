"""The door: one request authenticated, read, planned, handed on and accounted for.

All of that happens in the call in which the request came, when it came whole; only a body that
still comes in, a page of our own or a new connection is waited for, in a task."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any

from aiohttp import web

from gateway.core.catalog import Catalog
from gateway.core.charge import FREE, estimate
from gateway.core.errors import Refusal
from gateway.core.headers import SANE_ID, safe_value
from gateway.core.keys import Keyring, may_call, unexpired
from gateway.core.plan import Means, Plan, cold, favourite, plan, route
from gateway.core.plan import Route as Way
from gateway.core.priority import HEADER, asked
from gateway.core.queue import PLAIN, Bounds
from gateway.core.types import Call, Caller, Doc, Op, Outcome, Tactics, Wire
from gateway.dialects import DIALECTS, Route, match, wire_of
from gateway.edge import body as bodies
from gateway.edge import manage
from gateway.edge.account import Account
from gateway.edge.attempts import Attempts, Senses
from gateway.edge.cold import Cold, concerned
from gateway.edge.errand import Errand
from gateway.edge.front import Job
from gateway.edge.made_here import LISTS, listed, page, shown
from gateway.edge.opened import STATUS
from gateway.edge.refuse import draining, internal, not_allowed, refused
from gateway.edge.request import Request
from gateway.edge.upstream import Pool
from gateway.edge.waiting import Waiting
from gateway.state.board import Board
from gateway.state.recall import Recall
from gateway.state.windows import Lease, Others
from gateway.tasks import Tasks
from gateway.translate import BRIDGES
from gateway.translate.ollama_pages import plain_name
from gateway.translate.responses_kept import check_kept

log = logging.getLogger("portico.edge")

MOST_WAYS = 10_000
"""Routes that are kept: a key times the names it uses."""

FIELD = HEADER.lower()

ENTER_AFTER = 0.002
"""Seconds after which a request that has ended is entered into the books. Many a client sends its
next one at once, and that one would wait for it."""

ENTER_AT_ONCE = 64
"""Requests that are entered in one go, which takes some milliseconds."""

KEEPING = frozenset({Op.RESPONSES, Op.RESPONSES_BY_ID})
"""Surfaces on which a call may be about a response that a backend has stored."""

LONGEST_USER = 256
"""Characters of X-Portico-User-Id that are kept."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything a request is decided by, swapped as a whole on a reload or a change of the
    fleet. ``max_body`` is in bytes."""

    means: Means
    keyring: Keyring = field(default_factory=Keyring)
    catalog: Catalog = field(default_factory=Catalog)
    max_body: int = 32 * 1024 * 1024
    stream_usage: str = "limits"
    queue: Bounds = PLAIN
    ways: dict[tuple[str, ...], Way] = field(default_factory=dict)

    def way(self, call: Call, caller: Caller) -> Way:
        """The call's way through this catalog, made once for all like it. Names that lead nowhere
        are refused before they could take up room. Raises Refusal."""
        key = (call.model, call.pinned, call.path, caller.name)
        found = self.ways.get(key)
        if found is None:
            found = route(call, caller, self.catalog, BRIDGES)
            if len(self.ways) < MOST_WAYS:
                self.ways[key] = found
        return found


OwnPages = Callable[[Request, str, str], Awaitable[web.Response]]
"""(request, path, request id) -> the gateway's own page."""


class Handler:
    """Called by the front for each request. ``tables`` is replaced, never changed; ``draining``
    turns new requests away; ``active`` counts the requests under way; in ``waiting`` are those for
    which there was no place, in ``cold`` those whose model is being loaded; ``recall`` holds what
    became of the last ones."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        board: Board,
        senses: Senses,
        report: Callable[[Outcome], None],
        own_pages: OwnPages,
    ) -> None:
        self.tables = Tables(Means({}, "auto", board.busy, board.lore))
        self.draining = False
        self.active = 0
        self.recall = Recall()
        self.cold = Cold(senses.wake)
        self._board = board
        self._loop = loop
        self._report = report
        self._ended: list[Account] = []
        self._own_pages = own_pages
        self._tasks = Tasks()
        self._attempts = Attempts(loop, pool, board, senses, self)
        self.waiting = Waiting(loop, board, self)
        self._turn = 0
        self._dice = random.Random()  # noqa: S311 - spreads load, guards nothing

    def begin(self, request: Request) -> Job:
        """Take a request; it is over when its client's ``done`` is called."""
        found = match(request.path)
        if found is None and (managing := manage.route_of(request.path)) is not None:
            found = managing, ""
        if found is None:
            return self._tasks.spawn(self._own(request), "page")
        self.active += 1
        route, tail = found
        account = Account(request_id(request.fields), route)
        errand = Errand(self, self._attempts, request, account, route.wire)
        self.guarded(errand, self._admit, route, tail)
        return errand

    # --- the gateway's own pages

    async def _own(self, request: Request) -> None:
        path, rid, client = request.path, request_id(request.fields), request.client
        try:
            response = await self._own_pages(request, path, rid)
        except Refusal as refusal:
            response = refused(refusal, wire_of(path), rid)
        except Exception:
            log.exception("a fault of the gateway itself", extra={"request_id": rid})
            response = refused(internal(rid), wire_of(path), rid)
        client.respond(response)

    # --- requests to engines

    def guarded(self, errand: Errand, step: Callable[..., None], *args: Any) -> None:
        """``step(errand, *args)``: the one place where refusals and faults of our own become
        answers."""
        try:
            step(errand, *args)
        except Refusal as refusal:
            self.refuse(errand, refusal)
        except Exception:
            self.broke(errand)

    def broke(self, errand: Errand) -> None:
        """A fault of our own, to be called while it is handled."""
        account = errand.account
        log.exception("a fault of the gateway itself", extra={"request_id": account.id})
        account.cut_by = "gateway"
        self._attempts.abandon(errand)
        self.refuse(errand, internal(account.id))

    def refuse(self, errand: Errand, refusal: Refusal) -> None:
        account = errand.account
        if errand.over:
            return
        if self._may_wait(refusal.opens):
            self.guarded(errand, self._wait_again)
            return
        account.refusal, account.limit = refusal.kind, refusal.limit
        account.said = refusal.message
        account.model = refusal.label or account.model
        if account.committed:
            self.over(errand, keep_alive=False)
            return
        if account.opened is not None:
            account.status = STATUS
            account.opened.refuse(refusal)
            self.over(errand, keep_alive=False)
            return
        account.status = refusal.status
        self.answer(errand, refused(refusal, errand.wire, account.id))

    def answer(self, errand: Errand, response: web.Response) -> None:
        """End the errand with an answer of our own."""
        opened = errand.account.opened
        if errand.over:
            return
        if errand.lease is not None:
            response.headers.update(errand.lease.headers())
        if opened is not None:
            errand.account.status = STATUS
            opened.tell(response)
            self.over(errand, keep_alive=False)
        elif self._close(errand):
            errand.request.client.respond(response)

    def over(self, errand: Errand, *, keep_alive: bool) -> None:
        """End the errand, whose answer has been written."""
        if self._close(errand):
            errand.request.client.done(keep_alive)

    def left(self, errand: Errand) -> None:
        """The client has gone."""
        if not errand.over:
            errand.account.cut_by = errand.account.cut_by or "client"
            self._attempts.abandon(errand)
            self._close(errand)

    def _close(self, errand: Errand) -> bool:
        if errand.over:
            return False
        errand.over = True
        if errand.waiter is not None:
            errand.waiter.leave()
        self.active -= 1
        account = errand.account
        account.end()
        if errand.lease is not None:
            served, now = account.answered, time.monotonic()
            self._board.windows.settle(errand.lease, account.spent(), served, now, account.at)
        if not self._ended:
            self._loop.call_later(ENTER_AFTER, self._enter_some)
        self._ended.append(account)
        return True

    def _enter_some(self) -> None:
        """As ``enter``, without holding up streams where very many have ended at once."""
        rest = self._ended[ENTER_AT_ONCE:]
        del self._ended[ENTER_AT_ONCE:]
        self.enter()
        self._ended = rest
        if rest:
            self._loop.call_later(0.0, self._enter_some)

    def enter(self) -> None:
        """Enter into the books what has ended: to be called before anybody reads them."""
        ended, self._ended = self._ended, []
        for account in ended:
            try:
                story = account.close()
                self.recall.keep(story)
                self._attempts.observe(story)
                self._report(story)
            except Exception:
                log.exception("a fault of the gateway itself", extra={"request_id": account.id})

    def _admit(self, errand: Errand, route: Route, tail: str) -> None:
        """What can be said before the body is read; a body that is here already is read at once."""
        request, tables = errand.request, self.tables
        if self.draining:
            raise draining()
        if request.method not in route.methods:
            raise not_allowed(request.method, route.path, route.methods)
        errand.caller = request.client.prove(request, tables.keyring)
        errand.account.key = errand.caller.name
        if errand.caller.bounded:
            self._bound(errand, errand.caller, route)
        if route.op in LISTS:
            self._within(errand, self._list, route.op)
            return
        if route.op is Op.MANAGE:
            self._manage(errand)
            return
        bodies.check_length(request.body, tables.max_body)
        if request.body.complete and route.body != "multipart":
            body = bodies.at_hand(request.body, tables.max_body)
            self._go(errand, self._call(errand, route, tail, body))
        else:
            request.client.invite()
            errand.task = self._tasks.spawn(self._later(errand, route, tail), "request")

    def _bound(self, errand: Errand, caller: Caller, route: Route) -> None:
        """What a key with bounds may do at all, and still. Raises Refusal: ``unauthorized``,
        ``forbidden``, ``rate_limit_exceeded``."""
        wall = time.time()
        unexpired(caller, wall)
        may_call(caller, route.op)
        if caller.limited:
            errand.lease = self._board.windows.enter(caller, time.monotonic(), wall)

    def _reserve(self, call: Call, lease: Lease) -> None:
        """Set aside the tokens that the call may cost. Raises Refusal ``rate_limit_exceeded``."""
        windows = self._board.windows
        if lease.caller.counts_tokens and call.op not in FREE:
            expected = estimate(call, windows.usual(lease))
            windows.reserve(lease, expected, time.monotonic(), time.time())

    def _within(self, errand: Errand, step: Callable[..., None], *args: Any) -> None:
        """Take the next step, when the other gateways that count this key's requests, if there are
        any, have room for this one."""
        others = self._board.windows.others
        if errand.lease is None or others is None:
            step(errand, *args)
        else:
            allowed = self._allowed(errand, others, errand.lease, step, *args)
            errand.task = self._tasks.spawn(allowed, "limits")

    async def _allowed(
        self, errand: Errand, others: Others, lease: Lease, step: Callable[..., None], *args: Any
    ) -> None:
        try:
            await others.take(lease)
        except Refusal as refusal:
            self.refuse(errand, refusal)
        except Exception:
            self.broke(errand)
        else:
            self.guarded(errand, step, *args)

    def _list(self, errand: Errand, op: Op) -> None:
        """One of the lists that are made here."""
        account, fields = errand.account, errand.request.fields
        pinned = safe_value(fields.get("x-portico-backend", ""))
        doc = listed(op, self.tables.catalog, errand.caller, pinned)
        account.status = 200
        self.answer(errand, page(doc, account.id))

    def _manage(self, errand: Errand) -> None:
        """A request that installs or removes a model of an Ollama backend."""
        request, account, tables = errand.request, errand.account, self.tables
        found = manage.plan_of(request, tables.keyring, tables.catalog)
        request.client.invite()
        account.model = found.label
        errand.call = manage.call_of(request, account.id, account.arrived)
        errand.upload = manage.upload_of(request)
        self._attempts.start(errand, found, tables.stream_usage)

    async def _later(self, errand: Errand, route: Route, tail: str) -> None:
        """Go on when as much of the body has come as is needed."""
        request, limit = errand.request, self.tables.max_body
        account, began = errand.account, time.monotonic()
        try:
            if route.body == "multipart":
                errand.upload, model = await bodies.upload(request, limit)
                call = self._call(errand, route, tail, b"", model)
            else:
                call = self._call(errand, route, tail, await bodies.read(request.body, limit))
        except Refusal as refusal:
            self.refuse(errand, refusal)
            return
        except Exception:
            self.broke(errand)
            return
        account.waited = time.monotonic() - began
        self.guarded(errand, self._go, call)

    def _go(self, errand: Errand, call: Call) -> None:
        """Decide where the call goes, and send it there."""
        account, tables = errand.account, self.tables
        errand.call = call
        account.user, account.session, account.stream = call.user, call.session, call.stream
        if call.op is Op.SHOW and (doc := shown(call, errand.caller, tables.catalog)) is not None:
            account.model, account.status = tables.way(call, errand.caller).label, 200
            self._within(errand, self.answer, page(doc, account.id))
            return
        way = tables.way(call, errand.caller)
        account.model, account.seen = way.label, way.seen
        if errand.lease is None:
            self._dispatch(errand, call, way)
            return
        self._reserve(call, errand.lease)
        self._within(errand, self._dispatch, call, way)

    def _dispatch(self, errand: Errand, call: Call, way: Way) -> None:
        """Send the call on its way, or into the line. Raises Refusal."""
        account = errand.account
        found = self._at_once(call, way)
        account.overhead = time.monotonic() - account.arrived - account.waited
        if found is None:
            self.waiting.join(errand, way)
        else:
            self._start(errand, found)

    def _at_once(self, call: Call, way: Way) -> Plan | None:
        """The plan of a call that need not wait, None for one that has to. Raises Refusal."""
        if self.waiting.anyone and self._may_wait(way.opens(time.monotonic())):
            return None
        try:
            return self._plan(call, way)
        except Refusal as refusal:
            if self._may_wait(refusal.opens):
                return None
            raise

    def _may_wait(self, opens: float | None) -> bool:
        """Whether it makes sense to wait for what opens in so many seconds at the soonest."""
        queue = self.tables.queue
        return opens is not None and queue.max > 0 and opens <= queue.timeout

    def _start(self, errand: Errand, found: Plan) -> None:
        """Send the errand on its way, as soon as the engine has the model. Raises Refusal."""
        errand.account.plan = found
        place = found.first
        if cold(place) and concerned(errand.call, place):
            errand.task = self._tasks.spawn(self._warmed(errand, found), "cold start")
        else:
            self._attempts.start(errand, found, self.tables.stream_usage)

    async def _warmed(self, errand: Errand, found: Plan) -> None:
        """Go on when the model is loaded. A client that leaves ends the waiting, not the load."""
        try:
            await self.cold.warmed(found.first)
        except Refusal as refusal:
            self.refuse(errand, refusal)
        except Exception:
            self.broke(errand)
        else:
            self.guarded(errand, self._attempts.start, found, self.tables.stream_usage)

    def _plan(self, call: Call, way: Way) -> Plan:
        self._turn += 1
        now = time.monotonic()
        self._board.look(now)
        return plan(
            call, way, self.tables.means, turn=self._turn, dice=self._dice.random(), now=now
        )

    def _wait_again(self, errand: Errand) -> None:
        """Back to where it stood: other processes took the places between the plan and now."""
        errand.account.anew()
        errand.given_up = None
        self.waiting.join(errand, self.tables.way(errand.call, errand.caller))

    # --- for those who wait

    def proceed(self, errand: Errand, way: Way) -> None:
        """Its turn has come. Raises Refusal."""
        errand.account.seen = way.seen
        self._start(errand, self._plan(errand.call, way))

    def favourite(self, errand: Errand, way: Way) -> str:
        """The backend that it would be given if none were full."""
        return favourite(
            errand.call,
            way,
            self.tables.means,
            turn=self._turn,
            dice=self._dice.random(),
            now=time.monotonic(),
        )

    def freed(self, backend: str, seconds: float) -> None:
        """A place came free that was held for so long."""
        self.waiting.freed(backend, seconds)

    def adopt(self, tactics: Tactics) -> None:
        """Take over how far to go for a request."""
        self._attempts.adopt(tactics)
        self.cold.wait = tactics.load_wait

    def drain(self) -> None:
        """Turn new requests away, and those that no engine has yet."""
        self.draining = True
        self.waiting.close()
        self.cold.close()

    def end_all(self) -> None:
        """Cut what is under way, telling each client."""
        self._attempts.end_all()

    def _maker(self, route: Route, tail: str, doc: Doc, model: str) -> str:
        """The backend that a call with the id of a stored response must go to, while that backend
        is there and has the model. Raises Refusal for a response that nobody kept."""
        if route.op is Op.RESPONSES_BY_ID:
            check_kept(tail, "response_id")
            name = self._board.makers.of(tail)
            return name if name in self.tables.catalog.by_backend else ""
        before = doc.get("previous_response_id")
        if not isinstance(before, str):
            return ""
        check_kept(before, "previous_response_id")
        name, entry = self._board.makers.of(before), self.tables.catalog.entries.get(model)
        places = entry.places if entry is not None else ()
        return name if any(place.backend.name == name for place in places) else ""

    def _call(self, errand: Errand, route: Route, tail: str, body: bytes, model: str = "") -> Call:
        """The request, understood. Nobody parses it again. Raises Refusal."""
        doc: dict[str, Any] = {}
        if route.body in ("json", "loose"):
            doc = bodies.parse(body)
            names = ("model", "name") if route.op is Op.SHOW else ("model",)
            model = bodies.model_of(doc, body, *names, loose=route.body == "loose")
            if route.wire is Wire.OLLAMA:
                model = plain_name(model, self.tables.catalog)
        request, fields = errand.request, errand.request.fields
        pinned = fields.get("x-portico-backend", "")
        made_by = self._maker(route, tail, doc, model) if route.op in KEEPING else ""
        wish, user = fields.get(FIELD), fields.get("x-portico-user-id", "")
        return Call(
            errand.account.id,
            route.wire,
            route.op,
            route.path,
            model,
            request.method,
            DIALECTS[route.wire].streams(route.op, doc),
            body,
            doc,
            pinned=safe_value(pinned) if pinned else made_by,
            session=fields.get("x-portico-session-id", ""),
            user=user[:LONGEST_USER] if user else "",
            tail=tail,
            priority=None if wish is None else asked(wish),
            arrived=errand.account.arrived,
        )


def request_id(fields: Mapping[str, str]) -> str:
    """The caller's request id where it is sane, else a new one."""
    given = fields.get("x-request-id")
    return given if given and SANE_ID.match(given) else f"{getrandbits(128):032x}"

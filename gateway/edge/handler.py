"""The door: one request authenticated, read, planned, handed on and accounted for."""

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
from aiohttp.web_request import BaseRequest

from gateway.core.catalog import Catalog
from gateway.core.errors import Refusal
from gateway.core.headers import SANE_ID, safe_value
from gateway.core.keys import Keyring, authenticate
from gateway.core.plan import Policy, cold, plan, route
from gateway.core.plan import Route as Way
from gateway.core.types import Call, Caller, Op, Outcome, Tactics, Wire
from gateway.dialects import DIALECTS, Route, match, wire_of
from gateway.edge import body as bodies
from gateway.edge.account import Account
from gateway.edge.attempts import Attempts, Errand, Senses
from gateway.edge.cold import Cold
from gateway.edge.front import Relayed
from gateway.edge.refuse import draining, internal, not_allowed, refused
from gateway.edge.upstream import Pool
from gateway.state.board import Board
from gateway.state.recall import Recall

log = logging.getLogger("portico.edge")

MOST_WAYS = 10_000
"""Routes that are kept: a key times the names it uses."""

LONGEST_USER = 256
"""Characters of X-Portico-User-Id that are kept."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything a request is decided by, swapped as a whole on a reload or a change of the
    fleet. ``max_body`` is in bytes."""

    keyring: Keyring = field(default_factory=Keyring)
    catalog: Catalog = field(default_factory=Catalog)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    policy: str = "auto"
    max_body: int = 32 * 1024 * 1024
    stream_usage: str = "limits"
    ways: dict[tuple[str, ...], Way] = field(default_factory=dict)

    def way(self, call: Call, caller: Caller) -> Way:
        """The call's way through this catalog, made once for all like it. Names that lead nowhere
        are refused before they could take up room. Raises Refusal."""
        key = (call.model, call.pinned, call.path, caller.name)
        found = self.ways.get(key)
        if found is None:
            found = route(call, caller, self.catalog)
            if len(self.ways) < MOST_WAYS:
                self.ways[key] = found
        return found


OwnPages = Callable[[BaseRequest, str, str], Awaitable[web.StreamResponse]]
"""(request, path, request id) -> the gateway's own page."""


class Handler:
    """Called by the server for each request. ``tables`` is replaced, never changed; ``draining``
    turns new requests away; ``active`` counts the requests under way; ``recall`` holds what became
    of the last ones."""

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
        self.tables = Tables()
        self.draining = False
        self.active = 0
        self.recall = Recall()
        self.cold = Cold(senses.wake)
        self._board = board
        self._report = report
        self._own_pages = own_pages
        self._attempts = Attempts(loop, pool, board, senses)
        self._turn = 0
        self._dice = random.Random()  # noqa: S311 - spreads load, guards nothing

    async def __call__(self, request: BaseRequest) -> Any:
        rid = request_id(request.headers)
        path = request.path
        found = match(path)
        if found is None:
            return await self._own(request, path, rid)
        self.active += 1
        try:
            with Account(self._report, time.monotonic, rid, self.recall.keep) as account:
                return await self._guarded(request, *found, account)
        finally:
            self.active -= 1

    async def _own(self, request: BaseRequest, path: str, rid: str) -> web.StreamResponse:
        try:
            return await self._own_pages(request, path, rid)
        except Refusal as refusal:
            return refused(refusal, wire_of(path), rid)
        except Exception:
            log.exception("a fault of the gateway itself", extra={"request_id": rid})
            return refused(internal(rid), wire_of(path), rid)

    async def _guarded(
        self, request: BaseRequest, route: Route, tail: str, account: Account
    ) -> web.StreamResponse | Relayed:
        """The one place where refusals and faults of our own become answers."""
        account.surface, account.wire = route.op.value, route.wire.value
        try:
            return await self._serve(request, route, tail, account)
        except Refusal as refusal:
            return self._refused(refusal, route.wire, account)
        except Exception:
            log.exception("a fault of the gateway itself", extra={"request_id": account.id})
            account.cut_by = "gateway"
            return self._refused(internal(account.id), route.wire, account)

    def _refused(
        self, refusal: Refusal, wire: Wire, account: Account
    ) -> web.StreamResponse | Relayed:
        account.refusal, account.said = refusal.kind, refusal.message
        account.label = refusal.label or account.label
        if account.tally.committed:
            return Relayed(keep_alive=False)
        account.status = refusal.status
        return refused(refusal, wire, account.id)

    async def _serve(
        self, request: BaseRequest, route: Route, tail: str, account: Account
    ) -> web.StreamResponse | Relayed:
        if self.draining:
            raise draining()
        if request.method not in route.methods:
            raise not_allowed(request.method, route.path, route.methods)
        tables = self.tables
        caller = authenticate(request.headers, tables.keyring)
        account.key = caller.name
        before = time.monotonic() - account.arrived
        call, upload = await self._read(request, route, tail, account.id)
        resumed = time.monotonic()
        account.user, account.stream = call.user, call.stream
        account.session = call.session
        self._turn += 1
        way = tables.way(call, caller)
        account.seen = way.seen
        found = plan(
            call,
            way,
            policies=tables.policies,
            policy=tables.policy,
            busy=self._board.busy,
            turn=self._turn,
            dice=self._dice.random(),
        )
        account.label, account.plan = found.label, found
        account.overhead = before + time.monotonic() - resumed
        if cold(found.places[0]):
            await self.cold.warmed(call, found.places[0])
        errand = Errand(request, call, caller, upload, account)
        return await self._attempts.run(errand, found, tables.stream_usage)

    def adopt(self, tactics: Tactics) -> None:
        """Take over how far to go for a request."""
        self._attempts.adopt(tactics)
        self.cold.wait = tactics.load_wait

    def ended(self, outcome: Outcome) -> None:
        """Learn from a request that is over."""
        self._attempts.ended(outcome)

    def end_all(self) -> None:
        """Cut what is under way, telling each client."""
        self._attempts.end_all()

    def _maker(self, route: Route, tail: str) -> str:
        """The backend that a call by id must go to, while that backend is there."""
        name = self._board.makers.of(tail) if route.op is Op.RESPONSES_BY_ID else ""
        return name if name in self.tables.catalog.by_backend else ""

    async def _read(
        self, request: BaseRequest, route: Route, tail: str, rid: str
    ) -> tuple[Call, bodies.Upload | None]:
        """The request, understood. Nobody parses it again."""
        limit = self.tables.max_body
        upload: bodies.Upload | None = None
        doc: dict[str, Any] = {}
        body, model = b"", ""
        if route.body == "multipart":
            upload, model = await bodies.upload(request, limit)
        else:
            body = await bodies.read(request, limit)
        if route.body in ("json", "loose"):
            doc = bodies.parse(body)
            names = ("model", "name") if route.op is Op.SHOW else ("model",)
            model = bodies.model_of(doc, body, *names, loose=route.body == "loose")
        headers = request.headers
        call = Call(
            id=rid,
            wire=route.wire,
            op=route.op,
            path=route.path,
            model=model,
            method=request.method,
            stream=DIALECTS[route.wire].streams(route.op, doc),
            body=body,
            doc=doc,
            pinned=safe_value(headers.get("X-Portico-Backend", "")) or self._maker(route, tail),
            session=headers.get("X-Portico-Session-Id", ""),
            user=headers.get("X-Portico-User-Id", "")[:LONGEST_USER],
            tail=tail,
            arrived=time.monotonic(),
        )
        return call, upload


def request_id(headers: Mapping[str, str]) -> str:
    """The caller's request id where it is sane, else a new one."""
    given = headers.get("X-Request-Id", "")
    return given if given and SANE_ID.match(given) else f"{getrandbits(128):032x}"

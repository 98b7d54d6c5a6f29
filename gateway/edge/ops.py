"""The gateway's own pages: models, health, readiness, version, metrics, openapi."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import orjson
from aiohttp import web

from gateway import __version__
from gateway.core.catalog import Place, near, offered, resolve
from gateway.core.errors import Refusal
from gateway.core.keys import administrator, authenticate, authorize_admin, unexpired
from gateway.core.types import ROUTABLE, Ask, Caller, Doc, Fleet, Health
from gateway.edge import body as bodies
from gateway.edge.front import SERVER
from gateway.edge.handler import Tables
from gateway.edge.refuse import draining, not_allowed
from gateway.edge.request import Request

MODELS = "/v1/models"

ADMIN = "/admin/"
"""What begins so is for administrators, whether there is such a route or not."""

BANNER = "Ollama is running"
"""What some of Ollama's clients look for at ``/`` before they ask anything else."""


class Gateway(Protocol):
    """What the pages need to know."""

    @property
    def instance(self) -> str: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def fleet(self) -> Fleet: ...
    @property
    def draining(self) -> bool: ...
    async def metrics(self, accept: str) -> tuple[bytes, str]: ...
    def openapi(self) -> Doc: ...
    def admin_methods(self, path: str) -> tuple[str, ...]: ...
    async def admin(self, ask: Ask) -> tuple[int, Doc | str | None]: ...


Page = Callable[[Request], Awaitable[web.Response]]


class Ops:
    """Answers every path that leads to no engine."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._pages: dict[str, Page] = {
            "/": self._root,
            "/healthz": self._healthz,
            "/health": self._healthz,
            "/readyz": self._readyz,
            "/version": self._version,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            MODELS: self._models,
        }

    async def __call__(self, request: Request, path: str, rid: str) -> web.Response:
        page = self._pages.get(path)
        if page is None and (path.startswith(ADMIN) or self._gateway.admin_methods(path)):
            return _marked(await self._admin(request, path), rid)
        if page is None and path.startswith(MODELS + "/"):
            page = self._model
        if page is None:
            raise _no_route(path, self._pages)
        if request.method not in ("GET", "HEAD"):
            raise not_allowed(request.method, path, ("GET", "HEAD"))
        return _marked(await page(request), rid)

    async def _admin(self, request: Request, path: str) -> web.Response:
        """A route for administrators: the key is checked here, the answer made elsewhere."""
        tables = self._gateway.tables
        authorize_admin(request.fields, tables.keyring)
        methods = self._gateway.admin_methods(path)
        if not methods:
            raise _no_route(path, self._pages)
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            raise not_allowed(request.method, path, methods)
        request.client.invite()
        body = await bodies.read(request.body, tables.max_body)
        accept, by = request.fields.get("accept", ""), administrator(request.fields)
        ask = Ask(method, path, request.head.query, body, accept=accept, by=by)
        status, doc = await self._gateway.admin(ask)
        if doc is None:
            return web.Response(status=status)
        if isinstance(doc, str):
            return web.Response(status=status, text=doc, content_type="text/csv")
        return reply(doc, status)

    async def _root(self, request: Request) -> web.Response:
        return web.Response(
            text=f"Portico {__version__}: GET /v1/models lists what is served here.\n{BANNER}\n"
        )

    async def _healthz(self, request: Request) -> web.Response:
        return reply({"status": "ok"})

    async def _readyz(self, request: Request) -> web.Response:
        sights = self._gateway.fleet.sights.values()
        up = sum(sight.health in ROUTABLE for sight in sights)
        drained = bool(sights) and all(sight.health is Health.DRAINING for sight in sights)
        leaving = drained or self._gateway.draining
        return reply(
            {
                "status": "draining" if leaving else "ready",
                "backends": {"up": up, "total": len(sights)},
            },
            503 if leaving else 200,
        )

    async def _version(self, request: Request) -> web.Response:
        return reply(
            {"name": "portico", "version": __version__, "instance": self._gateway.instance}
        )

    async def _metrics(self, request: Request) -> web.Response:
        body, kind = await self._gateway.metrics(request.fields.get("accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _openapi(self, request: Request) -> web.Response:
        return reply(self._gateway.openapi())

    # --- models

    async def _models(self, request: Request) -> web.Response:
        self._refuse_if_draining()
        caller = self._caller(request)
        return reply({"object": "list", "data": list(self._visible(caller).values())})

    def _refuse_if_draining(self) -> None:
        if self._gateway.draining:
            raise draining()

    def _caller(self, request: Request) -> Caller:
        caller = authenticate(request.fields, self._gateway.tables.keyring)
        unexpired(caller, time.time())
        return caller

    async def _model(self, request: Request) -> web.Response:
        self._refuse_if_draining()
        caller = self._caller(request)
        name = request.path[len(MODELS) + 1 :]
        catalog = self._gateway.tables.catalog
        entry = resolve(catalog, name, "", caller)
        if not any(place.model and _up(place) for place in entry.places):
            raise Refusal("overloaded", f"Every backend of '{name[:100]}' is away; try again soon.")
        doc = catalog.listed.get(name) or catalog.listed.get(entry.label) or {"object": "model"}
        return reply({**doc, "id": name})

    def _visible(self, caller: Caller) -> dict[str, Doc]:
        return offered(self._gateway.tables.catalog, caller)


def _marked(response: web.Response, rid: str) -> web.Response:
    response.headers["X-Request-Id"] = rid
    response.headers["Server"] = SERVER
    return response


def _up(place: Place) -> bool:
    return place.sight.health in ROUTABLE


def _no_route(path: str, pages: dict[str, Any]) -> Refusal:
    shown = path if len(path) <= 100 else path[:100] + "…"
    matches = near(path, [*pages, "/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
    hint = f" Did you mean {matches[0]}?" if matches else " GET /openapi.json lists all routes."
    return Refusal("not_found", f"There is no route {shown} here.{hint}")


def reply(doc: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        status=status, body=orjson.dumps(doc), headers={"Content-Type": "application/json"}
    )

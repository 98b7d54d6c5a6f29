"""Ollama's routes that install and remove models: relayed untouched, for admin keys."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

from gateway.core.catalog import AUTO, Catalog, Place
from gateway.core.headers import safe_value
from gateway.core.keys import Keyring, is_admin
from gateway.core.plan import Plan, Ranking
from gateway.core.types import Call, Op, Wire
from gateway.dialects import Route
from gateway.edge.body import Upload
from gateway.edge.request import Request
from gateway.translate import ollama_manage


def route_of(path: str) -> Route | None:
    """The route of a management path, None for any other."""
    methods = ollama_manage.methods(path)
    return Route(path, Wire.OLLAMA, Op.MANAGE, methods, "raw") if methods else None


ROUTES: Mapping[str, Route] = {
    path: Route(path, Wire.OLLAMA, Op.MANAGE, methods, "raw")
    for path, methods in (
        (f"{path}{{digest}}" if path.endswith("/") else path, methods)
        for path, methods in ollama_manage.METHODS.items()
    )
}
"""All of them, for those who describe them."""


def plan_of(request: Request, ring: Keyring, catalog: Catalog) -> Plan:
    """The one backend that is asked. Raises Refusal: ``unsupported``, ``not_found``,
    ``overloaded``."""
    pinned = safe_value(request.fields.get("x-portico-backend", ""))
    place = ollama_manage.manager(request.path, is_admin(request.fields, ring), pinned, catalog)
    plain = _plain(place)
    return Plan(AUTO, plain, (Ranking((plain,)),))


def _plain(place: Place) -> Place:
    """The place for what is no use of a model: it takes none of the backend's room, and what the
    engine says to it tells nothing of its surfaces."""
    return replace(
        place,
        backend=replace(place.backend, max_concurrency=None),
        sight=replace(place.sight, ceiling=None),
        runtime=replace(place.runtime, rules=(), slots=None),
        model=None,
        asked="",
    )


def call_of(request: Request, request_id: str, arrived: float) -> Call:
    """The call: method, path and body are the caller's own."""
    return Call(
        request_id,
        Wire.OLLAMA,
        Op.MANAGE,
        request.path,
        method=request.method,
        arrived=arrived,
    )


def upload_of(request: Request) -> Upload:
    """The body, passed on as it comes. Layers of a model are gigabytes: an administrator's are not
    bounded."""
    return Upload(request.body, b"", None, request.body.length, sys.maxsize)

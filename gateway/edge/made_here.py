"""Surfaces that are answered from the catalog: Ollama's lists, and models that no Ollama shows."""

from __future__ import annotations

import orjson
from aiohttp import web

from gateway.core.catalog import Catalog, narrowed, offered, resolve
from gateway.core.errors import Refusal
from gateway.core.fit import unfit
from gateway.core.types import ROUTABLE, Call, Caller, Doc, Op
from gateway.dialects.ollama import CONTENT_TYPE
from gateway.edge.front import SERVER
from gateway.translate import ollama_pages

LISTS = frozenset({Op.TAGS, Op.PS, Op.VERSION})
"""What clients ask to learn what is there. A backend's own answer would tell of that one alone."""


def listed(op: Op, catalog: Catalog, caller: Caller, pinned: str) -> Doc:
    """The document of one of LISTS: what the caller may use and can be served now, of one backend
    if it is pinned. Raises Refusal ``not_found`` for an unknown pin."""
    if op is Op.VERSION:
        return ollama_pages.version()
    shown = narrowed(catalog, pinned) if pinned else catalog
    page = ollama_pages.tags if op is Op.TAGS else ollama_pages.ps
    return page(shown, offered(shown, caller))


def shown(call: Call, caller: Caller, catalog: Catalog) -> Doc | None:
    """The document of ``/api/show``, None when a backend has that page itself. Raises Refusal:
    those of ``resolve``, and ``overloaded`` while no backend of the model is up."""
    entry = resolve(catalog, call.model, call.pinned, caller)
    up = [place for place in entry.places if place.model and place.sight.health in ROUTABLE]
    if not up:
        raise Refusal(
            "overloaded",
            f"Every backend of '{call.model[:100]}' is away; try again soon.",
            label=entry.label,
        )
    if any(unfit(call, place) is None for place in up):
        return None
    return ollama_pages.show(call.model, entry)


def page(doc: Doc, request_id: str) -> web.Response:
    """An answer of our own in Ollama's dialect."""
    headers = {"Content-Type": CONTENT_TYPE, "X-Request-Id": request_id, "Server": SERVER}
    return web.Response(status=200, body=orjson.dumps(doc), headers=headers)

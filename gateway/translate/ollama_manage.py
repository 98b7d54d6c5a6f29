"""Ollama's routes that change what is installed: for whom they are, and for which backend."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.catalog import Catalog, Place
from gateway.core.errors import Refusal
from gateway.core.runtime import Support
from gateway.core.types import ROUTABLE, Op, Wire

METHODS: Mapping[str, tuple[str, ...]] = {
    "/api/pull": ("POST",),
    "/api/push": ("POST",),
    "/api/create": ("POST",),
    "/api/copy": ("POST",),
    "/api/delete": ("DELETE",),
    "/api/blobs/": ("POST", "HEAD"),
}
"""Path -> methods; one that ends in a slash stands for all below it (``server/routes.go``)."""


def methods(path: str) -> tuple[str, ...]:
    """The methods of a management route; empty when the path is none."""
    if path.startswith("/api/blobs/") and len(path) > len("/api/blobs/"):
        return METHODS["/api/blobs/"]
    return () if path.endswith("/") else METHODS.get(path, ())


def manager(path: str, admin: bool, pinned: str, catalog: Catalog) -> Place:
    """The backend that a management request goes to, untouched. ``admin``: the caller has an admin
    key; ``pinned`` is the backend that the caller names, or ''. Raises Refusal ``unsupported``,
    ``not_found`` (an unknown pin) or ``overloaded`` (the backend is away)."""
    if not admin:
        raise _unsupported(
            f"{path} changes what a backend has installed, which this gateway does for admin keys"
            " only. Ask whoever runs it, or use an admin key (auth.admin_keys)."
        )
    if pinned and pinned not in catalog.by_backend:
        shown = pinned[:100]
        raise Refusal(
            "not_found",
            f"There is no backend '{shown}', which X-Portico-Backend names.",
            param="X-Portico-Backend",
        )
    able = _able(catalog, pinned)
    if not able:
        raise _unsupported(_nobody(path, pinned, able=_able(catalog, "")))
    if len(able) > 1:
        raise _unsupported(
            f"{path} is meant for one backend, and several could take it: {', '.join(able)}. Name"
            " one in the header X-Portico-Backend."
        )
    (place,) = able.values()
    if place.sight.health not in ROUTABLE:
        raise Refusal("overloaded", f"The backend '{place.backend.name}' is away; try again soon.")
    return place


def _able(catalog: Catalog, pinned: str) -> dict[str, Place]:
    """The backends that manage models themselves: those whose runtime has the page of what it has
    loaded, which no other runtime imitates well enough to be used."""
    return {
        name: places[0]
        for name, places in catalog.by_backend.items()
        if places
        and pinned in ("", name)
        and places[0].runtime.cell(Wire.OLLAMA, Op.PS).support is not Support.NO
    }


def _nobody(path: str, pinned: str, able: Mapping[str, Place]) -> str:
    who = f"The backend '{pinned}' is no Ollama" if pinned else "No backend here is an Ollama"
    remedy = (
        f"Name one that is: {', '.join(able)}."
        if able
        else "Other engines get their models when they are started; start one more."
    )
    return f"{who}, so that {path} has nothing to work on. {remedy}"


def _unsupported(message: str) -> Refusal:
    return Refusal("unsupported", message, code="unsupported_surface")

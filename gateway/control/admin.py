"""What administrators can ask and order: a table of routes, answered by the control side.

A data-plane process checks the key and the route; the answer is made where the state has its one
writer, and travels back as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from gateway.control.desk import AdminRoute, Answered, Desk, ref
from gateway.control.forms import Json
from gateway.control.keys import KEY_ROUTES, KEY_SCHEMAS
from gateway.control.providers import PROVIDER_ROUTES, PROVIDER_SCHEMAS
from gateway.control.usage import USAGE_ROUTES, USAGE_SCHEMAS
from gateway.core.errors import Refusal
from gateway.core.types import Ask, Circuit, Doc, Fleet, Health, Sight


async def _backends(desk: Desk, ask: Ask) -> Answered:
    fleet = desk.fleet
    return 200, {"backends": [_backend(desk, fleet, name) for name in fleet.backends]}


async def _one(desk: Desk, ask: Ask) -> Answered:
    name = ask.names["name"]
    if name not in desk.fleet.backends:
        raise _unknown(name, desk.fleet)
    return 200, _backend(desk, desk.fleet, name)


async def _drain(desk: Desk, ask: Ask) -> Answered:
    name = ask.names["name"]
    if not desk.drain(name):
        raise _unknown(name, desk.fleet)
    return 200, _backend(desk, desk.fleet, name)


async def _undrain(desk: Desk, ask: Ask) -> Answered:
    name = ask.names["name"]
    if not desk.undrain(name) or name not in desk.fleet.backends:
        raise _unknown(name, desk.fleet)
    return 200, _backend(desk, desk.fleet, name)


async def _explain(desk: Desk, ask: Ask) -> Answered:
    wanted = ask.names["request_id"]
    found = await desk.explain(wanted)
    if found is None:
        raise Refusal(
            "not_found",
            f"Nothing is known of a request '{wanted[:100]}': it has not ended yet, or too many"
            " have ended since. X-Request-Id of an answer is what to ask for.",
        )
    return 200, found


def _schema() -> Json:
    text, number = {"type": "string"}, {"type": ["number", "null"]}
    properties = {
        **dict.fromkeys(("name", "url", "runtime", "version", "detail"), text),
        "health": {"type": "string", "enum": [each.value for each in Health]},
        "circuit": {"type": "string", "enum": [each.name.lower() for each in Circuit]},
        "in_flight": {"type": "integer"},
        "max_concurrency": {"type": ["integer", "null"]},
        "models": {"type": "array", "items": text},
        "load": {"type": "object", "properties": {"running": number, "waiting": number}},
    }
    return {"type": "object", "required": list(properties), "properties": properties}


ADMIN_SCHEMAS: Mapping[str, Json] = {
    "Backend": _schema(),
    "Backends": {
        "type": "object",
        "required": ["backends"],
        "properties": {"backends": {"type": "array", "items": ref("Backend")}},
    },
    "Explanation": {"type": "object"},
    **KEY_SCHEMAS,
    **PROVIDER_SCHEMAS,
    **USAGE_SCHEMAS,
}
"""What these routes take and give, by its name in the OpenAPI document."""

_BACKENDS = "/admin/backends"

ADMIN_ROUTES: tuple[AdminRoute, ...] = (
    AdminRoute(
        *("GET", _BACKENDS, "List the backends and what is believed of each.", _backends),
        gives="Backends",
    ),
    AdminRoute("GET", _BACKENDS + "/{name}", "Describe one backend.", _one, gives="Backend"),
    AdminRoute(
        *("POST", _BACKENDS + "/{name}/drain", "Give a backend no new requests.", _drain),
        gives="Backend",
    ),
    AdminRoute(
        *("POST", _BACKENDS + "/{name}/undrain", "Give a drained backend requests again."),
        _undrain,
        gives="Backend",
    ),
    AdminRoute(
        "GET",
        "/admin/explain/{request_id}",
        "Tell why a request went where it went, and how each attempt ended.",
        _explain,
        gives="Explanation",
    ),
    *KEY_ROUTES,
    *PROVIDER_ROUTES,
    *USAGE_ROUTES,
)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path) + r"\Z")


def methods(path: str) -> tuple[str, ...]:
    """The methods that a path takes; none when there is no such route."""
    return tuple(row.method for row in ADMIN_ROUTES if _pattern(row.path).match(path))


async def answer(desk: Desk, ask: Ask) -> Answered:
    """What the control side answers. Raises Refusal ``not_found``."""
    for row in ADMIN_ROUTES:
        match = _pattern(row.path).match(ask.path)
        if match is not None and row.method == ask.method:
            return await row.handle(desk, replace(ask, names=match.groupdict()))
    raise Refusal("not_found", f"There is no route {ask.path[:100]} here.")


Wired = Answered | tuple[str, str, str | None]
"""An answer as it travels between processes: as it is, or a refusal's kind, message and param."""


async def answer_wired(desk: Desk, ask: Ask) -> Wired:
    """The answer, or the refusal, as plain values."""
    try:
        return await answer(desk, ask)
    except Refusal as refusal:
        return refusal.kind, refusal.message, refusal.param


def unwired(wired: Wired) -> Answered:
    """What another process answered. Raises the Refusal that it met."""
    if len(wired) == 3:
        raise Refusal(wired[0], wired[1], param=wired[2])
    return wired


def _backend(desk: Desk, fleet: Fleet, name: str) -> Doc:
    backend, sight = fleet.backends[name], fleet.sights.get(name, Sight())
    return {
        "name": name,
        "url": backend.url,
        "runtime": sight.runtime or backend.runtime,
        "version": sight.version,
        "health": sight.health.value,
        "detail": sight.detail,
        "circuit": Circuit(sight.circuit).name.lower(),
        "in_flight": desk.in_flight(name),
        "max_concurrency": backend.max_concurrency,
        "models": [model.id for model in sight.models],
        "load": {"running": sight.load.running, "waiting": sight.load.waiting},
    }


def _unknown(name: str, fleet: Fleet) -> Refusal:
    known = ", ".join(list(fleet.backends)[:20]) or "none"
    return Refusal(
        "not_found", f"There is no backend '{name[:100]}'. The backends are: {known}.", param="name"
    )

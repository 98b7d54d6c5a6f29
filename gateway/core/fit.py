"""Whether a place can serve the surface a call asks for, by itself or by a detour, and the 501 that
says what would work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.core.catalog import Place
from gateway.core.errors import Refusal
from gateway.core.runtime import Runtime, Support
from gateway.core.types import Call, Op, Wire

ALTERNATIVES: dict[tuple[Wire, Op], str] = {
    (Wire.ANTHROPIC, Op.MESSAGES): "POST /v1/chat/completions with the OpenAI SDK",
    (Wire.OPENAI, Op.RESPONSES): "POST /v1/chat/completions",
    (Wire.OLLAMA, Op.CHAT): "POST /v1/chat/completions",
    (Wire.OLLAMA, Op.GENERATE): "POST /v1/completions",
    (Wire.OLLAMA, Op.EMBED): "POST /v1/embeddings",
    (Wire.OLLAMA, Op.EMBEDDINGS): "POST /v1/embeddings",
    (Wire.OLLAMA, Op.TAGS): "GET /v1/models",
}
"""What a client can call instead where the same thing can be had on another surface."""


UNDECLARED = "its provider entry does not list this surface in supportedApiSurfaces"


def declared(place: Place, wire: Wire, op: Op) -> bool:
    """Whether a provider lists the surface; backends that list none have what their runtime has."""
    listed = place.backend.surfaces
    if op is Op.RESPONSES_BY_ID:
        op = Op.RESPONSES
    return not listed or (wire, op) in listed


class Detour(Protocol):
    """A translation, as far as decisions need it: the surface of the engine that it leads to.
    ``chat`` where that one has to take a chat's messages (``Cell.chat_path``)."""

    @property
    def to_wire(self) -> Wire: ...
    @property
    def to_op(self) -> Op: ...
    @property
    def chat(self) -> bool: ...


Detours = Mapping[tuple[Wire, Op], Sequence[Detour]]
"""What a client asks for -> the translations that there are of it, best first."""

NO_DETOURS: Detours = {}


def unfit(call: Call, place: Place) -> str | None:
    """Why the place has not got the call's surface itself, None when it has. What the engine itself
    once refused as unsupported counts like what the table says."""
    return _lacking(place, call.wire, call.op)


def _lacking(place: Place, wire: Wire, op: Op) -> str | None:
    cell = place.runtime.cell(wire, op)
    if not declared(place, wire, op):
        return UNDECLARED
    if cell.support is Support.NO:
        return cell.note or "has no such surface"
    if place.model is not None and (place.model.id, op) in place.sight.lacks:
        return cell.note or "has refused it for this model"
    return None


def leads(detour: Detour, runtime: Runtime) -> bool:
    """Whether a runtime has, by its table, what a translation needs."""
    cell = runtime.cell(detour.to_wire, detour.to_op)
    return cell.support is not Support.NO and (not detour.chat or cell.chat_path != "")


def detours(call: Call, place: Place, table: Detours) -> tuple[Detour, ...]:
    """The translations by which the place can serve the call, in the table's order."""
    return tuple(
        detour
        for detour in table.get((call.wire, call.op), ())
        if leads(detour, place.runtime) and _lacking(place, detour.to_wire, detour.to_op) is None
    )


def fits(call: Call, place: Place, table: Detours) -> bool:
    """Whether the place can serve the call in either way."""
    return unfit(call, place) is None or bool(detours(call, place, table))


def surface(call: Call) -> str:
    """The surface as the client called it."""
    return call.path


def unsupported(call: Call, places: Sequence[Place]) -> Refusal:
    """The 501 for a call that none of the model's backends has a surface for."""
    place = places[0]
    cell = place.runtime.cell(call.wire, call.op)
    learned = cell.support is not Support.NO
    who = f"{place.runtime.title} (backend '{place.backend.name}')"
    what = f"does not support {surface(call)}"
    if learned and place.model is not None:
        what += f" for the model '{place.model.id}'"
    note = cell.note if declared(place, call.wire, call.op) else UNDECLARED
    reason = f": {note}" if note else ""
    return Refusal(
        "unsupported",
        f"{who} {what}{reason}. {_remedy(call, cell.remedy)}",
        code="unsupported_surface",
    )


def _remedy(call: Call, remedy: str) -> str:
    if remedy:
        return f"To get this, {remedy.rstrip('.')}."
    other = ALTERNATIVES.get((call.wire, call.op))
    if other:
        return f"This backend can be asked through {other}."
    return "Ask a model of a backend whose runtime has it; MODELS.md lists them."

"""How clients speak: the table of routes, and one module per wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from gateway.core.types import Op, Wire

from . import anthropic, ollama, openai


@dataclass(frozen=True, slots=True)
class Route:
    """One address of the gateway that leads to an engine. ``path`` may end in ``{id}`` or
    ``{id}/cancel``. ``body`` says how the request carries its model: ``json`` (a field that must
    be there), ``loose`` (a field that may be missing), ``multipart`` (a form field), ``none``.
    ``surface`` and ``spoken`` are the names of ``op`` and ``wire``."""

    path: str
    wire: Wire
    op: Op
    methods: tuple[str, ...] = ("POST",)
    body: str = "json"
    surface: str = field(init=False)
    spoken: str = field(init=False)

    def __post_init__(self) -> None:
        # An enum's ``value`` is looked up by Python code, and these are asked for by every request.
        object.__setattr__(self, "surface", self.op.value)
        object.__setattr__(self, "spoken", self.wire.value)


_O, _A, _L = Wire.OPENAI, Wire.ANTHROPIC, Wire.OLLAMA

ROUTES: dict[str, Route] = {
    route.path: route
    for route in (
        Route("/v1/chat/completions", _O, Op.CHAT),
        Route("/v1/completions", _O, Op.COMPLETIONS),
        Route("/v1/embeddings", _O, Op.EMBEDDINGS),
        Route("/v1/responses", _O, Op.RESPONSES),
        Route("/v1/responses/{id}", _O, Op.RESPONSES_BY_ID, ("GET", "DELETE"), "none"),
        Route("/v1/responses/{id}/cancel", _O, Op.RESPONSES_BY_ID, ("POST",), "none"),
        Route("/v1/rerank", _O, Op.RERANK),
        Route("/v1/score", _O, Op.SCORE),
        Route("/v1/audio/transcriptions", _O, Op.TRANSCRIBE, body="multipart"),
        Route("/v1/audio/translations", _O, Op.TRANSLATE, body="multipart"),
        Route("/v1/audio/speech", _O, Op.SPEECH),
        Route("/v1/images/generations", _O, Op.IMAGES),
        Route("/v1/images/edits", _O, Op.IMAGE_EDITS, body="multipart"),
        Route("/tokenize", _O, Op.TOKENIZE, body="loose"),
        Route("/detokenize", _O, Op.DETOKENIZE, body="loose"),
        Route("/v1/messages", _A, Op.MESSAGES),
        Route("/v1/messages/count_tokens", _A, Op.COUNT_TOKENS),
        Route("/api/chat", _L, Op.CHAT),
        Route("/api/generate", _L, Op.GENERATE),
        Route("/api/embed", _L, Op.EMBED),
        Route("/api/embeddings", _L, Op.EMBEDDINGS),
        Route("/api/show", _L, Op.SHOW),
        Route("/api/tags", _L, Op.TAGS, ("GET", "HEAD"), "none"),
        Route("/api/ps", _L, Op.PS, ("GET", "HEAD"), "none"),
        Route("/api/version", _L, Op.VERSION, ("GET", "HEAD"), "none"),
    )
}

DIALECTS: Mapping[Wire, ModuleType] = {
    Wire.OPENAI: openai,
    Wire.ANTHROPIC: anthropic,
    Wire.OLLAMA: ollama,
}

_BY_ID = "/v1/responses/"


def match(path: str) -> tuple[Route, str] | None:
    """The route of a decoded path and the id in it ('' for routes without one), or None."""
    route = ROUTES.get(path)
    if route is not None and "{" not in path:
        return route, ""
    if path.startswith(_BY_ID):
        rest = path[len(_BY_ID) :]
        if rest.endswith("/cancel") and len(rest) > len("/cancel"):
            return ROUTES["/v1/responses/{id}/cancel"], rest.removesuffix("/cancel")
        if rest and "/" not in rest:
            return ROUTES["/v1/responses/{id}"], rest
    return None


def wire_of(path: str) -> Wire:
    """The dialect in which a path's errors are worded, also for unknown paths."""
    if path.startswith("/api/"):
        return Wire.OLLAMA
    if path.startswith("/v1/messages"):
        return Wire.ANTHROPIC
    return Wire.OPENAI

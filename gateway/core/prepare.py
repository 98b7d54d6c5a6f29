"""The request as one backend wants it: its path, its model name, its quirks, byte for byte else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core import splice
from gateway.core.catalog import Place
from gateway.core.errors import Refusal
from gateway.core.fit import Detour
from gateway.core.types import Backend, Call, Caller, Doc, Op, Wire

STREAMS_USAGE = frozenset({Op.CHAT, Op.COMPLETIONS})
"""Surfaces on which ``stream_options`` exists."""


@dataclass(slots=True)
class Prepared:
    """``path`` and ``body`` as they are sent (``body`` is let go once an answer has begun);
    ``strip_usage`` True when we asked for a usage event that the caller did not."""

    path: str
    body: bytes
    strip_usage: bool = False


def wants_usage(call: Call, caller: Caller, mode: str) -> bool:
    """Whether the gateway has to ask the engine for usage in this stream: by
    ``server.stream_usage``, and only where the caller did not ask itself."""
    if not call.stream or call.wire is not Wire.OPENAI or call.op not in STREAMS_USAGE:
        return False
    options = call.doc.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        return False
    return mode == "always" or (mode == "limits" and caller.counts_tokens)


def prepare(call: Call, place: Place, add_usage: bool) -> Prepared:
    """What to send to ``place``. The body stays as it came unless the model is named otherwise
    there, the runtime needs a field changed, the backend takes certain fields only, or usage is
    asked for. Raises Refusal
    ``invalid_request`` when the caller's ``stream_options`` is of no use."""
    cell = place.runtime.cell(call.wire, call.op)
    path = _filled(cell.path or call.path, call)
    if not call.doc:
        return Prepared(path, call.body)
    changed = place.runtime.rewrite(call.op, call.doc, place.model)
    allowed = params(place.backend, call.wire, call.op)
    if allowed is not None:
        changed = only(call.doc if changed is None else changed, allowed)
        add_usage = add_usage and "stream_options" in allowed
    name = place.asked or call.model
    if changed is None:
        body = _named(call, name)
        if add_usage:
            body = _with_usage(body, call.doc)
        return Prepared(path, body, add_usage)
    doc = dict(changed)
    if "model" in call.doc or call.model:
        doc["model"] = name
    if add_usage and "stream_options" in call.doc and "stream_options" not in doc:
        add_usage = False  # this engine has no such option (sheet llamacpp, appendix A)
    if add_usage:
        doc["stream_options"] = _usage_options(call.doc)
    return Prepared(path, orjson.dumps(doc), add_usage)


def prepare_detour(call: Call, place: Place, detour: Detour, doc: Doc, add_usage: bool) -> Prepared:
    """What to send to ``place`` for a call that ``detour`` has turned into ``doc``. Usage is asked
    for where the gateway alone wants it and that surface would not tell it otherwise."""
    cell = place.runtime.cell(detour.to_wire, detour.to_op)
    said = dict(doc)
    if not detour.chat:
        said = dict(place.runtime.rewrite(detour.to_op, doc, place.model) or doc)
    allowed = params(place.backend, detour.to_wire, detour.to_op)
    if allowed is not None:
        said = only(said, allowed)
        add_usage = add_usage and "stream_options" in allowed
    said["model"] = place.asked or call.model
    options = said.get("stream_options")
    told = isinstance(options, dict) and bool(options.get("include_usage"))
    silent = "stream_options" in doc and options is None  # an engine without that option
    surface = detour.to_wire is Wire.OPENAI and detour.to_op in STREAMS_USAGE
    add_usage = add_usage and surface and not told and not silent
    if add_usage:
        said["stream_options"] = _usage_options(said)
    path = cell.chat_path if detour.chat else cell.path
    return Prepared(path, orjson.dumps(said), add_usage)


KEPT = frozenset({"model", "messages", "prompt", "input"})
"""Fields that are never dropped: without them there is no request."""


def params(backend: Backend, wire: Wire, op: Op) -> frozenset[str] | None:
    """The top-level fields of a body that reach a backend on a surface, None for all."""
    for at_wire, at_op, names in backend.params:
        if (at_wire, at_op) == (wire, op):
            return names
    return None


def only(doc: Doc, allowed: frozenset[str]) -> dict[str, Any]:
    """The body with the allowed fields, and those without which there is no request."""
    return {name: value for name, value in doc.items() if name in allowed or name in KEPT}


def _filled(path: str, call: Call) -> str:
    return path.replace("{id}", call.tail)


def _named(call: Call, name: str) -> bytes:
    """The body with the backend's own name of the model, spliced in where its place is certain."""
    if call.doc.get("model") == name or "model" not in call.doc:
        return call.body
    spliced = splice.replace(call.body, "model", name)
    return spliced if spliced is not None else orjson.dumps({**call.doc, "model": name})


def _usage_options(doc: Doc) -> dict[str, object]:
    options = doc.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise Refusal(
            "invalid_request", "'stream_options' has to be an object.", param="stream_options"
        )
    return {**(options or {}), "include_usage": True}


def _with_usage(body: bytes, doc: Doc) -> bytes:
    options = _usage_options(doc)
    if "stream_options" not in doc:
        return splice.insert(body, "stream_options", options)
    spliced = splice.replace(body, "stream_options", options)
    if spliced is None:
        spliced = orjson.dumps({**(orjson.loads(body)), "stream_options": options})
    return spliced

"""An engine's own error in the envelope that the client's dialect has for one.

Status and words stay the engine's. On a surface that is translated its body would be in the wrong
dialect, so that clients could not read the message."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.core.types import Wire
from gateway.dialects.stream import fault_in, parse

NAMES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Anthropic's types of errors by status (its API reference, 'Errors')."""

LONGEST = 2000
"""Characters of a message: some engines answer with a page or with the whole request."""


def name_of(status: int) -> str:
    """A type of error that clients of either cloud know."""
    return NAMES.get(status) or ("invalid_request_error" if status < 500 else "api_error")


def _message(body: bytes) -> str:
    """What the engine says, out of any of the engines' shapes; a body that is none as it is."""
    doc = parse(body)
    found = fault_in(doc)
    if found is not None and found[1]:
        return found[1][:LONGEST]
    if isinstance(doc, dict):
        said = next((doc[key] for key in ("detail", "message") if doc.get(key)), None)
        if said is not None:
            return _words(said)[:LONGEST]
    return body.decode("utf-8", "replace").strip()[:LONGEST] or "The engine gave no reason."


def _words(said: Any) -> str:
    """A text, or FastAPI's list of what is wrong with a request."""
    rows = said if isinstance(said, list) else []
    messages = [row["msg"] for row in rows if isinstance(row, dict) and "msg" in row]
    if messages:
        return "; ".join(map(str, messages))
    return said if isinstance(said, str) else orjson.dumps(said).decode()


def _kept(body: bytes) -> dict[str, Any]:
    """``code`` and ``param``, where the engine names them."""
    doc = parse(body)
    inner = doc.get("error") if isinstance(doc, dict) else None
    fields = inner if isinstance(inner, dict) else {}
    return {key: fields[key] for key in ("code", "param") if fields.get(key) is not None}


def reword(wire: Wire, status: int, body: bytes, request_id: str) -> bytes:
    """The body of an engine's error answer (``status`` 400 or above) for a client of ``wire``."""
    message = _message(body)
    if wire is Wire.OLLAMA:
        return orjson.dumps({"error": message})
    error = {"type": name_of(status), "message": message, **_kept(body)}
    if wire is Wire.ANTHROPIC:
        return orjson.dumps({"type": "error", "error": error, "request_id": request_id})
    return orjson.dumps({"error": {"param": None, "code": None, **error}})

"""An engine's error answer as Ollama's clients read one: ``{"error": "text"}``, same status."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Doc
from gateway.dialects.stream import fault_in, parse

LONGEST = 2000
"""Characters of a body that is no JSON which are passed on."""


def error(status: int, body: bytes) -> Doc:
    """What the engine says of its own failure (``body`` of an answer over 399), in any of the
    shapes of OpenAI, SGLang, TGI and FastAPI; the body itself where it is none of these."""
    return {"error": _said(parse(body)) or _raw(body) or f"The engine answered {status}."}


def _said(doc: Any) -> str:
    fault = fault_in(doc)
    if fault is not None:
        return fault[1]
    detail = doc.get("detail") if isinstance(doc, dict) else None
    if isinstance(detail, list):
        return "; ".join(str(row.get("msg")) for row in detail if isinstance(row, dict))
    return detail if isinstance(detail, str) else ""


def _raw(body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"

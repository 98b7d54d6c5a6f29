"""Ollama requests that no engine has to see: nothing to generate, nothing to embed."""

from __future__ import annotations

import re
from typing import Any

from gateway.core.types import Doc, Op

from .bridge import Asking
from .ollama_answer import chat_shape, generate_shape
from .ollama_timings import stamp

_NO_TIME = re.compile(r"[+-]?(?:0+(?:\.0*)?(?:ns|us|µs|μs|ms|s|m|h))+|[+-]?0")
"""A duration of zero as Go writes it."""


def answer(op: Op, asking: Asking) -> Doc | None:
    """The whole answer (status 200, never a stream) to a request without a prompt, messages or
    input, None when the engine is to be asked. Ollama's clients send those to load a model, or,
    with ``keep_alive`` 0, to unload it. An engine that serves one model has it loaded and keeps
    it, so nothing is left to do (sheet: ollama 12)."""
    doc = asking.doc
    if op is Op.CHAT and not doc.get("messages"):
        return _loaded(asking, chat_shape("", "", []))
    if op is Op.GENERATE and not doc.get("prompt"):
        return _loaded(asking, generate_shape("", "", []))
    if op is Op.EMBED and doc.get("input") in (None, "", []):
        return {"model": asking.model, "embeddings": []}
    if op is Op.EMBEDDINGS and not doc.get("prompt"):
        return {"embedding": []}
    return None


def _loaded(asking: Asking, piece: dict[str, Any]) -> Doc:
    return {
        "model": asking.model,
        "created_at": stamp(asking, asking.clock()),
        **piece,
        "done": True,
        "done_reason": "unload" if _zero(asking.doc.get("keep_alive")) else "load",
    }


def _zero(keep_alive: Any) -> bool:
    if isinstance(keep_alive, str):
        return _NO_TIME.fullmatch(keep_alive.strip()) is not None
    return keep_alive == 0 and not isinstance(keep_alive, bool)

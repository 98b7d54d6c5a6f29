"""Anthropic's dialect: named events, ``message_stop`` at the end, errors with ``type: error``."""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.core.errors import Refusal
from gateway.core.types import Doc, Op
from gateway.dialects.stream import Grammar

CONTENT_TYPE = "application/json"
STREAM_TYPE = b"text/event-stream; charset=utf-8"

_MESSAGES = Grammar(
    end_hint=b"message_stop",
    end=re.compile(rb'^event: ?message_stop|"type": ?"message_stop"', re.MULTILINE),
    content=re.compile(rb'"(?:text|thinking|partial_json)": ?"[^"]'),
    usual=b'"text":"',
    empty=b'"text":""',
)

NAMES = {
    "invalid_request": "invalid_request_error",
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "model_not_found": "not_found_error",
    "not_found": "not_found_error",
    "method_not_allowed": "invalid_request_error",
    "request_too_large": "request_too_large",
    "rate_limit_exceeded": "rate_limit_error",
    "internal": "api_error",
    "backend_unreachable": "api_error",
    "overloaded": "overloaded_error",
    "draining": "overloaded_error",
    "backend_timeout": "timeout_error",
}
"""Our kinds of refusal by Anthropic's names (its API reference, 'Errors'), which stand in ``code``.
``type`` keeps the category that all dialects share; the SDKs choose their exceptions by status.
Anthropic has no name for what a model's backend cannot do."""


def grammar(op: Op) -> Grammar:
    """How a stream of this surface looks and ends."""
    return _MESSAGES


def streams(op: Op, doc: Doc) -> bool:
    """Whether the caller asked for a stream."""
    return doc.get("stream") is True


def refuse(refusal: Refusal, request_id: str) -> bytes:
    """The body of an error answer: the common one with ``type: error`` beside it, and Anthropic's
    own name of the error in ``code``."""
    error: dict[str, Any] = refusal.body(request_id)
    if refusal.kind in NAMES:
        error.setdefault("code", NAMES[refusal.kind])
    return orjson.dumps({"type": "error", "error": error})


def cut(op: Op, refusal: Refusal, request_id: str) -> bytes:
    """The event that tells a client its stream was cut."""
    return b"event: error\ndata: " + refuse(refusal, request_id) + b"\n\n"

"""Anthropic's dialect: named events, ``message_stop`` at the end, errors with ``type: error``."""

from __future__ import annotations

import re

import orjson

from gateway.core.errors import Refusal
from gateway.core.types import Doc, Op
from gateway.dialects.stream import Grammar

CONTENT_TYPE = "application/json"

_MESSAGES = Grammar(
    end_hint=b"message_stop",
    end=re.compile(rb'^event: ?message_stop|"type": ?"message_stop"', re.MULTILINE),
    content=re.compile(rb'"(?:text|thinking|partial_json)": ?"[^"]'),
    usual=b'"text":"',
    empty=b'"text":""',
)


def grammar(op: Op) -> Grammar:
    """How a stream of this surface looks and ends."""
    return _MESSAGES


def streams(op: Op, doc: Doc) -> bool:
    """Whether the caller asked for a stream."""
    return doc.get("stream") is True


def refuse(refusal: Refusal, request_id: str) -> bytes:
    """The body of an error answer: the common one with ``type: error`` beside it."""
    return orjson.dumps({"type": "error", "error": refusal.body(request_id)})


def cut(op: Op, refusal: Refusal, request_id: str) -> bytes:
    """The event that tells a client its stream was cut."""
    return b"event: error\ndata: " + refuse(refusal, request_id) + b"\n\n"

"""Ollama's dialect: one JSON object a line, ``done: true`` at the end, errors as plain text."""

from __future__ import annotations

import re

import orjson

from gateway.core.errors import Refusal
from gateway.core.types import Doc, Op
from gateway.dialects.stream import Grammar

CONTENT_TYPE = "application/json; charset=utf-8"
STREAM_TYPE = b"application/x-ndjson"

GENERATING = frozenset({Op.CHAT, Op.GENERATE})

_FRAMES = Grammar(
    end_hint=b'"done"',
    end=re.compile(rb'"done": ?true'),
    content=re.compile(rb'"(?:content|response|thinking)": ?"[^"]'),
    separator=b"\n",
)


_FREE = Grammar(separator=b"\n")


def grammar(op: Op) -> Grammar:
    """How a stream of this surface looks and ends. The progress of a management route ends in
    whatever way it does."""
    return _FRAMES if op in GENERATING else _FREE


def streams(op: Op, doc: Doc) -> bool:
    """Whether the answer will be a stream: on the two generating routes, unless told not to."""
    return op in GENERATING and doc.get("stream") is not False


def refuse(refusal: Refusal, request_id: str) -> bytes:
    """The body of an error answer."""
    return orjson.dumps({"error": refusal.message})


def cut(op: Op, refusal: Refusal, request_id: str) -> bytes:
    """The line that tells a client its stream was cut."""
    return refuse(refusal, request_id) + b"\n"

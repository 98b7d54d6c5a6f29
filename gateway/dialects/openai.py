"""OpenAI's dialect: errors in an ``error`` object, server-sent events, ``[DONE]`` at the end."""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.core.errors import Refusal
from gateway.core.types import Doc, Op
from gateway.dialects.stream import Grammar

CONTENT_TYPE = "application/json"
STREAM_TYPE = b"text/event-stream; charset=utf-8"

_CONTENT = re.compile(rb'"(?:content|reasoning_content|reasoning|text|arguments|refusal)": ?"[^"]')
_DONE = Grammar(
    end_hint=b"[DONE]",
    end=re.compile(rb"^data: ?\[DONE\]", re.MULTILINE),
    finish=re.compile(rb'"finish_reason": ?"[^"]'),
    content=_CONTENT,
    usual=b'"content":"',
    empty=b'"content":""',
    head=0,  # here usage comes last
)
_RESPONSES = Grammar(
    end_hint=b"response.",
    end=re.compile(
        rb"^event: ?response\.(?:completed|incomplete|failed)"
        rb'|"type": ?"response\.(?:completed|incomplete|failed)"',
        re.MULTILINE,
    ),
    content=re.compile(rb'"delta": ?"[^"]'),
    failure_ends=True,
)
_FREE = Grammar(content=_CONTENT)

GRAMMARS: dict[Op, Grammar] = {
    Op.CHAT: _DONE,
    Op.COMPLETIONS: _DONE,
    Op.RESPONSES: _RESPONSES,
}


def grammar(op: Op) -> Grammar:
    """How a stream of this surface looks and ends."""
    return GRAMMARS.get(op, _FREE)


def streams(op: Op, doc: Doc) -> bool:
    """Whether the caller asked for a stream."""
    return doc.get("stream") is True


def refuse(refusal: Refusal, request_id: str) -> bytes:
    """The body of an error answer."""
    return orjson.dumps({"error": refusal.body(request_id)})


def cut(op: Op, refusal: Refusal, request_id: str) -> bytes:
    """The event that tells a client its stream was cut."""
    error: dict[str, Any] = refusal.body(request_id)
    if op is Op.RESPONSES:
        # The SDKs read the flat form; the inner object keeps the contract's envelope.
        event = {**error, "type": "error", "code": refusal.kind, "param": None, "error": error}
        return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"

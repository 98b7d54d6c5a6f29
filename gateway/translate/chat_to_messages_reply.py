"""A whole Messages answer as a chat completion."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.core.types import Doc

from .bridge import Asking
from .terms import FINISHES, chat_usage


def completion_id(asking: Asking) -> str:
    return f"chatcmpl-{asking.id}"


def finish_reason(stop: Any) -> str:
    """OpenAI's word; a reason that nobody has heard of is an end."""
    return FINISHES.get(stop, "stop") if isinstance(stop, str) else "stop"


def _of(content: list[Any], kind: str) -> list[Doc]:
    return [block for block in content if isinstance(block, dict) and block.get("type") == kind]


def _call(block: Doc) -> Doc:
    given = orjson.dumps(block.get("input") or {}).decode()
    function = {"name": block.get("name") or "", "arguments": given}
    return {"id": block.get("id") or "", "type": "function", "function": function}


def reply(doc: Doc, asking: Asking) -> Doc:
    """See ``Bridge.reply``. A signature has no place in a chat completion."""
    found = doc.get("content")
    content = found if isinstance(found, list) else []
    thought = "".join(str(block.get("thinking") or "") for block in _of(content, "thinking"))
    calls = [_call(block) for block in _of(content, "tool_use")]
    text = "".join(str(block.get("text") or "") for block in _of(content, "text"))
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text or (None if calls else ""),
        "refusal": None,
    }
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason(doc.get("stop_reason")),
    }
    usage = doc.get("usage")
    return {
        "id": completion_id(asking),
        "object": "chat.completion",
        "created": asking.created,
        "model": asking.model,
        "choices": [choice],
        "usage": chat_usage(usage if isinstance(usage, dict) else {}),
    }

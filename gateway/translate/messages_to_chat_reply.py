"""A whole chat completion as a Messages answer."""

from __future__ import annotations

from gateway.core.types import Doc

from .bridge import Asking
from .chunks import calls_of, function_of, text_of
from .terms import arguments, matched_stop, messages_usage, reasoning, stop_reason


def message_id(asking: Asking) -> str:
    return f"msg_{asking.id}"


def call_id(asking: Asking, number: int) -> str:
    """For engines that name no call; OpenAI takes ids of up to 40 characters back."""
    return f"toolu_{number}_{asking.id}"[:40]


def _tool_use(call: Doc, number: int, asking: Asking) -> Doc:
    function = function_of(call)
    return {
        "type": "tool_use",
        "id": call.get("id") or call_id(asking, number),
        "name": function.get("name") or "",
        "input": arguments(function.get("arguments")),
    }


def _content(message: Doc, asking: Asking) -> list[Doc]:
    blocks: list[Doc] = []
    if thought := reasoning(message):
        # Only Anthropic can sign; its SDKs want the field.
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    texts = (text_of(message.get(key)) for key in ("content", "refusal"))
    blocks += ({"type": "text", "text": text} for text in texts if text)
    calls = enumerate(calls_of(message))
    return [*blocks, *(_tool_use(call, number, asking) for number, call in calls)]


def reply(doc: Doc, asking: Asking) -> Doc:
    """See ``Bridge.reply``. Of several choices the first is the answer."""
    choices = doc.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    message = choice.get("message") or {}
    matched = matched_stop(choice, asking.doc.get("stop_sequences"))
    reason = stop_reason(
        choice.get("finish_reason"),
        called=bool(calls_of(message)),
        refused=bool(message.get("refusal")),
        matched=matched,
    )
    usage = doc.get("usage")
    return {
        "id": message_id(asking),
        "type": "message",
        "role": "assistant",
        "model": asking.model,
        "content": _content(message, asking),
        "stop_reason": reason,
        "stop_sequence": matched if reason == "stop_sequence" else None,
        "usage": messages_usage(usage if isinstance(usage, dict) else None),
    }

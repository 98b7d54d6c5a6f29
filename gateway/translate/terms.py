"""What chat completions and Messages call the same things: reasons to stop, tokens, arguments."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.core.errors import Refusal
from gateway.core.types import Doc

STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""``finish_reason`` -> ``stop_reason``; what engines have beside these (``eos_token``,
``stop_sequence``, ``repetition``) is an end of the turn."""

ABORTED = "abort"
"""vLLM and SGLang end an answer so, with status 200, when it was broken off on their side."""

FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""``stop_reason`` -> ``finish_reason``."""


def unbroken(finish: Any) -> str:
    """The reason to stop, '' for none. No dialect has a word for an answer that was broken off:
    raises Refusal ``backend_unreachable``."""
    if finish == ABORTED:
        raise Refusal(
            "backend_unreachable", "The engine broke off its answer ('abort'). Ask again."
        )
    return finish if isinstance(finish, str) else ""


def stop_reason(finish: Any, *, called: bool, refused: bool, matched: str | None) -> str:
    """Anthropic's reason. Engines end a turn that calls a tool with ``stop`` as well (TGI always,
    others when the tool was named); a cut call stays ``max_tokens``. Raises Refusal as ``unbroken``
    does."""
    reason = STOPS.get(unbroken(finish), "end_turn")
    if reason != "end_turn":
        return reason
    if called:
        return "tool_use"
    if refused:
        return "refusal"
    return "stop_sequence" if matched is not None else reason


def matched_stop(choice: Doc, wanted: Any) -> str | None:
    """The stop string that ended a choice, where the engine tells (vLLM: ``stop_reason``, SGLang:
    ``matched_stop``; token ids there are numbers) and the client asked for it."""
    told = (choice.get(key) for key in ("stop_reason", "matched_stop"))
    strings = wanted if isinstance(wanted, list) else []
    return next((s for s in told if isinstance(s, str) and s in strings), None)


def _count(doc: Any, *keys: str) -> int:
    """The first of the keys that holds a count."""
    found = (doc.get(key) for key in keys) if isinstance(doc, dict) else ()
    return next((n for n in found if isinstance(n, int) and n > 0), 0)


def messages_usage(usage: Doc | None) -> dict[str, Any]:
    """Tokens as Messages count them: ``input_tokens`` without those read from or written to a
    cache. Zeros where the engine said nothing."""
    said = usage or {}
    prompt = said.get("prompt_tokens_details")
    read = _count(prompt, "cached_tokens")
    written = _count(prompt, "cache_write_tokens", "created_cache_tokens")
    out: dict[str, Any] = {
        "input_tokens": max(_count(said, "prompt_tokens") - read - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": _count(said, "completion_tokens"),
    }
    thought = _count(said.get("completion_tokens_details"), "reasoning_tokens") or _count(
        said, "reasoning_tokens"
    )
    return {**out, "output_tokens_details": {"thinking_tokens": thought}} if thought else out


def responses_usage(usage: Doc | None) -> dict[str, Any] | None:
    """Tokens as Responses count them; None where the engine said nothing."""
    if usage is None:
        return None
    given, made = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    prompt = usage.get("prompt_tokens_details")
    thought = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    return {
        "input_tokens": given,
        "input_tokens_details": {
            "cached_tokens": _count(prompt, "cached_tokens"),
            "cache_write_tokens": _count(prompt, "cache_write_tokens", "created_cache_tokens"),
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": thought or _count(usage, "reasoning_tokens")},
        "total_tokens": given + made,
    }


def chat_usage(usage: Doc) -> dict[str, Any]:
    """Tokens as chat completions count them: ``prompt_tokens`` holds the cached ones too."""
    read = _count(usage, "cache_read_input_tokens")
    written = _count(usage, "cache_creation_input_tokens")
    given = _count(usage, "input_tokens") + read + written
    made = _count(usage, "output_tokens")
    thought = _count(usage.get("output_tokens_details"), "thinking_tokens")
    out: dict[str, Any] = {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
        "prompt_tokens_details": {"cached_tokens": read},
    }
    if written:
        out["prompt_tokens_details"]["cache_write_tokens"] = written
    if thought:
        out["completion_tokens_details"] = {"reasoning_tokens": thought}
    return out


BROKEN = "INVALID_JSON"
"""Under this name goes what a model wrote instead of an object: Anthropic's own advice for handing
broken arguments back to the model (its page on fine-grained tool streaming)."""


def arguments(value: Any) -> dict[str, Any]:
    """The input of a tool from a call's arguments: JSON text, an object with some engines, or
    nothing."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, str) or not value.strip():
        return {}
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {BROKEN: value}
    return found if isinstance(found, dict) else {BROKEN: value}


def reasoning(message: Doc) -> str:
    """The thinking in a message or delta, under either of its two names."""
    found = (message.get(key) for key in ("reasoning_content", "reasoning"))
    return next((text for text in found if isinstance(text, str) and text), "")

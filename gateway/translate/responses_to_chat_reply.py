"""A whole chat completion as a Response."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Doc

from .bridge import Asking
from .chunks import first_choice, nonsense
from .responses_to_chat_names import tools_of
from .responses_to_chat_output import Output
from .terms import responses_usage

UNKEPT = "resp_unkept_"
"""How the ids of translated responses begin: nobody keeps those, so that nobody need be asked."""

ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""Fields of the request that stand in the answer too, and what they are when they were not given.
Where the engine's own default holds, which nobody knows here, that is null."""


def echo(doc: Doc) -> dict[str, Any]:
    """What an answer repeats of the request."""
    text, thought = doc.get("text") or {}, doc.get("reasoning") or {}
    return {
        **{name: _given(doc.get(name), default) for name, default in ECHOED.items()},
        "truncation": "disabled",
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "reasoning": {"effort": thought.get("effort"), "summary": None},
        "background": False,
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
    }


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def response(
    asking: Asking, echoed: Doc, output: Output, usage: Doc | None = None, *, ended: bool = True
) -> Doc:
    """The Response as it is now. ``echoed`` is ``echo(…)`` of the request."""
    took = max(asking.clock() - asking.arrived, 0.0)
    whole = ended and not output.cut
    return {
        "id": f"{UNKEPT}{asking.id}",
        "object": "response",
        "created_at": asking.created,
        "completed_at": asking.created + int(took) if whole else None,
        "status": output.status if ended else "in_progress",
        "error": None,
        "incomplete_details": {"reason": output.cut} if output.cut else None,
        "model": asking.model,
        "output": output.items if ended else [],
        "usage": responses_usage(usage),
        **echoed,
    }


def reply(doc: Doc, asking: Asking) -> Doc:
    """See ``Bridge.reply``."""
    choice = first_choice(doc)
    if choice is None:
        raise nonsense("an answer without 'choices'")
    output, usage = Output(asking, tools_of(asking.doc)), doc.get("usage")
    output.choice(choice, "message")
    output.end()
    counted = usage if isinstance(usage, dict) else None
    return response(asking, echo(asking.doc), output, counted)

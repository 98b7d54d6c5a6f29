"""A Responses request as a chat completions request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.core.types import Doc

from .bridge import Asked, Asking
from .fields import Losses, cannot, obj, text, wrong
from .responses_to_chat_input import messages
from .responses_to_chat_tools import tools

_READ = frozenset(
    {
        *("model", "stream", "input", "instructions", "tools", "tool_choice"),
        *("parallel_tool_calls", "text", "reasoning", "max_output_tokens", "temperature"),
        *("top_p", "top_logprobs", "include", "user", "safety_identifier", "service_tier"),
        *("truncation", "metadata", "max_tool_calls", "stream_options"),
    }
)
"""``metadata`` comes back in the answer; ``max_tool_calls`` counts calls of OpenAI's own tools."""

_STATELESS = (
    "Nothing is stored here: send the whole conversation in 'input', or ask a model of a backend"
    " that keeps responses."
)

_REFUSED = {
    "previous_response_id": ("it continues a response that was kept", _STATELESS),
    "conversation": ("it names a conversation that is kept", _STATELESS),
    "background": ("it asks for an answer to be fetched later", "Ask for a stream instead."),
    "prompt": ("it names a prompt that OpenAI stores", "Send its text as 'instructions'."),
    "moderation": ("it asks for a check that OpenAI runs", "Leave it out."),
}
"""Fields whose sense would be lost. False and empty ask for nothing."""

_LOST = frozenset(
    {
        *("store", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
        *("context_management", "access_programs", "image", "client_metadata"),
    }
)
"""Hints, without which the answer is still a good one. Nothing is stored; who did not ask for it
is told by ``"store": false`` in the answer."""

_CHAT_ONLY = frozenset(
    {
        *("messages", "max_tokens", "max_completion_tokens", "response_format", "logprobs"),
        *("reasoning_effort", "n", "functions", "function_call", "modalities", "audio"),
        *("web_search_options", "prediction", "verbosity"),
    }
)

_LOGPROBS = "message.output_text.logprobs"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_SAMPLING: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    # The newer name: OpenAI refuses the older one for models that think, engines take both.
    "max_output_tokens": ("max_completion_tokens", _count, "a whole number of tokens"),
    "temperature": ("temperature", _number, "a number"),
    "top_p": ("top_p", _number, "a number"),
}


def _sampling(doc: Doc) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, (chats, fits, kind) in _SAMPLING.items():
        value = doc.get(name)
        if value is None:
            continue
        if not fits(value):
            raise wrong(name, f"'{name}' has to be {kind}.")
        out[chats] = value
    return out


def _format(doc: Doc, lost: Losses) -> dict[str, Any]:
    """``text``: the form of the answer. How long it is to be has no word that engines know."""
    config = obj(doc.get("text") or {}, "text")
    if config.get("verbosity") not in (None, "medium"):
        lost.note("text.verbosity")
    asked = obj(config.get("format") or {"type": "text"}, "text.format")
    match asked.get("type"):
        case "text":
            return {}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {key: value for key, value in asked.items() if key != "type"}
            text(schema.get("name"), "text.format.name")
            obj(schema.get("schema"), "text.format.schema")
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case other:
            remedy = "Give a schema, with the type 'json_schema'."
            raise cannot("text.format", f"it is a form of the type {other!r}", remedy)


def _effort(doc: Doc, lost: Losses) -> dict[str, Any]:
    """Engines tell what a model thinks in full; they make no summaries of it."""
    asked = obj(doc.get("reasoning") or {}, "reasoning")
    for name, value in asked.items():
        if name != "effort" and value is not None:
            lost.note(f"reasoning.{name}")
    effort = asked.get("effort")
    return {} if effort is None else {"reasoning_effort": text(effort, "reasoning.effort")}


def _logprobs(doc: Doc, lost: Losses) -> dict[str, Any]:
    """``include`` and ``top_logprobs``. The other things to include belong to tools and stores
    that are not here; encrypted reasoning has no key here either."""
    included = doc.get("include") or []
    if not isinstance(included, list):
        raise wrong("include", "'include' has to be a list.")
    if any(name != _LOGPROBS for name in included):
        lost.note("include")
    most = doc.get("top_logprobs")
    if most is not None and not _count(most):
        raise wrong("top_logprobs", "'top_logprobs' has to be a whole number.")
    if not most:
        return {"logprobs": True} if _LOGPROBS in included else {}
    return {"logprobs": True, "top_logprobs": most}


def _account(doc: Doc, lost: Losses) -> dict[str, Any]:
    obj(doc.get("metadata") or {}, "metadata")
    if doc.get("service_tier") not in (None, "auto", "default"):
        lost.note("service_tier")
    if doc.get("truncation") not in (None, "disabled"):
        lost.note("truncation")  # what is too long is refused by the engine, never cut
    if doc.get("stream_options"):
        lost.note("stream_options")
    user = doc.get("safety_identifier") or doc.get("user")
    return {} if user is None else {"user": text(user, "user")}


def _others(doc: Doc, lost: Losses) -> dict[str, Any]:
    """Fields that Responses do not have may be the engine's own; they go on under their names,
    and are named, since nobody can say whether they mean anything there."""
    out: dict[str, Any] = {}
    for name, value in doc.items():
        if name in _READ or value is None:
            continue
        if name in _REFUSED:
            if value:
                raise cannot(name, *_REFUSED[name])
        elif name in _LOST:
            if value:
                lost.note(name)
        elif name in _CHAT_ONLY:
            raise wrong(name, f"'{name}' is a field of chat completions, not of Responses.")
        else:
            lost.note(name)
            out[name] = value
    return out


def request(asking: Asking) -> Asked:
    """See ``Bridge.request``."""
    doc, lost = asking.doc, Losses()
    out: dict[str, Any] = {
        **_others(doc, lost),
        "model": asking.model,
        "messages": messages(doc, lost, asking.extras.get("thinking")),
        **tools(doc, lost),
        **_sampling(doc),
        **_format(doc, lost),
        **_effort(doc, lost),
        **_logprobs(doc, lost),
        **_account(doc, lost),
    }
    if asking.stream:
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    return Asked(out, lost.names)

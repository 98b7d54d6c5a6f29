"""A chat completions request as a Messages request."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Doc

from .bridge import Asked, Asking
from .chat_to_messages_content import turns
from .chat_to_messages_tools import tools
from .fields import Losses, cannot, obj, wrong

DEFAULT_MAX_TOKENS = 8192
"""Messages want a limit, chat completions know none by default. Models from Claude 3.5 on can write
as much; a limit above a model's own is refused."""

_READ = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "tools", "tool_choice"),
        *("parallel_tool_calls", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
        *("stop", "response_format", "reasoning_effort", "user", "safety_identifier"),
        *("service_tier", "n", "modalities"),
    }
)

_LOST = frozenset(
    {
        *("seed", "metadata", "store", "verbosity", "prediction", "prompt_cache_key"),
        *("prompt_cache_retention", "prompt_cache_options"),
    }
)
"""Hints, without which the answer is still a good one."""

_REFUSED = {
    "logprobs": "it asks for the probabilities of tokens",
    "top_logprobs": "it asks for the probabilities of tokens",
    "logit_bias": "it changes the probabilities of tokens",
    "frequency_penalty": "it changes the probabilities of tokens",
    "presence_penalty": "it changes the probabilities of tokens",
    "audio": "it asks for speech",
    "functions": "it is the old form of 'tools'",
    "function_call": "it is the old form of 'tool_choice'",
    "web_search_options": "it asks for a search that OpenAI runs",
    "moderation": "it asks for a check that OpenAI runs",
}
"""Fields that ask for what Messages do not have. Zero, false and empty ask for nothing."""
_REMEDY = "Leave it out, or ask a model of a backend that speaks chat completions itself."

_EFFORTS = {word: word for word in ("low", "medium", "high", "xhigh", "max")} | {"minimal": "low"}

_TIERS = {"auto": "auto", "default": "standard_only"}


def _limit(doc: Doc, lost: Losses) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = doc.get(name)
        if limit is None:
            continue
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise wrong(name, f"'{name}' has to be a whole number above zero.")
        return limit
    lost.note("max_tokens")
    return DEFAULT_MAX_TOKENS


def _sampling(doc: Doc, lost: Losses) -> dict[str, Any]:
    out: dict[str, Any] = {}
    warmth = doc.get("temperature")
    if warmth is not None:
        if not isinstance(warmth, (int, float)) or not 0 <= warmth <= 2:
            raise wrong("temperature", "'temperature' has to be a number from 0 to 2.")
        if warmth > 1:
            lost.note("temperature")
        out["temperature"] = min(warmth, 1)
    if doc.get("top_p") is not None:
        out["top_p"] = doc["top_p"]
    stop = doc.get("stop")
    if stop:
        out["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    return out


def _account(doc: Doc, lost: Losses) -> dict[str, Any]:
    out: dict[str, Any] = {}
    user = doc.get("safety_identifier") or doc.get("user")
    if user is not None:
        out["metadata"] = {"user_id": user}
    tier = doc.get("service_tier")
    if tier in _TIERS:
        out["service_tier"] = _TIERS[tier]
    elif tier is not None:
        lost.note("service_tier")
    return out


def _thinking(doc: Doc, lost: Losses) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields, what goes into ``output_config``). Where thinking is adaptive, earlier turns need
    no signed thoughts, which a client of chat completions could not bring."""
    effort = doc.get("reasoning_effort")
    if effort is None:
        return {}, {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}, {}
    if effort not in _EFFORTS:
        raise wrong("reasoning_effort", f"'reasoning_effort' cannot be {effort!r}.")
    if _EFFORTS[effort] != effort:
        lost.note("reasoning_effort")
    return {"thinking": {"type": "adaptive"}}, {"effort": _EFFORTS[effort]}


def _format(doc: Doc) -> dict[str, Any]:
    """What goes into ``output_config`` for the form of the answer."""
    asked = obj(doc.get("response_format") or {"type": "text"}, "response_format")
    match asked.get("type"):
        case "text":
            return {}
        case "json_schema":
            where = "response_format.json_schema"
            schema = obj(obj(asked.get("json_schema"), where).get("schema"), f"{where}.schema")
            return {"format": {"type": "json_schema", "schema": schema}}
        case other:
            raise cannot(
                "response_format",
                f"it is a form of the type {other!r}",
                "Give a schema: 'json_schema' is understood there.",
            )


def _others(doc: Doc, lost: Losses) -> dict[str, Any]:
    """A field that chat completions do not have may be Anthropic's own (``thinking``, ``top_k``)
    and goes on; Anthropic refuses what it does not know, by name."""
    out: dict[str, Any] = {}
    for name, value in doc.items():
        if name in _READ or value is None:
            continue
        if name in _REFUSED:
            if value:
                raise cannot(name, _REFUSED[name], _REMEDY)
        elif name in _LOST:
            lost.note(name)
        else:
            out[name] = value
    return out


def _one_text(doc: Doc) -> None:
    if doc.get("n") not in (None, 1):
        raise cannot("n", "it asks for several answers", "Ask several times instead.")
    if doc.get("modalities") not in (None, ["text"]):
        raise cannot("modalities", "it asks for more than text", _REMEDY)


def request(asking: Asking) -> Asked:
    """See ``Bridge.request``."""
    doc, lost = asking.doc, Losses()
    _one_text(doc)
    conversation = turns(doc, lost)
    thinking, effort = _thinking(doc, lost)
    config = {**effort, **_format(doc)}
    out: dict[str, Any] = {
        "model": asking.model,
        "max_tokens": _limit(doc, lost),
        "messages": conversation.messages,
        **tools(doc),
        **_sampling(doc, lost),
        **_account(doc, lost),
        **thinking,
        **({"output_config": config} if config else {}),
        **_others(doc, lost),
    }
    if any(conversation.system):
        out["system"] = "\n".join(conversation.system)
    if asking.stream:
        out["stream"] = True
    return Asked(out, lost.names)

"""A Messages request as a chat completions request."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Doc

from .bridge import Asked, Asking
from .fields import Losses, cannot, obj, wrong
from .messages_to_chat_content import messages
from .messages_to_chat_tools import tools

_SAME = ("temperature", "top_p")

_IMPLIED = frozenset({"model", "stream", "messages", "system", "tools", "tool_choice"})
_READ = frozenset(
    {
        *("max_tokens", "stop_sequences", "top_k", "metadata", "service_tier", "thinking"),
        *("output_config", "output_format", "cache_control"),
    }
)

_LOST = frozenset({"context_management", "diagnostics", "user_profile_id", "workspace_id", "betas"})
"""Fields without which the answer is still a good one."""

_REFUSED = {
    "container": "it is a container of Anthropic's",
    "mcp_servers": "it has Anthropic call MCP servers",
    "inference_geo": "it binds the place where the model runs",
}
_REMEDY = "Leave it out, or ask a model of a backend with 'runtime: anthropic'."

LONGEST_USER = 64
"""OpenAI refuses a longer ``user``; coding agents send Anthropic a longer one."""

_EFFORTS = ((2048, "low"), (8192, "medium"))
"""Up to so many tokens of thinking; more is 'high'. Chat completions know no budget."""


def _limit(doc: Doc) -> int:
    limit = doc.get("max_tokens")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise wrong("max_tokens", "'max_tokens' has to be there, a whole number of tokens.")
    if limit == 0:
        raise cannot("max_tokens", "0 only fills Anthropic's cache", "Ask for at least one token.")
    return limit


def _sampling(doc: Doc, lost: Losses) -> dict[str, Any]:
    out = {name: doc[name] for name in _SAME if doc.get(name) is not None}
    if doc.get("stop_sequences"):
        out["stop"] = doc["stop_sequences"]
    if doc.get("top_k") is not None:
        # Not a parameter of OpenAI's: most engines take it, some pass over it in silence.
        out["top_k"] = doc["top_k"]
        lost.note("top_k")
    return out


def _account(doc: Doc, lost: Losses) -> dict[str, Any]:
    out: dict[str, Any] = {}
    metadata = obj(doc.get("metadata") or {}, "metadata")
    user = metadata.get("user_id")
    if isinstance(user, str) and len(user) <= LONGEST_USER:
        out["user"] = user
    elif user is not None:
        lost.note("metadata.user_id")
    if metadata.keys() - {"user_id"}:
        lost.note("metadata")
    if doc.get("service_tier") == "standard_only":
        out["service_tier"] = "default"
    if doc.get("speed") not in (None, "standard"):
        lost.note("speed")
    return out


def _effort(doc: Doc, lost: Losses) -> dict[str, Any]:
    """How much the model is to think. ``adaptive`` leaves it to the model, as saying nothing
    does."""
    config = doc.get("output_config")
    effort = config.get("effort") if isinstance(config, dict) else None
    thinking = doc.get("thinking")
    if isinstance(thinking, dict):
        budget = thinking.get("budget_tokens")
        if thinking.get("type") == "enabled" and isinstance(budget, int):
            lost.note("thinking.budget_tokens")
            effort = effort or next((word for most, word in _EFFORTS if budget <= most), "high")
        elif thinking.get("type") != "adaptive":
            lost.note("thinking")
        if thinking.get("display") is not None:
            lost.note("thinking.display")
    return {"reasoning_effort": effort} if effort else {}


def _format(doc: Doc, lost: Losses) -> dict[str, Any]:
    """A JSON schema for the answer; ``output_format`` is where it stood before."""
    config = obj(doc.get("output_config") or {}, "output_config")
    if config.keys() - {"effort", "format"}:
        lost.note("output_config")
    for name, asked in (
        ("output_config.format", config.get("format")),
        ("output_format", doc.get("output_format")),
    ):
        if asked is None:
            continue
        if not isinstance(asked, dict) or asked.get("type") != "json_schema":
            raise wrong(name, f"'{name}.type' has to be 'json_schema'.")
        schema = {"name": "output", "schema": asked.get("schema"), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {}


def _others(doc: Doc, lost: Losses) -> dict[str, Any]:
    """Fields that Messages do not have may be the engine's own; they go on under their names, and
    are named, since nobody can say whether they mean anything there."""
    known = {*_IMPLIED, *_READ, *_SAME, "speed"}
    out: dict[str, Any] = {}
    for name in doc:
        if name in known or doc[name] is None:
            continue
        if name in _REFUSED:
            raise cannot(name, _REFUSED[name], _REMEDY)
        lost.note(name)
        if name not in _LOST:
            out[name] = doc[name]
    return out


def conversation(doc: Doc, lost: Losses) -> dict[str, Any]:
    """The parts of a request that make up its prompt."""
    lost.cached(doc, "")
    return {"messages": messages(doc, lost), **tools(doc, lost)}


def request(asking: Asking) -> Asked:
    """See ``Bridge.request``."""
    doc, lost = asking.doc, Losses()
    out: dict[str, Any] = {
        "model": asking.model,
        **conversation(doc, lost),
        # The newer name: OpenAI refuses the older one for models that think, engines take both.
        "max_completion_tokens": _limit(doc),
        **_sampling(doc, lost),
        **_account(doc, lost),
        **_effort(doc, lost),
        **_format(doc, lost),
        **_others(doc, lost),
    }
    if asking.stream:
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    return Asked(out, lost.names)

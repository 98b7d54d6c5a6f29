"""Ollama's /api/chat and /api/generate in front of an engine that speaks OpenAI's API."""

from __future__ import annotations

from functools import partial
from typing import Any

from gateway.core.types import Doc, Op, Wire

from .bridge import Asked, Asking, Bridge
from .fields import beyond, wrong
from .ollama_answer import (
    Frames,
    chat_shape,
    chat_source,
    completion_source,
    generate_shape,
    reply,
)
from .ollama_fields import (
    Draft,
    add_format,
    add_options,
    add_think,
    note_unsaid,
    text_field,
    top_logprobs,
)
from .ollama_messages import add_messages, user_message

_CHAT_FIELDS = frozenset({"messages", "tools", "_debug_render_only"})
_GENERATE_FIELDS = frozenset(
    {"prompt", "suffix", "system", "template", "context", "raw", "images"}
    | {"width", "height", "steps", "_debug_render_only"}
)


def _draft(asking: Asking) -> Draft:
    """The model, the way of answering and the options. A stream is asked for its usage, since
    Ollama's last frame tells it."""
    draft = Draft(asking.extras, {"model": asking.model})
    if asking.stream:
        draft.doc |= {"stream": True, "stream_options": {"include_usage": True}}
    add_options(draft, asking.doc.get("options"))
    if asking.doc.get("_debug_render_only"):
        raise beyond("_debug_render_only", _only_ollama("'_debug_render_only'"))
    return draft


def _only_ollama(what: str) -> str:
    return f"{what} can only be had from an Ollama backend. Leave it out, or ask such a backend."


# ---- chat completions -----------------------------------------------------------------------


def _chat(asking: Asking) -> Asked:
    doc, draft = asking.doc, _draft(asking)
    add_messages(draft, doc.get("messages") or [])
    _add_tools(draft, doc.get("tools"))
    _add_rest(draft, doc)
    note_unsaid(draft, doc, _CHAT_FIELDS)
    return Asked(draft.doc, tuple(draft.lost))


def _add_rest(draft: Draft, doc: Doc) -> None:
    add_format(draft, doc.get("format"))
    add_think(draft, doc.get("think"))
    most = top_logprobs(doc)
    if most is not None:
        draft.doc |= {"logprobs": True, **({"top_logprobs": most} if most else {})}


def _add_tools(draft: Draft, tools: Any) -> None:
    """They have OpenAI's shape but for the ``type``, which Ollama does not ask for."""
    if tools is None or tools == []:
        return
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise wrong("tools", "'tools' has to be a list of objects.")
    draft.doc["tools"] = [{**tool, "type": tool.get("type") or "function"} for tool in tools]


def _generate_as_chat(asking: Asking) -> Asked:
    """System prompt and prompt become two messages, so that the engine puts the model's own
    template around them, as Ollama does."""
    doc, draft = asking.doc, _draft(asking)
    _check_generate(doc)
    for name in ("raw", "suffix"):
        if doc.get(name):
            raise beyond(
                name,
                f"'{name}' needs an engine with /v1/completions, which this backend does not"
                " offer. Leave it out, or ask a model of a backend that has it.",
            )
    system = text_field(doc, "system")
    talk = [{"role": "system", "content": system}] if system else []
    draft.doc["messages"] = [*talk, user_message(text_field(doc, "prompt"), doc.get("images"))]
    _add_rest(draft, doc)
    note_unsaid(draft, doc, _GENERATE_FIELDS)
    return Asked(draft.doc, tuple(draft.lost))


def _check_generate(doc: Doc) -> None:
    """What neither of the two ways can express."""
    if doc.get("raw") and any(doc.get(name) for name in ("template", "system", "context")):
        raise wrong("raw", "raw mode does not support template, system, or context")
    if doc.get("template"):
        raise beyond("template", _only_ollama("A 'template' of one's own"))
    if doc.get("context"):
        raise beyond(
            "context",
            "'context' holds tokens of one model's tokenizer, which this backend does not take."
            " Send the conversation to /api/chat instead.",
        )
    for name in ("width", "height", "steps"):
        if doc.get(name):
            raise beyond(name, _only_ollama(f"An image of a certain '{name}'"))


# ---- completions ----------------------------------------------------------------------------


def _generate_as_completion(asking: Asking) -> Asked:
    """Only what asks for no template: a raw prompt, or a gap to be filled."""
    doc, draft = asking.doc, _draft(asking)
    _check_generate(doc)
    suffix = text_field(doc, "suffix")
    if not doc.get("raw") and not suffix:
        raise beyond(
            "prompt",
            "A prompt needs the model's chat template around it, and this backend has no"
            ' /v1/chat/completions. Send it with "raw": true if it is meant as it is.',
        )
    for name in ("images", "format"):
        if doc.get(name):
            raise beyond(name, f"'{name}' does not go together with a raw prompt or a suffix here.")
    draft.doc["prompt"] = text_field(doc, "prompt")
    if suffix:
        if "suffix" not in asking.extras:
            raise beyond(
                "suffix",
                "This backend's engine cannot fill a gap: its /v1/completions takes no 'suffix'."
                " Ask an Ollama backend whose model has the capability 'insert'.",
            )
        draft.own("suffix", suffix, "suffix")
    most = top_logprobs(doc)
    if most is not None:
        draft.doc["logprobs"] = most
    note_unsaid(draft, doc, _GENERATE_FIELDS)
    draft.lost += [name for name in ("think", "system") if doc.get(name)]
    return Asked(draft.doc, tuple(draft.lost))


# ---- the bridges ----------------------------------------------------------------------------


CHAT = Bridge(
    Wire.OLLAMA,
    Op.CHAT,
    Wire.OPENAI,
    Op.CHAT,
    request=_chat,
    reply=partial(reply, source=chat_source, shape=chat_shape),
    stream=partial(Frames, source=chat_source, shape=chat_shape),
)

GENERATE_AS_CHAT = Bridge(
    Wire.OLLAMA,
    Op.GENERATE,
    Wire.OPENAI,
    Op.CHAT,
    request=_generate_as_chat,
    reply=partial(reply, source=chat_source, shape=generate_shape),
    stream=partial(Frames, source=chat_source, shape=generate_shape),
)

GENERATE_AS_COMPLETION = Bridge(
    Wire.OLLAMA,
    Op.GENERATE,
    Wire.OPENAI,
    Op.COMPLETIONS,
    request=_generate_as_completion,
    reply=partial(reply, source=completion_source, shape=generate_shape),
    stream=partial(Frames, source=completion_source, shape=generate_shape),
)

"""Clients that speak OpenAI's older completions, engines that only speak chat completions."""

from __future__ import annotations

from typing import Any

from gateway.core.errors import Refusal
from gateway.core.types import Doc, Op, Wire

from .bridge import Asked, Asking, Bridge
from .chunks import Chunks, nonsense, text_of, until_fault
from .fields import Losses, cannot, text, wrong
from .sse import DONE, plain
from .terms import unbroken

_SAME = frozenset(
    {
        *("temperature", "top_p", "stop", "presence_penalty", "frequency_penalty", "seed"),
        *("logit_bias", "user", "n", "stream", "stream_options"),
    }
)
_READ = frozenset({"model", "prompt", "max_tokens"})

_REFUSED = {
    "suffix": "it asks for a gap to be filled",
    "echo": "it asks for the prompt to be repeated",
    "best_of": "it asks for the best of several answers",
}
"""Fields that have no word in a chat. False, empty and one ask for nothing."""

_CHAT_ONLY = frozenset(
    {
        *("messages", "tools", "tool_choice", "max_completion_tokens", "top_logprobs"),
        *("functions", "function_call", "modalities", "audio"),
    }
)

_REMEDY = "Leave it out, or ask a model of a backend that has /v1/completions."

FINISHES = frozenset({"stop", "length", "content_filter"})


def _prompt(doc: Doc) -> str:
    given = doc.get("prompt")
    if isinstance(given, list) and given:
        if len(given) > 1 or not isinstance(given[0], str):
            what = "it holds tokens, or several prompts"
            raise cannot("prompt", what, "Send one text, or ask for each of them.")
        given = given[0]
    return text(given, "prompt")


def _limit(doc: Doc) -> dict[str, Any]:
    limit = doc.get("max_tokens")
    if limit is None:
        return {}
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise wrong("max_tokens", "'max_tokens' has to be a whole number.")
    if limit == 0:
        raise cannot("max_tokens", "0 asks for no answer at all", "Ask for at least one token.")
    return {"max_completion_tokens": limit}


def _others(doc: Doc, lost: Losses) -> dict[str, Any]:
    """A field that is no field of completions may be the engine's own: it goes on, and is
    named."""
    out: dict[str, Any] = {}
    for name, value in doc.items():
        if name in _READ or value is None:
            continue
        if name in _REFUSED:
            if (value and value != 1) or value is True:
                raise cannot(name, _REFUSED[name], _REMEDY)
        elif name == "logprobs":
            if value is not False:
                raise cannot(name, "it asks for the probabilities of tokens", _REMEDY)
        elif name in _CHAT_ONLY:
            raise wrong(name, f"'{name}' is a field of chat completions, not of completions.")
        else:
            out[name] = value
            if name not in _SAME:
                lost.note(name)
    return out


def request(asking: Asking) -> Asked:
    """See ``Bridge.request``. The prompt is what a user says, and is named as lost: the engine
    puts the model's template around it, so that a model answers it rather than goes on."""
    lost = Losses()
    lost.note("prompt")
    said = {"role": "user", "content": _prompt(asking.doc)}
    rest = {**_limit(asking.doc), **_others(asking.doc, lost)}
    return Asked({"model": asking.model, "messages": [said], **rest}, lost.names)


def _head(asking: Asking) -> dict[str, Any]:
    return {
        "id": f"cmpl-{asking.id}",
        "object": "text_completion",
        "created": asking.created,
        "model": asking.model,
    }


def _choices(doc: Doc, member: str) -> list[dict[str, Any]]:
    given = doc.get("choices")
    found = given if isinstance(given, list) else []
    return [_choice(choice, member) for choice in found if isinstance(choice, dict)]


def _choice(choice: Doc, member: str) -> dict[str, Any]:
    said, finish = choice.get(member), unbroken(choice.get("finish_reason"))
    return {
        "index": choice.get("index") or 0,
        "text": text_of(said.get("content")) if isinstance(said, dict) else "",
        "logprobs": None,
        "finish_reason": (finish if finish in FINISHES else "stop") if finish else None,
    }


def reply(doc: Doc, asking: Asking) -> Doc:
    """See ``Bridge.reply``."""
    choices = _choices(doc, "message")
    if not choices:
        raise nonsense("an answer without 'choices'")
    for choice in choices:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
    usage = doc.get("usage")
    return {
        **_head(asking),
        "choices": choices,
        **({"usage": usage} if isinstance(usage, dict) else {}),
    }


class CompletionStream:
    """See ``bridge.Stream``. Holds one unfinished event. The usage comes as the engine tells it,
    which does so if the client asked."""

    __slots__ = ("_chunks", "_done", "_fault", "_head")

    def __init__(self, asking: Asking) -> None:
        self._head = _head(asking)
        self._chunks = Chunks()
        self._done = False
        self._fault: Refusal | None = None

    def feed(self, data: bytes) -> bytes:
        if self._fault is not None:
            raise self._fault
        told, self._fault = until_fault(map(self._chunk, self._chunks.feed(data)))
        ended = self._chunks.ended and self._fault is None
        return told + self._end() if ended else told

    def close(self) -> bytes:
        if self._fault is not None:
            raise self._fault
        told, fault = until_fault(map(self._chunk, self._chunks.rest()))
        if fault is not None:
            raise fault
        return told + self._end()

    def _chunk(self, chunk: Doc) -> bytes:
        """Nothing for a chunk that only says whose turn it is."""
        choices = [c for c in _choices(chunk, "delta") if c["text"] or c["finish_reason"]]
        usage = chunk.get("usage")
        if not choices and not isinstance(usage, dict):
            return b""
        told = {**self._head, "choices": choices}
        return plain({**told, "usage": usage} if "usage" in chunk else told)

    def _end(self) -> bytes:
        if self._done:
            return b""
        self._done = True
        return DONE


COMPLETIONS_TO_CHAT = Bridge(
    Wire.OPENAI, Op.COMPLETIONS, Wire.OPENAI, Op.CHAT, request, reply, CompletionStream
)

"""Anthropic's ``count_tokens`` through the tokenizer of an engine that takes a chat's messages.

One question, answered by the engine's own chat template and tokenizer. What a tokenizer does not
see as text (images, files) is refused, since their tokens would be left out of the count."""

from __future__ import annotations

from typing import Any

from gateway.core.errors import Refusal
from gateway.core.types import Doc, Op, Wire

from .bridge import Asked, Asking, Bridge, Stream
from .fields import Losses, cannot
from .messages_to_chat_request import conversation

_REMEDY = "Leave it out, or ask a backend with a count_tokens of its own; MODELS.md lists them."


def request(asking: Asking) -> Asked:
    """The prompt of the request as chat messages and tools, and nothing else."""
    lost = Losses()
    prompt = conversation(asking.doc, lost)
    for i, message in enumerate(prompt["messages"]):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part["type"] != "text":
                raise cannot(f"messages.{i}.content", f"it has a part '{part['type']}'", _REMEDY)
    counted: dict[str, Any] = {"model": asking.model, "messages": prompt["messages"]}
    if "tools" in prompt:
        counted["tools"] = prompt["tools"]
    # Marks for a cache change no count.
    kept = tuple(name for name in lost.names if not name.endswith("cache_control"))
    return Asked(counted, kept)


def reply(doc: Doc, asking: Asking) -> Doc:
    """The count: ``count`` with vLLM and SGLang, a list of tokens with TGI's ``/chat_tokenize``.
    Any other answer counts something else; raises Refusal ``unsupported``."""
    count: Any = doc.get("count")
    tokens = doc.get("tokenize_response")
    if isinstance(tokens, list):
        count = len(tokens)
    if not isinstance(count, int):
        raise Refusal(
            "unsupported",
            "The engine's tokenizer does not count a chat's tokens. Ask a backend with a"
            " count_tokens of its own; MODELS.md lists them.",
        )
    return {"input_tokens": count}


def stream(asking: Asking) -> Stream:
    raise Refusal("invalid_request", "A count of tokens is not streamed.", param="stream")


COUNT_TO_TOKENIZE = Bridge(
    Wire.ANTHROPIC,
    Op.COUNT_TOKENS,
    Wire.OPENAI,
    Op.TOKENIZE,
    request,
    reply,
    stream,
    chat=True,
)

"""From a call to the chain of hashes of its prompt: equal links mean an equal beginning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.asides import unattributed
from gateway.core.types import Call

BLOCK = 512
"""Bytes of UTF-8 in one block: about 128 tokens. Larger ones say less of short prompts, smaller
ones cost more time and memory."""

MOST_BLOCKS = 384
"""Blocks of one prompt that are hashed: 192 KiB, some 48,000 tokens. What follows counts as never
cached; that much known of a prompt is enough to send it where it was. A prompt of 1 MB, all of it
hashed, cost four times the CPU of the rest of its way."""

MEDIUM = 2048
"""Bytes of text that an image or a piece of audio counts as: some hundred tokens, as most vision
models take for one."""

SAMPLE = 512
"""Bytes of each end of an image's data that stand for the whole of it, with its length."""

DEEPEST = 8
"""Levels of a document that are looked at. What clients send has five."""

FIELDS = ("system", "instructions", "tools", "messages", "prompt", "input", "query", "documents")
"""Where a prompt may stand, in the order in which chat templates render it."""

MEDIA = frozenset(
    {"image_url", "images", "url", "data", "file_data", "audio", "input_audio", "b64_json"}
)
"""Members whose value is data, or leads to data, rather than text."""

SKIPPED = frozenset({"cache_control"})
"""Members that change from turn to turn and are no part of the prompt: clients of Anthropic's API
move their cache marks along with the conversation."""

_MOST = MOST_BLOCKS * BLOCK


@dataclass(frozen=True, slots=True)
class Prompt:
    """``chain`` has one 64-bit hash a whole block, each over all before it; ``length`` is that of
    the whole prompt in bytes of UTF-8, which tell tokens better than characters do: a Chinese
    character has three and is worth as many tokens as three or four Latin letters."""

    chain: tuple[int, ...] = ()
    length: int = 0


NO_PROMPT = Prompt()


def prompt_of(call: Call) -> Prompt:
    """The prompt of a call; empty for calls that have none (lists, forms, calls by id).

    The hash is Python's own of bytes: SipHash with a key drawn at the start of the process
    (PEP 456). Forked workers share that key, it costs about a nanosecond a byte, and without
    the key no caller can make two texts meet. It must not leave the gateway or outlive it."""
    if not call.doc:
        return NO_PROMPT
    gathering = _Gathering()
    for name in FIELDS:
        value = call.doc.get(name)
        if value is not None:
            gathering.field(name, value)
    if not gathering.parts:
        return NO_PROMPT
    text = "\n".join(gathering.parts).encode("utf-8", "surrogatepass")
    length = len(text) + gathering.media * MEDIUM
    if gathering.size > _MOST:
        length = max(length, gathering.size, len(call.body))
    return Prompt(_chain((call.model, call.doc.get("cache_salt")), text), length)


def _chain(seed: object, text: bytes) -> tuple[int, ...]:
    """The model is part of every link, since its cache serves no other; so is vLLM's salt."""
    link = hash(str(seed))
    links = []
    for start in range(0, min(len(text), _MOST) - BLOCK + 1, BLOCK):
        link = hash((link, text[start : start + BLOCK]))
        links.append(link)
    return tuple(links)


class _Gathering:
    """The pieces of a prompt, taken up in the order in which they stand."""

    __slots__ = ("media", "parts", "size")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.media = 0
        self.size = 0

    def field(self, name: str, value: Any) -> None:
        if isinstance(value, str):
            self.text(value)
        elif name == "tools":
            self.text(_dumped(value))
        elif name == "messages" and isinstance(value, list):
            for message in value:
                self.message(message)
                if self.size > _MOST:
                    break
        elif name == "system":
            self.value(unattributed(value), 0)
        else:
            self.value(value, 0)

    def text(self, value: str) -> None:
        # What lies beyond is not hashed, and megabytes would be copied twice on the way.
        self.parts.append(value[:_MOST])
        self.size += len(value)

    def message(self, message: Any) -> None:
        """Plain messages, which are nearly all, without the way through ``value``."""
        if isinstance(message, dict) and len(message) == 2:
            role, content = message.get("role"), message.get("content")
            if isinstance(role, str) and isinstance(content, str):
                self.parts += (role, content[:_MOST])
                self.size += len(content)
                return
        self.value(message, 0)

    def value(self, value: Any, depth: int) -> None:
        if isinstance(value, str):
            self.text(value)
        elif depth > DEEPEST or self.size > _MOST:
            return
        elif isinstance(value, dict):
            self.members(value, depth)
        elif isinstance(value, list):
            if value and isinstance(value[0], int):
                self.text(_dumped(value))
                return
            for item in value:
                self.value(item, depth + 1)
        elif value is not None:
            self.text(str(value))

    def members(self, value: Mapping[str, Any], depth: int) -> None:
        for name, item in value.items():
            if name in MEDIA:
                self.medium(item, depth)
            elif name not in SKIPPED:
                self.value(item, depth + 1)

    def medium(self, value: Any, depth: int) -> None:
        """Data counts by its length and its two ends: megabytes would take milliseconds, and only
        a caller's own images can be made to look alike, to that caller's own cost."""
        if isinstance(value, str):
            self.media += 1
            self.parts.append(f"{len(value)}:{value[:SAMPLE]}{value[-SAMPLE:]}")
        elif isinstance(value, dict) and depth <= DEEPEST:
            for item in value.values():
                self.medium(item, depth + 1)
        elif isinstance(value, list) and depth <= DEEPEST:
            for item in value:
                self.medium(item, depth + 1)


def _dumped(value: Any) -> str:
    """JSON of what holds no data; what is nested beyond all sense counts as nothing."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return ""

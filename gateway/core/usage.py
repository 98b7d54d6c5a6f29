"""From the ends of an answer to the tokens it cost, in every shape that engines report them."""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.core.types import Usage

_OBJECT = re.compile(rb" ?(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})")
"""An object that holds at most one further level, as every engine's does."""

_OLLAMA = re.compile(rb'"(prompt_eval_count|eval_count)": ?(\d+)')


def extract(head: bytes, tail: bytes, pieces: int) -> Usage:
    """Usage as the engine put it into the last (or, for Anthropic's input, first) bytes of the
    answer. Where there is none, ``output`` is ``pieces``, the content events counted on the way,
    and ``counted`` is False. Sources: sheets vllm 7, sglang 7, tgi 7, llamacpp 7, ollama 2.1."""
    usage = last_object(b'"usage":', tail)
    if usage is not None and "prompt_tokens" in usage:
        return _openai(usage)
    opening = last_object(b'"usage":', head)
    if usage is None and opening is None:
        found = _timings(last_object(b'"timings":', tail)) or _ollama(tail)
    else:
        # Anthropic says what came in at the beginning and what went out at the end.
        said = {k: v for k, v in (usage or {}).items() if v is not None}
        found = _named_otherwise({**(opening or {}), **said})
    return found or Usage(output=pieces, counted=False)


def last_object(key: bytes, text: bytes) -> dict[str, Any] | None:
    """The last whole object that stands behind ``key`` in a piece of JSON. Generated text cannot
    be taken for one: quotes inside a JSON string are escaped."""
    end = len(text)
    while (at := text.rfind(key, 0, end)) >= 0:
        match = _OBJECT.match(text, at + len(key))
        if match is not None:
            return _parsed(match.group(1))
        end = at
    return None


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        doc: dict[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return doc


def _int(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and value >= 0 else 0


def _openai(doc: dict[str, Any]) -> Usage:
    """Chat, completions and embeddings."""
    details = doc.get("prompt_tokens_details")
    cached = _int(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(_int(doc["prompt_tokens"]), _int(doc.get("completion_tokens")), cached)


def _named_otherwise(doc: dict[str, Any]) -> Usage | None:
    """Responses and Anthropic name the same things differently, and Anthropic's ``input_tokens``
    leaves the cached ones out."""
    if "prompt_tokens" in doc:
        return _openai(doc)
    if not {"input_tokens", "total_tokens"} & doc.keys():
        return None
    details = doc.get("input_tokens_details")
    cached = _int(details.get("cached_tokens")) if isinstance(details, dict) else 0
    apart = _int(doc.get("cache_read_input_tokens"))
    created = _int(doc.get("cache_creation_input_tokens"))
    given = _int(doc.get("input_tokens"))
    return Usage(given + apart + created, _int(doc.get("output_tokens")), cached + apart)


def _timings(doc: dict[str, Any] | None) -> Usage | None:
    """llama-server says its counts in every stream's last chunk, asked or not (sheet 7)."""
    if not doc or "predicted_n" not in doc:
        return None
    cached = _int(doc.get("cache_n"))
    return Usage(cached + _int(doc.get("prompt_n")), _int(doc["predicted_n"]), cached)


def _ollama(tail: bytes) -> Usage | None:
    counts = {name: int(value) for name, value in _OLLAMA.findall(tail)}
    if not counts:
        return None
    return Usage(counts.get(b"prompt_eval_count", 0), counts.get(b"eval_count", 0))

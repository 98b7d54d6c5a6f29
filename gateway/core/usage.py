"""From the ends of an answer to the tokens it cost, in every shape that engines report them."""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.core.types import Usage

_OBJECT = re.compile(rb'"(usage|timings)": ?(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
"""An object that holds at most one further level, as every engine's does."""

_INPUT = frozenset({"prompt_tokens", "input_tokens"})
_OLLAMA = re.compile(rb'"(prompt_eval_count|eval_count)": ?(\d+)')


def extract(head: bytes, tail: bytes, pieces: int) -> Usage:
    """Usage as the engine put it into the last (or, for Anthropic's input, first) bytes of the
    answer. Where there is none, ``output`` is ``pieces``, the content events counted on the way,
    and ``counted`` is False. Sources: sheets vllm 7, sglang 7, tgi 7, llamacpp 7, ollama 2.1."""
    last = _last_objects(tail)
    usage = last.get("usage") or {}
    if not usage.keys() & _INPUT:
        # Anthropic says what came in at the beginning and what went out at the end.
        opening = _last_objects(head).get("usage") or {}
        usage = {**opening, **{k: v for k, v in usage.items() if v is not None}}
    found = _from_usage(usage) or _from_timings(last.get("timings")) or _from_ollama(tail)
    return found or Usage(output=pieces, counted=False)


def _last_objects(text: bytes) -> dict[str, dict[str, Any]]:
    """The last whole ``usage`` and ``timings`` objects in a piece of text. Generated text cannot
    be taken for one: quotes inside a JSON string are escaped."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in _OBJECT.findall(text):
        doc = _parsed(value)
        if doc:
            found[name.decode()] = doc
    return found


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        doc = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return doc if isinstance(doc, dict) else None


def _int(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and value >= 0 else 0


def _from_usage(doc: dict[str, Any]) -> Usage | None:
    """OpenAI (chat, embeddings), Responses and Anthropic name the same things differently;
    Anthropic's ``input_tokens`` leaves the cached ones out."""
    if not {"prompt_tokens", "input_tokens", "total_tokens"} & doc.keys():
        return None
    details = doc.get("prompt_tokens_details") or doc.get("input_tokens_details") or {}
    cached = _int(details.get("cached_tokens")) if isinstance(details, dict) else 0
    apart = _int(doc.get("cache_read_input_tokens"))
    created = _int(doc.get("cache_creation_input_tokens"))
    given = _int(doc.get("prompt_tokens", doc.get("input_tokens")))
    output = _int(doc.get("completion_tokens", doc.get("output_tokens")))
    return Usage(given + apart + created, output, cached + apart)


def _from_timings(doc: dict[str, Any] | None) -> Usage | None:
    """llama-server says its counts in every stream's last chunk, asked or not (sheet 7)."""
    if not doc or "predicted_n" not in doc:
        return None
    cached = _int(doc.get("cache_n"))
    return Usage(cached + _int(doc.get("prompt_n")), _int(doc["predicted_n"]), cached)


def _from_ollama(tail: bytes) -> Usage | None:
    counts = {name: int(value) for name, value in _OLLAMA.findall(tail)}
    if not counts:
        return None
    return Usage(counts.get(b"prompt_eval_count", 0), counts.get(b"eval_count", 0))

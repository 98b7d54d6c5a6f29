"""What a request costs in tokens: an estimate while nobody knows, and what it is charged after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.core.keys import LISTS
from gateway.core.types import Call, Doc, Op, Usage

CHARACTERS_A_TOKEN = 4
"""What English text comes to with the tokenizers of today's models; settled by the engine's own
count anyway."""

LONGEST_OUTPUT = 10**9
"""Tokens. What a request may say it wants at most, so that sums stay in their cells."""

MOST_CHOICES = 128
"""OpenAI's bound on ``n``."""

FREE = LISTS | {Op.TOKENIZE, Op.DETOKENIZE, Op.COUNT_TOKENS, Op.RESPONSES_BY_ID}
"""Surfaces that cost no tokens: nothing is generated or embedded there."""

_TEXTS = ("messages", "prompt", "input", "system", "instructions", "tools", "query", "documents")
_ASKED = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_BINARY = frozenset({"data", "images", "file_data", "audio", "url", "image_url"})


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens that a request may cost: those of its prompt and the most (or the usual) of its
    answer."""

    prompt: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.output


def estimate(call: Call, usual: float) -> Estimate:
    """What a call may cost. Its answer is taken to be as long as it asks for, else ``usual``, what
    this key's answers have come to so far."""
    if call.op in FREE:
        return Estimate()
    doc = call.doc
    characters = sum(_characters(doc[name]) for name in _TEXTS if name in doc)
    asked = _asked(doc)
    output = math.ceil(usual) if asked is None else asked
    return Estimate(-(-characters // CHARACTERS_A_TOKEN), output * _choices(doc))


def _characters(value: Any) -> int:
    """The characters of a prompt wherever they stand in it. What is no text (images, sound) counts
    nothing; a number counts as a token of its own, as in prompts that come as tokens."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(inner) for key, inner in value.items() if key not in _BINARY)
    if isinstance(value, list):
        return sum(
            CHARACTERS_A_TOKEN if isinstance(inner, int) else _characters(inner) for inner in value
        )
    return 0


def _asked(doc: Doc) -> int | None:
    """How many tokens the answer may have at most, where the request says."""
    options = doc.get("options")
    given = [doc.get(name) for name in _ASKED]
    given.append(options.get("num_predict") if isinstance(options, Mapping) else None)
    told = [n for n in given if isinstance(n, int) and not isinstance(n, bool) and n > 0]
    return min(*told, LONGEST_OUTPUT) if told else None


def _choices(doc: Doc) -> int:
    n = doc.get("n")
    return min(n, MOST_CHOICES) if isinstance(n, int) and n > 1 else 1


def cost(usage: Usage, prompt: int, *, served: bool) -> int:
    """What a request is charged in the end: the engine's own count; where it gave none, the pieces
    that were counted on the way and the estimate of the prompt. Nothing where nothing of a good
    answer was served."""
    if not served:
        return 0
    return usage.output + (usage.input if usage.counted else prompt)

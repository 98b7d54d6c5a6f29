"""Blocks as text and text as blocks: how load and engines agree on what a prompt is.

Every block has a text of its own, a fixed number of characters to a token, four unless told
otherwise; the text of a partial block is cut. A router sees text as it would see a user's: prompts
that begin alike, and lengths in proportion to the work. Nothing in it is language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from bench.fleet.model import Prompt


@lru_cache(maxsize=1 << 16)
def block_text(name: int, width: int) -> str:
    """So many characters that belong to this name alone."""
    digest = hashlib.blake2b(str(name).encode(), digest_size=32).hexdigest()
    return (digest * -(-width // len(digest)))[:width]


@dataclass(frozen=True, slots=True)
class Writing:
    """``width`` characters stand for ``block`` tokens."""

    block: int
    width: int

    def characters(self, tokens: int) -> int:
        return max(1, -(-tokens * self.width // self.block))

    def tokens(self, characters: int) -> int:
        return max(1, characters * self.block // self.width)

    def prompt(self, prompt: Prompt, begin: int = 0) -> str:
        """The text of a prompt from a block on."""
        text = "".join(block_text(key, self.width) for key in prompt.keys[begin:])
        surplus = len(prompt.keys) * self.width - self.characters(prompt.tokens)
        return text[: len(text) - surplus] if surplus else text

    def keys(self, text: str, before: int = 0) -> tuple[int, ...]:
        """The chain of hashes over the blocks of a text that follows a block."""
        found = []
        for at in range(0, max(1, len(text)), self.width):
            before = hash((before, text[at : at + self.width]))
            found.append(before)
        return tuple(found)

    def answer(self, last: int, tokens: int) -> str:
        """What an engine answers to a prompt whose last block has this hash."""
        wanted = self.characters(tokens)
        blocks = range(-(-wanted // self.width))
        return "".join(block_text(hash((last, number)), self.width) for number in blocks)[:wanted]

    def read(self, pieces: Iterable[str], answer: int) -> tuple[Prompt, str]:
        """The request that an engine sees in a text, and what it will answer. An answer enters the
        cache only in whole blocks that end where one of the prompt does."""
        text = "".join(pieces)
        keys, tokens = self.keys(text), self.tokens(len(text))
        reply = self.answer(keys[-1], answer)
        whole = tokens % self.block == 0 and answer % self.block == 0
        added = self.keys(reply, keys[-1]) if whole else ()
        return Prompt(keys, tokens, answer, added), reply

"""Content blocks of a streamed Messages answer, one after the other, from pieces in any order.

Anthropic sends a block whole before the next begins. Engines send the arguments of parallel calls
one call after the other, as a rule; where they mix them, the pieces of a later call wait until the
earlier one is a whole JSON object."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from .sse import LONGEST, named, too_long

_MARK = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""What stands inside a JSON string, as far as it goes."""


class Json:
    """Tells when pieces of text have become a whole JSON object. Keeps a few numbers of them."""

    __slots__ = ("_depth", "_escaped", "_quoted", "whole")

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self.whole = False

    def feed(self, text: str) -> None:
        at = 0
        if self._escaped and text:
            at, self._escaped = 1, False
        while at < len(text):
            at = self._inside(text, at) if self._quoted else self._outside(text, at)

    def _inside(self, text: str, at: int) -> int:
        match = _INSIDE.match(text, at)
        end = match.end() if match else at
        self._quoted = text[end : end + 1] != '"'
        self._escaped = text[end : end + 1] == "\\"  # its other half is in the next piece
        return end + 1

    def _outside(self, text: str, at: int) -> int:
        match = _MARK.search(text, at)
        if match is None:
            return len(text)
        if match.group() == '"':
            self._quoted = True
        else:
            self._depth += 1 if match.group() in "{[" else -1
            self.whole = self._depth == 0
        return match.end()


class Block:
    """One block: how it begins, what its pieces are called, and the pieces that wait."""

    __slots__ = ("begun", "ended", "json", "kind", "pieces", "start")

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.kind = str(start["type"])
        self.json = Json() if self.kind == "tool_use" else None
        self.pieces: list[str] = []
        self.begun = False
        self.ended = False

    def add(self, piece: str) -> None:
        if piece and not self.ended:
            self.pieces.append(piece)
            if self.json is not None:
                self.json.feed(piece)

    @property
    def over(self) -> bool:
        """Whether nothing more is to come, now that another block has begun."""
        return self.json is None or self.json.whole


_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


def _delta(index: int, kind: str, **delta: str) -> bytes:
    return named("content_block_delta", {"index": index, "delta": {"type": kind, **delta}})


class Blocks:
    """The blocks of one answer. Every method returns the events that can go now."""

    __slots__ = ("_index", "_queue")

    def __init__(self) -> None:
        self._queue: deque[Block] = deque()
        self._index = 0

    @property
    def last(self) -> Block | None:
        return self._queue[-1] if self._queue else None

    def begin(self, start: dict[str, Any]) -> Block:
        block = Block(start)
        self._queue.append(block)
        return block

    def flow(self, *, end: bool = False) -> bytes:
        """What the first block has to say, and the others as far as those before them are over;
        at the ``end`` all of it. Raises Refusal when too much waits."""
        out: list[bytes] = []
        while self._queue:
            block = self._queue[0]
            out.append(self._say(block))
            if not end and (len(self._queue) == 1 or not block.over):
                break
            out.append(self._stop(self._queue.popleft()))
        if len(self._queue) > 1 and self._waiting() > LONGEST:
            raise too_long()
        return b"".join(out)

    def _waiting(self) -> int:
        return sum(len(piece) for block in self._queue for piece in block.pieces)

    def _say(self, block: Block) -> bytes:
        begin = b""
        if not block.begun:
            block.begun = True
            doc = {"index": self._index, "content_block": block.start}
            begin = named("content_block_start", doc)
        kind, field = _DELTAS[block.kind]
        pieces, block.pieces = block.pieces, []
        return begin + b"".join(_delta(self._index, kind, **{field: piece}) for piece in pieces)

    def _stop(self, block: Block) -> bytes:
        # Anthropic signs each thought; what nobody signed has an empty signature.
        signed = block.kind == "thinking"
        before = _delta(self._index, "signature_delta", signature="") if signed else b""
        stop = named("content_block_stop", {"index": self._index})
        block.ended = True
        self._index += 1
        return before + stop

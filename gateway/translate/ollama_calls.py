"""Tool calls gathered from OpenAI's pieces and handed over whole, as Ollama's clients want them."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.core.types import Doc

from .chunks import nonsense
from .sse import LONGEST

MOST_CALLS = 1024
"""Calls of one answer that are gathered."""


class Calls:
    """``add`` takes the pieces of a delta, or the calls of a whole message; ``whole`` gives the
    calls with their arguments as objects."""

    __slots__ = ("_calls", "_size")

    def __init__(self) -> None:
        self._calls: dict[int, _Gathered] = {}
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, pieces: Any) -> None:
        """Pieces of several calls may come in any order; ``index`` says whose each is. Without
        one, a piece with a name begins a call. Raises Refusal beyond LONGEST characters
        or MOST_CALLS."""
        for piece in pieces if isinstance(pieces, list) else ():
            function = piece.get("function") if isinstance(piece, dict) else None
            if isinstance(function, dict):
                self._add(piece, function)

    def _add(self, piece: Doc, function: Doc) -> None:
        index = piece.get("index")
        if not isinstance(index, int):
            index = len(self._calls) - (0 if function.get("name") else 1)
        call = self._calls.setdefault(index, _Gathered())
        call.take(piece, function)
        self._size += call.last
        if self._size > LONGEST or len(self._calls) > MOST_CALLS:
            raise nonsense("more tool calls than one answer can hold")

    def whole(self, *, cut: bool) -> list[dict[str, Any]]:
        """All calls in order. ``cut`` True: the answer ended at its limit of tokens, so that a
        call whose arguments are not whole was never made and is left out. Raises Refusal when
        arguments are no object otherwise."""
        found = []
        for index, call in sorted(self._calls.items()):
            arguments = call.arguments()
            if arguments is None and not cut:
                raise nonsense(f"a call of '{call.name[:100]}' whose arguments are no JSON object")
            if arguments is not None:
                function = {"index": index, "name": call.name, "arguments": arguments}
                found.append({"id": call.id or f"call_{index}", "function": function})
        return found


class _Gathered:
    """One call on its way. ``last`` is the size of the latest piece in characters."""

    __slots__ = ("_given", "_texts", "id", "last", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.last = 0
        self._texts: list[str] = []
        self._given: dict[str, Any] | None = None

    def take(self, piece: Doc, function: Doc) -> None:
        given, name, arguments = piece.get("id"), function.get("name"), function.get("arguments")
        self.id = self.id or (given if isinstance(given, str) else "")
        self.name = self.name or (name if isinstance(name, str) else "")
        if isinstance(arguments, dict):
            self._given = arguments
        text = arguments if isinstance(arguments, str) else ""
        self._texts.append(text)
        self.last = len(text)

    def arguments(self) -> dict[str, Any] | None:
        """None when they are no object. A call without any has an empty one."""
        text = "".join(self._texts).strip()
        if self._given is not None or not text:
            return self._given or {}
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        return found if isinstance(found, dict) else {} if found is None else None

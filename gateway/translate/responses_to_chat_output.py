"""What an engine says in a chat, whole or in pieces, as the output of a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.core.types import Doc

from .bridge import Asking
from .chunks import calls_of, function_of, text_of
from .responses_to_chat_items import Called, CalledFreely, Event, Spoken
from .responses_to_chat_names import Tool
from .sse import LONGEST, too_long
from .terms import reasoning, unbroken

CUTS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""``finish_reason`` -> the reason in ``incomplete_details``."""


def _call_id(asking: Asking, number: int) -> str:
    """For engines that name no call; OpenAI takes ids of up to 64 characters back."""
    return f"call_{number}_{asking.id}"[:64]


def _logprobs(choice: Doc) -> list[Doc]:
    """Responses want every member: the bytes too, which some engines leave out."""
    given = choice.get("logprobs")
    content = given.get("content") if isinstance(given, dict) else None
    found = content if isinstance(content, list) else []
    return [
        {**_token(entry), "top_logprobs": [_token(top) for top in entry.get("top_logprobs") or ()]}
        for entry in found
        if isinstance(entry, dict)
    ]


def _token(entry: Doc) -> dict[str, Any]:
    token = str(entry.get("token") or "")
    known = entry.get("bytes")
    return {
        "token": token,
        "logprob": entry.get("logprob") or 0.0,
        "bytes": known if isinstance(known, list) else list(token.encode("utf-8", "replace")),
    }


class Output:
    """``choice`` takes a chunk's choice (``delta``) or a whole one (``message``), and gives the
    events; ``end`` closes what is open. ``items`` are those which go on no more, in order; ``cut``
    is why the answer is incomplete. ``tools`` are those which the engine knows by another name
    than the client. Raises Refusal on an answer beyond LONGEST."""

    __slots__ = ("_asking", "_calls", "_done", "_made", "_open", "_size", "_tools", "cut")

    def __init__(self, asking: Asking, tools: Mapping[str, Tool]) -> None:
        self._asking = asking
        self._tools = tools
        self._open: list[Spoken | Called] = []
        self._calls: dict[int, Called] = {}
        self._size = 0
        self._made = 0
        self._done: dict[int, Doc] = {}
        self.cut = ""

    @property
    def items(self) -> list[Doc]:
        return [self._done[index] for index in sorted(self._done)]

    @property
    def status(self) -> str:
        return "incomplete" if self.cut else "completed"

    def choice(self, choice: Doc, member: str) -> list[Event]:
        found = choice.get(member)
        said = found if isinstance(found, dict) else {}
        events = self._say("reasoning", "reasoning_text", reasoning(said), [])
        text, logprobs = text_of(said.get("content")), _logprobs(choice)
        events += self._say("message", "output_text", text, logprobs)
        events += self._say("message", "refusal", text_of(said.get("refusal")), [])
        for number, call in enumerate(calls_of(said)):
            events += self._call(call, number)
        if self._size > LONGEST:
            raise too_long()
        finish = unbroken(choice.get("finish_reason"))
        if finish:
            self.cut = CUTS.get(finish, "")
            events += self._close(self.status)
        return events

    def end(self) -> list[Event]:
        """An answer without anything in it is an empty message."""
        events: list[Event] = []
        if not self._made:
            events = self._begin(Spoken("message", 0, self._asking.id))
            events += self._speak("output_text", "", [])
        return events + self._close(self.status)

    def _say(self, kind: str, part: str, text: str, logprobs: list[Doc]) -> list[Event]:
        """A piece of a message or of reasoning; a new item unless the last one is of that kind.
        Probabilities without a text belong to half a character of a message, or to reasoning."""
        ours = bool(self._open) and self._open[-1].kind == kind
        if not text and not (logprobs and ours):
            return []
        events: list[Event] = []
        if not ours:
            events = self._close_spoken()
            events += self._begin(Spoken(kind, self._made, self._asking.id))
        return events + self._speak(part, text, logprobs)

    def _speak(self, part: str, text: str, logprobs: list[Doc]) -> list[Event]:
        last = self._open[-1]
        if not isinstance(last, Spoken):
            return []
        events, size = last.say(part, text, logprobs)
        self._size += size
        return events

    def _call(self, call: Doc, number: int) -> list[Event]:
        """A piece of a call. A new one has a new index, under the same index a new id, or a name
        where the engine counts no calls. Calls stay open to the end, since their pieces may be
        mixed with each other's and with text."""
        function, index = function_of(call), call.get("index")
        key = index if isinstance(index, int) else number
        known, events = self._calls.get(key), list[Event]()
        given, name = str(call.get("id") or ""), str(function.get("name") or "")
        other = not isinstance(index, int) or (given and known and known.call_id != given)
        if known is None or (name and other):
            events = self._close_spoken()
            used = given or _call_id(self._asking, self._made)
            tool = self._tools.get(name) or Tool(name)
            kind = CalledFreely if tool.free else Called
            known = kind(self._made, self._asking.id, used, tool)
            self._calls[key] = known
            events += self._begin(known)
        piece = _arguments(function.get("arguments"))
        self._size += len(piece)
        return events + known.add(piece)

    def _begin(self, item: Spoken | Called) -> list[Event]:
        self._open.append(item)
        self._made += 1
        self._size += len(item.id)
        return item.begin()

    def _close_spoken(self) -> list[Event]:
        """Text or reasoning ends where something else begins."""
        events: list[Event] = []
        for item in self._open:
            if isinstance(item, Spoken):
                events += self._end_item(item, "completed")
        self._open = [item for item in self._open if isinstance(item, Called)]
        return events

    def _close(self, status: str) -> list[Event]:
        """All that is open ends. ``status`` is that of the last; those before it are whole."""
        events: list[Event] = []
        for item in self._open:
            its = status if item is self._open[-1] else "completed"
            events += self._end_item(item, its)
        self._open, self._calls = [], {}
        return events

    def _end_item(self, item: Spoken | Called, status: str) -> list[Event]:
        self._done[item.index] = item.whole(status)
        return item.end(status)


def _arguments(given: Any) -> str:
    """Some engines send an object."""
    if isinstance(given, dict):
        return orjson.dumps(given).decode()
    return given if isinstance(given, str) else ""

"""OpenAI's answers, whole or streamed, as Ollama's objects and lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.errors import Refusal
from gateway.core.types import Doc

from .bridge import Asking
from .chunks import Chunks, first_choice, nonsense, until_fault
from .ollama_calls import Calls
from .ollama_timings import Meter, reason, stamp


@dataclass(frozen=True, slots=True)
class Said:
    """One piece of an answer, or all of it: text, reasoning, tool calls as OpenAI has them and
    log probabilities as Ollama has them."""

    content: str = ""
    thinking: str = ""
    calls: Any = None
    logprobs: tuple[Doc, ...] = ()


Source = Callable[[Doc, str], Said]
"""(choice, the member in which a chat's text is: ``delta`` or ``message``) -> what it says."""

Shape = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]
"""(content, thinking, whole tool calls) -> the part of a frame that differs by route."""


# ---- what engines say -----------------------------------------------------------------------


def chat_source(choice: Doc, member: str) -> Said:
    """A choice of a chat. vLLM, LocalAI and Ollama call reasoning ``reasoning``, the others
    ``reasoning_content``; builds in between say both."""
    found = choice.get(member)
    said = found if isinstance(found, dict) else {}
    thinking = _text(said.get("reasoning_content")) or _text(said.get("reasoning"))
    calls, logprobs = said.get("tool_calls"), _logprobs(choice.get("logprobs"))
    return Said(_text(said.get("content")), thinking, calls, logprobs)


def completion_source(choice: Doc, member: str) -> Said:
    """A choice of a completion."""
    return Said(_text(choice.get("text")), logprobs=_logprobs(choice.get("logprobs")))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _logprobs(given: Any) -> tuple[Doc, ...]:
    """Chat's ``{"content": […]}`` (llama-server has it on completions as well) or completions'
    parallel lists, as Ollama's bare list."""
    if not isinstance(given, dict):
        return ()
    content = given.get("content")
    if isinstance(content, list):
        return tuple(_token(entry) for entry in content if isinstance(entry, dict))
    tokens, values = given.get("tokens") or (), given.get("token_logprobs") or ()
    tops = given.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        _plain(token, value, top)
        for token, value, top in zip(tokens, values, tops, strict=False)
        if isinstance(value, int | float)
    )


def _token(entry: Doc) -> Doc:
    found = {name: entry[name] for name in ("token", "logprob", "bytes") if name in entry}
    tops = [top for top in entry.get("top_logprobs") or () if isinstance(top, dict)]
    return {**found, "top_logprobs": [_token(top) for top in tops]} if tops else found


def _plain(token: str, value: float, top: Any) -> Doc:
    found = {"token": token, "logprob": value}
    if not isinstance(top, dict) or not top:
        return found
    return {**found, "top_logprobs": [{"token": t, "logprob": v} for t, v in top.items()]}


# ---- what clients get -----------------------------------------------------------------------


def chat_shape(content: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The message of ``/api/chat``."""
    return {"message": {"role": "assistant", "content": content, **_more(thinking, calls)}}


def generate_shape(content: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The text of ``/api/generate``."""
    return {"response": content, **_more(thinking, calls)}


def _more(thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        **({"thinking": thinking} if thinking else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def reply(doc: Doc, asking: Asking, source: Source, shape: Shape) -> Doc:
    """A whole answer. Raises Refusal when it has no choice, or a call that is no call."""
    choice = first_choice(doc)
    if choice is None:
        raise nonsense("an answer without 'choices'")
    now, meter, calls = asking.clock(), Meter(asking), Calls()
    said, why = source(choice, "message"), reason(choice.get("finish_reason"))
    meter.counts(doc)
    for call in said.calls if isinstance(said.calls, list) else ():
        calls.add([{**call, "index": None}] if isinstance(call, dict) else [])
    return {
        "model": asking.model,
        "created_at": stamp(asking, now),
        **shape(said.content, said.thinking, calls.whole(cut=why == "length")),
        "done": True,
        "done_reason": why,
        **meter.figures(now),
        **({"logprobs": said.logprobs} if said.logprobs else {}),
    }


class Frames:
    """A streamed answer: a line for each piece of text as it comes, one with the tool calls when
    the engine has finished, and the last one with the figures at its ``[DONE]``. A fault in the
    engine's answer is raised by the call after the one in which it came, so that what was whole
    before it is not held back."""

    __slots__ = (
        "_asking",
        "_calls",
        "_chunks",
        "_done",
        "_fault",
        "_meter",
        "_reason",
        "_shape",
        "_source",
    )

    def __init__(self, asking: Asking, source: Source, shape: Shape) -> None:
        self._asking = asking
        self._source = source
        self._shape = shape
        self._chunks = Chunks()
        self._calls = Calls()
        self._meter = Meter(asking)
        self._reason = "stop"
        self._done = False
        self._fault: Refusal | None = None

    def feed(self, data: bytes) -> bytes:
        """Raises Refusal when what came before made no sense."""
        self._check()
        told, self._fault = until_fault(self._frames(self._chunks.feed(data)))
        return told

    def close(self) -> bytes:
        """The last line, unless it has gone with the ``[DONE]``. Raises Refusal like ``feed``."""
        self._check()
        told, fault = until_fault(self._frames(self._chunks.rest()))
        if fault is not None:
            raise fault
        return told if self._done else told + self._last(self._asking.clock())

    def _frames(self, chunks: Iterator[Doc]) -> Iterator[bytes]:
        now = self._asking.clock()
        for chunk in chunks:
            yield from self._told(chunk, now)
        if self._chunks.ended and not self._done:
            yield self._last(now)

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _told(self, chunk: Doc, now: float) -> Iterator[bytes]:
        self._meter.counts(chunk)
        choice = first_choice(chunk)
        if choice is None:
            return
        said = self._source(choice, "delta")
        if said.content or said.thinking or said.calls:
            self._meter.seen(now)
        if said.content or said.thinking or said.logprobs:
            yield self._line(self._shape(said.content, said.thinking, []), said, now)
        self._calls.add(said.calls)
        if choice.get("finish_reason"):
            self._reason = reason(choice["finish_reason"])
            yield self._called(now)

    def _called(self, now: float) -> bytes:
        """The line with the calls; nothing where there are none."""
        calls, self._calls = self._calls, Calls()
        whole = calls.whole(cut=self._reason == "length") if calls else []
        return self._line(self._shape("", "", whole), Said(), now) if whole else b""

    def _line(self, piece: dict[str, Any], said: Said, now: float) -> bytes:
        frame = {
            "model": self._asking.model,
            "created_at": stamp(self._asking, now),
            **piece,
            "done": False,
        }
        if said.logprobs:
            frame["logprobs"] = said.logprobs
        return orjson.dumps(frame) + b"\n"

    def _last(self, now: float) -> bytes:
        called = self._called(now)
        self._done = True
        frame = {
            "model": self._asking.model,
            "created_at": stamp(self._asking, now),
            **self._shape("", "", []),
            "done": True,
            "done_reason": self._reason,
            **self._meter.figures(now),
        }
        return called + orjson.dumps(frame) + b"\n"

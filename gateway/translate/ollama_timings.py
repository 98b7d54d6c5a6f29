"""What Ollama's last frame tells: why an answer ended, its tokens and its durations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway.core.types import Doc

from .bridge import Asking

NANO = 1_000_000_000


def stamp(asking: Asking, now: float) -> str:
    """``created_at`` of a frame: the moment ``now`` (by the asking's clock) as RFC 3339, UTC."""
    at = asking.created + max(now - asking.arrived, 0.0)
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def reason(finish: Any) -> str:
    """Ollama knows two: calls of tools end with ``stop`` as well (sheet: ollama 2.1)."""
    return "length" if finish == "length" else "stop"


class Meter:
    """Looks at the clock while an answer comes and keeps the last counts that the engine gave.
    ``seen`` is called for each piece of generated text, ``counts`` for each object of the
    answer."""

    __slots__ = ("_asking", "_first", "_last", "_timings", "_usage")

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._first: float | None = None
        self._last = 0.0
        self._usage: Doc = {}
        self._timings: Doc = {}

    def seen(self, now: float) -> None:
        if self._first is None:
            self._first = now
        self._last = now

    def counts(self, doc: Doc) -> None:
        for name in ("usage", "timings"):
            found = doc.get(name)
            if isinstance(found, dict):
                setattr(self, f"_{name}", found)

    def figures(self, now: float) -> dict[str, int]:
        """The six metrics in Ollama's order; what is zero or not known is left out, as there.
        llama.cpp's own timings are Ollama's own formula (``llm/llama_server.go``)."""
        asking = self._asking
        found = {
            "total_duration": _nanos(now - asking.arrived),
            "load_duration": _nanos(asking.sent - asking.arrived),
            **(self._told() if "predicted_n" in self._timings else self._measured(now)),
        }
        return {name: value for name, value in found.items() if value > 0}

    def _told(self) -> dict[str, int]:
        times = self._timings
        return {
            "prompt_eval_count": _count(times, "cache_n") + _count(times, "prompt_n"),
            "prompt_eval_duration": _nanos(_number(times, "prompt_ms") / 1000),
            "eval_count": _count(times, "predicted_n"),
            "eval_duration": max(_nanos(_number(times, "predicted_ms") / 1000), 1),
        }

    def _measured(self, now: float) -> dict[str, int]:
        """From sent to the first text is the prompt, from there to the last the answer. An answer
        that came in one piece shows no such border: then all of it is the answer's. Clients
        divide by ``eval_duration``, so that it is never zero."""
        sent, first, last = self._asking.sent, self._first, self._last
        border = first if first is not None and last > first else None
        begun, ended = (sent, now) if border is None else (border, last)
        return {
            "prompt_eval_count": _count(self._usage, "prompt_tokens"),
            "prompt_eval_duration": 0 if border is None else _nanos(border - sent),
            "eval_count": _count(self._usage, "completion_tokens"),
            "eval_duration": max(_nanos(ended - begun), 1),
        }


def _nanos(seconds: float) -> int:
    return max(round(seconds * NANO), 0)


def _number(doc: Doc, name: str) -> float:
    value = doc.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _count(doc: Doc, name: str) -> int:
    return max(int(_number(doc, name)), 0)

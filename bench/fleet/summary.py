"""What became of a load, in figures. All times are engine seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.fleet.model import Prompt, Spec

TPOT_GOAL = 0.05
"""Seconds a token that a request in the SLO takes at most, on average."""

SHORT = 8
"""Answers of so few tokens have no time per token."""


class End(StrEnum):
    """``refused``: 429 or 503. ``lost``: failed though no byte of its answer had been sent.
    ``cut``: failed after its answer had begun."""

    WHOLE = "whole"
    REFUSED = "refused"
    LOST = "lost"
    CUT = "cut"


@dataclass(slots=True)
class Result:
    """One request as its client saw it."""

    prompt: Prompt
    sent: float
    first: float | None = None
    ended: float | None = None
    cached: int = 0
    end: End = End.LOST
    why: str = ""

    @property
    def ttft(self) -> float:
        assert self.first is not None
        return self.first - self.sent

    @property
    def whole(self) -> float:
        """Seconds from the first byte sent to the last received."""
        assert self.ended is not None
        return self.ended - self.sent

    @property
    def tpot(self) -> float | None:
        """Seconds a token after the first."""
        assert self.ended is not None
        if self.prompt.answer <= SHORT:
            return None
        return (self.whole - self.ttft) / (self.prompt.answer - 1)


def ttft_goal(prompt: Prompt, spec: Spec) -> float:
    """One second, and twice what the prompt takes on an idle engine that knows none of it."""
    return 1.0 + 2.0 * spec.cold(prompt.tokens)


def good(result: Result, spec: Spec) -> bool:
    """Whether a request was answered in time."""
    if result.end is not End.WHOLE or result.ttft > ttft_goal(result.prompt, spec):
        return False
    return result.tpot is None or result.tpot <= TPOT_GOAL


def quantile(values: Sequence[float], share: float) -> float | None:
    """Linear between neighbours; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    at = (len(ordered) - 1) * share
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def uneven(values: Sequence[float]) -> float | None:
    """The greatest over the mean: 1 when all engines had the same."""
    average = mean(values)
    return max(values) / average if average else None


def summary(
    results: Iterable[Result],
    begin: float,
    end: float,
    spec: Spec,
    engines: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Figures over the requests sent in the time that counts. Ends are counted over all, so that a
    fault is not missed. ``engines`` are what each counted over the whole run."""
    every = list(results)
    sent = [result for result in every if begin <= result.sent <= end]
    whole = [result for result in sent if result.end is End.WHOLE]
    ends = Counter(result.end for result in every)
    tokens = sum(result.prompt.tokens for result in whole)
    return {
        "requests": len(sent),
        "ttft": spread([result.ttft for result in whole]),
        "tpot": spread([result.tpot for result in whole if result.tpot is not None]),
        "e2e": spread([result.whole for result in whole]),
        "good": mean([float(good(result, spec)) for result in sent]),
        "cached": sum(result.cached for result in whole) / tokens if tokens else None,
        "imbalance": uneven([float(engine["prefilled"]) for engine in engines]),
        "per_engine": [engine["finished"] for engine in engines],
        "all": len(every),
        **{kind.value: ends[kind] for kind in End if kind is not End.WHOLE},
        "why": dict(Counter(result.why for result in every if result.why).most_common(8)),
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return {
        "mean": mean(values),
        **{name: quantile(values, share) for name, share in shares.items()},
    }

"""Why a request went where it went: what is kept of it, and the story told from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.capacity import limit, on_trial
from gateway.core.catalog import Place
from gateway.core.cost import costs as costs_of
from gateway.core.fit import unfit
from gateway.core.plan import Plan, cold
from gateway.core.types import ROUTABLE, Call, Circuit, Op, Outcome, Tried, Wire


@dataclass(slots=True)
class Story(Outcome):
    """An outcome with references to what the request met, none of them made for this. ``seen`` are
    the places of its name, ``plan`` is None when no place could take it; ``arrived`` is monotonic
    seconds; ``said`` is what a refusal said."""

    seen: Sequence[Place] = ()
    plan: Plan | None = None
    tries: Sequence[Tried] = ()
    arrived: float = 0.0
    said: str = ""


def explain(story: Story) -> dict[str, Any]:
    """The story as a document, times in milliseconds since the request arrived."""
    ranked = story.plan.scores if story.plan else ()
    costs = _costs(story.plan) if story.plan else {}
    return {
        "request_id": story.id,
        "at": story.at,
        "surface": story.surface,
        "model": story.model,
        "key": story.key,
        "policy": story.plan.policy if story.plan else "",
        "candidates": [_candidate(score, place, costs.get(_key(place))) for score, place in ranked],
        "skipped": _skipped(story),
        "attempts": [_attempt(tried, story.arrived) for tried in story.tries],
        "outcome": {
            "status": story.status,
            "backend": story.backend,
            "refusal": story.refusal,
            "message": story.said,
            "cut_by": story.cut_by,
            "first_byte_ms": _ms(story.first_byte),
            "duration_ms": _ms(story.duration),
        },
    }


def _costs(plan: Plan) -> dict[tuple[str, str], dict[str, Any]]:
    """What each place would have cost, of those that a policy asked about: the terms of
    ``core/cost.py``, in milliseconds, and the tokens that they are made from."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for brief in plan.briefs:
        for place, known, terms in zip(brief.places, brief.known, costs_of(brief), strict=True):
            found[_key(place)] = {
                "cost_ms": {name: _ms(value) for name, value in terms._asdict().items()},
                "prompt_tokens": round(brief.tokens),
                "cached_tokens": round(known.cached),
            }
    return found


def _candidate(
    score: float | None, place: Place, costs: Mapping[str, Any] | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"backend": place.backend.name, "model": place.asked, "score": score}
    found.update(costs or {})
    if cold(place):
        found["note"] = "its engine would have to load the model first"
    if on_trial(place):
        found["note"] = "half open: one request at a time"
    return found


def _skipped(story: Story) -> list[dict[str, Any]]:
    ranked = {_key(place) for _, place in story.plan.scores} if story.plan else set()
    call = Call("", Wire(story.wire), Op(story.surface), "")
    left = {_key(place): place for place in story.seen if _key(place) not in ranked}
    return [
        {"backend": place.backend.name, "model": place.asked, "why": _why(call, place)}
        for place in left.values()
    ]


def _key(place: Place) -> tuple[str, str]:
    return place.backend.name, place.asked


def _why(call: Call, place: Place) -> str:
    """What kept a place out when the plan was made."""
    sight = place.sight
    if (reason := unfit(call, place)) is not None:
        return f"unfit: {reason}"
    if sight.health not in ROUTABLE:
        return f"{sight.health.value}: {sight.detail}"
    if sight.circuit is Circuit.OPEN:
        return "circuit open: requests failed there, and its cool-down was not over"
    if on_trial(place):
        return "half open: its one trial was under way"
    return f"full: it had {limit(place)} requests, its limit"


def _attempt(tried: Tried, arrived: float) -> dict[str, Any]:
    return {
        "backend": tried.backend,
        "model": tried.asked,
        "began_ms": _ms(tried.began - arrived),
        "took_ms": _ms(tried.ended - tried.began),
        "end": tried.end,
        "reason": tried.reason,
        "detail": tried.text,
        "status": tried.status,
        "trial": tried.trial,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)

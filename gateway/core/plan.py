"""From a call and the fleet to the order in which backends are tried: resolve, fit, rank.

What does not change from call to call is a Route, made once; a Plan is made from it each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from gateway.core.catalog import Catalog, Entry, Place, resolve
from gateway.core.errors import Refusal
from gateway.core.fit import unfit, unsupported
from gateway.core.types import ROUTABLE, Call, Caller, Circuit, Health

LONGEST_PLAN = 4
"""How many backends one request may be tried on: more would multiply an outage's load."""


@dataclass(frozen=True, slots=True)
class View:
    """What a policy sees. ``places`` are the candidates; ``turn`` counts requests, ``dice`` is
    uniform in [0, 1); ``busy`` holds our own requests in flight by backend."""

    call: Call
    places: Sequence[Place]
    busy: Mapping[str, int]
    turn: int
    dice: float

    def resident(self, place: Place) -> bool:
        """Whether the model is in the engine's memory, as far as that is told."""
        return not cold(place)

    def in_flight(self, place: Place) -> int:
        return self.busy.get(place.backend.name, 0)


Policy = Callable[[View], list[float]]
"""One score a place, lowest first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to try, in order. ``label`` is the model's name for metrics. ``scores`` are
    the places that were ranked, in their order, with what ``policy`` gave each (None where there
    was no choice): kept for an explanation."""

    label: str
    places: tuple[Place, ...]
    scores: tuple[tuple[float | None, Place], ...] = ()
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """One name's part of a route: its places that have the surface and whose backend is up,
    whether any of them has a limit, the policy that ranks them, and whether any of them would
    have to load the model first."""

    places: tuple[Place, ...]
    limited: bool
    policy: str | None
    cold: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """All that can be known of a call's way before its turn: it depends on the fleet, the name,
    the surface and the caller alone, and so serves every like call until the fleet changes.
    ``refuse(busy, now)`` makes the answer when no place is left; ``seen`` are all places."""

    label: str
    groups: tuple[Group, ...]
    refuse: Callable[[Mapping[str, int], float], Refusal]
    seen: tuple[Place, ...] = ()


def route(call: Call, caller: Caller, catalog: Catalog) -> Route:
    """Where the call may go; fallback models come after all of the model's own. Raises Refusal:
    ``model_not_found``, ``not_found``, ``forbidden``."""
    entry = _resolved(call, caller, catalog)
    entries = _groups(entry, call, catalog)

    asked = replace(call, body=b"", doc={})

    def refuse(busy: Mapping[str, int], now: float) -> Refusal:
        refusal = _refusal(asked, entry, busy, now)
        refusal.label = entry.label
        return refusal

    groups = (_group(call, found) for found in entries)
    seen = tuple(place for found in entries for place in found.places)
    return Route(entry.label, tuple(group for group in groups if group.places), refuse, seen)


def _group(call: Call, entry: Entry) -> Group:
    places = tuple(
        place for place in entry.places if _open_to_requests(place) and unfit(call, place) is None
    )
    limited = any(limit(place) is not None or on_trial(place) for place in places)
    return Group(places, limited, entry.policy, any(map(cold, places)))


def plan(
    call: Call,
    way: Route,
    *,
    policies: Mapping[str, Policy],
    policy: str,
    busy: Mapping[str, int],
    turn: int,
    dice: float,
) -> Plan:
    """The places that can take the call now, best first. Raises Refusal: ``unsupported``,
    ``overloaded``."""
    ranked: list[tuple[float | None, Place]] = []
    for group in way.groups:
        places: Sequence[Place] = group.places
        if group.limited:
            places = [place for place in places if not full(place, busy)]
        if len(places) > 1:
            scores = policies[group.policy or policy](View(call, places, busy, turn, dice))
            pairs = sorted(zip(scores, places, strict=True), key=_score)
            ranked += _warm_first(pairs) if group.cold else pairs
        else:
            ranked += [(None, place) for place in places]
    if not ranked:
        raise way.refuse(busy, call.arrived)
    order = [place for _, place in ranked]
    if len(way.groups) > 1:
        order = _once(order)
    used = way.groups[0].policy or policy
    return Plan(way.label, tuple(order[:LONGEST_PLAN]), tuple(ranked), used)


def _score(pair: tuple[float, Place]) -> float:
    return pair[0]


def _warm_first(pairs: list[tuple[float, Place]]) -> list[tuple[float, Place]]:
    """Engines that have the model in memory go first: a load takes longer than most queues."""
    return sorted(pairs, key=lambda pair: cold(pair[1]))


def _once(places: Sequence[Place]) -> list[Place]:
    """Each (backend, model) once, at its best rank."""
    return list({(place.backend.name, place.asked): place for place in reversed(places)}.values())[
        ::-1
    ]


def _resolved(call: Call, caller: Caller, catalog: Catalog) -> Entry:
    if call.model:
        return resolve(catalog, call.model, call.pinned, caller)
    return _any(call, catalog)


def _any(call: Call, catalog: Catalog) -> Entry:
    """For calls that name no model (Ollama's lists, tokenizers): one place a backend."""
    if call.pinned and call.pinned not in catalog.by_backend:
        resolve(catalog, "auto", call.pinned, Caller())
    places = [
        group[0]
        for name, group in catalog.by_backend.items()
        if group and call.pinned in ("", name)
    ]
    return Entry("auto", tuple(places), ())


def _groups(entry: Entry, call: Call, catalog: Catalog) -> list[Entry]:
    """The entry and, behind it, its fallbacks and theirs, each once. Whoever may use a public
    name may also be served by its fallbacks: the operator wrote them there."""
    groups, seen, queue = [entry], {call.model}, list(entry.fallbacks)
    while queue and not call.pinned:
        name = queue.pop(0)
        if name in seen:
            continue
        seen.add(name)
        try:
            group = resolve(catalog, name, "", Caller())
        except Refusal:
            continue
        groups.append(group)
        queue += group.fallbacks
    return groups


def _refusal(call: Call, entry: Entry, busy: Mapping[str, int], now: float) -> Refusal:
    """``unsupported`` when no place of the entry has the surface, ``overloaded`` when those that
    have it are away or full."""
    fitting = [place for place in entry.places if unfit(call, place) is None]
    known = [place for place in entry.places if place.model is not None or not call.model]
    if known and not fitting:
        return unsupported(call, known)
    return _overloaded(call.model[:100], fitting or list(entry.places), busy, now)


def takes(place: Place, busy: Mapping[str, int]) -> bool:
    """Whether the place's backend is up and under its limit."""
    return _open_to_requests(place) and not full(place, busy)


def _open_to_requests(place: Place) -> bool:
    return place.sight.health in ROUTABLE and place.sight.circuit is not Circuit.OPEN


def on_trial(place: Place) -> bool:
    """Whether the place's backend is half open, and so gets one request at a time."""
    return place.sight.circuit is Circuit.HALF_OPEN


def trial_of(backend: str) -> str:
    """The name under which a backend's trial is counted, beside what is still in flight there
    from before. No backend's name has such a letter."""
    return backend + "\0trial"


def cold(place: Place) -> bool:
    """Whether the engine says that it would have to load the model first."""
    return place.model is not None and place.model.loaded is False


def limit(place: Place) -> int | None:
    """How many requests the backend may have at once: configured, or the runtime's nature."""
    return place.backend.max_concurrency or place.runtime.slots


def full(place: Place, busy: Mapping[str, int]) -> bool:
    if on_trial(place) and busy.get(trial_of(place.backend.name), 0):
        return True
    most = limit(place)
    return most is not None and busy.get(place.backend.name, 0) >= most


def _overloaded(name: str, places: Sequence[Place], busy: Mapping[str, int], now: float) -> Refusal:
    """Says of each backend of the model why it cannot take the request."""
    if not places:
        return Refusal(
            "overloaded",
            f"No backend of '{name}' is known yet. It may still be starting; try again soon,"
            " and see 'portico doctor' if it stays so.",
        )
    reasons = {place.backend.name: state(place, busy, now) for place in places}
    told = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
    return Refusal(
        "overloaded",
        f"No backend of '{name}' can take a request now: {told}. Try again after the time in"
        " Retry-After.",
        retry_after=_retry_after(places, now),
    )


def _retry_after(places: Sequence[Place], now: float) -> float:
    """Seconds until one of the places may take a request again."""
    up = [place.sight for place in places if place.sight.health in ROUTABLE]
    if up and all(sight.circuit is Circuit.OPEN for sight in up):
        return max(ceil(min(sight.until for sight in up) - now), 1)
    return 5 if any(place.sight.health is Health.LOADING for place in places) else 2


def state(place: Place, busy: Mapping[str, int], now: float) -> str:
    """Why the place does not take a request, as the end of a sentence about its backend."""
    sight = place.sight
    if sight.health not in ROUTABLE:
        return f"is {sight.health.value}" + (f" ({sight.detail})" if sight.detail else "")
    if sight.circuit is Circuit.OPEN:
        left = max(sight.until - now, 0.0)
        return f"is in cool-down until {left:.1f} s from now, since requests failed there"
    if on_trial(place) and busy.get(trial_of(place.backend.name), 0):
        return "is on trial after failures, one request at a time"
    return f"is full ({busy.get(place.backend.name, 0)} of {limit(place)} requests)"

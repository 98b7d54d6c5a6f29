"""From a call and the fleet to the order in which backends are tried: resolve, fit, rank.

What does not change from call to call is a Route, made once; a Plan is made from it each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import ceil
from typing import NamedTuple, Protocol

from gateway.core.capacity import limit, on_trial, room, trial_of
from gateway.core.catalog import Catalog, Entry, Place, resolve
from gateway.core.cost import Brief, Known
from gateway.core.errors import Refusal
from gateway.core.fit import NO_DETOURS, Detour, Detours, detours, fits, unfit, unsupported
from gateway.core.prompt import NO_PROMPT
from gateway.core.types import ROUTABLE, Call, Caller, Circuit, Health

LONGEST_PLAN = 4
"""How many backends one request may be tried on: more would multiply an outage's load."""


class Lore(Protocol):
    """What is known beyond the fleet: caches, queues, speeds."""

    def brief(self, call: Call, places: Sequence[Place], now: float) -> Brief: ...


class NoLore:
    """For those who plan without a memory: nothing is known of anybody."""

    def brief(self, call: Call, places: Sequence[Place], now: float) -> Brief:
        return Brief(NO_PROMPT, 0.0, 0.0, places, [Known()] * len(places))


NO_LORE = NoLore()


@dataclass(slots=True)
class View:
    """What a policy sees. ``places`` are the candidates; ``turn`` counts requests, ``dice`` is
    uniform in [0, 1); ``busy`` holds our own requests in flight by backend; ``now`` is monotonic
    seconds; ``shares`` are the sums of the places' weights up to each of them. The one change ever
    made to a View is that ``brief`` is kept once it was made."""

    call: Call
    places: Sequence[Place]
    busy: Mapping[str, int]
    turn: int
    dice: float
    lore: Lore = NO_LORE
    now: float = 0.0
    shares: Sequence[float] = ()
    made: Brief | None = None

    def resident(self, place: Place) -> bool:
        """Whether the model is in the engine's memory, as far as that is told."""
        return not cold(place)

    def in_flight(self, place: Place) -> int:
        return self.busy.get(place.backend.name, 0)

    def brief(self) -> Brief:
        """What is known of the places for this call. It costs most of a decision, so that only
        policies that ask for it pay."""
        if self.made is None:
            self.made = self.lore.brief(self.call, self.places, self.now)
        return self.made


Policy = Callable[[View], list[float]]
"""One score a place, lowest first."""


@dataclass(frozen=True, slots=True)
class Means:
    """What plans are made with, the same for every call: the policies by name and the name of the
    one that serves where a model has none of its own, the requests in flight, and the lore."""

    policies: Mapping[str, Policy]
    policy: str
    busy: Mapping[str, int]
    lore: Lore = NO_LORE


class Ranking(NamedTuple):
    """Places and what a policy gave each of them, None where there was no choice; ``cold`` as in
    Group."""

    places: Sequence[Place]
    scores: Sequence[float] | None = None
    cold: bool = False

    def first(self) -> Place:
        """The best place."""
        if self.scores is None:
            return self.places[0]
        if self.cold:
            return self.places[self.order()[0]]
        return self.places[self.scores.index(min(self.scores))]

    def order(self) -> Sequence[int]:
        """The numbers of the places, best first. Engines that have the model in memory go before
        the others: a load takes longer than most queues."""
        if self.scores is None:
            return (0,)
        order = sorted(range(len(self.scores)), key=self.scores.__getitem__)
        if self.cold:
            order.sort(key=[cold(place) for place in self.places].__getitem__)
        return order

    def pairs(self) -> list[tuple[float | None, Place]]:
        """(score, place), best first."""
        scores = self.scores or (None,)
        return [(scores[index], self.places[index]) for index in self.order()]


Ways = Mapping[tuple[str, str], tuple[Detour, ...]]
"""(backend, model there) -> how the call can be said to it. Places that have the surface themselves
are not in it."""


@dataclass(slots=True)
class Plan:
    """Where to try. ``label`` is the model's name for metrics. ``rankings`` are all
    places that were ranked by ``policy``, one ranking for each name of the route; ``briefs`` are
    what the policies had asked for, one of each name of the route that was ranked by such a policy;
    ``ways`` are the route's. ``first`` is the best place; most requests need no other, so that
    the rest is put in order when somebody asks for it."""

    label: str
    first: Place
    rankings: tuple[Ranking, ...]
    policy: str = ""
    briefs: tuple[Brief, ...] = ()
    ways: Ways = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """Where to try, best first."""
        return [place for _, place in _once(self.rankings)[:LONGEST_PLAN]]

    @property
    def scores(self) -> list[tuple[float | None, Place]]:
        """All places that were ranked, each (backend, model) once, best first."""
        return _once(self.rankings)

    def brief_of(self, place: Place) -> Brief | None:
        """What was known of a place, None when no policy had asked."""
        for brief in self.briefs:
            if any(other is place for other in brief.places):
                return brief
        return None

    def without_prompts(self) -> Plan:
        """The plan as it may be kept for long: hashes of prompts are large, and secret."""
        return replace(self, briefs=tuple(b._replace(prompt=NO_PROMPT) for b in self.briefs))


@dataclass(frozen=True, slots=True)
class Group:
    """One name's part of a route: its places that can serve the surface and whose backend is up,
    whether any of them may be full (it has a limit, or its circuit is not closed), the policy that
    ranks them, whether any of them would have to load the model first, and ``shares`` as in
    View."""

    places: tuple[Place, ...]
    limited: bool
    policy: str | None
    cold: bool = False
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """All that can be known of a call's way before its turn: it depends on the fleet, the name,
    the surface and the caller alone, and so serves every like call until the fleet changes.
    ``refuse(busy, now)`` makes the answer when no place is left; ``seen`` are all places; ``ways``
    are the translations for the places that need one."""

    label: str
    groups: tuple[Group, ...]
    refuse: Callable[[Mapping[str, int], float], Refusal]
    seen: tuple[Place, ...] = ()
    ways: Ways = field(default_factory=dict)

    def opens(self, now: float) -> float | None:
        """In how many seconds, as far as circuits go, one of the places can be had: 0 where one is
        only full, None where there is none to wait for."""
        sights = [place.sight for group in self.groups for place in group.places]
        waits = [sight.until - now if sight.circuit is Circuit.OPEN else 0.0 for sight in sights]
        return max(min(waits), 0.0) if waits else None


def route(call: Call, caller: Caller, catalog: Catalog, table: Detours = NO_DETOURS) -> Route:
    """Where the call may go; fallback models come after all of the model's own. ``table`` holds the
    translations that there are. Raises Refusal: ``model_not_found``, ``not_found``,
    ``forbidden``."""
    entry = _resolved(call, caller, catalog)
    entries = _groups(entry, call, catalog)

    # What is kept with the route must not hold a request's body.
    asked = replace(call, body=b"", doc={})

    def refuse(busy: Mapping[str, int], now: float) -> Refusal:
        refusal = _refusal(asked, entry, busy, now, table)
        refusal.label = entry.label
        refusal.opens = way.opens(now)
        return refusal

    groups = [group for group in (_group(call, found, table) for found in entries) if group.places]
    ways = {
        (place.backend.name, place.asked): detours(call, place, table)
        for group in groups
        for place in group.places
        if unfit(call, place) is not None
    }
    seen = tuple(place for found in entries for place in found.places)
    way = Route(entry.label, tuple(groups), refuse, seen, ways)
    return way


def _group(call: Call, entry: Entry, table: Detours) -> Group:
    places = tuple(
        place
        for place in entry.places
        if place.sight.health in ROUTABLE and fits(call, place, table)
    )
    limited = any(
        limit(place) is not None or place.sight.circuit is not Circuit.CLOSED for place in places
    )
    shares = tuple(accumulate(place.weight for place in places))
    return Group(places, limited, entry.policy, any(map(cold, places)), shares)


def plan(call: Call, way: Route, means: Means, *, turn: int, dice: float, now: float = 0.0) -> Plan:
    """The places that can take the call now, best first. Raises Refusal: ``unsupported``,
    ``overloaded``."""
    busy, rankings, briefs = means.busy, [], []
    for group in way.groups:
        places: Sequence[Place] = group.places
        shares = group.shares
        if group.limited:
            places = [place for place in places if not full(place, busy)]
            shares = shares if len(places) == len(shares) else ()
        if len(places) > 1:
            view = View(call, places, busy, turn, dice, means.lore, now, shares)
            scores = means.policies[group.policy or means.policy](view)
            rankings.append(Ranking(places, scores, group.cold))
            if view.made is not None:
                briefs.append(view.made)
        elif places:
            rankings.append(Ranking(places))
    if not rankings:
        raise way.refuse(busy, now)
    used = way.groups[0].policy or means.policy
    first = rankings[0].first()
    return Plan(way.label, first, tuple(rankings), used, tuple(briefs), way.ways)


def favourite(
    call: Call, way: Route, means: Means, *, turn: int, dice: float, now: float = 0.0
) -> str:
    """The backend that the policy would give the call to if none were full. The way has to have
    a group. Backends whose circuit is open are no favourites, unless all are."""
    group = way.groups[0]
    places = [place for place in group.places if place.sight.circuit is not Circuit.OPEN]
    places = places or list(group.places)
    view = View(call, places, means.busy, turn, dice, means.lore, now)
    scores = means.policies[group.policy or means.policy](view)
    return places[min(range(len(scores)), key=scores.__getitem__)].backend.name


def _once(rankings: Sequence[Ranking]) -> list[tuple[float | None, Place]]:
    """Each (backend, model) once, at its best rank."""
    found = [pair for ranking in rankings for pair in ranking.pairs()]
    first = {(pair[1].backend.name, pair[1].asked): pair for pair in reversed(found)}
    return list(first.values())[::-1]


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


def _refusal(
    call: Call, entry: Entry, busy: Mapping[str, int], now: float, table: Detours
) -> Refusal:
    """``unsupported`` when no place of the entry can serve the surface, ``overloaded`` when those
    that can are away or full."""
    fitting = [place for place in entry.places if fits(call, place, table)]
    known = [place for place in entry.places if place.model is not None or not call.model]
    if known and not fitting:
        return unsupported(call, known)
    return _overloaded(call.model[:100], fitting or list(entry.places), busy, now)


def takes(place: Place, busy: Mapping[str, int]) -> bool:
    """Whether the place's backend is up and takes one more request."""
    return place.sight.health in ROUTABLE and not full(place, busy)


def full(place: Place, busy: Mapping[str, int]) -> bool:
    return room(place, busy) == 0


def cold(place: Place) -> bool:
    """Whether the engine says that it would have to load the model first."""
    return place.model is not None and place.model.loaded is False


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

"""Which names exist and where each leads: built anew when the fleet changes, then only read."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from gateway.core.errors import Refusal
from gateway.core.headers import Envelope, Verdicts, envelopes
from gateway.core.keys import may_use
from gateway.core.runtime import Runtime
from gateway.core.types import ROUTABLE, Backend, Caller, Doc, Fleet, Model, PublicModel, Sight

AUTO = "auto"

NO_ENVELOPE = Envelope(Verdicts(frozenset(), ()), b"", ())


@dataclass(frozen=True, slots=True)
class Place:
    """One model on one backend: where a request can go. ``model`` None: the backend is known but
    what it serves is not (it was never seen up), so ``asked`` is the name it would be asked for.
    ``sent`` is its envelope; where it has several keys, ``keyed`` are those of each."""

    backend: Backend
    sight: Sight
    runtime: Runtime
    model: Model | None
    asked: str
    weight: float = 1.0
    sent: Envelope = field(default=NO_ENVELOPE, repr=False)
    keyed: tuple[Envelope, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one name means. ``label`` is the bounded name for metrics; ``grants`` are the names
    under which a key may be allowed to use it."""

    label: str
    places: tuple[Place, ...]
    grants: tuple[str, ...]
    fallbacks: tuple[str, ...] = ()
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """All names of one moment. ``by_backend`` holds every place, ``entries`` every name that is
    not a prefix form; ``listed`` are the documents of ``GET /v1/models``."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    by_backend: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)
    runtimes: frozenset[str] = frozenset()
    listed: Mapping[str, Doc] = field(default_factory=dict)


Rows = Callable[[str, str], Runtime | None]
"""(runtime name, variant) -> row."""


def build(fleet: Fleet, public: Iterable[PublicModel], rows: Rows) -> Catalog:
    """The catalog of a fleet. A backend that is down keeps the names it had, so that its models
    are refused with 503 and not with 404."""
    by_backend = {
        name: _places(backend, fleet.sights.get(name, Sight()), rows)
        for name, backend in fleet.backends.items()
    }
    entries = _own_entries(by_backend)
    for model in public:
        entries[model.name] = _public_entry(model, by_backend)
    return Catalog(
        entries=entries,
        by_backend=by_backend,
        runtimes=frozenset(sight.runtime for sight in fleet.sights.values() if sight.runtime),
        listed=_listed(entries, by_backend, {model.name for model in public}),
    )


def _places(backend: Backend, sight: Sight, rows: Rows) -> tuple[Place, ...]:
    runtime = rows(sight.runtime or backend.runtime, sight.variant)
    if runtime is None:
        return ()
    models, sent = _allowed(backend, sight), envelopes(backend, runtime)
    by_key = sent if len(sent) > 1 else ()
    weight = backend.weight * sight.gpu_factor
    if not models:
        return (Place(backend, sight, runtime, None, "", weight, sent[0], by_key),)
    return tuple(
        Place(backend, sight, runtime, m, runtime.upstream_model(m, sight), weight, sent[0], by_key)
        for m in models
    )


def _allowed(backend: Backend, sight: Sight) -> tuple[Model, ...]:
    """What the backend lists, cut down to the configured ids. A configured id that the engine
    does not list is taken on trust (TGI's adapters are listed nowhere, sheet tgi 4)."""
    if not backend.models:
        return sight.models
    known = {name: model for model in sight.models for name in (model.id, *model.aliases)}
    return tuple(known.get(name) or Model(name) for name in backend.models)


def _names(place: Place) -> tuple[str, ...]:
    return (place.model.id, *place.model.aliases) if place.model else ()


def _own_entries(by_backend: Mapping[str, tuple[Place, ...]]) -> dict[str, Entry]:
    """Every id and alias of every backend. A name that is somebody's id leads only to places with
    that id or alias; the label is the id, so that aliases make no series of their own."""
    found: dict[str, list[Place]] = {}
    for places in by_backend.values():
        for place in places:
            for name in dict.fromkeys(_names(place)):
                found.setdefault(name, []).append(place)
    return {
        name: Entry(_label(name, places), tuple(places), (name, *_ids(places)))
        for name, places in found.items()
    }


def _ids(places: Iterable[Place]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p.model.id for p in places if p.model))


def _label(name: str, places: Iterable[Place]) -> str:
    ids = _ids(places)
    return name if name in ids else ids[0]


def _public_entry(model: PublicModel, by_backend: Mapping[str, tuple[Place, ...]]) -> Entry:
    found = (
        (_target_place(model.name, target.model, by_backend.get(target.backend, ())), target)
        for target in model.targets
    )
    places = [replace(p, weight=p.weight * target.weight) for p, target in found if p]
    return Entry(model.name, tuple(places), (model.name,), model.fallbacks, model.policy)


def _target_place(public: str, wanted: str | None, places: tuple[Place, ...]) -> Place | None:
    """The place a target means: its named model, else the backend's model of the public name,
    else the backend's first. A named model that the backend does not list (yet) is kept as a
    place without a model, so that the name is refused with 503 while the backend is away."""
    if not places:
        return None
    for name in (wanted,) if wanted else (public,):
        for place in places:
            if name in _names(place):
                return place
    first = places[0]
    if wanted is None:
        return first
    return replace(first, model=None, asked=wanted)


def _listed(
    entries: Mapping[str, Entry],
    by_backend: Mapping[str, tuple[Place, ...]],
    public: set[str],
) -> dict[str, Doc]:
    """One document a name: the backend's own fields, completed by what typed clients need."""
    shown: dict[str, Doc] = {}
    for name in public:
        entry = entries[name]
        base = next((p.model.entry for p in entry.places if p.model), {})
        shown[name] = {**_complete(name, base), "id": name, "owned_by": "portico"}
    for places in by_backend.values():
        for place in places:
            if place.model and place.model.id not in shown:
                shown[place.model.id] = _complete(place.model.id, place.model.entry)
    return shown


def _complete(name: str, entry: Doc) -> Doc:
    created = entry.get("created")
    return {
        **entry,
        "id": name,
        "object": "model",
        "created": created if isinstance(created, int) else 0,
        "owned_by": entry.get("owned_by") or "portico",
    }


def servable(catalog: Catalog, name: str, up: Callable[[Place], bool]) -> bool:
    """Whether a listed name can be served now."""
    entry = catalog.entries.get(name)
    return entry is not None and any(place.model and up(place) for place in entry.places)


def offered(catalog: Catalog, caller: Caller) -> dict[str, Doc]:
    """The listed models that can be served now and that the caller may use."""
    return {
        name: doc
        for name, doc in catalog.listed.items()
        if may_use(caller, name, *catalog.entries[name].grants) and servable(catalog, name, _is_up)
    }


def _is_up(place: Place) -> bool:
    return place.sight.health in ROUTABLE


def narrowed(catalog: Catalog, backend: str) -> Catalog:
    """The same with only the places of one backend. Raises Refusal ``not_found`` when there is
    none of that name."""
    if backend not in catalog.by_backend:
        raise Refusal("not_found", _no_backend(backend, catalog), param="X-Portico-Backend")
    entries = {
        name: replace(
            entry, places=tuple(p for p in entry.places if p.backend.name == backend), fallbacks=()
        )
        for name, entry in catalog.entries.items()
    }
    return replace(catalog, entries=entries)


def knows(catalog: Catalog, name: str) -> bool:
    """Whether the name means something as it is written."""
    return name in catalog.entries or name == AUTO or _prefixed(catalog, name) is not None


def resolve(catalog: Catalog, name: str, pinned: str, caller: Caller) -> Entry:
    """What ``name`` means to ``caller``, on the pinned backend if one is given. An id is matched
    whole first, since ids may hold colons; then ``BACKEND:ID``, ``RUNTIME:ID`` and ``auto``.

    Raises Refusal ``model_not_found``, ``not_found`` (unknown pin) or ``forbidden``."""
    if pinned and pinned not in catalog.by_backend:
        raise Refusal("not_found", _no_backend(pinned, catalog), param="X-Portico-Backend")
    entry = (
        catalog.entries.get(name)
        or (_auto(catalog, caller) if name == AUTO else None)
        or _prefixed(catalog, name)
    )
    if entry is None and catalog.by_backend and not catalog.entries:
        raise _nothing_seen(catalog)
    if entry is None:
        raise Refusal("model_not_found", _unknown(name, catalog, caller), param="model")
    if name != AUTO and not may_use(caller, name, *entry.grants):
        raise Refusal(
            "forbidden",
            f"The key '{caller.name}' may not use the model '{name}'. Its models are:"
            f" {', '.join(caller.models) or 'none'}. Whoever runs this gateway can change that.",
            param="model",
        )
    return _pin(entry, name, pinned) if pinned else entry


def _pin(entry: Entry, name: str, pinned: str) -> Entry:
    places = tuple(p for p in entry.places if p.backend.name == pinned)
    if not places:
        raise Refusal(
            "model_not_found",
            f"The backend '{pinned}', named in X-Portico-Backend, does not serve '{name}'."
            " Leave the header out, or ask for a model of that backend.",
            param="model",
        )
    return Entry(entry.label, places, entry.grants, (), entry.policy)


def _auto(catalog: Catalog, caller: Caller) -> Entry:
    """Every model the caller may use; resident ones first."""
    places = [
        place
        for places in catalog.by_backend.values()
        for place in places
        if place.model and may_use(caller, *_names(place))
    ]
    places.sort(key=lambda place: place.model is not None and place.model.loaded is False)
    return Entry(AUTO, tuple(places), (AUTO,))


def _prefixed(catalog: Catalog, name: str) -> Entry | None:
    prefix, colon, rest = name.partition(":")
    if not colon or not rest:
        return None
    if prefix in catalog.by_backend:
        places: Iterable[Place] = catalog.by_backend[prefix]
    elif prefix in catalog.runtimes:
        places = [
            p for group in catalog.by_backend.values() for p in group if p.runtime.name == prefix
        ]
    else:
        return None
    found = [p for p in places if rest in _names(p)]
    if not found:
        # A backend that was never seen up may well serve it: that is 503, not 404.
        found = [replace(p, asked=rest) for p in places if p.model is None]
    if not found:
        return None
    label = _label(rest, found) if found[0].model else "unknown"
    return Entry(label, tuple(found), (rest, *_ids(found)))


def _visible(catalog: Catalog, caller: Caller) -> list[str]:
    return [name for name, entry in catalog.entries.items() if may_use(caller, name, *entry.grants)]


def near(name: str, names: Iterable[str]) -> list[str]:
    """Up to three names that the given one may have been meant as, best first."""
    folded = {known.casefold(): known for known in names}
    wanted = name.casefold()[:200]
    inside = [known for low, known in folded.items() if len(wanted) > 2 and wanted in low]
    close = [folded[low] for low in difflib.get_close_matches(wanted, folded, 3, 0.5)]
    return list(dict.fromkeys([*inside, *close]))[:3]


def _nothing_seen(catalog: Catalog) -> Refusal:
    """While no backend at all has told its models, nobody can say that a model is not there."""
    return Refusal(
        "overloaded",
        "No backend has told its models yet: none of"
        f" {', '.join(list(catalog.by_backend)[:8])} could be reached so far. Try again after the"
        " time in Retry-After; 'portico doctor' tells the operator why.",
    )


def _unknown(name: str, catalog: Catalog, caller: Caller) -> str:
    shown = name if len(name) <= 100 else name[:100] + "…"
    names = _visible(catalog, caller)
    if not names:
        return f"No backend serves '{shown}': no model is known here yet. Ask GET /v1/models again."
    matches = near(name, names)
    if matches:
        return f"No backend serves '{shown}'. Did you mean {' or '.join(map(repr, matches))}?"
    return f"No backend serves '{shown}'. GET /v1/models lists what can be asked for."


def _no_backend(name: str, catalog: Catalog) -> str:
    shown = name if len(name) <= 100 else name[:100] + "…"
    matches = near(name, catalog.by_backend)
    hint = f" Did you mean {' or '.join(map(repr, matches))}?" if matches else ""
    return f"There is no backend '{shown}', which X-Portico-Backend names.{hint}"

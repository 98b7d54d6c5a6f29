"""What only shows when entries are held against each other: names, targets, circles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from .addresses import name_for, split_runtime
from .faults import Faults
from .model import BackendDoc, ModelDoc

Names = tuple[str | None, ...]


def backend_names(docs: Sequence[BackendDoc | None], raw: Any, faults: Faults) -> Names:
    """A unique name for each backend: its own, or one made from its address. A faulty backend
    keeps the name it was given, or has None. Names given twice are faults."""
    given = [_given(doc, raw[i]) for i, doc in enumerate(docs)]
    taken: dict[str, int] = {}
    for i, name in enumerate(given):
        if name is not None and taken.setdefault(name, i) != i:
            faults.add(("backends", i, "name"), f"is the name of backends[{taken[name]}] as well")
    used = set(taken)
    return tuple(
        _derived(doc, used) if name is None and doc is not None else name
        for name, doc in zip(given, docs, strict=True)
    )


def _given(doc: BackendDoc | None, raw: Any) -> str | None:
    if doc is not None:
        return doc.name
    name = raw.get("name") if isinstance(raw, dict) else None
    return name if isinstance(name, str) else None


def _derived(doc: BackendDoc, used: set[str]) -> str:
    """``host-port``, with ``-2`` and so on where that is taken; notes it in ``used``."""
    base = name_for(split_runtime(doc.url or "")[1])
    name, number = base, 1
    while name in used:
        number += 1
        name = f"{base}-{number}"
    used.add(name)
    return name


def check_models(
    docs: Sequence[ModelDoc | None], backends: Names, discover: bool, faults: Faults
) -> None:
    """Notes public names given twice, targets that lead to no backend, and circles. With
    discovery on, or a backend whose name is unknown, any backend may yet turn up."""
    seen: dict[str, int] = {}
    for i, doc in enumerate(docs):
        if doc is None:
            continue
        if seen.setdefault(doc.name, i) != i:
            faults.add(("models", i, "name"), f"is the name of models[{seen[doc.name]}] as well")
        if not discover and None not in backends:
            _check_targets(i, doc, [name for name in backends if name], faults)
    for i, circle in _circles(docs, seen):
        faults.add(("models", i, "fallbacks"), f"lead in a circle: {' -> '.join(circle)}")


def _check_targets(i: int, doc: ModelDoc, known: Sequence[str], faults: Faults) -> None:
    origin = faults.origins.get(("backends",))
    for j, target in enumerate(doc.targets):
        if target.backend in known:
            continue
        near = get_close_matches(target.backend, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"configured: {', '.join(known) or 'none'}"
        source = f" (the backends come from {origin}, not from the file)" if origin else ""
        faults.add(("models", i, "targets", j, "backend"), f"is no backend; {hint}{source}")


def _circles(
    docs: Sequence[ModelDoc | None], places: Mapping[str, int]
) -> list[tuple[int, list[str]]]:
    """Each circle of fallbacks once: the place of one model on it, and the names around it."""
    edges = {name: doc.fallbacks for name, i in places.items() if (doc := docs[i]) is not None}
    found: list[tuple[int, list[str]]] = []
    told: set[str] = set()
    for name in edges:
        circle = _way_back(name, edges) if name not in told else None
        if circle is not None:
            told |= set(circle)
            found.append((places[name], circle))
    return found


def _way_back(start: str, edges: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The shortest way from ``start`` over fallbacks back to it, ends included."""
    ways: list[list[str]] = [[start]]
    visited: set[str] = set()
    for way in ways:
        for after in edges.get(way[-1], ()):
            if after == start:
                return [*way, start]
            if after not in visited:
                visited.add(after)
                ways.append([*way, after])
    return None

"""Ollama's lists of models, made of the catalog: /api/tags, /api/show, /api/ps, /api/version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.core.catalog import Catalog, Entry, Place, knows
from gateway.core.types import ROUTABLE, Doc, Model, Op, Wire

VERSION = "0.32.15"
"""The release whose API the translations follow. Clients compare it: VS Code's Copilot asks for
0.6.4 at least, and others switch on thinking (0.9) and log probabilities (0.12) by it."""

FOREVER = "9999-12-31T23:59:59+00:00"
"""When an engine that never unloads its model will do so. It has to be a time: Open WebUI reads
it as one, and Ollama's own command line shows what is so far off as 'Forever'."""

LATEST = ":latest"

WORDS: Mapping[str, str] = {
    "completion": "completion",
    "chat": "completion",
    "tools": "tools",
    "insert": "insert",
    "vision": "vision",
    "embedding": "embedding",
    "embeddings": "embedding",
    "thinking": "thinking",
    "image": "image",
    "audio": "audio",
}
"""What runtimes call the abilities of a model -> Ollama's word. Others have no such word there."""

UNKNOWN = ("completion", "tools")
"""What is claimed where an engine does not tell: clients leave out a model without ``completion``,
agents one without ``tools``, and an engine that cannot says so itself when it is asked."""

ARCHITECTURE = "unknown"
"""The prefix of the figures in ``model_info`` where no family is known: clients read it from
``general.architecture`` first and then look for ``<architecture>.context_length``."""


def plain_name(name: str, catalog: Catalog) -> str:
    """The name as the catalog may know it: Ollama's clients write ``:latest`` behind a name
    without a tag, and an engine's ids have none. Known names, and all others, stay as they are."""
    if not name.endswith(LATEST) or knows(catalog, name):
        return name
    return name.removesuffix(LATEST)


def version() -> Doc:
    """The document of ``/api/version``."""
    return {"version": VERSION}


def tags(catalog: Catalog, names: Iterable[str]) -> Doc:
    """The document of ``/api/tags``: every name of ``names`` (those that the caller may use and
    that can be served now), however many backends have it."""
    found = ((name, _best(catalog.entries[name])) for name in names)
    return {"models": [_row(name, place) for name, place in found if place]}


def ps(catalog: Catalog, names: Iterable[str]) -> Doc:
    """The document of ``/api/ps``: of the same names those that some engine here has in memory.
    Where a backend loads and unloads at will and does not say until when, ``expires_at`` is
    left out rather than invented."""
    found = ((name, _resident(catalog.entries[name])) for name in names)
    return {"models": [_running(name, place) for name, place in found if place]}


def show(name: str, entry: Entry) -> Doc:
    """The document of ``/api/show`` for ``name`` as it was asked, which ``entry`` resolves.
    Empty where nobody knows: templates, parameters and licences stay with the engine."""
    place = _best(entry)
    model = place.model if place and place.model else Model(name)
    details = _details(model)
    family = details["family"] or ARCHITECTURE
    return {
        "license": "",
        "modelfile": f"FROM {name}\n",
        "parameters": "",
        "template": "",
        "details": details,
        "model_info": _info(name, model, family),
        "capabilities": capabilities(place),
        "modified_at": _modified(model),
    }


def capabilities(place: Place | None) -> list[str]:
    """What the model of a place can do, in Ollama's words."""
    if place is None or place.model is None:
        return list(UNKNOWN)
    told = place.model.capabilities
    if told is not None:
        return list(dict.fromkeys(WORDS[word] for word in sorted(told) if word in WORDS))
    if (place.model.id, Op.CHAT) in place.sight.lacks:
        return ["embedding"]
    return list(UNKNOWN)


# ---- the places of a name -------------------------------------------------------------------


def _best(entry: Entry) -> Place | None:
    """The place that knows most of the model: one with Ollama's own row, else one that is up."""
    places = [place for place in entry.places if place.model]
    places.sort(key=lambda place: (not _tag(place), place.sight.health not in ROUTABLE))
    return places[0] if places else None


def _tag(place: Place) -> Doc:
    return place.model.tag if place.model else {}


def _resident(entry: Entry) -> Place | None:
    """A place that has the model in memory: it says so, or it serves the one model it was started
    with. What runs at a provider's is in nobody's memory here."""
    for place in entry.places:
        loaded = place.model.loaded if place.model else False
        if place.sight.health in ROUTABLE and not place.runtime.cloud and loaded is not False:
            return place
    return None


def _unloads(place: Place) -> bool:
    """Whether its models come and go: it speaks this very page."""
    return place.runtime.cell(Wire.OLLAMA, Op.PS).path != ""


# ---- rows -----------------------------------------------------------------------------------


def _row(name: str, place: Place) -> Doc:
    model = place.model or Model(name)
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(model),
        "size": _size(model),
        "digest": _digest(model),
        "details": _details(model),
        "capabilities": capabilities(place),
    }


def _running(name: str, place: Place) -> Doc:
    model = place.model or Model(name)
    size = _size(model)
    return {
        "name": name,
        "model": name,
        "size": size,
        "digest": _digest(model),
        "details": _details(model),
        **({} if _unloads(place) else {"expires_at": FOREVER}),
        "size_vram": model.tag.get("size_vram", size),
        "context_length": model.context or 0,
    }


def _info(name: str, model: Model, family: str) -> Doc:
    meta = _meta(model)
    figures = {
        "general.parameter_count": meta.get("n_params"),
        f"{family}.context_length": model.context or _told(model, "context_length"),
        f"{family}.embedding_length": meta.get("n_embd") or _told(model, "embedding_length"),
    }
    return {
        "general.architecture": family,
        "general.basename": name,
        **{key: value for key, value in figures.items() if isinstance(value, int) and value > 0},
    }


def _told(model: Model, name: str) -> Any:
    details = model.tag.get("details")
    return details.get(name) if isinstance(details, dict) else None


def _meta(model: Model) -> Doc:
    """llama.cpp's figures about the file it serves."""
    meta = model.entry.get("meta")
    return meta if isinstance(meta, dict) else {}


def _details(model: Model) -> dict[str, Any]:
    """All six members, since clients read them unasked; '' is what Ollama says for unknown."""
    told, meta = model.tag.get("details"), _meta(model)
    params = meta.get("n_params")
    quantization = meta.get("ftype")
    made = {
        "parent_model": "",
        "format": "gguf" if meta else "",
        "family": "",
        "families": None,
        "parameter_size": human(params) if isinstance(params, int) else "",
        "quantization_level": quantization if isinstance(quantization, str) else "",
    }
    return {**made, **told} if isinstance(told, dict) else made


def human(number: int) -> str:
    """A number of parameters as Ollama shows it: 8.0B, 566.70M, 918.66K."""
    for limit, unit, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 2)):
        if number >= limit:
            return f"{number / limit:.{digits}f}{unit}"
    return str(number)


def _size(model: Model) -> int:
    """Bytes; 0 where nobody says."""
    for value in (model.tag.get("size"), _meta(model).get("size")):
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _digest(model: Model) -> str:
    """Ollama's own, else one that is always the same for a name: clients only show and compare
    it."""
    told = model.tag.get("digest")
    return told if isinstance(told, str) and told else hashlib.sha256(model.id.encode()).hexdigest()


def _modified(model: Model) -> str:
    """Ollama's own, else the ``created`` of the engine's list (Unix seconds)."""
    told = model.tag.get("modified_at")
    if isinstance(told, str) and told:
        return told
    created = model.entry.get("created")
    seconds = created if isinstance(created, int) and 0 <= created < 2**32 else 0
    return datetime.fromtimestamp(seconds, UTC).isoformat()

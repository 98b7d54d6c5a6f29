"""Keys that are made while the gateway runs: what is kept of them, and their routes."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from gateway.control import forms
from gateway.control.desk import AdminRoute, Answered, Desk, ref
from gateway.control.forms import Field, Json, Wrong
from gateway.core.errors import Refusal
from gateway.core.keys import Keyring, digest
from gateway.core.priority import LEVELS
from gateway.core.types import Ask, Caller, Doc, Op
from gateway.state.store import DOOR, KEY

SURFACES = tuple(op.value for op in Op)

MOST = 1_000_000_000_000

MOST_MODELS = 1000

LATEST = 10**11
"""Unix seconds; what is over it was meant as milliseconds."""


def moment(value: Any) -> float:
    """Unix seconds, from a number, a date (it begins in UTC) or a date and time with its zone (ISO
    8601)."""
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            raise Wrong(
                "must be Unix seconds, a date or a time such as 2027-01-31T12:00:00Z"
            ) from None
        if len(value) == len("2027-01-31"):
            found = found.replace(tzinfo=UTC)
        if found.tzinfo is None:
            raise Wrong("must say its zone, such as the Z of 2027-01-31T12:00:00Z")
        return found.timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST:
        raise Wrong("must be Unix seconds, a date or a time such as 2027-01-31T12:00:00Z")
    return float(value)


def _models(value: Any) -> list[str]:
    found: list[str] = forms.list_of(forms.text(1, 255), MOST_MODELS)(value)
    if not found:
        raise Wrong('must name a model or a pattern, such as ["*"]')
    return found


MOMENT = forms.Check(
    moment,
    {
        "anyOf": [
            {"type": "number", "minimum": 0, "exclusiveMaximum": LATEST},
            {"type": "string", "format": "date-time"},
            {"type": "string", "format": "date"},
        ]
    },
)

MODELS = forms.Check(
    _models, {**forms.list_of(forms.text(1, 255), MOST_MODELS).schema, "minItems": 1}
)

LIMIT = Field(forms.whole(1, MOST), nullable=True)

CHANGEABLE: Mapping[str, Field] = {
    "models": Field(MODELS),
    "surfaces": Field(forms.list_of(forms.one_of(SURFACES), len(SURFACES))),
    "requests_per_minute": LIMIT,
    "tokens_per_minute": LIMIT,
    "tokens_per_day": LIMIT,
    "tokens_per_month": LIMIT,
    "max_concurrency": LIMIT,
    "priority": Field(forms.one_of(tuple(LEVELS))),
    "expires": Field(MOMENT, nullable=True),
}
"""What a key may do, by the names that it has in the configuration."""

FIELDS: Mapping[str, Field] = {"name": Field(forms.text(1, 64), required=True), **CHANGEABLE}

DEFAULTS: Mapping[str, Any] = {"models": ["*"], "surfaces": [], "priority": "normal"}

SHOWN = ("id", "digest", "created", "created_by", "updated", "updated_by", "expired")
"""Fields of an answer that are not set by anybody."""


def make_key() -> str:
    """A new key: ``pk-`` and 43 characters that carry 256 random bits."""
    return f"pk-{secrets.token_urlsafe(32)}"


def record(given: Mapping[str, Any], key: str, now: float, by: str) -> dict[str, Any]:
    """What is kept of a new key: never the key itself."""
    return {
        "id": f"key-{secrets.token_hex(8)}",
        "digest": digest(key),
        **dict.fromkeys(CHANGEABLE),
        **DEFAULTS,
        **given,
        "created": now,
        "created_by": by,
        "updated": now,
        "updated_by": by,
    }


def caller(kept: Doc) -> Caller:
    """What a kept key may do."""
    limits = ("requests_per_minute", "tokens_per_minute", "max_concurrency")
    return Caller(
        name=kept["name"],
        models=tuple(kept["models"]),
        **{name: kept.get(name) for name in (*limits, "tokens_per_day", "tokens_per_month")},
        priority=LEVELS.get(kept["priority"], 0),
        surfaces=tuple(kept["surfaces"]),
        expires=kept.get("expires"),
    )


def merged(ring: Keyring, kept: Iterable[Doc], closed: bool) -> Keyring:
    """The configured keys and those of the store; expired ones too, so that whoever still has one
    is told. A configured key, or a configured key's name, beats one of the store."""
    names = {one.name for one in ring.callers.values()}
    callers = {doc["digest"]: caller(doc) for doc in kept if doc["name"] not in names}
    return Keyring({**callers, **ring.callers}, ring.admins, closed)


def expired(kept: Doc, now: float) -> bool:
    end = kept.get("expires")
    return end is not None and end <= now


def shown(kept: Doc, now: float) -> dict[str, Any]:
    """What an administrator sees of a key."""
    mask = f"{kept['digest'][:15]}…"
    return {**kept, "digest": mask, "expired": expired(kept, now)}


class Inserts(Protocol):
    """What a key is kept with: a store, or the records."""

    async def insert(self, kind: str, name: str, doc: Doc) -> bool: ...


async def keep(records: Inserts, doc: Doc) -> bool:
    """Keep a new key; False when its name is taken. The door is shut before: a gateway with keys
    that come and go is never open to everybody in between."""
    await records.insert(DOOR, "keys", {})
    return await records.insert(KEY, doc["name"], doc)


# --- routes


async def _list(desk: Desk, ask: Ask) -> Answered:
    now = desk.now()
    return 200, {"keys": [shown(doc, now) for doc in await desk.records.all(KEY)]}


async def _new(desk: Desk, ask: Ask) -> Answered:
    now, key = desk.now(), make_key()
    given = forms.read(forms.parse(ask.body), FIELDS)
    _check_end(given, now)
    if given["name"] in {one.name for one in desk.keyring.callers.values()}:
        raise _taken("a configured key has it (auth.keys or API_KEYS)")
    doc = record(given, key, now, ask.by)
    if not await keep(desk.records, doc):
        raise _taken("a key has it; revoke that one first, or take another name")
    return 201, {**shown(doc, now), "key": key}


def _taken(why: str) -> Refusal:
    return Refusal("invalid_request", f"'name' is taken: {why}.", param="name")


def _check_end(given: Mapping[str, Any], now: float) -> None:
    end = given.get("expires")
    if end is not None and end <= now:
        raise Refusal("invalid_request", "'expires' lies in the past.", param="expires")


async def _one(desk: Desk, ask: Ask) -> Answered:
    return 200, shown(await _found(desk, ask), desk.now())


async def _change(desk: Desk, ask: Ask) -> Answered:
    old = await _found(desk, ask)
    given = forms.read(forms.parse(ask.body), CHANGEABLE, partial=True, ignored=("name", *SHOWN))
    now = desk.now()
    doc = {**old, **given, "updated": now, "updated_by": ask.by}
    if not await desk.records.update(KEY, doc["name"], doc):
        raise _unknown(ask.names["id"], ())
    return 200, shown(doc, now)


async def _revoke(desk: Desk, ask: Ask) -> Answered:
    doc = await _found(desk, ask)
    await desk.records.delete(KEY, doc["name"])
    return 204, None


async def _found(desk: Desk, ask: Ask) -> Doc:
    """The key with this id or name. Raises Refusal ``not_found``."""
    wanted, kept = ask.names["id"], await desk.records.all(KEY)
    for field in ("id", "name"):
        for doc in kept:
            if doc[field] == wanted:
                return doc
    raise _unknown(wanted, [doc["name"] for doc in kept])


def _unknown(wanted: str, names: Sequence[str]) -> Refusal:
    known = ", ".join(names[:20]) or "none"
    return Refusal(
        "not_found",
        f"No key '{wanted[:100]}' is kept in the store. Its keys are: {known}. Keys of the"
        " configuration are changed there.",
        param="id",
    )


def _answer(**more: Json) -> Json:
    """The schema of what is told of a key."""
    text, number = {"type": "string"}, {"type": "number", "description": "Unix seconds."}
    limit = {"type": ["integer", "null"]}
    properties = {
        "id": text,
        "name": text,
        "digest": {**text, "description": "The beginning of the key's SHA-256."},
        "models": {"type": "array", "items": text},
        "surfaces": {"type": "array", "items": text},
        **{name: limit for name, field in CHANGEABLE.items() if field is LIMIT},
        "priority": {"type": "string", "enum": list(LEVELS)},
        "expires": {"type": ["number", "null"], "description": "Unix seconds."},
        "expired": {"type": "boolean"},
        "created": number,
        "created_by": text,
        "updated": number,
        "updated_by": text,
        **more,
    }
    return {"type": "object", "required": list(properties), "properties": properties}


KEY_SCHEMAS: Mapping[str, Json] = {
    "NewKey": forms.schema(FIELDS),
    "KeyChanges": forms.schema(CHANGEABLE, partial=True, ignored=("name", *SHOWN)),
    "Key": _answer(),
    "MadeKey": _answer(key={"type": "string", "description": "The key, shown this once."}),
    "Keys": {
        "type": "object",
        "required": ["keys"],
        "properties": {"keys": {"type": "array", "items": ref("Key")}},
    },
}

PATH = "/admin/keys"

KEY_ROUTES: tuple[AdminRoute, ...] = (
    AdminRoute(
        "GET", PATH, "List the keys of the store, never the keys themselves.", _list, gives="Keys"
    ),
    AdminRoute(
        *("POST", PATH, "Make a key; the answer shows it, once.", _new),
        takes="NewKey",
        gives="MadeKey",
        status=201,
    ),
    AdminRoute("GET", PATH + "/{id}", "Describe a key, by its id or name.", _one, gives="Key"),
    AdminRoute(
        *("PATCH", PATH + "/{id}", "Change what a key may do, and until when.", _change),
        takes="KeyChanges",
        gives="Key",
    ),
    AdminRoute("DELETE", PATH + "/{id}", "Revoke a key.", _revoke, status=204),
)

"""Providers: backends that administrators add while the gateway runs (INTERFACE section 5)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import orjson

from gateway.control import forms
from gateway.control.desk import AdminRoute, Answered, Desk, ref
from gateway.control.forms import Field, Json, Wrong
from gateway.core.errors import Refusal
from gateway.core.types import Ask, Backend, Doc, Op, Wire
from gateway.state.store import PROVIDER

PATH = "/providers"
MOST_LISTED = 100

SURFACES: Mapping[Wire, tuple[Op, ...]] = {
    Wire.OPENAI: (
        Op.CHAT,
        Op.COMPLETIONS,
        Op.EMBEDDINGS,
        Op.RESPONSES,
        Op.RERANK,
        Op.SCORE,
        Op.TRANSCRIBE,
        Op.TRANSLATE,
        Op.SPEECH,
        Op.IMAGES,
        Op.IMAGE_EDITS,
        Op.TOKENIZE,
        Op.DETOKENIZE,
    ),
    Wire.ANTHROPIC: (Op.MESSAGES, Op.COUNT_TOKENS),
    Wire.OLLAMA: (
        Op.CHAT,
        Op.GENERATE,
        Op.EMBED,
        Op.EMBEDDINGS,
        Op.TAGS,
        Op.SHOW,
        Op.PS,
        Op.VERSION,
    ),
}
"""What each format has. ``responses`` covers the calls by id."""

ALIASES = {"messages-count_tokens": Op.COUNT_TOKENS.value, "count_tokens": Op.COUNT_TOKENS.value}
"""Surfaces whose paths are not spelt as their names."""

_ID = re.compile(r"[A-Za-z0-9._~@+=-]{1,255}")


def provider_id(value: Any) -> str:
    """It stands before the colon in ``PROVIDER:MODEL`` and in headers."""
    found = forms.text(1, 255)(value)
    if not _ID.fullmatch(found):
        raise Wrong(
            "must be made of letters, digits and . _ ~ @ + = - (no colon: it ends the name)"
        )
    return str(found)


def metadata(value: Any) -> Any:
    """Text, or an object whose JSON is as short."""
    if isinstance(value, str):
        if len(value) > 4096:
            raise Wrong("must have at most 4096 characters")
        return value
    if not isinstance(value, dict):
        raise Wrong("must be text or an object")
    if len(orjson.dumps(value)) > 4096:
        raise Wrong("must have at most 4096 bytes as JSON")
    return value


def api_key(value: Any) -> str:
    """Something that a header can carry."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,4096}", value):
        raise Wrong("must be 1 to 4096 visible ASCII characters")
    return value


PROVIDER_ID = forms.Check(
    provider_id, {"type": "string", "pattern": f"^{_ID.pattern}$", "minLength": 1, "maxLength": 255}
)
BASE_URL = forms.Check(
    forms.text(1, 2048),
    {**forms.text(1, 2048).schema, "format": "uri", "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"},
)
METADATA = forms.Check(
    metadata,
    {
        "anyOf": [{"type": "string", "maxLength": 4096}, {"type": "object"}],
        "description": "Text, or an object whose JSON has at most 4096 bytes.",
    },
)
API_KEY = forms.Check(
    api_key,
    {"type": "string", "pattern": "^[!-~]{1,4096}$", "writeOnly": True},
)

_DECLARED = forms.object_of(
    {
        "format": Field(forms.one_of(tuple(wire.value for wire in Wire)), required=True),
        "surface": Field(forms.text(1, 64), required=True),
        "supportedParams": Field(
            forms.list_of(forms.object_of({"name": Field(forms.text(1, 255), required=True)}), 500),
            nullable=True,
        ),
    }
)


def declared(value: Any) -> dict[str, Any]:
    """One entry of supportedApiSurfaces. A surface may also be written as its path."""
    found: dict[str, Any] = _DECLARED(value)
    names = [op.value for op in SURFACES[Wire(found["format"])]]
    plain = re.sub(r"^/?(v1|api)/", "", found["surface"]).strip("/").replace("/", "-")
    plain = ALIASES.get(plain, plain)
    if plain == "chat" and "chat-completions" in names:
        plain = "chat-completions"
    if plain not in names:
        raise Wrong(f"is no surface of {found['format']}; it has {', '.join(names)}", ".surface")
    return {**found, "surface": plain}


DECLARED = forms.Check(declared, _DECLARED.schema)


def _surfaces(value: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = forms.list_of(DECLARED, 100)(value)
    seen = set()
    for i, one in enumerate(found):
        at = (one["format"], one["surface"])
        if at in seen:
            raise Wrong("is listed twice", f"[{i}].surface")
        seen.add(at)
    return found


MODELS = forms.list_of(
    forms.object_of({"modelId": Field(forms.text(1, 255), required=True)}, ignored=("id",)), 1000
)


def _models(value: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = MODELS(value)
    seen = set()
    for i, model in enumerate(found):
        if model["modelId"] in seen:
            raise Wrong("is listed twice", f"[{i}].modelId")
        seen.add(model["modelId"])
    return found


FIELDS: Mapping[str, Field] = {
    "providerId": Field(PROVIDER_ID, required=True),
    "name": Field(forms.text(1, 255), required=True),
    "baseUrl": Field(BASE_URL, required=True),
    "metadata": Field(METADATA, nullable=True),
    "supportedApiSurfaces": Field(
        forms.Check(_surfaces, forms.list_of(DECLARED, 100).schema),
    ),
    "models": Field(forms.Check(_models, MODELS.schema)),
    "apiKey": Field(API_KEY, nullable=True),
}

SHOWN = ("id", "uri", "createdAt", "updatedAt", "createdBy", "lastUpdatedBy", "hasApiKey")
"""Fields of an answer that are not set by anybody."""


def with_ids(models: Sequence[Doc], old: Sequence[Doc]) -> list[dict[str, Any]]:
    """The models with their ids; one that was there before keeps its id."""
    known = {model["modelId"]: model["id"] for model in old}
    return [
        {"id": known.get(model["modelId"]) or str(uuid.uuid4()), "modelId": model["modelId"]}
        for model in models
    ]


def shown(kept: Doc) -> dict[str, Any]:
    """What an administrator sees of a provider: everything but its key."""
    return {
        "id": kept["id"],
        "uri": f"{PATH}/{kept['id']}",
        **{name: kept[name] for name in FIELDS if name != "apiKey"},
        "hasApiKey": kept["apiKey"] is not None,
        "createdAt": kept["createdAt"],
        "updatedAt": kept["updatedAt"],
        "createdBy": _person(kept["createdBy"]),
        "lastUpdatedBy": _person(kept["lastUpdatedBy"]),
    }


def _person(name: str) -> Doc:
    return {"id": name, "uri": f"/admin/administrators/{quote(name)}"}


def backend(kept: Doc, url: str, host: str, secret: str | None) -> Backend:
    """The backend that a provider is. ``url`` and ``host`` are where it was found."""
    listed = kept["supportedApiSurfaces"]
    at = [(Wire(one["format"]), Op(one["surface"]), one.get("supportedParams")) for one in listed]
    only_anthropic = {wire for wire, _, _ in at} == {Wire.ANTHROPIC}
    return Backend(
        name=kept["providerId"],
        url=url,
        secret=secret,
        models=tuple(model["modelId"] for model in kept["models"]),
        host=host,
        surfaces=tuple((wire, op) for wire, op, _ in at),
        params=tuple(
            (wire, op, frozenset(param["name"] for param in params))
            for wire, op, params in at
            if params is not None
        ),
        otherwise=(Wire.ANTHROPIC if only_anthropic else Wire.OPENAI).value,
    )


# --- routes


TAKEN = "another provider has it"


def _stamp(desk: Desk) -> str:
    now = datetime.fromtimestamp(desk.now(), UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fault(field: str, text: str) -> Refusal:
    return Refusal("invalid_request", f"'{field}' {text}.", param=field)


async def _checked(desk: Desk, given: Mapping[str, Any], kept: Sequence[Doc], own: str) -> None:
    """What only shows beside the others: names that are taken and addresses. ``own`` is the id of
    the provider that is changed. Raises Refusal ``invalid_request``."""
    name = given.get("providerId")
    if name is not None:
        taken = desk.taken(name)
        if taken is None and any(d["providerId"] == name and d["id"] != own for d in kept):
            taken = TAKEN
        if taken is not None:
            raise _fault("providerId", f"cannot be '{name}': {taken}")
    if "baseUrl" in given:
        try:
            await desk.check_address(given["baseUrl"])
        except ValueError as error:
            raise _fault("baseUrl", str(error)) from None


async def _new(desk: Desk, ask: Ask) -> Answered:
    kept = await desk.records.all(PROVIDER)
    given = forms.read(forms.parse(ask.body), FIELDS, ignored=SHOWN)
    await _checked(desk, given, kept, "")
    own, now = str(uuid.uuid4()), _stamp(desk)
    doc = {
        "id": own,
        **dict.fromkeys(FIELDS),
        "supportedApiSurfaces": [],
        **given,
        "models": with_ids(given.get("models", ()), ()),
        "apiKey": _sealed(desk, given, own),
        "createdAt": now,
        "updatedAt": now,
        "createdBy": ask.by,
        "lastUpdatedBy": ask.by,
    }
    await desk.records.insert(PROVIDER, own, doc)
    if not await _first(desk, doc):
        await desk.records.delete(PROVIDER, own)
        raise _second(doc)
    return 201, shown(doc)


async def _first(desk: Desk, doc: Doc) -> bool:
    """Whether nobody else took its name meanwhile, here or at another gateway; the older has it."""
    named = [d for d in await desk.records.all(PROVIDER) if d["providerId"] == doc["providerId"]]
    return not named or named[0]["id"] == doc["id"]


def _second(doc: Doc) -> Refusal:
    return _fault("providerId", f"cannot be '{doc['providerId']}': {TAKEN}")


def _sealed(desk: Desk, given: Mapping[str, Any], own: str) -> dict[str, str] | None:
    key = given.get("apiKey")
    return None if key is None else desk.seal(key, own)


async def _list(desk: Desk, ask: Ask) -> Answered:
    """Newest first; ``beforeId`` goes on after the last one of a page."""
    query = dict(parse_qsl(ask.query, keep_blank_values=True))
    limit = _limit(query.get("limit"))
    found = list(reversed(await desk.records.all(PROVIDER)))
    before = query.get("beforeId")
    if before is not None:
        places = [i for i, doc in enumerate(found) if doc["id"] == before]
        if not places:
            raise _fault("beforeId", "is the id of no provider that is here now")
        found = found[places[0] + 1 :]
    page = found[:limit]
    more = len(found) > limit
    after = f"{PATH}?limit={limit}&beforeId={quote(page[-1]['id'])}" if more else None
    return 200, {
        "aiGatewayProviders": [shown(doc) for doc in page],
        "uri": PATH + (f"?{ask.query}" if ask.query else ""),
        "nextPageUri": after,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return MOST_LISTED
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_LISTED:
        raise _fault("limit", f"must be a whole number, 1 to {MOST_LISTED}")
    return int(text)


async def _one(desk: Desk, ask: Ask) -> Answered:
    return 200, shown(_found(await desk.records.all(PROVIDER), ask.names["id"]))


async def _change(desk: Desk, ask: Ask) -> Answered:
    kept = await desk.records.all(PROVIDER)
    old = _found(kept, ask.names["id"])
    given = forms.read(forms.parse(ask.body), FIELDS, partial=True, ignored=SHOWN)
    await _checked(desk, given, kept, old["id"])
    if old["apiKey"] is not None and "apiKey" not in given and _moves(old, given):
        raise _fault("apiKey", "has to be sent again with another host in 'baseUrl', or null")
    doc = {**old, **given, "updatedAt": _stamp(desk), "lastUpdatedBy": ask.by}
    if "models" in given:
        doc["models"] = with_ids(given["models"], old["models"])
    if "apiKey" in given:
        doc["apiKey"] = _sealed(desk, given, old["id"])
    if not await desk.records.update(PROVIDER, old["id"], doc):
        raise _unknown(ask.names["id"])
    if "providerId" in given and not await _first(desk, doc):
        await desk.records.update(PROVIDER, old["id"], old)
        raise _second(doc)
    return 200, shown(doc)


def _moves(old: Doc, given: Mapping[str, Any]) -> bool:
    """Whether the key, which nobody can read, would be sent to another place."""
    before, after = urlsplit(old["baseUrl"]), urlsplit(given.get("baseUrl", old["baseUrl"]))
    return (before.scheme, before.netloc) != (after.scheme, after.netloc)


async def _delete(desk: Desk, ask: Ask) -> Answered:
    if not await desk.records.delete(PROVIDER, ask.names["id"]):
        raise _unknown(ask.names["id"])
    return 204, None


def _found(kept: Sequence[Doc], wanted: str) -> Doc:
    for doc in kept:
        if doc["id"] == wanted:
            return doc
    raise _unknown(wanted)


def _unknown(wanted: str) -> Refusal:
    return Refusal(
        "not_found", f"There is no provider '{wanted[:100]}'; GET {PATH} lists all.", param="id"
    )


async def _administrator(desk: Desk, ask: Ask) -> Answered:
    """Whom createdBy means. Nothing but the id is known of an administrator."""
    name = ask.names["name"]
    if name not in desk.administrators:
        raise Refusal("not_found", f"There is no administrator '{name[:100]}' now.", param="name")
    return 200, _person(name)


def _answer() -> Json:
    """The schema of what is told of a provider."""
    text, moment = {"type": "string"}, {"type": "string", "format": "date-time"}
    model = {"id": text, "modelId": text}
    properties = {
        "id": text,
        "uri": text,
        **{name: field.check.schema for name, field in FIELDS.items() if name != "apiKey"},
        "metadata": {"anyOf": [METADATA.schema, {"type": "null"}]},
        "models": {
            "type": "array",
            "items": {"type": "object", "required": list(model), "properties": model},
        },
        "hasApiKey": {"type": "boolean"},
        "createdAt": moment,
        "updatedAt": moment,
        "createdBy": ref("Administrator"),
        "lastUpdatedBy": ref("Administrator"),
    }
    return {"type": "object", "required": list(properties), "properties": properties}


def _page() -> Json:
    properties = {
        "aiGatewayProviders": {"type": "array", "items": ref("Provider")},
        "uri": {"type": "string"},
        "nextPageUri": {"type": ["string", "null"]},
    }
    return {"type": "object", "required": list(properties), "properties": properties}


PROVIDER_SCHEMAS: Mapping[str, Json] = {
    "NewProvider": forms.schema(FIELDS, ignored=SHOWN),
    "ProviderChanges": forms.schema(FIELDS, partial=True, ignored=SHOWN),
    "Provider": _answer(),
    "Providers": _page(),
    "Administrator": {
        "type": "object",
        "required": ["id", "uri"],
        "properties": {"id": {"type": "string"}, "uri": {"type": "string"}},
    },
}

PAGING: Mapping[str, Json] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST_LISTED, "default": MOST_LISTED},
    "beforeId": {
        "type": "string",
        "minLength": 1,
        "description": "The id of the last provider of the page before.",
    },
}

PROVIDER_ROUTES: tuple[AdminRoute, ...] = (
    AdminRoute(
        *("GET", PATH, "List the providers, newest first.", _list), gives="Providers", query=PAGING
    ),
    AdminRoute(
        *("POST", PATH, "Add a backend.", _new), takes="NewProvider", gives="Provider", status=201
    ),
    AdminRoute("GET", PATH + "/{id}", "Describe a provider.", _one, gives="Provider"),
    AdminRoute(
        *("PATCH", PATH + "/{id}", "Change some fields of a provider.", _change),
        takes="ProviderChanges",
        gives="Provider",
    ),
    AdminRoute("DELETE", PATH + "/{id}", "Take a provider out.", _delete, status=204),
    AdminRoute(
        *("GET", "/admin/administrators/{name}", "Tell an administrator.", _administrator),
        gives="Administrator",
    ),
)

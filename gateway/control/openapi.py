"""The OpenAPI 3.1 description of what clients can call (INTERFACE sections 3 and 4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from gateway.control.admin import ADMIN_ROUTES, ADMIN_SCHEMAS
from gateway.control.desk import AdminRoute
from gateway.core.errors import KINDS
from gateway.core.types import Op, Wire

Json = dict[str, Any]


class RouteLike(Protocol):
    """What is read of a row of the routes table. ``body`` is json, loose, multipart, raw or
    none."""

    @property
    def path(self) -> str: ...
    @property
    def wire(self) -> Wire: ...
    @property
    def op(self) -> Op: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def body(self) -> str: ...


ADMIN_ONLY: list[Json] = [{"bearer": []}, {"apiKey": []}]
"""An admin key is needed, also where everybody may ask for models."""

TITLES = {Wire.OPENAI: "OpenAI", Wire.ANTHROPIC: "Anthropic", Wire.OLLAMA: "Ollama"}

ABOUT: dict[Op, str] = {
    Op.CHAT: "Continue a conversation.",
    Op.COMPLETIONS: "Continue a text.",
    Op.EMBEDDINGS: "Turn text into vectors.",
    Op.RESPONSES: "Create a response, with the engine's own tools and state.",
    Op.RESPONSES_BY_ID: "Read, delete or cancel a response that its backend has stored.",
    Op.RERANK: "Order documents by how well they answer a query.",
    Op.SCORE: "Score pairs of texts.",
    Op.TRANSCRIBE: "Write down what is said in an audio file.",
    Op.TRANSLATE: "Write down in English what is said in an audio file.",
    Op.SPEECH: "Read a text aloud.",
    Op.IMAGES: "Make images from a text.",
    Op.IMAGE_EDITS: "Change an image as a text says.",
    Op.TOKENIZE: "Cut a text into the model's tokens.",
    Op.DETOKENIZE: "Join tokens to a text.",
    Op.MESSAGES: "Continue a conversation.",
    Op.COUNT_TOKENS: "Count the tokens of a conversation without answering it.",
    Op.GENERATE: "Continue a text.",
    Op.EMBED: "Turn texts into vectors.",
    Op.TAGS: "List the models that can be served now.",
    Op.SHOW: "Describe one model.",
    Op.PS: "List the models that are loaded.",
    Op.VERSION: "Tell the version that Ollama clients look for.",
    Op.MANAGE: "Install, copy or remove a model of an Ollama backend, with an admin key.",
}

DESCRIPTION = (
    "The front door for self-hosted inference engines. Bodies are those of the OpenAI, Anthropic"
    " and Ollama interfaces and reach the engine as they came; fields not named here are passed"
    " on. A surface that no backend of the model has is translated into one that it has; where that"
    " cannot be, the answer is 501."
)

MODEL = (
    "A public name, a backend's own model id, BACKEND:ID, RUNTIME:ID, or auto to let the gateway"
    " choose."
)

REQUEST_HEADERS = {
    "X-Request-Id": "Comes back with the answer and goes upstream.",
    "X-Portico-Backend": "Name of the one backend that may answer; unknown names give 404.",
    "X-Portico-Session-Id": "Requests of one session prefer one backend, for its warm cache.",
    "X-Portico-User-Id": "Who the request is accounted to.",
    "traceparent": "W3C trace context.",
}

RESPONSE_HEADERS = {
    "X-Request-Id": "The caller's id of the request, or a new one.",
    "X-Portico-Backend": "The backend that answered.",
    "X-Portico-Model": "The model id the backend was asked for.",
    "X-Portico-Lost": "Fields of the request that a translation could only express roughly.",
}

RATE_HEADERS = {
    f"x-ratelimit-{part}-{what}": f"Of the key's limit of {what}: {meaning}."
    for what in ("requests", "tokens")
    for part, meaning in (
        ("limit", "the limit"),
        ("remaining", "what is left of it"),
        ("reset", "in how long it is whole again, such as 6m0s"),
    )
}

LIMIT_HEADERS = {"Retry-After": "Seconds after which another attempt makes sense.", **RATE_HEADERS}


def document(version: str, routes: Mapping[str, RouteLike]) -> Json:
    """The description as a JSON object, for this version of the gateway and its routes table."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Portico",
            "version": version,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": _tags(),
        # The empty requirement: a gateway without keys lets everybody in.
        "security": [{}, {"bearer": []}, {"apiKey": []}],
        "paths": {
            **_models(),
            **{path: _path(route) for path, route in routes.items()},
            **_operations(),
            **_administration(),
        },
        "components": _components(),
    }


def _tags() -> list[Json]:
    return [
        *({"name": wire.value, "description": f"The {TITLES[wire]} interface."} for wire in Wire),
        {"name": "operations", "description": "For those who run the gateway; no key needed."},
        {"name": "administration", "description": "For administrators; an admin key is needed."},
    ]


def _path(route: RouteLike) -> Json:
    item: Json = {method.lower(): _operation(route, method) for method in route.methods}
    return item | _path_parameters(route.path)


def _path_parameters(path: str) -> Json:
    names = re.findall(r"{(\w+)}", path)
    return {"parameters": [_in_path(name) for name in names]} if names else {}


def _in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _operation(route: RouteLike, method: str) -> Json:
    operation: Json = {
        "operationId": _operation_id(method, route.path),
        "tags": [route.wire.value],
        "summary": ABOUT[route.op],
        "description": f"Surface `{route.op.value}` of the {TITLES[route.wire]} interface.",
        "parameters": [_ref("parameters", name) for name in REQUEST_HEADERS],
        "responses": {
            "200": _answer(route.body),
            "default": _ref("responses", f"{route.wire.value}Error"),
        },
    }
    if route.body != "none" and method != "HEAD":
        operation["requestBody"] = _body(route.body)
    if route.op is Op.MANAGE:
        operation["security"] = ADMIN_ONLY
    return operation


def _operation_id(method: str, path: str) -> str:
    return "_".join([method.lower(), *re.findall(r"\w+", path)])


def _answer(body: str) -> Json:
    kinds = ["application/json"]
    if body in ("json", "raw"):
        kinds += ["text/event-stream", "application/x-ndjson"]
    return {
        "description": "The backend's answer; a stream where the request asks for one.",
        "headers": {name: _ref("headers", name) for name in (*RESPONSE_HEADERS, *RATE_HEADERS)},
        "content": {kind: {} for kind in kinds},
    }


def _body(kind: str) -> Json:
    if kind == "raw":
        raw: Json = {"application/json": {"schema": {}}, "application/octet-stream": {}}
        return {"description": "As Ollama has it; passed on untouched.", "content": raw}
    media = "multipart/form-data" if kind == "multipart" else "application/json"
    schema = "AnyRequest" if kind == "loose" else "Request"
    return {"required": True, "content": {media: {"schema": _ref("schemas", schema)}}}


def _ref(section: str, name: str) -> Json:
    return {"$ref": f"#/components/{section}/{name}"}


def _models() -> Json:
    error = _ref("responses", "openaiError")
    return {
        "/v1/models": {
            "get": {
                "operationId": "get_v1_models",
                "tags": [Wire.OPENAI.value],
                "summary": "List the models that can be served now, merged over all backends.",
                "responses": {"200": _json("The list.", "ModelList"), "default": error},
            }
        },
        "/v1/models/{id}": {
            "parameters": [
                _in_path("id") | {"description": "May contain / and :, percent-encoded or not."}
            ],
            "get": {
                "operationId": "get_v1_models_id",
                "tags": [Wire.OPENAI.value],
                "summary": "Describe one model.",
                "responses": {"200": _json("The model.", "Model"), "default": error},
            },
        },
    }


def _operations() -> Json:
    alive = "Tell that the process is alive."
    return {
        "/healthz": _probe("/healthz", alive),
        "/health": _probe("/health", alive),
        "/readyz": _probe("/readyz", "Tell whether requests are taken.", "503", "Not now."),
        "/version": _probe("/version", "Tell the version of the gateway."),
        "/metrics": _metrics(),
        "/openapi.json": _probe("/openapi.json", "This description."),
    }


def _administration() -> Json:
    paths: dict[str, Json] = {}
    for row in ADMIN_ROUTES:
        item = paths.setdefault(row.path, _path_parameters(row.path))
        item[row.method.lower()] = _order(row)
    return paths


def _order(row: AdminRoute) -> Json:
    done: Json = {"description": "Done."}
    if row.gives:
        done = _json("Done.", row.gives)
    if row.table:
        done["content"]["text/csv"] = {"schema": {"type": "string"}}
    operation: Json = {
        "operationId": _operation_id(row.method, row.path),
        "tags": ["administration"],
        "summary": row.about,
        "security": ADMIN_ONLY,
        "parameters": [
            {"name": name, "in": "query", "schema": schema} for name, schema in row.query.items()
        ],
        "responses": {str(row.status): done, "default": _ref("responses", "openaiError")},
    }
    if row.takes:
        content = {"application/json": {"schema": _ref("schemas", row.takes)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _probe(path: str, summary: str, other: str = "", meaning: str = "") -> Json:
    responses: Json = {"200": {"description": "Yes.", "content": {"application/json": {}}}}
    if other:
        responses[other] = {"description": meaning}
    return {"get": _open(path, summary, responses)}


def _metrics() -> Json:
    kinds = ("text/plain", "application/openmetrics-text")
    page = {"description": "The page.", "content": {kind: {} for kind in kinds}}
    return {"get": _open("/metrics", "Metrics for Prometheus.", {"200": page})}


def _open(path: str, summary: str, responses: Json) -> Json:
    """An operation that needs no key."""
    return {
        "operationId": _operation_id("get", path),
        "tags": ["operations"],
        "summary": summary,
        "security": [],
        "responses": responses,
    }


def _json(description: str, schema: str) -> Json:
    content = {"application/json": {"schema": _ref("schemas", schema)}}
    return {"description": description, "content": content}


def _components() -> Json:
    text = {"type": "string"}
    answered = RESPONSE_HEADERS | LIMIT_HEADERS
    return {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        },
        "parameters": {
            name: {"name": name, "in": "header", "description": about, "schema": text}
            for name, about in REQUEST_HEADERS.items()
        },
        "headers": {
            name: {"description": about, "schema": text} for name, about in answered.items()
        },
        "responses": {f"{wire.value}Error": _error(wire) for wire in Wire},
        "schemas": _schemas(),
    }


def _error(wire: Wire) -> Json:
    rows = "; ".join(f"{kind.status} `{name}`" for name, kind in KINDS.items())
    return {
        "description": f"The gateway's own refusals ({rows}), or the backend's error as it came.",
        "headers": {name: _ref("headers", name) for name in ("X-Request-Id", *LIMIT_HEADERS)},
        "content": {"application/json": {"schema": _ref("schemas", f"{wire.value}Error")}},
    }


def _schemas() -> Json:
    text = {"type": "string"}
    model = {"type": "string", "description": MODEL}
    error = _object(
        ("type", "message"),
        type=text | {"examples": list(KINDS)},
        message=text | {"description": "What happened and what to do."},
        code={"type": ["string", "integer", "null"]},
        param={"type": ["string", "null"]},
        request_id=text,
    )
    entry = _object(("id",), id=text, object=text, owned_by=text)
    return {
        "Request": _object(("model",), model=model, stream={"type": "boolean"}),
        "AnyRequest": _object((), model=model),
        "Model": entry,
        "ModelList": _object(
            ("object", "data"),
            object={"const": "list"},
            data={"type": "array", "items": _ref("schemas", "Model")},
        ),
        "Error": error,
        "openaiError": _object(("error",), error=_ref("schemas", "Error")),
        "anthropicError": _object(
            ("type", "error"), type={"const": "error"}, error=_ref("schemas", "Error")
        ),
        "ollamaError": _object(("error",), error=text),
        **ADMIN_SCHEMAS,
    }


def _object(required: tuple[str, ...], **properties: Json) -> Json:
    """An object in which further fields may stand."""
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": True,
    }

"""The description is sound and covers every route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.control import forms, keys, providers
from gateway.control.admin import ADMIN_ROUTES
from gateway.control.openapi import ABOUT, document
from gateway.core.errors import KINDS
from gateway.core.types import Op, Wire
from gateway.dialects import ROUTES
from gateway.edge import manage

ALL = {**ROUTES, **manage.ROUTES}
DOCUMENT = document("1.2.3", ALL)
METHODS = {"get", "post", "delete", "put", "patch", "head"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS & set(item):
            yield path, method, item[method]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def test_it_is_plain_json_and_names_the_version() -> None:
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_every_reference_resolves() -> None:
    references = [node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node]
    assert len(references) > 50
    for reference in references:
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            assert step in place, reference
            place = place[step]


def test_every_component_is_used() -> None:
    text = json.dumps(DOCUMENT)
    for section in ("parameters", "headers", "responses", "schemas"):
        for name in DOCUMENT["components"][section]:
            assert f'"#/components/{section}/{name}"' in text, name


def test_operation_ids_are_unique_names() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z0-9_]+", each) for each in ids)


@pytest.mark.parametrize("path", sorted(ALL))
def test_a_route_is_described_with_its_methods_body_and_errors(path: str) -> None:
    route, item = ALL[path], DOCUMENT["paths"][path]
    assert {method.upper() for method in METHODS & set(item)} == set(route.methods)
    for method in route.methods:
        operation = item[method.lower()]
        assert ("requestBody" in operation) is (route.body != "none" and method != "HEAD")
        assert operation["tags"] == [route.wire.value]
        assert operation["responses"]["default"]["$ref"].endswith(f"/{route.wire.value}Error")
        assert route.op.value in operation["description"]


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/v1/models/{id}", "/healthz", "/health", "/readyz", "/version", "/metrics"],
)
def test_the_gateways_own_routes_are_described(path: str) -> None:
    assert "get" in DOCUMENT["paths"][path]


def test_parameters_in_paths_are_declared() -> None:
    for path, item in DOCUMENT["paths"].items():
        declared = {each["name"] for each in item.get("parameters", []) if each["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path)), path


def test_only_operations_for_operators_need_no_key() -> None:
    for path, _, operation in operations():
        assert (operation.get("security") == []) is (operation["tags"] == ["operations"]), path
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {name for each in DOCUMENT["security"] for name in each} == set(schemes)


def test_every_tag_is_explained() -> None:
    known = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} == known
    assert known == {*Wire, "operations", "administration"}


def test_every_refusal_is_listed_with_its_status() -> None:
    for wire in Wire:
        text = DOCUMENT["components"]["responses"][f"{wire.value}Error"]["description"]
        assert all(f"{kind.status} `{name}`" in text for name, kind in KINDS.items())


def test_the_model_is_required_where_the_body_must_name_it() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["Request"]["required"] == ["model"]
    assert schemas["AnyRequest"]["required"] == []
    assert all(
        schema["additionalProperties"] is True
        for schema in (schemas["Request"], schemas["AnyRequest"])
    )


def test_every_surface_has_its_sentence() -> None:
    assert set(ABOUT) == set(Op)
    assert all(sentence.endswith(".") for sentence in ABOUT.values())


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][name]
    return found


def test_every_order_of_an_administrator_says_what_it_takes_and_gives() -> None:
    for row in ADMIN_ROUTES:
        operation = DOCUMENT["paths"][row.path][row.method.lower()]
        assert ("requestBody" in operation) is (row.method in ("POST", "PATCH") and bool(row.takes))
        answer = operation["responses"][str(row.status)]
        assert ("content" in answer) is (row.method != "DELETE")
        assert operation["security"] == [{"bearer": []}, {"apiKey": []}]
    assert {row.takes for row in ADMIN_ROUTES if row.takes} == {
        *("NewKey", "KeyChanges", "NewProvider", "ProviderChanges"),
    }


@pytest.mark.parametrize(
    ("name", "fields", "required"),
    [
        ("NewProvider", providers.FIELDS, ["providerId", "name", "baseUrl"]),
        ("ProviderChanges", providers.FIELDS, []),
        ("NewKey", keys.FIELDS, ["name"]),
        ("KeyChanges", keys.CHANGEABLE, []),
    ],
)
def test_what_is_taken_is_described_with_its_bounds(
    name: str, fields: forms.Fields, required: list[str]
) -> None:
    found = schema(name)
    assert set(fields) <= set(found["properties"])
    assert (found["required"], found["additionalProperties"]) == (required, False)


def test_the_contracts_lengths_are_in_the_description() -> None:
    found = schema("NewProvider")["properties"]
    assert [found[name]["maxLength"] for name in ("providerId", "name", "baseUrl")] == [
        *(255, 255, 2048)
    ]
    assert found["metadata"]["anyOf"][0]["anyOf"][0]["maxLength"] == 4096
    one = found["supportedApiSurfaces"]["items"]["properties"]
    assert one["format"]["enum"] == ["openai", "anthropic", "ollama"]
    assert found["apiKey"]["anyOf"][0]["writeOnly"] is True


def test_what_is_told_has_every_field_that_is_described() -> None:
    doc = keys.record({"name": "a"}, "pk-1", 1.0, "admin")
    told = keys.shown(doc, 2.0)
    assert set(told) == set(schema("Key")["properties"])
    assert set(schema("Key")["required"]) == set(told)
    assert set(providers.SHOWN) | set(providers.FIELDS) - {"apiKey"} == set(
        schema("Provider")["properties"]
    )


def test_routes_that_install_models_are_for_admin_keys() -> None:
    pull = DOCUMENT["paths"]["/api/pull"]["post"]
    assert {} not in pull["security"]
    assert "admin key" in pull["summary"]
    assert set(DOCUMENT["paths"]["/api/blobs/{digest}"]) == {"parameters", "post", "head"}

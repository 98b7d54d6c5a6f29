"""Providers: what may be sent, what is kept and what backend comes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control import forms
from gateway.control.providers import FIELDS, SURFACES, backend, shown, with_ids
from gateway.core.errors import Refusal
from gateway.core.types import Op, Wire
from gateway.dialects import ROUTES

GOOD: dict[str, Any] = {"providerId": "p", "name": "P", "baseUrl": "http://10.0.0.1:8000"}


def read(**fields: Any) -> dict[str, Any]:
    return forms.read({**GOOD, **fields}, FIELDS)


def test_every_surface_has_a_route_and_every_route_a_surface() -> None:
    listed = {(wire, op) for wire, ops in SURFACES.items() for op in ops}
    routes = {(route.wire, route.op) for route in ROUTES.values()}
    assert listed == routes - {(Wire.OPENAI, Op.RESPONSES_BY_ID)}


@pytest.mark.parametrize(
    ("field", "most"), [("providerId", 255), ("name", 255), ("baseUrl", 2048), ("metadata", 4096)]
)
def test_lengths_are_bounded_and_the_bound_is_allowed(field: str, most: int) -> None:
    assert read(**{field: "x" * most})[field] == "x" * most
    with pytest.raises(Refusal) as caught:
        read(**{field: "x" * (most + 1)})
    assert caught.value.param == field


@pytest.mark.parametrize("field", ["providerId", "name", "baseUrl"])
def test_what_is_required_must_be_there_and_hold_something(field: str) -> None:
    for doc in ({k: v for k, v in GOOD.items() if k != field}, {**GOOD, field: ""}):
        with pytest.raises(Refusal) as caught:
            forms.read(doc, FIELDS)
        assert caught.value.param == field
    assert forms.read({}, FIELDS, partial=True) == {}


SURFACE = {"format": "openai", "surface": "embeddings"}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("providerId", "a:b"),
        ("providerId", "a/b"),
        ("providerId", 5),
        ("name", None),
        ("metadata", 5),
        ("metadata", {"x": "y" * 4096}),
        ("apiKey", "with space"),
        ("models", {}),
        ("models[0]", ["m"]),
        ("models[0].modelId", [{}]),
        ("models[1].modelId", [{"modelId": "a"}, {"modelId": "a"}]),
        ("models[0].name", [{"modelId": "a", "name": "b"}]),
        ("supportedApiSurfaces[0].format", [{**SURFACE, "format": "grpc"}]),
        ("supportedApiSurfaces[0].surface", [{**SURFACE, "surface": "telepathy"}]),
        ("supportedApiSurfaces[0].surface", [{"format": "anthropic", "surface": "embeddings"}]),
        ("supportedApiSurfaces[1].surface", [SURFACE, SURFACE]),
        ("supportedApiSurfaces[0].supportedParams", [{**SURFACE, "supportedParams": "n"}]),
        ("supportedApiSurfaces[0].supportedParams[0]", [{**SURFACE, "supportedParams": ["n"]}]),
        (
            "supportedApiSurfaces[0].supportedParams[0].name",
            [{**SURFACE, "supportedParams": [{"name": 1}]}],
        ),
    ],
)
def test_a_fault_names_its_place(place: str, value: object) -> None:
    name = place.partition("[")[0]
    with pytest.raises(Refusal) as caught:
        read(**{name: value})
    assert caught.value.kind == "invalid_request"
    assert caught.value.param == place


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_nothing_that_is_sent_makes_more_than_a_refusal(value: object) -> None:
    for name in FIELDS:
        try:
            read(**{name: value})
        except Refusal as refusal:
            assert refusal.param is not None and refusal.param.startswith(name)


@pytest.mark.parametrize(
    "written", ["chat-completions", "/v1/chat/completions", "chat/completions"]
)
def test_a_surface_may_be_written_as_its_path(written: str) -> None:
    found = read(supportedApiSurfaces=[{"format": "openai", "surface": written}])
    assert found["supportedApiSurfaces"][0]["surface"] == "chat-completions"


@pytest.mark.parametrize("written", ["count-tokens", "/v1/messages/count_tokens", "count_tokens"])
def test_counting_may_be_written_as_its_path(written: str) -> None:
    found = read(supportedApiSurfaces=[{"format": "anthropic", "surface": written}])
    assert found["supportedApiSurfaces"][0]["surface"] == "count-tokens"


def test_models_keep_their_ids_when_they_are_replaced() -> None:
    old = with_ids([{"modelId": "a"}, {"modelId": "b"}], [])
    new = with_ids([{"modelId": "b"}, {"modelId": "c"}], old)
    assert new[0] == old[1]
    assert new[1]["id"] not in {model["id"] for model in old}


def kept(**fields: Any) -> dict[str, Any]:
    base = {"metadata": None, "supportedApiSurfaces": [], "models": [], "apiKey": None}
    stamps = {
        "createdAt": "x",
        "updatedAt": "x",
        "createdBy": "admin-1",
        "lastUpdatedBy": "admin-1",
    }
    return {"id": "1", **base, **GOOD, **stamps, **fields}


def test_an_answer_has_everything_but_the_key() -> None:
    doc = shown(kept(apiKey={"plain": "sk-hush"}))
    assert "sk-hush" not in str(doc)
    assert doc["hasApiKey"] is True
    assert set(doc) == {*FIELDS, "id", "uri", "createdAt", "updatedAt"} - {"apiKey"} | {
        *("createdBy", "lastUpdatedBy", "hasApiKey")
    }


def test_the_backend_has_the_providers_name_models_surfaces_and_params() -> None:
    params = [{"name": "temperature"}, {"name": "stream"}]
    surfaces = [
        {"format": "openai", "surface": "chat-completions", "supportedParams": params},
        SURFACE,
    ]
    doc = kept(supportedApiSurfaces=surfaces, models=[{"id": "1", "modelId": "m"}])
    found = backend(doc, "http://10.0.0.1:80", "engine.example", "sk-1")
    assert (found.name, found.url, found.host) == ("p", "http://10.0.0.1:80", "engine.example")
    assert (found.models, found.secret) == (("m",), "sk-1")
    assert found.surfaces == ((Wire.OPENAI, Op.CHAT), (Wire.OPENAI, Op.EMBEDDINGS))
    assert found.params == ((Wire.OPENAI, Op.CHAT, frozenset({"temperature", "stream"})),)
    assert found.otherwise == "openai"
    messages = [{"format": "anthropic", "surface": "messages"}]
    assert backend(kept(supportedApiSurfaces=messages), "", "", None).otherwise == "anthropic"

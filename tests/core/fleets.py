"""Small fleets for tests of the decisions."""

from __future__ import annotations

from dataclasses import replace

from backends import BY_NAME
from gateway.core.catalog import Catalog, build
from gateway.core.types import Backend, Call, Fleet, Health, Model, Op, PublicModel, Sight, Wire


def rows(name: str, variant: str):
    return BY_NAME.get(name, BY_NAME["openai"]).row(variant)


def fleet(**backends: str) -> Fleet:
    """``gpu1="vllm m1 m2"``: a backend with its runtime and model ids; a leading ``-`` is down."""
    found, sights = {}, {}
    for name, text in backends.items():
        runtime, *models = text.lstrip("-").split()
        found[name] = Backend(name, f"http://{name}:1", runtime)
        health = Health.DOWN if text.startswith("-") else Health.UP
        sights[name] = Sight(health, runtime=runtime, models=tuple(map(Model, models)))
    return Fleet(1, 0.0, found, sights)


def catalog(*public: PublicModel, **backends: str) -> Catalog:
    return build(fleet(**backends), public, rows)


def changed(base: Fleet, name: str, **sight: object) -> Fleet:
    return replace(base, sights={**base.sights, name: replace(base.sights[name], **sight)})


def call(model: str = "m1", op: Op = Op.CHAT, wire: Wire = Wire.OPENAI, **more: object) -> Call:
    return Call("id", wire, op, "/v1/chat/completions", model=model, **more)

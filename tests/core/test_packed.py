"""Values cross from process to process, whichever build packed them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from gateway.core.energy import Work
from gateway.core.packed import pack
from gateway.core.types import Backend, Caller, Circuit, Fleet, Load, Model, Outcome, Sight, Usage

BACKEND = Backend("one", "http://127.0.0.1:1", secret="sk")
SIGHT = Sight(models=(Model("m", ("alias",), {"id": "m"}),), load=Load(kv_used=0.5))


@pytest.mark.parametrize(
    "value",
    [
        Usage(1, 2, 3, counted=False),
        Fleet(3, 1.5, {"one": BACKEND}, {"one": replace(SIGHT, circuit=Circuit.OPEN)}),
        Outcome("id", "key", "chat-completions", "m", 200, usage=Usage(4)),
        ("worked", [Work("one", "m", ("m", "key"), 0.0, 1.0, 2.0, 3, 4)]),
        {"text": ["a", None, 1.5, b"bytes"]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_the_same_after_the_way(value: object) -> None:
    assert pickle.loads(pack(value)) == value


def test_a_field_that_was_worked_out_comes_along() -> None:
    caller = pickle.loads(pack(Caller(requests_per_minute=5)))
    assert caller.bounded


def test_what_was_shared_is_shared_again() -> None:
    first, second = pickle.loads(pack((BACKEND, BACKEND)))
    assert first is second


def test_what_comes_out_is_as_frozen_as_before() -> None:
    with pytest.raises(AttributeError):
        pickle.loads(pack(BACKEND)).name = "two"

"""What a request costs in tokens, before and after."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.charge import FREE, LONGEST_OUTPUT, Estimate, cost, estimate
from gateway.core.types import Call, Op, Usage, Wire

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def call(doc: dict[str, Any], op: Op = Op.CHAT) -> Call:
    return Call("1", Wire.OPENAI, op, "/", doc=doc)


def test_a_prompt_is_estimated_by_its_characters() -> None:
    doc = {"model": "m" * 99, "messages": [{"role": "user", "content": "x" * 396}]}
    assert estimate(call(doc), 0) == Estimate(100, 0)


@pytest.mark.parametrize(
    ("doc", "tokens"),
    [
        ({"prompt": "12345"}, 2),
        ({"prompt": ["1234", "1234"]}, 2),
        ({"prompt": [[1, 2, 3], [4]]}, 4),
        ({"input": "12345678"}, 2),
        ({"query": "1234", "documents": ["1234", {"text": "1234"}]}, 3),
        ({"messages": [{"content": [{"image_url": {"url": "data:" + "x" * 99}}]}]}, 0),
        ({"messages": [{"content": [{"text": "1234"}], "images": ["x" * 99]}]}, 1),
        ({"messages": 7}, 0),
        ({}, 0),
    ],
)
def test_every_shape_of_a_prompt_is_read(doc: dict[str, Any], tokens: int) -> None:
    assert estimate(call(doc), 0).prompt == tokens


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 12),
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 40, "max_tokens": 50}, 40),
        ({"max_output_tokens": 30}, 30),
        ({"options": {"num_predict": 20}}, 20),
        ({"options": {"num_predict": -1}}, 12),
        ({"max_tokens": "50"}, 12),
        ({"max_tokens": True}, 12),
        ({"max_tokens": 10**30}, LONGEST_OUTPUT),
        ({"max_tokens": 50, "n": 3}, 150),
        ({"max_tokens": 50, "n": 10**9}, 128 * 50),
    ],
)
def test_an_answer_is_as_long_as_it_may_be_else_as_usual(
    fields: dict[str, Any], tokens: int
) -> None:
    assert estimate(call(fields), 11.4).output == tokens


@pytest.mark.parametrize("op", sorted(FREE))
def test_what_generates_nothing_costs_nothing(op: Op) -> None:
    assert estimate(call({"prompt": "x" * 400, "max_tokens": 9}, op), 9) == Estimate()


@given(st.dictionaries(st.sampled_from(["messages", "prompt", "n", "max_tokens", "options"]), JSON))
def test_no_document_breaks_the_estimate(doc: dict[str, Any]) -> None:
    found = estimate(call(doc), 3.5)
    assert found.prompt >= 0
    assert 0 < found.output <= 128 * LONGEST_OUTPUT


def test_the_engines_own_count_is_charged() -> None:
    assert cost(Usage(7, 5, 3), 100, served=True) == 12


def test_without_a_count_the_pieces_and_the_estimate_are_charged() -> None:
    assert cost(Usage(output=5, counted=False), 100, served=True) == 105


def test_nothing_is_charged_where_nothing_was_served() -> None:
    assert cost(Usage(7, 5), 100, served=False) == 0

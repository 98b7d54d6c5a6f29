"""Splicing changes one top-level field and no other byte."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.splice import insert, replace, spans

keys = st.sampled_from(["model", "messages", "x", "models", 'mo"del', "mödel", "\\model"])
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | keys | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)
objects = st.dictionaries(keys, values, max_size=5)
indents = st.sampled_from([None, 0, 1, 4])


@given(objects, values, st.text(), indents)
def test_replacing_the_model_changes_that_value_and_nothing_else(doc, model, new, indent):
    doc = {**doc, "model": model}
    body = json.dumps(doc, indent=indent).encode()
    out = replace(body, "model", new)
    assert out is not None
    assert json.loads(out) == {**doc, "model": new}
    ((start, end),) = spans(body, "model")
    assert out == body[:start] + orjson.dumps(new) + body[end:]


@given(objects, indents)
def test_inserting_puts_a_member_first_and_keeps_every_other_byte(doc, indent):
    doc.pop("new", None)
    body = json.dumps(doc, indent=indent).encode()
    out = insert(body, "new", {"a": True})
    assert json.loads(out) == {**doc, "new": {"a": True}}
    assert out.endswith(body[1:])


@pytest.mark.parametrize(
    "body",
    [b'{"a":1}', b'{"m":{"model":"x"}}', b'{"a":["model"]}', b'{"mod\\u0065l":"x"}'],
)
def test_a_field_that_is_not_a_plain_top_level_member_is_not_found(body):
    assert spans(body, "model") == []
    assert replace(body, "model", "y") is None


def test_two_members_of_the_same_name_are_both_found_and_not_replaced():
    body = b'{"model":"a","n":{"model":"b"},"model":"c"}'
    assert len(spans(body, "model")) == 2
    assert replace(body, "model", "y") is None


def test_odd_but_legal_numbers_survive():
    body = b'{"temperature":1.00,"seed":123456789012345678901234567890,"model":"a","x":1E2}'
    assert replace(body, "model", "b") == body.replace(b'"a"', b'"b"')

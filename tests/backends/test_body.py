"""Changing fields of a body: what is left alone, what goes, what is renamed."""

from __future__ import annotations

from backends._body import DROP, patched, renamed, without


def test_a_body_that_needs_no_change_is_none() -> None:
    assert patched({"a": 1}, [without("b"), renamed("c", "d")]) is None
    assert patched({"a": 1}, []) is None


def test_fields_keep_their_order_and_the_body_is_not_written_to() -> None:
    doc = {"a": 1, "b": 2, "c": 3}
    changed = patched(doc, [lambda doc: {"b": DROP, "a": doc["a"] + 1}])
    assert list((changed or {}).items()) == [("a", 2), ("c", 3)]
    assert doc == {"a": 1, "b": 2, "c": 3}


def test_of_two_fixes_that_set_one_field_the_later_wins() -> None:
    assert patched({"a": 1}, [lambda doc: {"a": 2}, lambda doc: {"a": doc["a"] + 10}]) == {"a": 11}


def test_a_field_left_out_may_have_been_null() -> None:
    assert patched({"a": None, "b": 1}, [without("a")]) == {"b": 1}


def test_renaming_takes_the_first_that_is_there_and_never_overwrites() -> None:
    fix = renamed("new", "x", "y")
    assert patched({"y": 1}, [fix]) == {"new": 1}
    assert patched({"x": None, "y": 1}, [fix]) == {"x": None, "new": 1}
    assert patched({"new": 0, "x": 1}, [fix]) is None

"""The reader of single Prometheus families."""

from __future__ import annotations

import pytest

from backends._metrics import series, total
from tests.backends.recorded import answer

PAGE = """\
# HELP a:b Things.
# TYPE a:b gauge
a:b{engine="0",model_name="m"} 2.0
a:b{engine="1",model_name="m"} 3 1795202132000
a:b_created{engine="0"} 1.7e9
a:bc 100
plain 7
plain_total 8
"""


def test_only_the_family_asked_for_is_read_with_all_its_label_sets():
    assert series(PAGE, "a:b") == [
        ({"engine": "0", "model_name": "m"}, 2.0),
        ({"engine": "1", "model_name": "m"}, 3.0),
    ]
    assert total(PAGE, "a:b") == 5.0


def test_a_family_without_labels_and_at_the_end_without_a_newline():
    assert series("plain 7", "plain") == [({}, 7.0)]
    assert total(PAGE, "plain") == 7.0


def test_an_absent_family_is_none_and_not_zero():
    assert total(PAGE, "missing") is None
    assert total("", "a:b") is None


@pytest.mark.parametrize(
    "line",
    ["x{", "x{a=", 'x{a="1"}', 'x{a="1} 2', "x", "x nothing", "x NaN", "x +Inf", 'x{a="b\n"} 2'],
)
def test_lines_that_cannot_be_read_are_left_out_and_the_rest_still_counts(line: str):
    assert series(f"{line}\nx 4\n", "x") == [({}, 4.0)]


def test_label_values_may_hold_braces_spaces_and_escapes():
    text = r'x{a="} {",b="c:\\d\"e\nf",} 1'
    assert series(text, "x") == [({"a": "} {", "b": 'c:\\d"e\nf'}, 1.0)]


def test_carriage_returns_at_the_line_ends_do_no_harm():
    assert series("x 1\r\nx 2\r\n", "x") == [({}, 1.0), ({}, 2.0)]


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("vllm-0.32.0-guarded", "vllm:num_requests_running", 4.0),
        ("vllm-0.32.0-guarded", "vllm:generation_tokens_total", 765.0),
        ("sglang-0.5.23-guarded", "sglang:prompt_tokens_total", 95.0),
        ("xllamacpp-2026.10.11549", "llamacpp:requests_processing", 2.0),
    ],
)
def test_pages_of_real_engines(folder: str, name: str, expected: float):
    assert total(answer(folder, "overload_metrics").text, name) == expected


def test_hostile_input_costs_no_more_than_its_length():
    text = "x{" + 'a="' * 50_000 + "\n" + "x 1\n" * 1000
    assert total(text, "x") == 1000.0

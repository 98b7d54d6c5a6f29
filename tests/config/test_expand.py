"""``${VAR}`` and ``${VAR:-default}``."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.expand import Unset, expand, expand_text
from gateway.config.faults import Faults

from .helpers import fault, faults, loaded

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
plain = st.text(max_size=20).filter(lambda text: "$" not in text and "{" not in text)


@given(plain, names, st.text(max_size=30), plain)
def test_a_variable_is_replaced_where_it_stands(
    before: str, name: str, value: str, after: str
) -> None:
    assert expand_text(f"{before}${{{name}}}{after}", {name: value}) == before + value + after


@given(names, st.text(max_size=30))
def test_what_a_variable_brings_in_is_not_expanded_again(name: str, value: str) -> None:
    env = {"X": "never", name: "${X}" + value}
    assert expand_text(f"${{{name}}}", env) == "${X}" + value


@given(names, plain.filter(lambda text: "}" not in text))
def test_a_default_stands_in_for_a_variable_that_is_unset_or_empty(name: str, default: str) -> None:
    written = f"${{{name}:-{default}}}"
    assert expand_text(written, {}) == default
    assert expand_text(written, {name: ""}) == default
    assert expand_text(written, {name: "set"}) == "set"


@given(st.text(max_size=40).filter(lambda text: "${" not in text))
def test_text_without_variables_stays_as_it_is(text: str) -> None:
    assert expand_text(text, {}) == text


@given(plain, plain)
def test_two_dollars_and_a_brace_are_a_literal_dollar_and_brace(before: str, after: str) -> None:
    assert expand_text(f"{before}$${{HOME}}{after}", {"HOME": "x"}) == f"{before}${{HOME}}{after}"


@given(st.text(alphabet="${}:-AB ", max_size=16))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    try:
        expand_text(text, {"A": "1"})
    except Unset as error:
        assert "write" in str(error) or "defaults are plain text" in str(error)


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A B}", "${A:?no}", "x ${A"])
def test_a_brace_that_begins_no_variable_is_refused(text: str) -> None:
    with pytest.raises(Unset, match=r"no \$\{VAR\} or"):
        expand_text(text, {"A": "1"})


def test_a_variable_inside_a_default_is_refused() -> None:
    with pytest.raises(Unset, match="inside the default of A"):
        expand_text("${A:-${B}}", {})


def test_an_unset_variable_is_named_with_its_key_path(tmp_path: Path) -> None:
    text = "backends:\n  - url: http://h:1\n    api_key: ${GPU1_KEY}\n"
    assert fault(tmp_path, text) == (
        "backends[0].api_key: needs GPU1_KEY, which the environment lacks: set it, or write a"
        " default"
    )


def test_every_unset_variable_is_named_at_once(tmp_path: Path) -> None:
    text = "server: {host: '${A}', port: '${B}'}\nrouting: {policy: '${C}'}\n"
    assert [line.split(":")[0] for line in faults(tmp_path, text)] == [
        "server.host",
        "server.port",
        "routing.policy",
    ]


def test_numbers_and_units_may_come_from_variables(tmp_path: Path) -> None:
    text = """
server: {port: "${PORT:-8123}", workers: "${N}", drain_timeout: "${D}", max_body: "${M}"}
backends: [{url: "http://h:1", weight: "${W}", max_concurrency: "${C}"}]
"""
    env = {"N": "2", "D": "5s", "M": "1MiB", "W": "2.5", "C": "8"}
    config = loaded(tmp_path, text, env)
    assert (config.server.port, config.server.workers) == (8123, 2)
    assert (config.server.drain_timeout, config.server.max_body) == (5.0, 1 << 20)
    assert (config.backends[0].weight, config.backends[0].max_concurrency) == (2.5, 8)


def test_an_empty_variable_is_a_fault_of_the_setting(tmp_path: Path) -> None:
    text = "backends:\n  - url: http://h:1\n    api_key: ${GPU1_KEY}\n"
    assert fault(tmp_path, text, {"GPU1_KEY": ""}) == (
        "backends[0].api_key: is empty; write a value or remove the line"
    )


def test_keys_of_mappings_are_not_expanded() -> None:
    tree = {"${A}": ["${A}", {"b": "${A}"}, 7, None, True]}
    assert expand(tree, {"A": "1"}, Faults()) == {"${A}": ["1", {"b": "1"}, 7, None, True]}


def test_comments_are_not_expanded(tmp_path: Path) -> None:
    assert loaded(tmp_path, "# ${NOWHERE}\nserver: {port: 1} # ${NOWHERE}\n").server.port == 1

"""YAML: what is taken, and how each oddity is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError, Overrides
from gateway.config.document import Unreadable, parse
from gateway.config.faults import Faults
from gateway.config.load import load

from .helpers import fault, faults, loaded


def tree(text: str) -> object:
    found = Faults()
    parsed = parse(text, "f", found)
    assert not found, found.lines()
    return parsed


def test_an_empty_file_is_an_empty_configuration(tmp_path: Path) -> None:
    for text in ("", "# only a comment\n", "---\n"):
        assert loaded(tmp_path, text).discover


def test_a_section_with_nothing_in_it_counts_as_left_out(tmp_path: Path) -> None:
    text = "server:\nbackends:\nmodels:\nauth:\n  keys:\nrouting:\nstore:\n  url:\n"
    assert loaded(tmp_path, text).server.port == 8000


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = "a: [1, -2, 0x1f, 1.5, 1e3, true, false, null, ~, no, off, 1:30, 2026-11-20, 1_0, '7']"
    words = ["no", "off", "1:30", "2026-11-20", "1_0", "7"]
    assert tree(text) == {"a": [1, -2, 31, 1.5, 1000.0, True, False, None, None, *words]}


def test_anchors_and_merges_work() -> None:
    text = """
base: &base {a: 1, b: 2}
more: &more {b: 3, c: 4}
one: {<<: *base, b: 9}
two: {<<: [*base, *more]}
again: *base
"""
    found = tree(text)
    assert isinstance(found, dict)
    assert found["one"] == {"a": 1, "b": 9}
    assert found["two"] == {"a": 1, "b": 2, "c": 4}
    assert found["again"] == {"a": 1, "b": 2}


def test_a_merge_of_something_else_is_a_fault(tmp_path: Path) -> None:
    assert fault(tmp_path, "server: {<<: 7}") == (
        "server.<<: must be an alias of a mapping, or a list of such"
    )


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "7\n"])
def test_a_file_that_is_no_mapping_is_one_fault(tmp_path: Path, text: str) -> None:
    found = fault(tmp_path, text)
    assert found.endswith("portico.yaml: must be a mapping with sections such as 'backends:'")


def test_a_key_given_twice_is_a_fault_with_both_lines(tmp_path: Path) -> None:
    text = "backends:\n  - url: http://a:1\n    weight: 1\n    url: http://b:1\n"
    assert fault(tmp_path, text) == (
        "backends[0].url: is given twice, on line 2 and again on line 4; remove one of them"
    )


def test_every_key_given_twice_is_reported(tmp_path: Path) -> None:
    text = "server: {port: 1, port: 2}\nserver: {host: a}\nrouting: {policy: auto, policy: auto}\n"
    assert [line.split(":")[0] for line in faults(tmp_path, text)] == [
        "server.port",
        "server",
        "routing.policy",
    ]


def test_a_tab_is_named_with_its_place(tmp_path: Path) -> None:
    found = fault(tmp_path, "server:\n\tport: 1\n")
    assert "portico.yaml:2:1: is not YAML" in found
    assert found.endswith("indent with spaces, never with tabs")


def test_bad_yaml_is_one_line_with_line_and_column(tmp_path: Path) -> None:
    assert "portico.yaml:2:" in fault(tmp_path, "server: {port: 1\nbackends: [}\n")


def test_an_unquoted_variable_in_braces_brings_the_remedy(tmp_path: Path) -> None:
    assert '"${VAR}" in quotes' in fault(tmp_path, "auth: {admin_keys: [${ADMIN_KEY}]}\n")


@pytest.mark.parametrize("text", ["a: *nowhere\n", "a: 1\n---\nb: 2\n", "a: 'open\n", "a: \x00\n"])
def test_other_syntax_faults_are_one_line_each(tmp_path: Path, text: str) -> None:
    assert "portico.yaml" in fault(tmp_path, text)


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!secret", "!!binary", "!!int"])
def test_tags_are_refused_and_never_obeyed(tmp_path: Path, tag: str) -> None:
    assert "has a YAML tag" in fault(tmp_path, f"server: {{host: {tag} text}}\n")


def test_a_list_as_a_key_is_refused(tmp_path: Path) -> None:
    assert "as a key on line 1" in fault(tmp_path, "server: {[a, b]: 1}\n")


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "more than 50000 values" in fault(tmp_path, "\n".join(lines))


def test_a_merge_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    assert "more than 50000 values" in fault(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: " + "[" * 5000])
def test_endless_nesting_is_refused(tmp_path: Path, text: str) -> None:
    assert "nested too deeply" in fault(tmp_path, text)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, {}, Overrides())
    (only,) = caught.value.faults
    return only


def test_a_file_that_cannot_be_read_is_one_fault_with_the_reason(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml") == (
        f"{tmp_path}/none.yaml: cannot be read: No such file or directory"
    )
    assert refusal(tmp_path).endswith("cannot be read: Is a directory")


def test_a_file_over_a_mebibyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"# " + b"x" * (1 << 20))
    assert "over 1 MiB" in refusal(path)


def test_a_file_that_is_not_utf_8_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"server:\n  host: caf\xe9\n")
    assert refusal(path) == f"{path}:2: is not UTF-8 text; save it as UTF-8"


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert loaded(tmp_path, "\ufeffserver: {port: 9}\n").server.port == 9


@given(st.text(alphabet="ab:-{}[]&*!<>|'\"#\n \t,?%@`${}", max_size=60))
def test_any_text_is_a_tree_or_a_fault(text: str) -> None:
    try:
        parse(text, "f", Faults())
    except Unreadable as error:
        assert "\n" not in str(error)

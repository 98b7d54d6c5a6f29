"""How far the gateway goes for a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.dump import document
from gateway.core.types import Tactics
from tests.config.helpers import fault, loaded


def test_retries_are_bounded_and_nothing_is_sent_twice_unless_told_otherwise(
    tmp_path: Path,
) -> None:
    assert loaded(tmp_path, "").tactics == Tactics(0.2, 10.0, 60.0, False, None, False)


def test_what_is_set_is_taken_over_and_shown(tmp_path: Path) -> None:
    text = """
routing:
  retries: {budget: 0.1, per_second: 2}
  hedge: {after: 2s}
  first_byte: auto
  load_wait: 5s
"""
    config = loaded(tmp_path, text)
    assert config.tactics == Tactics(0.1, 2.0, 5.0, True, 2.0, True)
    shown = document(config)["routing"]
    assert shown["retries"] == {"budget": 0.1, "per_second": 2.0}
    assert (shown["hedge"], shown["first_byte"]) == ({"after": "2s"}, "auto")
    assert shown["load_wait"] == "5s"


def test_a_second_copy_may_go_by_the_percentile(tmp_path: Path) -> None:
    config = loaded(tmp_path, "routing: {hedge: {after: p95}}")
    assert (config.tactics.hedge, config.tactics.hedge_after) == (True, None)
    assert document(config)["routing"]["hedge"] == {"after": "p95"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{retries: {budget: 2}}", "routing.retries.budget: must be 0 to 1"),
        ("{hedge: {after: p99}}", "routing.hedge.after: must be 'p95' or a time, such as 2s"),
        ("{first_byte: never}", "routing.first_byte: must be one of timeout, auto"),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in fault(tmp_path, f"routing: {text}")

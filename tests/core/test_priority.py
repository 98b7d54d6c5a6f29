"""How urgent a request is."""

from __future__ import annotations

import pytest

from gateway.core.errors import Refusal
from gateway.core.priority import LEVELS, NAMES, asked, granted
from gateway.core.types import Caller


@pytest.mark.parametrize("word", ["low", " High", "NORMAL"])
def test_a_header_is_read_in_any_case(word: str) -> None:
    assert asked(word) == LEVELS[word.strip().lower()]


def test_no_header_asks_for_nothing_and_a_strange_one_is_refused() -> None:
    assert asked(None) is None
    with pytest.raises(Refusal) as caught:
        asked("5")
    assert caught.value.kind == "invalid_request"


@pytest.mark.parametrize("level", LEVELS.values())
def test_a_request_gets_no_more_than_its_key_has(level: int) -> None:
    caller = Caller(priority=level)
    assert granted(None, caller) == level
    for wanted in NAMES:
        assert granted(wanted, caller) == min(wanted, level)

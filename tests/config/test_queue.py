"""Who may wait at the door, and who goes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.dump import document
from gateway.core.queue import Bounds
from tests.config.helpers import fault, loaded

KEY = "sk-0123456789abcdef"


def test_requests_wait_unless_told_otherwise(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")
    assert (config.queue, config.learn) == (Bounds(512, 30.0, None), "configured")


def test_the_queue_can_be_bounded_and_turned_off(tmp_path: Path) -> None:
    text = "routing: {queue: {max: 0, timeout: 90s, limits: engine}, keepalive: 5s}"
    config = loaded(tmp_path, text)
    assert (config.queue, config.learn) == (Bounds(0, 90.0, 5.0), "engine")
    shown = document(config)["routing"]
    assert shown["queue"] == {"max": 0, "timeout": "90s", "limits": "engine"}
    assert shown["keepalive"] == "5s"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{queue: {max: -1}}", "routing.queue.max: must be a whole number, 0 or more"),
        ("{queue: {timeout: 0}}", "routing.queue.timeout: must be more than zero"),
        (
            "{queue: {limits: guess}}",
            "routing.queue.limits: must be one of configured, engine, learned",
        ),
        ("{keepalive: soon}", "routing.keepalive: must be a duration"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, expected: str) -> None:
    assert fault(tmp_path, f"routing: {text}").startswith(expected)


@pytest.mark.parametrize(("word", "level"), [("high", 1), ("normal", 0), ("LOW", -1)])
def test_a_key_has_a_priority(tmp_path: Path, word: str, level: int) -> None:
    text = f"auth: {{keys: [{{name: a, key: {KEY}, priority: {word}}}]}}"
    config = loaded(tmp_path, text)
    (caller,) = config.keyring.callers.values()
    assert caller.priority == level
    shown = document(config)["auth"]["keys"][0].get("priority")
    assert shown == (word.lower() if level else None)


def test_a_priority_that_is_none_is_a_fault(tmp_path: Path) -> None:
    text = f"auth: {{keys: [{{name: a, key: {KEY}, priority: 9}}]}}"
    assert fault(tmp_path, text).startswith("auth.keys[0].priority: must be")

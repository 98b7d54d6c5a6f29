"""What late means is learned from each model's own first bytes."""

from __future__ import annotations

from gateway.core.delays import AGAIN, FEWEST, KEPT, LATE, LEAST, Delays


def after(count: int, seconds: float = 0.1, delays: Delays | None = None) -> Delays:
    delays = delays or Delays()
    for _ in range(count):
        delays.add("m", True, seconds)
    return delays


def test_nothing_is_said_before_enough_is_known() -> None:
    assert after(FEWEST - 1).late("m", True) is None
    assert after(FEWEST).late("m", True) == 0.1
    assert after(FEWEST).late("m", False) is None, "whole answers have their own"
    assert after(FEWEST).late("other", True) is None


def test_one_in_twenty_is_later() -> None:
    delays = Delays()
    for number in range(100):
        delays.add("m", True, number / 100)
    assert delays.late("m", True) == 0.95


def test_what_changed_is_learned_and_what_is_old_forgotten() -> None:
    delays = after(KEPT)
    assert delays.late("m", True) == 0.1
    after(KEPT // 10 + AGAIN, 2.0, delays)
    assert delays.late("m", True) == 2.0
    after(KEPT, 0.1, delays)
    assert delays.late("m", True) == 0.1


def test_the_bound_is_far_above_the_usual_and_never_tight() -> None:
    assert after(FEWEST).bound("m", True) == LEAST
    assert after(FEWEST, 10.0).bound("m", True) == 10.0 * LATE
    assert Delays().bound("m", True) is None

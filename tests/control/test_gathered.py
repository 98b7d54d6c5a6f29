"""Counts of many workers: each counted once, none lost, and not more and more of them."""

from __future__ import annotations

import pickle

from gateway.control import families as fam
from gateway.control.exposition import State
from gateway.control.gathered import LONG_GONE, Gathered
from gateway.control.metrics import Metrics
from gateway.core.types import Outcome


def state(requests: int) -> State:
    """What a worker tells that has seen so many requests."""
    metrics = Metrics()
    for _ in range(requests):
        metrics.observe(Outcome(id="r", key="", surface="chat-completions", model="m", status=200))
    return metrics.state()


def total(gathered: Gathered) -> float:
    metrics = Metrics()
    for told in gathered.states:
        metrics.merge(told)
    return sum(metrics.state().counters[fam.REQUESTS.name].values())


def test_what_a_worker_tells_takes_the_place_of_what_it_told_before() -> None:
    gathered = Gathered()
    for worker, count in (("a", 1), ("b", 10), ("a", 3), ("a", 5)):
        gathered.told(worker, state(count), 0.0)
    assert total(gathered) == 15


def test_the_dead_stay_counted_and_are_put_together() -> None:
    gathered = Gathered()
    for number in range(20):
        gathered.told(f"w{number}", state(2), float(number))
    gathered.told("living", state(7), 0.0)
    for now in (LONG_GONE + 5.5, LONG_GONE + 30.0, LONG_GONE + 1000.0):
        gathered.tidy(["living"], now)
        assert total(gathered) == 47
    assert len(gathered.states) == 2
    gathered.told("living", state(8), 5000.0)
    assert total(gathered) == 48


def test_who_was_only_away_for_a_moment_is_not_counted_twice() -> None:
    gathered = Gathered()
    gathered.told("a", state(2), 0.0)
    gathered.tidy([], LONG_GONE - 1)
    gathered.told("a", state(3), LONG_GONE)
    gathered.tidy([], LONG_GONE + 2)
    assert total(gathered) == 3


def test_an_idle_worker_is_not_taken_for_dead() -> None:
    gathered = Gathered()
    gathered.told("a", state(2), 0.0)
    for now in range(0, 1000, 30):
        gathered.tidy(["a"], float(now))
    gathered.told("a", state(3), 1001.0)
    assert total(gathered) == 3


def test_it_can_be_handed_on() -> None:
    gathered = Gathered()
    gathered.told("a", state(2), 0.0)
    successor: Gathered = pickle.loads(pickle.dumps(gathered))
    successor.told("a", state(3), 1.0)
    successor.told("b", state(1), 1.0)
    assert (total(successor), total(gathered)) == (4, 2)

"""The energy account: what GPUs drew is divided by the tokens that were in flight."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.energy import Energy, Share
from gateway.core.energy import Work
from gateway.core.gpus import Gpu

A, B = ("chat", "team-a"), ("chat", "team-b")
HOLDS = {"b": ("G",), "pair": ("G", "H")}


def reading(at: float, uuid: str = "G", power: float | None = 100.0, **more: float) -> Gpu:
    return Gpu("h", "0", uuid, at=at, power=power, **more)


def watched(until: int, *, uuids: Iterable[str] = ("G",), power: float | None = 100.0) -> Energy:
    energy = Energy()
    for at in range(until + 1):
        energy.read([reading(float(at) + 1e-9, uuid, power) for uuid in uuids])
    return energy


def job(owner: tuple[str, str], start: float, end: float, tokens: int, backend: str = "b") -> Work:
    return Work(backend, "m", owner, start, start, end, 0, tokens)


def by_owner(shares: Iterable[Share]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for share in shares:
        found[share.owner] = found.get(share.owner, 0.0) + share.joules
    return found


def test_who_is_alone_pays_all_and_idle_seconds_are_nobodys() -> None:
    energy = watched(10)
    energy.done([job(A, 2.0, 5.0, 30)], HOLDS)
    shares = energy.settle({}, 20.0)
    assert by_owner(shares) == pytest.approx({A: 300})
    assert sum(share.seconds for share in shares) == pytest.approx(3)
    assert energy.joules() == pytest.approx({"G": 1000})


def test_who_has_three_times_the_tokens_in_flight_pays_three_times_as_much() -> None:
    energy = watched(10)
    energy.done([job(A, 2.0, 6.0, 300), job(B, 2.0, 6.0, 100)], HOLDS)
    assert by_owner(energy.settle({}, 20.0)) == pytest.approx({A: 300, B: 100})


def test_a_second_is_not_divided_before_all_who_shared_it_have_ended() -> None:
    energy = watched(10)
    energy.done([job(A, 2.0, 4.0, 10)], HOLDS)
    assert energy.settle({"G": 2.5}, 20.0) == []
    energy.done([job(B, 2.0, 10.0, 40)], HOLDS)
    assert by_owner(energy.settle({}, 20.0)) == pytest.approx({A: 100, B: 700})


def test_a_request_that_never_ends_does_not_hold_the_others_up_for_ever() -> None:
    energy = watched(10)
    energy.done([job(A, 2.0, 4.0, 10)], HOLDS)
    assert energy.settle({"G": 1.0}, 3000.0) == []
    assert by_owner(energy.settle({"G": 1.0}, 3700.0)) == pytest.approx({A: 200})


def test_the_latest_seconds_wait_for_what_workers_have_yet_to_tell() -> None:
    energy = watched(10)
    energy.done([job(A, 8.0, 9.0, 10)], HOLDS)
    assert energy.settle({}, 10.5) == []
    assert by_owner(energy.settle({}, 11.5)) == pytest.approx({A: 100})


def test_an_engine_over_two_gpus_pays_for_both() -> None:
    energy = watched(10, uuids=("G", "H"))
    energy.done([job(A, 2.0, 4.0, 10, "pair"), job(B, 2.0, 4.0, 10)], HOLDS)
    shares = energy.settle({}, 20.0)
    assert by_owner(shares) == pytest.approx({A: 300, B: 100})
    assert sum(share.seconds for share in shares if share.owner == A) == pytest.approx(3)


def test_the_devices_own_counter_beats_its_power() -> None:
    energy = Energy()
    for at in range(5):
        energy.read([reading(float(at) + 1e-9, power=100.0, energy=1000.0 + 250.0 * at)])
    assert energy.joules() == pytest.approx({"G": 1000})


def test_a_counter_that_begins_anew_falls_back_to_power() -> None:
    energy = Energy()
    for at, counter in ((1.0, 5000.0), (2.0, 10.0)):
        energy.read([reading(at, power=100.0, energy=counter)])
    assert energy.joules() == pytest.approx({"G": 100})


def test_a_gpu_that_tells_no_power_still_counts_its_seconds() -> None:
    energy = watched(10, power=None)
    energy.done([job(A, 2.0, 4.0, 10)], HOLDS)
    shares = energy.settle({}, 20.0)
    assert by_owner(shares) == {A: 0.0}
    assert sum(share.seconds for share in shares) == pytest.approx(2)


def test_nothing_is_made_up_for_the_time_in_which_nobody_looked() -> None:
    energy = Energy()
    energy.read([reading(1.0)])
    energy.read([reading(500.0)])
    assert energy.joules() == {"G": 0.0}


jobs = st.tuples(
    st.sampled_from([A, B]), st.floats(0, 40), st.floats(0.01, 20), st.integers(0, 1000)
)


@given(st.lists(jobs, max_size=12))
def test_no_more_is_charged_than_was_drawn(
    requests: list[tuple[tuple[str, str], float, float, int]],
) -> None:
    energy = watched(60)
    energy.done([job(owner, start, start + took, n) for owner, start, took, n in requests], HOLDS)
    charged = by_owner(energy.settle({}, 100.0))
    assert sum(charged.values()) <= 6000 * (1 + 1e-9)
    assert set(charged) == {owner for owner, *_ in requests}
    assert energy.settle({}, 200.0) == []

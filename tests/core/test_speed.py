"""Speeds learned from what passed: equals stay equal, slow GPUs are found, outliers not heard."""

import pytest

from gateway.core.speed import (
    CHUNK,
    STEP,
    TRUST,
    Seen,
    Speed,
    faded,
    prefill_seconds,
    speeds,
    step_seconds,
)


def watched(*factors, count=40, tokens=4000):
    """Engines that were seen ``count`` times, each so many times as slow as the model engine."""
    found = []
    for factor in factors:
        sums, by = (0.0, 0.0, 0.0), 1.0
        for _ in range(count):
            expected = prefill_seconds(tokens, 0)
            sums = faded(*sums, (expected, expected * factor), by)
            by = sums[2] / sums[1]
        found.append(Seen(*sums))
    return found


def test_a_longer_prompt_takes_longer_and_a_cached_one_less():
    assert prefill_seconds(10_000, 0) > 2 * prefill_seconds(4000, 0)
    assert prefill_seconds(10_000, 9000) < prefill_seconds(10_000, 0) / 5
    assert prefill_seconds(0, 0) == prefill_seconds(1, 0) > STEP * 0.9
    assert prefill_seconds(CHUNK, 0) < prefill_seconds(CHUNK + 1, 0)


def test_a_step_takes_longer_with_more_context():
    assert step_seconds(0, 0) == STEP
    assert step_seconds(50, 200_000) > 2 * STEP


def test_engines_of_which_nothing_is_known_are_like_the_model():
    assert speeds([Seen(), Seen()]) == [Speed(), Speed()]
    assert speeds([]) == []


def test_a_gpu_three_times_as_slow_is_told_from_the_others():
    fast, slow, other = speeds(watched(1.0, 3.0, 1.1))
    assert fast.prefill == other.prefill == pytest.approx(1.1, rel=0.15)
    assert slow.prefill == pytest.approx(3.0, rel=0.2)


def test_small_differences_are_taken_for_noise():
    assert len(set(speeds(watched(1.0, 1.2, 0.9, 1.1)))) == 1


def test_a_new_engine_is_taken_to_be_like_those_beside_it():
    *_, new = speeds([*watched(5.0, 5.0), Seen()])
    assert new.prefill == pytest.approx(5.0, rel=0.1)


def test_one_request_that_stalled_changes_little():
    sums = watched(1.0)[0][:3]
    expected = prefill_seconds(4000, 0)
    one = faded(*sums, (expected, 300.0), 1.0)
    assert one[2] / one[1] < 1.4


def test_an_engine_a_thousand_times_as_slow_is_found_out_within_ten_requests():
    (cpu,) = speeds(watched(1000.0, count=10))
    assert cpu.prefill > 400


def test_a_first_observation_counts_for_less_than_many():
    few, *_ = speeds([*watched(6.0, count=1), *watched(1.0, 1.0)])
    assert 1.0 < few.prefill < (6 + TRUST) / (1 + TRUST) + 0.1

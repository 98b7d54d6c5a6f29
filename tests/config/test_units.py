"""Durations and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.units import (
    LARGEST,
    LONGEST,
    SECONDS,
    seconds,
    show_seconds,
    show_size,
    size,
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("30s", 30.0),
        ("500ms", 0.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("1.5s", 1.5),
        (" 10 s ", 10.0),
        ("45", 45.0),
        (45, 45.0),
        (0.25, 0.25),
        ("2H", 7200.0),
    ],
)
def test_durations_are_read_as_people_write_them(written: object, expected: float) -> None:
    assert seconds(written) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("32MiB", 32 << 20),
        ("10MB", 10_000_000),
        ("1024", 1024),
        (1024, 1024),
        ("64k", 64 << 10),
        ("64K", 64 << 10),
        ("64kB", 64_000),
        ("1.5KiB", 1536),
        ("1 GiB", 1 << 30),
        ("7b", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(written: object, expected: int) -> None:
    assert size(written) == expected


@pytest.mark.parametrize("written", [0, "0s", "0ms", -1, "-5s", -0.5, 1e-12])
def test_a_duration_must_be_more_than_zero(written: object) -> None:
    with pytest.raises(ValueError, match="more than zero"):
        seconds(written)


@pytest.mark.parametrize("written", [0, "0k", -1, "-5MiB", "0.4b"])
def test_a_size_must_be_at_least_a_byte(written: object) -> None:
    with pytest.raises(ValueError, match=r"zero|one byte"):
        size(written)


@pytest.mark.parametrize(
    "written",
    ["", "s", "ten", "5 minutes", "1m30s", "1e3", "٣s", True, None, [], float("nan"), float("inf")],
)
def test_what_is_no_duration_is_refused_with_what_to_write(written: object) -> None:
    with pytest.raises(ValueError, match=r"must be a duration such as 500ms"):
        seconds(written)


@pytest.mark.parametrize("written", ["", "MB", "much", "1TB", "0x10", False, None, {}])
def test_what_is_no_size_is_refused_with_what_to_write(written: object) -> None:
    with pytest.raises(ValueError, match=r"must be a size such as 32MiB"):
        size(written)


def test_quantities_beyond_reason_are_refused() -> None:
    with pytest.raises(ValueError, match="longer than a year"):
        seconds("9000d")
    with pytest.raises(ValueError, match="more than 1 PiB"):
        size("99999999GiB")


@given(st.integers(1, 10**6), st.sampled_from(sorted(SECONDS)))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str) -> None:
    expected = number * SECONDS[unit]
    if expected <= LONGEST:
        assert seconds(f"{number}{unit}") == float(expected)


@given(st.integers(1, LONGEST * 1000))
def test_a_shown_duration_is_read_back_unchanged(millis: int) -> None:
    value = seconds(f"{millis}ms")
    assert seconds(show_seconds(value)) == value


@given(st.integers(1, LARGEST))
def test_a_shown_size_is_read_back_unchanged(value: int) -> None:
    assert size(show_size(value)) == value


@given(st.text(max_size=20) | st.floats() | st.integers())
def test_any_value_is_a_quantity_in_range_or_a_fault(value: object) -> None:
    for read, most in ((seconds, LONGEST), (size, LARGEST)):
        try:
            found = read(value)
        except ValueError as error:
            assert str(error)
        else:
            assert 0 < found <= most


def test_durations_are_shown_in_the_largest_whole_unit() -> None:
    shown = [show_seconds(value) for value in (0.5, 30, 90, 120, 7200, 0.0015)]
    assert shown == ["500ms", "30s", "90s", "2m", "2h", "1.5ms"]


def test_sizes_are_shown_in_the_largest_whole_unit() -> None:
    assert [show_size(n) for n in (1, 1024, 32 << 20, 10**7)] == ["1", "1KiB", "32MiB", "10000000"]

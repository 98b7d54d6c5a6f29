"""The driver's error numbers, after NVIDIA's catalog."""

from __future__ import annotations

import pytest

from gateway.core.xids import XIDS, Kind, xid


@pytest.mark.parametrize("number", [48, 62, 64, 74, 79, 94, 95, 109, 119, 120, 140, 143, 158])
def test_what_asks_for_a_reset_or_a_reboot_is_fatal(number: int) -> None:
    assert xid(number).kind is Kind.FATAL


@pytest.mark.parametrize("number", [8, 11, 13, 25, 31, 32, 43, 45, 68, 69, 72, 75, 105, 135])
def test_what_asks_for_a_restart_of_the_program_is_the_programs_fault(number: int) -> None:
    assert xid(number).kind is Kind.APPLICATION


@pytest.mark.parametrize("number", [63, 92, 93, 137, 144, 150, 154, 171, 172])
def test_what_another_reading_tells_better_is_for_the_record(number: int) -> None:
    assert xid(number).kind is Kind.INFORMATIONAL


def test_a_number_that_the_catalog_does_not_have_condemns_nobody() -> None:
    row = xid(9999)
    assert row.kind is Kind.INFORMATIONAL
    assert "https://docs.nvidia.com/" in row.remedy


def test_every_row_says_what_it_is_and_what_to_do() -> None:
    for number, row in XIDS.items():
        assert row.number == number
        assert row.title and row.remedy.endswith("."), number


def test_the_remedy_of_a_fatal_number_is_more_than_waiting() -> None:
    for row in XIDS.values():
        if row.kind is Kind.FATAL:
            assert "nvidia-smi" in row.remedy or "host" in row.remedy, row

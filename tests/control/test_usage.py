"""How usage is asked for and shown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.control.desk import Desk
from gateway.control.usage import USAGE_ROUTES, table
from gateway.core.errors import Refusal
from gateway.core.spending import HOUR, Slot, Spent
from gateway.core.types import Ask

NOON = 1_800_000_000 // HOUR * HOUR
ROWS = [
    (Slot(NOON, "a", "u", "", "m"), Spent(1, 0, 10, 20, 0, 0.5, 1)),
    (Slot(NOON + HOUR, "a", "", "", "m"), Spent(2, 1, 1, 2, 0, 0.25, 1)),
    (Slot(NOON, "b", "", "", "m"), Spent(4)),
]


class Records:
    """Answers with ROWS and keeps the bounds that it was asked for."""

    async def used(self, since: int, until: int) -> Iterable[tuple[Slot, Spent]]:
        self.asked = (since, until)
        return ROWS


async def ask(query: str = "", accept: str = "") -> tuple[Any, tuple[int, int]]:
    records = Records()
    desk = cast(Desk, SimpleNamespace(records=records, now=lambda: NOON + 90.0))
    status, doc = await USAGE_ROUTES[0].handle(desk, Ask("GET", "", query, accept=accept))
    assert status == 200
    return doc, records.asked


async def test_the_sums_are_by_key_and_model_for_the_last_thirty_days() -> None:
    doc, asked = await ask()
    assert asked == (NOON - 30 * 86400, NOON + HOUR)
    assert doc["group_by"] == ["key", "model"]
    assert doc["usage"][0] == {
        "key": "a",
        "model": "m",
        "requests": 3,
        "errors": 1,
        "input_tokens": 11,
        "output_tokens": 22,
        "cached_tokens": 0,
        "ttft_seconds_sum": 0.75,
        "ttft_count": 2,
    }


async def test_bounds_are_widened_to_whole_hours_and_told() -> None:
    doc, asked = await ask("from=2027-01-15T08:10:00Z&to=2027-01-15T09:10:00%2B00:00")
    assert (doc["from"], doc["to"]) == ("2027-01-15T08:00:00Z", "2027-01-15T10:00:00Z")
    assert asked == (NOON, NOON + 2 * HOUR)
    _, asked = await ask(f"from={NOON}&to={NOON + HOUR}")
    assert asked == (NOON, NOON + HOUR)


async def test_groups_can_be_chosen_and_times_are_shown_as_such() -> None:
    doc, _ = await ask("group_by=hour,key")
    assert [(row["hour"], row["key"], row["requests"]) for row in doc["usage"]] == [
        ("2027-01-15T08:00:00Z", "a", 1),
        ("2027-01-15T08:00:00Z", "b", 4),
        ("2027-01-15T09:00:00Z", "a", 2),
    ]


@pytest.mark.parametrize(("query", "accept"), [("format=csv", ""), ("", "text/csv")])
async def test_csv_is_there_by_parameter_and_by_accept(query: str, accept: str) -> None:
    text, _ = await ask(query, accept)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["requests"] for row in rows] == ["3", "4"]


async def test_json_wins_where_both_are_accepted_or_asked_for() -> None:
    for query, accept in (("", "application/json, text/csv"), ("format=json", "text/csv")):
        doc, _ = await ask(query, accept)
        assert isinstance(doc, dict)


def test_a_name_cannot_be_a_formula_nor_break_the_table() -> None:
    text = table(("user",), [(("=1+1",), Spent()), (('a"b,\nc',), Spent())])
    rows = list(csv.reader(io.StringIO(text)))
    assert [row[0] for row in rows[1:]] == ["'=1+1", 'a"b,\nc']


@pytest.mark.parametrize(
    ("name", "value"),
    [("from", "x"), ("to", "-1"), ("group_by", "prompt"), ("group_by", ""), ("format", "xml")],
)
async def test_a_fault_names_its_parameter(name: str, value: str) -> None:
    with pytest.raises(Refusal) as caught:
        await ask(f"{name}={value}")
    assert (caught.value.kind, caught.value.param) == ("invalid_request", name)
    with pytest.raises(Refusal) as caught:
        await ask("form=csv")
    assert caught.value.param == "form"

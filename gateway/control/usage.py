"""What was used, as administrators ask for it: sums by time and group, as JSON or CSV."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import ceil
from urllib.parse import parse_qsl

from gateway.control.desk import AdminRoute, Answered, Desk
from gateway.control.forms import Json, Wrong
from gateway.control.keys import moment
from gateway.core.errors import Refusal
from gateway.core.spending import GROUPS, HOUR, Spent, grouped
from gateway.core.types import Ask

PERIOD = 30 * 86400
"""Seconds before ``to`` at which a question begins that does not say ``from``."""

DEFAULT = ("key", "model")

COLUMNS = (
    "requests",
    "errors",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "ttft_seconds_sum",
    "ttft_count",
)
"""The names of the fields of Spent, in its order."""


async def _usage(desk: Desk, ask: Ask) -> Answered:
    query = dict(parse_qsl(ask.query, keep_blank_values=True))
    for name in query:
        if name not in QUERY:
            raise _fault(name[:100], f"is no parameter here; {', '.join(QUERY)} are")
    names, as_csv = _names(query.get("group_by")), _as_csv(query.get("format"), ask.accept)
    until = _moment("to", query.get("to"), desk.now())
    since = _moment("from", query.get("from"), until - PERIOD)
    if since >= until:
        raise _fault("from", "has to be before 'to'")
    first, end = int(since) // HOUR * HOUR, -(-ceil(until) // HOUR) * HOUR
    rows = grouped(await desk.records.used(first, end), names)
    if as_csv:
        return 200, table(names, rows)
    return 200, {
        "from": shown(first),
        "to": shown(end),
        "group_by": list(names),
        "usage": [_row(names, at, spent) for at, spent in rows],
    }


def _row(names: Sequence[str], at: Sequence[str | int], spent: Spent) -> dict[str, object]:
    return {
        **{name: _value(value) for name, value in zip(names, at, strict=True)},
        **dict(zip(COLUMNS, spent, strict=True)),
    }


def table(names: Sequence[str], rows: Sequence[tuple[Sequence[str | int], Spent]]) -> str:
    """The rows as CSV. Users and sessions are free text of callers: what a spreadsheet would take
    for a formula is quoted by an apostrophe."""
    import csv  # an idle gateway does without

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([*names, *COLUMNS])
    writer.writerows([[*(_plain(_value(value)) for value in at), *spent] for at, spent in rows])
    return out.getvalue()


def _plain(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _value(value: str | int) -> str:
    """Times are the only numbers among the groups."""
    return shown(value) if isinstance(value, int) else value


def shown(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _fault(name: str, text: str) -> Refusal:
    return Refusal("invalid_request", f"'{name}' {text}.", param=name)


def _names(text: str | None) -> tuple[str, ...]:
    if text is None:
        return DEFAULT
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names or not set(names) <= set(GROUPS):
        raise _fault("group_by", f"must be some of {', '.join(GROUPS)}, with commas between")
    return names


def _moment(name: str, text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        # In a query an unescaped + is a blank.
        return moment(float(text) if text.isdecimal() else text.replace(" ", "+"))
    except (Wrong, OverflowError):
        raise _fault(
            name, "must be Unix seconds, a date or a time such as 2027-01-31T12:00:00Z"
        ) from None


def _as_csv(text: str | None, accept: str) -> bool:
    if text is None:
        kinds = [kind.partition(";")[0].strip().lower() for kind in accept.split(",")]
        return "text/csv" in kinds and "application/json" not in kinds
    if text not in ("csv", "json"):
        raise _fault("format", "must be csv or json")
    return text == "csv"


def _schema() -> Json:
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0}
    row = {
        **dict.fromkeys(GROUPS, text),
        **dict.fromkeys(COLUMNS, number),
        "ttft_seconds_sum": {"type": "number", "minimum": 0},
    }
    properties = {
        "from": {"type": "string", "format": "date-time"},
        "to": {"type": "string", "format": "date-time"},
        "group_by": {"type": "array", "items": {"type": "string", "enum": list(GROUPS)}},
        "usage": {
            "type": "array",
            "items": {"type": "object", "required": list(COLUMNS), "properties": row},
        },
    }
    return {"type": "object", "required": list(properties), "properties": properties}


USAGE_SCHEMAS: Mapping[str, Json] = {"Usage": _schema()}

TIME = "Unix seconds, a date or a time such as 2027-01-31T12:00:00Z; whole hours are counted."

QUERY: Mapping[str, Json] = {
    "from": {"type": "string", "description": f"{TIME} 30 days before 'to' when left out."},
    "to": {"type": "string", "description": f"{TIME} Now when left out."},
    "group_by": {
        "type": "string",
        "description": f"Some of {', '.join(GROUPS)}, with commas between.",
        "default": ",".join(DEFAULT),
    },
    "format": {"type": "string", "enum": ["json", "csv"]},
}

USAGE_ROUTES: tuple[AdminRoute, ...] = (
    AdminRoute(
        "GET",
        "/admin/usage",
        "Sum up requests, tokens, errors and first bytes by key, user, session, model and time.",
        _usage,
        gives="Usage",
        query=QUERY,
        table=True,
    ),
)

"""What a key may still use: from its limits and what it has used to a refusal, or to none.

Requests and tokens per minute are counted over a sliding minute: no interval of sixty seconds,
wherever it begins, holds more than the limit. Budgets of tokens are for the calendar's days and
months in UTC. The counters themselves are kept elsewhere; here are only values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gateway.core.errors import Refusal
from gateway.core.types import Caller

MINUTE = 60.0

DAY = 86400

SOON = 1.0
"""Seconds after which to try again where what is in the way are requests under way: nobody knows
when they end."""

Part = tuple[float, int]
"""(moment of booking in monotonic seconds, amount)."""


def _no_parts() -> Sequence[Part]:
    return ()


@dataclass(slots=True, eq=False)
class Window:
    """What was booked within the last minute: the sum, when the newest of it was booked (monotonic
    seconds), and each part, oldest first, which is only asked for where there is no room. It and
    Used are not frozen since they are made several times a request; only their maker writes them.
    """

    total: int = 0
    newest: float = 0.0
    parts: Callable[[], Iterable[Part]] = _no_parts


EMPTY = Window()


@dataclass(slots=True)
class Used:
    """What a key uses and has used. ``running`` are its requests under way; ``day`` and ``month``
    are tokens that were settled; ``held`` are those reserved by requests under way, which count
    for both; ``day_left`` and ``month_left`` are the seconds until these budgets are whole again.
    """

    running: int = 0
    requests: Window = EMPTY
    tokens: Window = EMPTY
    day: int = 0
    month: int = 0
    held: int = 0
    day_left: float = DAY
    month_left: float = 31 * DAY


def admit(caller: Caller, used: Used, now: float) -> Refusal | None:
    """Whether one more request may begin. ``now`` is monotonic seconds, as in the windows."""
    most = caller.max_concurrency
    if most is not None and used.running >= most:
        text = (
            f"The key '{caller.name}' has {used.running} requests under way and may have {most} at"
            " once. Wait until one of them ends, or send fewer at a time."
        )
        return _refusal(caller, used, now, limit="concurrency", wait=SOON, text=text)
    most = caller.requests_per_minute
    if most is not None and used.requests.total >= most:
        wait = until(used.requests, most - 1, now)
        text = f"The key '{caller.name}' has used up its {most} requests per minute. {_again(wait)}"
        return _refusal(caller, used, now, limit="requests", wait=wait, text=text)
    return None


def reserve(caller: Caller, used: Used, tokens: int, now: float) -> Refusal | None:
    """Whether ``tokens`` more (at least one) may be spent. What is over a whole limit counts as
    that limit: it needs all of it, but can be had."""
    tokens = max(1, tokens)
    most = caller.tokens_per_minute
    if most is not None and used.tokens.total + (need := min(tokens, most)) > most:
        wait = until(used.tokens, most - need, now)
        text = _spent(caller, f"{most} tokens per minute", used.tokens.total, need, wait)
        return _refusal(caller, used, now, limit="tokens", wait=wait, text=text)
    for span, most, spent, left in _budgets(caller, used):
        need = min(tokens, most)
        if spent + used.held + need > most:
            wait = left if spent + need > most else SOON
            text = _spent(caller, f"{most} tokens per {span}", spent + used.held, need, wait)
            limit = f"tokens_per_{span}"
            return _refusal(caller, used, now, limit=limit, wait=wait, text=text)
    return None


def _budgets(caller: Caller, used: Used) -> list[tuple[str, int, int, float]]:
    """(span, limit, spent, seconds until it is whole again) of each budget that the key has."""
    rows = (
        ("day", caller.tokens_per_day, used.day, used.day_left),
        ("month", caller.tokens_per_month, used.month, used.month_left),
    )
    return [(span, most, spent, left) for span, most, spent, left in rows if most is not None]


def _spent(caller: Caller, limit: str, spent: int, need: int, wait: float) -> str:
    return (
        f"The key '{caller.name}' may use {limit}, of which {spent} are spent or reserved; prompt"
        f" and answer of this request may need {need}. A smaller max_tokens reserves less."
        f" {_again(wait)}"
    )


def _again(wait: float) -> str:
    return f"Try again in {duration(wait)}, or ask whoever runs this gateway for a higher limit."


def _refusal(
    caller: Caller, used: Used, now: float, *, limit: str, wait: float, text: str
) -> Refusal:
    return Refusal(
        "rate_limit_exceeded",
        text,
        code="rate_limit_exceeded",
        retry_after=float(max(1, math.ceil(wait))),
        headers=headers(caller, used, now),
        limit=limit,
    )


def until(window: Window, room: int, now: float) -> float:
    """Seconds until no more than ``room`` of what is booked in the window is left in it."""
    left, moment = window.total, now
    for booked, amount in window.parts():
        if left <= room:
            break
        left -= amount
        moment = booked + MINUTE
    return max(0.0, moment - now)


def part(caller: Caller, gateways: int) -> Caller:
    """The caller with one gateway's part of the limits that several share and cannot count together
    now: a part of each limit that a minute or a moment sets, at least one. Budgets are as they
    were, since what was spent of them is known from before."""
    if gateways <= 1:
        return caller
    return replace(
        caller,
        requests_per_minute=_part(caller.requests_per_minute, gateways),
        tokens_per_minute=_part(caller.tokens_per_minute, gateways),
        max_concurrency=_part(caller.max_concurrency, gateways),
    )


def _part(most: int | None, gateways: int) -> int | None:
    return None if most is None else max(1, most // gateways)


# --- what the client is told


def headers(caller: Caller, used: Used, now: float) -> dict[str, str]:
    """``x-ratelimit-*`` in OpenAI's form. Of several limits in tokens the one that has the least
    left is told. ``reset`` is when the limit is whole again if nothing more is used."""
    found: dict[str, str] = {}
    most = caller.requests_per_minute
    if most is not None:
        _tell(found, "requests", most, used.requests.total, _reset(used.requests, now))
    rows = [(most, spent + used.held, left) for _, most, spent, left in _budgets(caller, used)]
    most = caller.tokens_per_minute
    if most is not None:
        rows.append((most, used.tokens.total, _reset(used.tokens, now)))
    if rows:
        _tell(found, "tokens", *min(rows, key=lambda row: row[0] - row[1]))
    return found


def _tell(found: dict[str, str], what: str, most: int, spent: int, reset: float) -> None:
    found[f"x-ratelimit-limit-{what}"] = str(most)
    found[f"x-ratelimit-remaining-{what}"] = str(max(0, most - spent))
    found[f"x-ratelimit-reset-{what}"] = duration(reset)


def _reset(window: Window, now: float) -> float:
    return max(0.0, window.newest + MINUTE - now) if window.total else 0.0


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes a reset: ``1s``, ``6m0s``, ``23h59m1s``; whole ones, rounded up."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


# --- the calendar


def day_of(wall: float) -> tuple[int, float]:
    """(number of the day since 1970, seconds until the next) in UTC; ``wall`` is Unix seconds."""
    day, since = divmod(wall, DAY)
    return int(day), DAY - since


def month_of(wall: float) -> tuple[int, float]:
    """(number of the month since the year 0, seconds until the next) in UTC."""
    now = datetime.fromtimestamp(wall, UTC)
    number = now.year * 12 + now.month - 1
    year, month = divmod(number + 1, 12)
    return number, datetime(year, month + 1, 1, tzinfo=UTC).timestamp() - wall

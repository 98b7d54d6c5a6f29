"""The figures that are compared: how each comes out of a row, and what ours is to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.scenarios import LEAVERS

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """Ours is to be at most ``most`` times that of the peer ``of``, or ``most`` itself."""

    most: float
    of: str = ""

    def text(self) -> str:
        return f"≤ {self.most:g}" + (f" x {self.of}" if self.of else "")


@dataclass(frozen=True, slots=True)
class Figure:
    """``value`` raises KeyError or ZeroDivisionError where a row has none. ``added``: less what the
    engine alone has in the same round. ``costs``: the less, the better, and worth a ratio."""

    label: str
    scenario: str
    value: Callable[[Row], float]
    digits: int = 0
    added: bool = False
    costs: bool = True
    goals: tuple[Goal, ...] = ()


def errors(row: Row) -> int:
    """Requests that went wrong."""
    kinds = ("err_connect", "err_status", "err_short", "err_closed")
    return sum(int(row.get(kind, 0)) for kind in kinds)


def errors_or_worse(row: Row) -> float:
    """Those, and requests that had not ended long after they should have."""
    return float(errors(row) + row["unfinished"])


def gateway(row: Row) -> float:
    """CPU seconds of the gateway itself."""
    return float(row["cpu"]["gateway"])


def per_request(row: Row) -> float:
    return gateway(row) / float(row["ok"]) * 1e3


def per_million_events(row: Row) -> float:
    return gateway(row) / float(row["events"]) * 1e6


def busy(row: Row) -> float:
    return 100 * gateway(row) / float(row["secs"])


def per_stream(row: Row) -> float:
    return float((row["held_bytes"] - row["idle_bytes"]) / row["open"] / 1024)


def freed(row: Row) -> float:
    """Seconds until the engine was free again; without end when it did not see them all leave."""
    whole = row["closed_early"] >= LEAVERS and not row["left"]
    return float(row["took_s"]) if whole else float("inf")


def quantile(kind: str, which: str) -> Callable[[Row], float]:
    return lambda row: float(row[kind][which])


SGLANG, NGINX = "sglang-router", "nginx"

FIGURES: tuple[Figure, ...] = (
    Figure("requests/s, as many as go", "a_sat", lambda row: float(row["rps"]), 0, costs=False),
    Figure("CPU ms per request", "a_sat", per_request, 4, goals=(Goal(1.5, SGLANG),)),
    Figure(
        "events/s, as many as go", "b_win", lambda row: float(row["events_per_s"]), 0, costs=False
    ),
    Figure(
        "CPU s per million events",
        "b_win",
        per_million_events,
        1,
        goals=(Goal(1.0, SGLANG), Goal(1.0, NGINX)),
    ),
    Figure("CPU s per million events, 256 paced streams", "c_256", per_million_events, 1),
    Figure(
        "added TTFT p50, µs", "c_256", quantile("ttft", "p50"), 0, True, goals=(Goal(3.0, NGINX),)
    ),
    Figure(
        "added event lag p50, µs",
        "c_256",
        quantile("lag", "p50"),
        0,
        True,
        goals=(Goal(2.0, NGINX),),
    ),
    Figure(
        "added event lag p99, µs",
        "c_256",
        quantile("lag", "p99"),
        0,
        True,
        goals=(Goal(1.0, SGLANG),),
    ),
    Figure("CPU ms per 1 MB prompt", "f_1mb", per_request, 3, goals=(Goal(2.0, SGLANG),)),
    Figure(
        "idle memory, MB", "d_mem", lambda row: float(row["idle_bytes"] / 1e6), 1, goals=(Goal(60),)
    ),
    Figure("kB per open stream", "d_mem", per_stream, 1, goals=(Goal(1.0, NGINX),)),
    Figure(
        "errors with 2,000 streams",
        "c_2000",
        errors_or_worse,
        0,
        costs=False,
        goals=(Goal(0),),
    ),
    Figure("left in mid-stream: engine free, s", "g_mid", freed, 2, costs=False, goals=(Goal(1),)),
    Figure(
        "left before first event: free, s", "g_prefill", freed, 2, costs=False, goals=(Goal(1),)
    ),
    Figure("left whole answer: free, s", "g_wait", freed, 2, costs=False, goals=(Goal(1),)),
)

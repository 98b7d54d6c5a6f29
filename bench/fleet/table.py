"""The table: every load and router in a line, and what each is beside the best peer of its run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from bench.fleet.routers import ORACLE, in_virtual_time, ours_in

Row = Mapping[str, Any]
Figure = Callable[[Row], float | None]

CROWDED = 10.0
"""Percent of the machine that others may use before a line is marked."""


@dataclass(frozen=True, slots=True)
class Column:
    """One figure: under which heading, how to find and to write it."""

    head: str
    figure: Figure
    digits: int = 2
    times: float = 1.0

    def text(self, row: Row) -> str:
        value = self.figure(row)
        return "-" if value is None else f"{value * self.times:.{self.digits}f}"


def at(*path: str) -> Figure:
    """The figure of a row that lies there."""

    def found(row: Row) -> float | None:
        value: Any = row
        for name in path:
            value = value.get(name) if value is not None else None
        return None if value is None else float(value)

    return found


COLUMNS = (
    Column("TTFT mean", at("ttft", "mean")),
    Column("p50", at("ttft", "p50")),
    Column("p90", at("ttft", "p90")),
    Column("p99", at("ttft", "p99")),
    Column("TPOT ms", at("tpot", "p50"), 1, 1000),
    Column("p99", at("tpot", "p99"), 1, 1000),
    Column("e2e mean", at("e2e", "mean")),
    Column("p99", at("e2e", "p99"), 1),
    Column("in SLO %", at("good"), 1, 100),
    Column("cached %", at("cached"), 1, 100),
    Column("imbalance", at("imbalance")),
    Column("refused", at("refused"), 0),
    Column("lost", at("lost"), 0),
    Column("cut", at("cut"), 0),
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure beside the best that a peer has; ``most`` when more is better."""

    head: str
    figure: Figure
    most: bool = False

    def text(self, row: Row, peers: Sequence[Row]) -> str:
        values = [value for peer in peers if (value := self.figure(peer)) is not None]
        own = self.figure(row)
        best = (max if self.most else min)(values, default=None)
        return "-" if own is None or not best else f"{own / best:.2f}"


RATIOS = (
    Ratio("TTFT:best", at("ttft", "mean")),
    Ratio("p99:best", at("ttft", "p99")),
    Ratio("e2e:best", at("e2e", "mean")),
    Ratio("SLO:best", at("good"), most=True),
)


def is_peer(row: Row) -> bool:
    return not (in_virtual_time(row["router"]) or ours_in(row["router"]))


def rivals(row: Row, block: Sequence[Row]) -> list[Row]:
    """Who a row is compared with: the peers, and for ours in virtual time the oracle."""
    if in_virtual_time(row["router"]) and row["router"] != ORACLE:
        return [other for other in block if other["router"] == ORACLE]
    return [other for other in block if is_peer(other)]


def line(row: Row, peers: Sequence[Row]) -> list[str]:
    crowded = " *" if (row.get("others_pct") or 0) > CROWDED else ""
    ratios = [ratio.text(row, peers) for ratio in RATIOS]
    figures = [column.text(row) for column in COLUMNS]
    return [row["cell"], row["router"] + crowded, *figures, *ratios]


def table(rows: Iterable[Row]) -> str:
    """Aligned columns, names to the left and figures to the right; a blank line between loads."""
    heads = ["load", "router", *(c.head for c in COLUMNS), *(r.head for r in RATIOS)]
    blocks: list[list[list[str]]] = [[heads]]
    for _, group in groupby(rows, key=lambda row: row["cell"]):
        block = list(group)
        blocks.append([line(row, rivals(row, block)) for row in block])
    widths = [max(len(cells[n]) for b in blocks for cells in b) for n in range(len(heads))]
    return "\n\n".join("\n".join(_aligned(cells, widths) for cells in block) for block in blocks)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    text = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    text += [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join(text).rstrip()


def notes(rows: Sequence[Row]) -> Iterable[str]:
    """What a reader has to know beside the figures."""
    if any((row.get("others_pct") or 0) > CROWDED for row in rows):
        yield f"* other processes used more than {CROWDED:.0f} % of the machine: measure again"
    for row in rows:
        for why, count in (row.get("why") or {}).items():
            yield f"{row['cell']} {row['router']}: {count} times {why}"


def report(text: str) -> str:
    """The table of a file of JSON lines, with what was skipped and why requests failed."""
    every = [json.loads(part) for part in text.splitlines()]
    rows = [row for row in every if "ttft" in row]
    skipped = [
        f"{row['cell']} {row['router']}: {row['skipped']}" for row in every if "skipped" in row
    ]
    parts = [f"{key}: {value}" for row in every for key, value in row.get("settings", {}).items()]
    tail = [*skipped, *notes(rows)]
    return "\n\n".join(filter(None, ["\n".join(parts), table(rows), "\n".join(tail)])) + "\n"

"""The tables: what was measured beside what, ratios and goals, what was skipped and why."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isinf

from bench.figures import FIGURES, NGINX, SGLANG, Figure, Goal, Row, busy, errors, gateway
from bench.peers import TWO_WORKERS
from bench.scenarios import SCENARIOS, Kind

OURS = "portico"
ENGINE = "direct"

DISTURBED = 5.0
"""Percent of the machine that other processes may use in a measurement that counts."""

ENOUGH = 3
"""Undisturbed rounds from which on the disturbed ones are left out."""


@dataclass(frozen=True, slots=True)
class Values:
    """One figure of one peer, by round."""

    by_round: Mapping[int, float]

    @property
    def median(self) -> float:
        return statistics.median(self.by_round.values())

    def text(self, digits: int) -> str:
        """Median and half the range."""
        if not self.by_round:
            return "-"
        if any(isinf(value) for value in self.by_round.values()):
            return "never"
        low, high = min(self.by_round.values()), max(self.by_round.values())
        spread = f" ±{(high - low) / 2:,.{digits}f}" if len(self.by_round) > 1 else ""
        return f"{self.median:,.{digits}f}{spread}"


class Rows:
    """What a run wrote, by scenario and peer."""

    def __init__(self, text: str) -> None:
        every = [json.loads(line) for line in text.splitlines()]
        self.settings: Row = next((r["settings"] for r in every if "settings" in r), {})
        self.skipped = [row for row in every if "skipped" in row]
        self.measured = [row for row in every if "round" in row]
        self._by: dict[tuple[str, str], list[Row]] = {}
        for row in self.measured:
            self._by.setdefault((row["scenario"], row["peer"]), []).append(row)
        self.left_out = 0
        for key, rows in self._by.items():
            calm = [row for row in rows if row.get("foreign_pct", 0) <= DISTURBED]
            if len(calm) >= ENOUGH:
                self.left_out += len(rows) - len(calm)
                self._by[key] = calm
        self.peers = list(dict.fromkeys(row["peer"] for row in self.measured))

    def of(self, scenario: str, peer: str) -> list[Row]:
        return self._by.get((scenario, peer), [])

    def values(self, figure: Figure, peer: str) -> Values:
        """A figure of a peer in every round in which it has one."""
        found = self._plain(figure, peer)
        if not figure.added or peer == ENGINE:
            return Values(found)
        alone = self._plain(figure, ENGINE)
        return Values({n: value - alone[n] for n, value in found.items() if n in alone})

    def _plain(self, figure: Figure, peer: str) -> dict[int, float]:
        found = {}
        for row in self.of(figure.scenario, peer):
            try:
                found[row["round"]] = figure.value(row)
            except (KeyError, ZeroDivisionError):
                continue
        return found

    def ratio(self, figure: Figure, peer: str, to: str) -> Values:
        """A peer's figure as a multiple of another's, of the same round."""
        mine, theirs = self.values(figure, peer).by_round, self.values(figure, to).by_round
        return Values(
            {n: mine[n] / theirs[n] for n in mine.keys() & theirs.keys() if theirs[n] > 0}
        )


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown that can be read as it stands."""
    every = [list(head), *map(list, lines)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.ljust(w) for cell, w in zip(cells, widths, strict=True))
        right = [cell.strip().rjust(w) for cell, w in zip(others, widths[1:], strict=True)]
        return "| " + " | ".join([first, *right]) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-:"[i > 0]) for i, w in enumerate(widths)) + "|"
    return "\n".join([line(every[0]), rule, *map(line, every[1:])]) + "\n"


def beside(rows: Rows) -> str:
    """Every figure that was measured, a column for each peer."""
    lines = []
    for figure in FIGURES:
        cells = [rows.values(figure, peer).text(figure.digits) for peer in rows.peers]
        if set(cells) != {"-"}:
            lines.append([figure.label, *cells])
    return table(["median ± half the range", *rows.peers], lines) if lines else ""


def verdict(rows: Rows, figure: Figure, goal: Goal) -> str | None:
    """Whether ours reached a goal; none where it cannot be said."""
    found = rows.ratio(figure, OURS, goal.of) if goal.of else rows.values(figure, OURS)
    if not found.by_round:
        return None
    return "yes" if found.median <= goal.most else "NO"


def summary(rows: Rows) -> str:
    """Ours as a multiple of the two that matter, and the goals."""
    lines = []
    for figure in FIGURES:
        mine = rows.values(figure, OURS)
        if not mine.by_round or not (figure.costs or figure.goals):
            continue
        ratios = [rows.ratio(figure, OURS, peer) if figure.costs else None for peer in BESIDE]
        cells = [ratio.text(2) if ratio else "" for ratio in ratios]
        verdicts = [(goal.text(), verdict(rows, figure, goal)) for goal in figure.goals]
        goals = "; ".join(f"{text}: {said}" for text, said in verdicts if said)
        lines.append([figure.label, mine.text(figure.digits), *cells, goals or "-"])
    head = [OURS, "figure", *(f"÷ {peer}" for peer in BESIDE), "goal: reached"]
    return table(head, lines) if lines else ""


BESIDE = (SGLANG, NGINX)


def two_workers(rows: Rows) -> str:
    """What a second worker brings."""
    rate, cost = FIGURES[0], FIGURES[1]
    faster, dearer = (rows.ratio(figure, TWO_WORKERS, OURS) for figure in (rate, cost))
    if not faster.by_round:
        return ""
    note = ""
    if rows.settings.get("cores_shared"):
        note = " The load shares their cores here, so that only the CPU time tells."
    return (
        f"Two workers against one: requests/s x {faster.text(2)} (goal ≥ 1.8 where cores allow),"
        f" CPU per request x {dearer.text(2)} (goal ≤ 1.1).{note}\n"
    )


def details(rows: Rows) -> str:
    """A table for every scenario of load."""
    columns: Mapping[str, Callable[[Row], float]] = {
        "requests/s": lambda row: float(row["rps"]),
        "p50 µs": lambda row: float(row["lat"]["p50"]),
        "p99 µs": lambda row: float(row["lat"]["p99"]),
        "events/s": lambda row: float(row["events_per_s"]),
        "lag p50 µs": lambda row: float(row["lag"]["p50"]),
        "lag p99 µs": lambda row: float(row["lag"]["p99"]),
        "jitter p99 µs": lambda row: float(row["jit"]["p99"]),
        "gateway CPU %": busy,
        "CPU µs per request": lambda row: gateway(row) / row["ok"] * 1e6,
        "CPU µs per event": lambda row: gateway(row) / row["events"] * 1e6,
        "errors": lambda row: float(errors(row)),
        "others' CPU %": lambda row: float(row["foreign_pct"]),
    }
    parts = []
    for scenario in SCENARIOS:
        if scenario.kind is not Kind.LOAD:
            continue
        lines = []
        for peer in rows.peers:
            if rows.of(scenario.name, peer):
                figures = [Figure(label, scenario.name, f, 0) for label, f in columns.items()]
                lines.append([peer, *(rows.values(figure, peer).text(1) for figure in figures)])
        if lines:
            parts.append(f"{scenario.name}: {scenario.title}\n\n{table(['', *columns], lines)}")
    return "\n".join(parts)


def setting(rows: Rows) -> str:
    """Machine, cores and versions."""
    found = rows.settings
    if not found:
        return ""
    places = ", ".join(f"{who} on {numbers}" for who, numbers in found["cores"].items())
    head = f"{found['when']}, {found['machine']}\ncores: {places}; {found['rounds']} round(s)"
    scale = f", times x {found['scale']:g}" if found["scale"] != 1 else ""
    return "\n".join([head + scale, *(f"  {n}: {note}" for n, note in found["peers"].items())])


def remarks(rows: Rows) -> str:
    """What a reader should not overlook."""
    lines = []
    for (peer, why), found in groupby(rows.skipped, lambda row: (row["peer"], row["skipped"])):
        names = ", ".join(row["scenario"] for row in found)
        lines.append(f"skipped: {peer} ({names}): {why}")
    if rows.left_out:
        lines.append(f"{rows.left_out} measurements disturbed by other processes are left out")
    noisy = [row for row in rows.measured if row.get("foreign_pct", 0) > DISTURBED]
    if noisy:
        lines.append(
            f"in {len(noisy)} of {len(rows.measured)} measurements other processes used more than"
            f" {DISTURBED:g} % of the machine: do not trust their latencies"
        )
    failed = {(r["scenario"], r["peer"]) for r in rows.measured if errors(r)}
    lines += [f"errors: {peer} in {scenario}" for scenario, peer in sorted(failed)]
    return "".join(f"- {line}\n" for line in lines)


def report(text: str, in_detail: bool = False) -> str:
    """Everything there is to say about a run."""
    rows = Rows(text)
    parts = [setting(rows), beside(rows), summary(rows), two_workers(rows)]
    if in_detail:
        parts.append(details(rows))
    parts.append(remarks(rows))
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"

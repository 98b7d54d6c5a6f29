"""Measures the gateway beside its peers: ``python -m bench.run``, or ``make bench``.

The engine and the load generator share one core, each gateway in its turn has another. All peers
are started once; those whose turn it is not are frozen. A round takes every scenario to every peer
before the next round begins, and the order rotates, so that a slow drift of the machine meets all.
Everything is bounded, and what was started is stopped by its pid.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TextIO

from bench.build import WORK, CannotBuild, programs
from bench.measure import Bench, NotUp, Row, Stand
from bench.peers import BACKENDS, ONE_CORE, PEERS, Peer, Site, portico
from bench.processes import Cores, Running, cores, free_port, raised_limit
from bench.report import report
from bench.scenarios import SCENARIOS, Kind, Scenario, chosen

MEMORY_ROUNDS = 3
"""More tell nothing new: memory hardly varies."""

MANY = "c_2000"
FILES = 8192
"""Open files that the scenario of so many streams takes in one gateway, with some to spare."""


class Options(argparse.Namespace):
    """The command line."""

    show: bool
    rounds: int
    peers: str | None
    scenarios: str
    scale: float
    also: list[str]
    work: Path
    out: Path | None
    report: Path | None
    details: bool


def say(text: str) -> None:
    """Progress goes to stderr, tables to stdout."""
    sys.stderr.write(f"# {text}\n")


class Log:
    """The rows, one JSON object a line, so that a run can be read again."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, row: Row) -> None:
        self._out.write(json.dumps(row) + "\n")
        self._out.flush()

    def skip(self, peer: str, scenario: str, why: str) -> None:
        self.write({"peer": peer, "scenario": scenario, "skipped": why})
        say(f"{peer:14} {scenario:9} skipped: {why}")


class Run:
    """One run: peers and scenarios in, rows out."""

    def __init__(self, bench: Bench, engine: Running, log: Log) -> None:
        self._bench, self._engine, self._log = bench, engine, log
        self._stands: list[Stand] = []

    def open(self, peers: Iterable[Peer]) -> None:
        """Start what is installed."""
        for peer in peers:
            if peer.missing:
                self._log.skip(peer.name, "all", peer.missing)
                continue
            stand = Stand(peer)
            try:
                self._bench.start(stand)
            except NotUp as error:
                self._log.skip(peer.name, "all", str(error))
                continue
            say(f"{peer.name:14} up {peer.says()}")
            stand.freeze()
            self._stands.append(stand)

    def settings(self, layout: Cores, rounds: int, scale: float) -> Row:
        """What a reader has to know about the run."""
        return {
            "settings": {
                "when": datetime.now(UTC).isoformat(timespec="minutes"),
                "machine": f"{_processor()}, {platform.system()} {platform.release()}",
                "cores": {
                    "load and engine": sorted(layout.load),
                    "gateway": sorted(layout.gateway),
                    "two workers": sorted(layout.two),
                },
                "cores_shared": layout.shared,
                "rounds": rounds,
                "scale": scale,
                "peers": {s.peer.name: f"{s.peer.says()} ({s.peer.note})" for s in self._stands},
            }
        }

    def go(self, scenarios: Sequence[Scenario], rounds: int) -> None:
        """All rounds; memory comes last, since it needs fresh processes."""
        for number in range(rounds):
            first = number % max(1, len(self._stands))
            order = [*self._stands[first:], *self._stands[:first]]
            for scenario in scenarios:
                if scenario.kind is not Kind.MEMORY:
                    self._take(scenario, order, number)
        self.close()
        started = [stand for stand in self._stands if stand.peer.command]
        for scenario in scenarios:
            if scenario.kind is Kind.MEMORY:
                for number in range(min(rounds, MEMORY_ROUNDS)):
                    self._take(scenario, started, number)

    def _take(self, scenario: Scenario, order: Sequence[Stand], number: int) -> None:
        for stand in order:
            peer = stand.peer
            if scenario.name in peer.spared:
                if number == 0 and peer.spared[scenario.name] == ONE_CORE:
                    self._log.skip(peer.name, scenario.name, ONE_CORE)
                continue
            if scenario.kind is not Kind.MEMORY and peer.command and not stand.process:
                continue  # it did not come up again
            try:
                row = self._measure(scenario)(stand)
            except (NotUp, OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
                self._log.skip(peer.name, scenario.name, f"failed: {error}")
                continue
            finally:
                stand.freeze()
            self._log.write({"peer": peer.name, "scenario": scenario.name, "round": number, **row})
            say(f"{peer.name:14} {scenario.name:9} round {number + 1}: {_brief(row)}")

    def _measure(self, scenario: Scenario) -> Callable[[Stand], Row]:
        match scenario.kind:
            case Kind.LOAD:
                return partial(self._bench.load, scenario=scenario, engine=self._engine)
            case Kind.LEAVE:
                return partial(self._bench.leave, scenario=scenario)
            case Kind.MEMORY:
                return partial(self._bench.memory, scenario=scenario)

    def close(self) -> None:
        for stand in self._stands:
            stand.stop()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _brief(row: Row) -> str:
    if "took_s" in row:
        return f"engine free after {row['took_s']:.2f} s, {row['left']} left"
    if "held_bytes" in row:
        megabytes = [row[name] / 1e6 for name in ("idle_bytes", "held_bytes")]
        return "{:.1f} MB idle, {:.1f} MB with {} streams".format(*megabytes, row["open"])
    used = row["cpu"].get("gateway", 0.0)
    return (
        f"{row['rps']:.0f} requests/s, {row['events_per_s']:.0f} events/s,"
        f" gateway {used:.2f} CPU s, others {row['foreign_pct']} %"
    )


def listing() -> str:
    """What there is to choose from."""
    site = Site(WORK, free_port())
    lines = ["peers:"]
    for make in PEERS.values():
        peer = make(site)
        lines.append(f"  {peer.name:15} {peer.missing or peer.note}")
    lines += ["", "scenarios (* in a plain run):"]
    lines += [f"{' *'[s.usual]} {s.name:15} {s.title}" for s in SCENARIOS]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--list", dest="show", action="store_true", help="show peers and scenarios")
    add("--rounds", type=int, default=3)
    add("--peers", help="a comma list (default: all that are installed)")
    add("--scenarios", default="usual", help="a comma list, usual or all (default: usual)")
    add("--scale", type=float, default=1.0, help="multiplies the time of every scenario")
    add("--also", action="append", default=[], metavar="NAME=DIR", help="another checkout of ours")
    add("--work", type=Path, default=WORK, help="folder of peers, programs and logs")
    add("--out", type=Path, help="where the rows go (default: results.jsonl in the folder)")
    add("--report", type=Path, metavar="FILE", help="only print the tables of an earlier run")
    add("--details", action="store_true", help="a table for every scenario besides")
    return parser


def others(given: Sequence[str], site: Site) -> list[Peer]:
    """Further checkouts of ours, to see what a change brought."""
    pairs = (text.partition("=") for text in given)
    return [portico(site, name, Path(folder).resolve()) for name, _, folder in pairs]


def measure(site: Site, peers: Sequence[Peer], wanted: Sequence[Scenario], args: Options) -> str:
    """Do the whole run. Returns the rows as written to the file."""
    layout = cores()
    bench = Bench(site, programs(site.work), layout, args.scale)
    out: Path = args.out or site.work / "results.jsonl"
    engine = bench.engine(BACKENDS)
    with out.open("w") as rows:
        log = Log(rows)
        run = Run(bench, engine, log)
        try:
            scenarios = list(wanted)
            if raised_limit() < FILES:
                log.skip("all", MANY, f"it needs a limit of {FILES} open files (ulimit -n)")
                scenarios = [scenario for scenario in scenarios if scenario.name != MANY]
            run.open(peers)
            log.write(run.settings(layout, args.rounds, args.scale))
            run.go(scenarios, args.rounds)
        finally:
            run.close()
            engine.stop()
    return out.read_text()


def main() -> int:
    parser = arguments()
    args = parser.parse_args(namespace=Options())
    if args.show:
        sys.stdout.write(listing())
        return 0
    if args.report:
        sys.stdout.write(report(args.report.read_text(), args.details))
        return 0
    site = Site(args.work.resolve(), free_port(BACKENDS))
    site.run.mkdir(parents=True, exist_ok=True)
    try:
        scenarios = chosen(args.scenarios)
        peers = [PEERS[name](site) for name in (args.peers or ",".join(PEERS)).split(",")]
    except KeyError as error:
        parser.error(f"there is no {error}; --list shows what there is")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        rows = measure(site, [*peers, *others(args.also, site)], scenarios, args)
    except (CannotBuild, NotUp) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    sys.stdout.write(report(rows, args.details))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Routers in front of a simulated fleet: ``python -m bench.fleet.run``, or ``make bench-fleet``.

One router at a time gets the same load on fresh engines, over real HTTP. Everything listens on the
loopback interface, is bounded in time and is stopped by its pid.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.build import WORK
from bench.fleet import cells, routers
from bench.fleet.cells import FAULTS, QUICK, QUICK_SECONDS, TRACE, WORKLOADS, Cell, Load, load
from bench.fleet.model import Spec
from bench.fleet.table import report
from bench.fleet.trial import Ground, play
from bench.peers import Site
from bench.processes import cores, raised_limit


class Options(argparse.Namespace):
    """The command line."""

    show: bool
    quick: bool
    cells: str | None
    routers: str
    seconds: float | None
    scale: float | None
    seed: int
    trace: Path
    token_width: float
    flush: float
    kv: int
    host_kv: int
    config: Path | None
    work: Path
    out: Path | None
    report: Path | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured."""

    cells: tuple[Cell, ...]
    routers: tuple[str, ...]
    seconds: float | None


def say(text: str) -> None:
    """Progress goes to stderr, the table to stdout."""
    sys.stderr.write(f"# {text}\n")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet.run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--list", dest="show", action="store_true", help="show workloads, faults and routers")
    add("--quick", action="store_true", help="one short load, about a minute")
    add("--cells", help="a comma list of WORKLOAD:ENGINES:RATE[:FAULT]")
    add(
        "--routers",
        default=",".join(routers.USUAL),
        help="a comma list; ours is portico[/POLICY][@WORKERS], in virtual time"
        " portico-virtual[/POLICY] (default: %(default)s)",
    )
    add("--seconds", type=float, help="engine seconds of each load (default: the whole)")
    add("--scale", type=float, help="wall seconds for an engine second (default: by workload)")
    add("--seed", type=int, default=0)
    add("--trace", type=Path, default=TRACE, help="another trace of the same form, or its .xz")
    add("--token-width", type=float, default=4.0, help="characters for a token (default: 4)")
    add("--flush", type=float, default=0.25, help="wall seconds between events of a stream")
    add("--kv", type=int, default=Spec().kv_tokens, help="tokens of KV in an engine")
    add("--host-kv", type=int, default=Spec().host_tokens, help="tokens of KV in its host")
    add("--config", type=Path, help="YAML that is laid over Portico's configuration")
    add("--work", type=Path, default=WORK, help="folder of peers, configurations and logs")
    add("--out", type=Path, help="where the rows go (default: fleet.jsonl in the folder)")
    add("--report", type=Path, metavar="FILE", help="only print the table of an earlier run")
    return parser


def listing() -> str:
    """What there is to choose from."""
    lines = ["workloads (WORKLOAD:ENGINES:RATE):"]
    lines += [f"  {name:8} {kind.title}" for name, kind in WORKLOADS.items()]
    lines += ["", "faults (a further :FAULT, all of the first engine):"]
    lines += [f"  {name:8} {_told(name)}" for name in FAULTS if name]
    lines += ["", "a plain run:", *(f"  {name}" for name in cells.USUAL)]
    lines += ["", "routers:", *(f"  {name}" for name in routers.PEERS)]
    lines += [f"  {routers.OURS}[/POLICY][@WORKERS]"]
    lines += [f"  {routers.VIRTUAL}[/POLICY]", f"  {routers.ORACLE}"]
    return "\n".join(lines) + "\n"


def _told(fault: str) -> str:
    return ", ".join(f"{change.mode} from {change.at:.0%} on" for change in FAULTS[fault])


def wanted(args: Options) -> Wanted:
    """From the options. ValueError says what is wrong with them."""
    usual = QUICK if args.quick else cells.USUAL
    named = args.cells.split(",") if args.cells else usual
    seconds = args.seconds or (QUICK_SECONDS if args.quick else None)
    return Wanted(tuple(map(cells.cell, named)), tuple(args.routers.split(",")), seconds)


def ground(args: Options) -> Ground:
    site = Site(args.work.resolve(), 0)
    site.run.mkdir(parents=True, exist_ok=True)
    further = yaml.safe_load(args.config.read_text()) if args.config else {}
    spec = replace(Spec(), kv_tokens=args.kv, host_tokens=args.host_kv)
    return Ground(site, cores(), spec, args.token_width, args.flush, further or {})


def settings(args: Options, begun: datetime) -> dict[str, Any]:
    """What a reader has to know about the run."""
    return {
        "when": begun.isoformat(timespec="minutes"),
        "machine": f"{psutil.cpu_count()} cores, {platform.system()} {platform.release()}",
        "characters a token": args.token_width,
        "seed": args.seed,
        "times": "engine seconds; TPOT in milliseconds",
    }


def brief(row: dict[str, Any]) -> str:
    name = f"{row['cell']:18} {row['router']:16}"
    if "skipped" in row:
        return f"{name} skipped: {row['skipped']}"
    ttft = row["ttft"]["mean"]
    first = "-" if ttft is None else f"{ttft:.3f}"
    others = f", others {row['others_pct']} %" if "others_pct" in row else ""
    failed = f"{row['refused']} refused, {row['lost']} lost, {row['cut']} cut"
    return f"{name} {row['all']} requests, mean TTFT {first}, {failed}{others}"


def run(args: Options, what: Wanted, rows: Path) -> None:
    """All routers on one load, then the next load."""
    here = ground(args)
    raised_limit()
    with rows.open("w") as out:

        def write(row: dict[str, Any]) -> None:
            out.write(json.dumps(row) + "\n")
            out.flush()

        write({"settings": settings(args, datetime.now(UTC))})
        for cell in what.cells:
            scale = args.scale or cell.kind.scale
            made: Load = load(cell, what.seconds, args.seed, args.trace)
            for name in what.routers:
                row = play(here, cell, made, name, scale)
                write({**row, "scale": scale, "seed": args.seed})
                say(brief(row))


def main() -> int:
    parser = arguments()
    args = parser.parse_args(namespace=Options())
    if args.show:
        sys.stdout.write(listing())
        return 0
    if args.report:
        sys.stdout.write(report(args.report.read_text()))
        return 0
    try:
        what = wanted(args)
        check(args, what)
    except ValueError as error:
        parser.error(str(error))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    rows = args.out or args.work / "fleet.jsonl"
    run(args, what, rows)
    sys.stdout.write(report(rows.read_text()))
    return 0


def check(args: Options, what: Wanted) -> None:
    """That every router that is named exists, before the first is measured."""
    place = routers.Place(Site(args.work.resolve(), 0), [], args.token_width, 1.0, {})
    for name in what.routers:
        if not routers.in_virtual_time(name):
            routers.router(name, place)
        elif name != routers.ORACLE:
            routers.policy_of(name)


if __name__ == "__main__":
    sys.exit(main())

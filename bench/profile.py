"""Where the microseconds go, by module: the gateway under load, sampled by py-spy.

The CPU time of a request and of an event is measured first, without the sampler; its samples then
divide that time among the modules. What C code does is counted for the Python line that called it,
and what the event loop does by itself, for the loop.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bench.build import WORK, CannotBuild, programs
from bench.measure import Bench, NotUp, Stand
from bench.peers import BACKENDS, Site, portico
from bench.processes import Running, cores, free_port, raised_limit
from bench.report import table
from bench.scenarios import Scenario, chosen

LOADS: Mapping[str, str] = {"a_sat": "ok", "b_win": "events"}
"""Scenarios, and what of the load generator's counts the time is divided by."""

UNITS: Mapping[str, str] = {"ok": "µs per request", "events": "µs per event"}

RATE = 400
"""Samples a second: often enough, and cheap enough not to change what is seen."""

SMALL = 0.01
"""Share below which a line is put together with others."""

FRAME = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*?)(?::\d+)?\)$")

LOOP = "event loop (uvloop: epoll, reads, timers)"
GENERATED = "constructors of dataclasses"

WAITING = re.compile(
    r"\bwait \(.*threading\.py(:\d+)?\)$|\b_worker \(.*futures/thread\.py(:\d+)?\)$"
)
"""A thread that waits for work; py-spy takes it for busy now and then."""


def sampler() -> str | None:
    """py-spy, of this environment or of the machine."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


def place(frame: str, by_function: bool) -> str:
    """The module (or function) that a sample's innermost frame belongs to."""
    found = FRAME.match(frame)
    if found is None:
        return frame
    file, function = found["file"], found["function"]
    if file.endswith("asyncio/runners.py"):
        return LOOP
    if file == "<string>":
        return GENERATED
    for root in ("gateway/", "backends/", "site-packages/"):
        at = file.rfind(root)
        if at >= 0:
            file = file[at:].removeprefix("site-packages/")
            break
    else:
        file = "/".join(file.split("/")[-2:])
    return f"{file}: {function}" if by_function else file


def samples(raw: str, by_function: bool) -> Counter[str]:
    """py-spy's raw lines (frames;frames;frames count), by innermost frame."""
    found: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frame = stack.rpartition(";")[2]
        if frame and not WAITING.search(frame):
            found[place(frame, by_function)] += int(count)
    return found


def sampled(bench: Bench, stand: Stand, scenario: Scenario, engine: Running, spy: str) -> str:
    """Sample the gateway in the middle of a load. Returns what py-spy wrote."""
    out = bench.site.run / f"{scenario.name}.samples"
    asked = (
        *(spy, "record", "--pid", str(stand.pids[0]), "--format", "raw", "--output", str(out)),
        *("--rate", str(RATE), "--duration", str(round(scenario.seconds))),
    )
    started = time.monotonic()
    with subprocess.Popen(  # noqa: S603 - the arguments are ours
        asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as spying:
        bench.load(stand, scenario, engine)
        _, said = spying.communicate(timeout=60)
    if spying.returncode or not out.exists():
        raise NotUp(f"py-spy ended after {time.monotonic() - started:.0f} s: {said.strip()}")
    return out.read_text()


def profile(bench: Bench, stand: Stand, engine: Running, spy: str, by_function: bool) -> str:
    """The table."""
    columns: dict[str, dict[str, float]] = {}
    for scenario in chosen(",".join(LOADS)):
        counted = LOADS[scenario.name]
        row = bench.load(stand, scenario, engine)
        cost = row["cpu"]["gateway"] / row[counted] * 1e6
        found = samples(sampled(bench, stand, scenario, engine, spy), by_function)
        whole = found.total()
        columns[UNITS[counted]] = {name: cost * n / whole for name, n in found.items()}
    return laid_out(columns)


def laid_out(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Modules that matter in any column, the dearest first; the rest in one line."""
    sums = {unit: sum(column.values()) for unit, column in columns.items()}

    def share(name: str) -> float:
        return max(column.get(name, 0.0) / sums[unit] for unit, column in columns.items())

    names = {name for column in columns.values() for name in column}
    large = sorted((n for n in names if share(n) >= SMALL), key=share, reverse=True)
    lines = [[n, *(_cell(c.get(n, 0.0), sums[u]) for u, c in columns.items())] for n in large]
    rest = [
        _cell(sum(v for n, v in c.items() if n not in large), sums[u]) for u, c in columns.items()
    ]
    totals = [f"{total:.1f}" for total in sums.values()]
    return table(["", *columns], [*lines, ["all others", *rest], ["together", *totals]])


def _cell(value: float, whole: float) -> str:
    return f"{value:.2f} ({100 * value / whole:2.0f} %)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--functions", action="store_true", help="by function, not by module")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of programs and logs")
    args = parser.parse_args()
    spy = sampler()
    if spy is None:
        sys.stderr.write("profile: there is no py-spy: pip install py-spy\n")
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    raised_limit()
    site = Site(args.work.resolve(), free_port(BACKENDS))
    site.run.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(site, programs(site.work), cores(), 1.0)
        engine = bench.engine(BACKENDS)
        stand = Stand(portico(site))
        try:
            bench.start(stand)
            sys.stdout.write(profile(bench, stand, engine, spy, args.functions))
        finally:
            stand.stop()
            engine.stop()
    except (CannotBuild, NotUp) as error:
        sys.stderr.write(f"profile: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

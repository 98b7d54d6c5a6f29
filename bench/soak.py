"""Minutes of abuse, after which everything has to be back where it began: ``make soak``.

Two engines that are killed and come back, reloads of good and of faulty configurations, and clients
that leave whenever they like. In the end memory, descriptors, connections and gauges are compared
with what they were after the warm-up; the exit status tells whether they are. With several workers
the gateway's own processes are killed as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.build import WORK, CannotBuild, programs
from bench.crowd import Crowd, Tally, dice
from bench.processes import raised_limit
from bench.report import table
from bench.town import ENGINES, State, Town

GROWTH = 8.0
"""MB of resident memory that may come on after the warm-up: an allocator does not give everything
back. A kilobyte lost with every request would be several times that in three minutes."""

LOOK_EVERY = 0.5
QUIET = 6.0
"""Seconds of rest over which the beginning is taken, so that the sensors' own comings and goings
are in it."""

SETTLING = 40.0
"""Seconds in which everything has to come to rest after the last client has gone."""


class Restless(Exception):
    """The gateway or an engine does not come up, or does not come to rest."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table."""

    what: str
    began: str
    ended: str
    bound: str
    holds: bool


def say(text: str) -> None:
    sys.stderr.write(f"# {text}\n")


def looks(town: Town, seconds: float) -> Iterator[State]:
    """How things are, again and again; nothing while somebody does not answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(LOOK_EVERY)
        with contextlib.suppress(OSError):
            yield town.state()


def beginning(town: Town) -> State:
    """The most of everything in the first stretch of rest. Restless when there is none."""
    seen: list[State] = []
    for state in looks(town, SETTLING):
        seen = [*seen, state] if state.resting else []
        if len(seen) * LOOK_EVERY >= 2 * QUIET:
            calm = seen[len(seen) // 2 :]
            return State(
                resident=max(one.resident for one in calm),
                descriptors=max(one.descriptors for one in calm),
                connections=max(one.connections for one in calm),
                in_flight=0,
                at_work=0,
                up=ENGINES,
            )
    raise Restless(f"no rest within {SETTLING:g} s: {town.state()}")


def ending(town: Town, began: State) -> State:
    """How things are when they are back, or after all the time there is for it."""
    for state in looks(town, SETTLING):
        if all(check.holds for check in compared(began, state)):
            return state
    return town.state()


def compared(began: State, ended: State) -> list[Check]:
    """What has to be as it was."""
    most = began.resident + GROWTH
    memory = Check(
        "resident memory, MB",
        f"{began.resident:.1f}",
        f"{ended.resident:.1f}",
        f"≤ {most:.1f}",
        ended.resident <= most,
    )
    return [
        memory,
        *(
            Check(what, str(before), str(after), f"≤ {before}", after <= before)
            for what, before, after in (
                ("file descriptors", began.descriptors, ended.descriptors),
                ("connections", began.connections, ended.connections),
            )
        ),
        *(
            Check(what, f"{before:g}", f"{after:g}", f"= {before:g}", after == before)
            for what, before, after in (
                ("requests in flight (gauge)", began.in_flight, ended.in_flight),
                ("requests at work on the engines", began.at_work, ended.at_work),
                ("backends up", began.up, ended.up),
            )
        ),
    ]


def counted(town: Town, tally: Tally) -> list[Check]:
    """What may not have happened at all."""
    checks = [
        Check(f"fault: {what}", "", str(count), "= 0", False)
        for what, count in sorted(tally.faults.items())
    ]
    if town.processes_killed:
        return checks
    said = town.counted_reloads()
    return [
        *checks,
        *(Check(what, "", str(count), "= 0", False) for what, count in tally.lost.items()),
        *(
            Check(f"reloads counted: {kind}", "", str(said[kind]), f"= {done}", said[kind] == done)
            for kind, done in town.reloads.items()
        ),
    ]


async def torment(town: Town, seconds: float) -> None:
    """Kill, revive and reload at random for a while; in the end all are there."""
    end = time.monotonic() + seconds
    reload_at = time.monotonic() + dice.uniform(3, 8)
    while time.monotonic() < end - 2:
        await asyncio.sleep(dice.uniform(0.5, 4.0))
        for _ in range(dice.choice((1, 1, 1, 1, 1, ENGINES))):
            town.kill_engine()
        if dice.random() < 0.5:
            town.kill_process()
        if time.monotonic() > reload_at:
            town.reload()
            reload_at = time.monotonic() + dice.uniform(3, 8)
        await asyncio.sleep(dice.uniform(0.2, 3.0))
        town.revive()


async def storm(town: Town, crowd: Crowd, seconds: float) -> None:
    """Clients and torment at once."""
    await asyncio.gather(crowd.run(seconds), torment(town, seconds))


def soak(town: Town, clients: int, seconds: float) -> tuple[list[Check], Tally]:
    """Warm up, remember, go on, compare."""
    for state in looks(town, SETTLING):
        if state.resting:
            break
    else:
        raise Restless(f"the gateway does not see its engines up within {SETTLING:g} s")
    crowd = Crowd(town.port, clients)
    say(f"warming up for {seconds / 4:g} s")
    asyncio.run(storm(town, crowd, seconds / 4))
    began = beginning(town)
    say(f"{crowd.tally.requests} requests so far; going on for {seconds * 3 / 4:g} s")
    asyncio.run(storm(town, crowd, seconds * 3 / 4))
    ended = ending(town, began)
    return [*compared(began, ended), *counted(town, crowd.tally)], crowd.tally


def story(town: Town, tally: Tally) -> str:
    """What went on."""
    reloads = ", ".join(f"{count} {kind}" for kind, count in town.reloads.items())
    lines = [
        f"{tally.requests} requests; {town.engines_killed} engines and {town.processes_killed}"
        f" processes of the gateway killed; reloads: {reloads}",
        *(f"  {count:6} {what}" for what, count in (tally.seen + tally.lost).most_common()),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=180.0, help="of load (default: 180)")
    parser.add_argument("--clients", type=int, default=40, help="at once (default: 40)")
    parser.add_argument("--workers", type=int, default=1, help="of the gateway (default: 1)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of programs and logs")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    raised_limit()
    run: Path = args.work.resolve() / "run"
    run.mkdir(parents=True, exist_ok=True)
    try:
        with Town(run, programs(args.work.resolve()).engine, args.workers) as town:
            checks, tally = soak(town, args.clients, args.seconds)
            told = story(town, tally)
    except (CannotBuild, Restless) as error:
        sys.stderr.write(f"soak: {error}\n")
        return 1
    head = ["", "after the warm-up", "in the end", "bound", "holds"]
    lines = [[c.what, c.began, c.ended, c.bound, "yes" if c.holds else "NO"] for c in checks]
    sys.stdout.write(f"{told}\n{table(head, lines)}")
    return 0 if all(check.holds for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())

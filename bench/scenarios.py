"""The table of scenarios: what is done to every gateway, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a scenario is measured."""

    LOAD = "load"
    LEAVE = "leave"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Scenario:
    """``options`` go to the load generator as they stand; the times are seconds, which ``--scale``
    multiplies. ``grace`` is how long what is open at the end may take to finish. ``usual`` ones
    make up a plain run."""

    name: str
    title: str
    options: str
    seconds: float = 4.0
    warmup: float = 1.0
    ramp: float = 0.5
    grace: float = 3.0
    kind: Kind = Kind.LOAD
    usual: bool = True

    def arguments(self, scale: float = 1.0) -> list[str]:
        """What the load generator is called with."""
        times = {"-d": self.seconds, "--warmup": self.warmup, "--ramp": self.ramp}
        scaled = [word for name, value in times.items() for word in (name, f"{value * scale:g}")]
        return [*self.options.split(), *scaled, "--grace", f"{self.grace:g}"]


WHOLE = "--mode req"
STREAM = "--mode stream"
PACED = "--mode stream --delay-us 25000"

MEMORY_STREAMS = 1000
LEAVERS = 50

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("a_sat", "whole answers, 64 connections, as many as go through", f"{WHOLE} -c 64"),
    Scenario(
        "a_25",
        "whole answers, 25 requests/s",
        f"{WHOLE} -c 64 --rate 25",
        seconds=6,
        usual=False,
    ),
    Scenario(
        "a_1k",
        "whole answers, 1,000 requests/s",
        f"{WHOLE} -c 64 --rate 1000",
        usual=False,
    ),
    Scenario(
        "b_win",
        "128 streams as fast as they go, one event of each under way",
        f"{STREAM} -c 128 --chunks 256 --window 1",
    ),
    Scenario(
        "b_burst",
        "128 streams as fast as they go, events coalesce",
        f"{STREAM} -c 128 --chunks 1000",
        usual=False,
    ),
    Scenario(
        "c_8",
        "8 streams, an event per 25 ms",
        f"{PACED} -c 8 --chunks 40",
        seconds=5,
        warmup=2,
        ramp=1,
        usual=False,
    ),
    Scenario(
        "c_64",
        "64 streams, an event per 25 ms",
        f"{PACED} -c 64 --chunks 60",
        warmup=1.8,
        ramp=1.5,
        usual=False,
    ),
    Scenario(
        "c_256",
        "256 streams, an event per 25 ms",
        f"{PACED} -c 256 --chunks 60",
        warmup=1.8,
        ramp=1.5,
    ),
    Scenario(
        "c_500",
        "500 streams, an event per 25 ms",
        f"{PACED} -c 500 --chunks 60",
        warmup=1.8,
        ramp=1.5,
        usual=False,
    ),
    Scenario(
        "c_step",
        "256 streams in common steps of 25 ms, as an engine's batch",
        f"{PACED} -c 256 --chunks 60 --sync 1",
        warmup=1.8,
        ramp=1.5,
        usual=False,
    ),
    Scenario(
        "c_2000",
        "2,000 streams at once, an event per 250 ms",
        f"{STREAM} -c 2000 --chunks 16 --delay-us 250000",
        seconds=6,
        warmup=3,
        ramp=2.5,
        grace=8,
    ),
    Scenario(
        "f_1mb",
        "1 MB prompts on one connection",
        f"{WHOLE} -c 1 --body-size 1000000",
        warmup=2,
    ),
    Scenario(
        "g_mid",
        f"{LEAVERS} clients leave in mid-stream",
        f"{STREAM} -c {LEAVERS} --chunks 4000 --delay-us 25000",
        seconds=2,
        warmup=0.2,
        ramp=0.1,
        grace=0,
        kind=Kind.LEAVE,
    ),
    Scenario(
        "g_prefill",
        f"{LEAVERS} clients leave their streams before the first event",
        f"{STREAM} -c {LEAVERS} --chunks 10 --prefill-us 20000000",
        seconds=2,
        warmup=0.2,
        ramp=0.1,
        grace=0,
        kind=Kind.LEAVE,
    ),
    Scenario(
        "g_wait",
        f"{LEAVERS} clients leave while a whole answer is made",
        f"{WHOLE} -c {LEAVERS} --prefill-us 20000000",
        seconds=2,
        warmup=0.2,
        ramp=0.1,
        grace=0,
        kind=Kind.LEAVE,
    ),
    Scenario(
        "d_mem",
        f"memory with {MEMORY_STREAMS:,} open streams, fresh process",
        f"{STREAM} -c {MEMORY_STREAMS} --chunks 20 --delay-us 2000000",
        seconds=8,
        warmup=4,
        ramp=4,
        grace=0.5,
        kind=Kind.MEMORY,
    ),
)

WARMING: tuple[Scenario, ...] = (
    Scenario("warm_whole", "", f"{WHOLE} -c 16", seconds=2, warmup=0, ramp=0),
    Scenario("warm_stream", "", f"{STREAM} -c 16 --chunks 50", seconds=2, warmup=0, ramp=0),
)
"""What a peer goes through before it is measured: lazy imports, compilers, connection pools."""


def chosen(text: str) -> list[Scenario]:
    """The scenarios of a comma list; ``usual`` and ``all`` stand for many. KeyError with a name
    that there is not."""
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    found: dict[str, Scenario] = {}
    for word in text.split(","):
        if word in {"usual", "all"}:
            found |= {s.name: s for s in SCENARIOS if s.usual or word == "all"}
        else:
            found[word] = by_name[word]
    return list(found.values())
